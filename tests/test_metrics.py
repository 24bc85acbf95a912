"""A metric is described once, where it is computed, and each place that shows it reads that description."""

import html
import json
import re
import shutil
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aectl import leaderboard
from aectl.commands import eval_run
from aectl.commands.eval_columns import add_descriptions, model_class
from aectl.metric import Metric, describe_columns, find_metric, read_metric
from aectl.models.base import Model, collect_metrics
from aectl.models.iwae import IWAE
from aectl.models.rbm import RBM
from aectl.runs.metrics_json import conditions_of, find_damage, format_column, metrics_of_table
from aectl.runs.run import Run
from aectl.sweep.html_report import METRICS, describe_objectives
from aectl.sweep.results import Job
from tests.faults.conftest import UPGRADE

MODEL = """
from torch import nn
from aectl.models import Loss, Metric, Model


class Mine(Model):
    metrics = (Metric("squint", "how far the pixels are from grey", "higher", "levels", format=".3f"),)
    objective = "val/squint"

    def __init__(self, shape):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], shape[1] * shape[2]))

    def reconstruct(self, x):
        return self.net(x).sigmoid().view_as(x)

    def losses(self, batch, stage, rng):
        loss = (self.reconstruct(batch.x) - batch.x).square().mean()
        yield Loss(loss, metrics={"squint": loss.detach()})

    def validate(self, batch, rng):
        return {"loss": (self.reconstruct(batch.x) - batch.x).square().mean(), "squint": (batch.x - 0.5).abs().mean()}
"""
EVALUATION = """
from aectl.evaluation.evaluation import Evaluation
from aectl.metric import Metric
from aectl.models.base import Reconstructs

METRICS = (
    Metric("glow", "brightness of the reconstructions", "lower", "%"),
    Metric("lumens", "light of all images", detail=True),
)


def measure(subject):
    return {name: {"glow": 100 * float(x.mean()), "glow_ci95": 1.0, "lumens": float(x.sum())}
            for name, x in (("model", subject.reconstructed), ("held-out images", subject.bench.held_out.pixels()))}


EVALUATIONS = (Evaluation("brightness", "brightness of images", (Reconstructs,), measure, METRICS, order=15),)
"""
PROGRAM = """
import sys
from aectl import evaluation
from aectl.cli.main import main
evaluation.__path__.append(sys.argv.pop(1))
main()
"""


def descriptions(folder):
    """Return the descriptions of a run's scalars in TensorBoard by tag."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: found.summary_description for tag, found in events.summary_metadata.items()}


def test_a_new_metric_and_a_new_table_are_shown_everywhere(aectl, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "brightness.py").write_text(EVALUATION)
    run, small = tmp_path / "run", ("dataset=digits", "epochs=1", "batch_size=512", "device=cpu", "device.threads=1")
    code, out, err = aectl("train", "model=custom", "model._target_=mine.Mine", *small, f"hydra.run.dir={run}")
    assert code == 0, out + err
    words = ["eval", f"run={run}", "trust=mine", "device=cpu", "device.threads=1", "only=[reconstruction,brightness]"]
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "evaluations"), *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    # The terminal; the model's own metrics are printed if no tables were chosen.
    eval_run.print_section(Run(run).metrics["test"], Run(run))
    assert re.search(r"loss ↓ +squint ↑\nmodel +\S+ +0\.\d{3}\n", capsys.readouterr().out)
    assert re.search(r"brightness of images\n +glow ↓ +lumens\n", done.stdout)
    assert done.stdout.index("\nreconstruction\n") < done.stdout.index("\nbrightness of images\n")
    # report.html.
    page = html.unescape((run / "report.html").read_text())
    for text in ("how far the pixels are from grey, in levels", "brightness of the reconstructions, in %"):
        assert page.count(text) == 2  # at the column's head and below the table
    assert '>squint\xa0<span class="arrow">↑' in page
    # TensorBoard, of the training and of the evaluation.
    found = descriptions(run)
    squint = "how far the pixels are from grey, in levels (higher is better)"
    assert {found[tag] for tag in ("val/squint", "train/squint", "eval/objective/squint")} == {squint}
    assert found["eval/brightness/glow"] == "brightness of the reconstructions, in % (lower is better)"
    assert found["val/loss"].startswith("what training minimises")
    # The leaderboard, which reads metrics.json alone: the darker of two runs is the better one.
    other = shutil.copytree(run, tmp_path / "other")
    stored = json.loads((other / "metrics.json").read_text())
    stored["test"]["brightness"]["model"]["glow"] /= 2
    (other / "metrics.json").write_text(json.dumps(stored))
    (board,) = leaderboard.build_boards([run, other])
    assert [table.name for table in board.tables] == ["reconstruction", "brightness"]
    table = board.tables[1]
    assert [metric.heading for metric in table.columns] == ["glow ↓"]
    assert table.best == {"glow": {"2"}}
    _, markdown = leaderboard.write(tmp_path, [board])
    assert "|  | glow ↓ |" in markdown.read_text()
    # A sweep's page takes the objective's meaning from run.json.
    assert Run(run).record["goal"]["meaning"] == "how far the pixels are from grey, in levels"


@pytest.mark.parametrize("name", ["undercomplete", "rbm", "stacked_ae"])
def test_sections_of_the_first_version_are_shown_with_descriptions(name, tmp_path):
    run = Run(shutil.copytree(UPGRADE / f"v1-{name}", tmp_path / "run"))
    before = run.metrics["test"]
    assert "columns" not in before
    section = add_descriptions(run, before)
    assert section["objective"] == before["objective"]
    assert all(one.meaning for table in before["titles"] for one in metrics_of_table(section, table))
    assert {one.heading for one in metrics_of_table(section, "reconstruction")} >= {"mse ↓", "psnr ↑", "ssim ↑"}
    assert set(section["columns"]["objective"]) == set(before["objective"]["model"])
    (board,) = leaderboard.build_boards([run.folder], "test", add_descriptions)
    assert [metric.heading for metric in board.tables[0].columns] == ["mse ↓", "psnr ↑", "ssim ↑"]
    # Without them the numbers are shown, with names alone.
    (board,) = leaderboard.build_boards([run.folder])
    assert [metric.heading for metric in board.tables[0].columns] == ["mse", "psnr", "psnr_image", "ssim"]


def test_the_model_of_a_stored_run_is_looked_up_without_importing_a_strangers_module(tmp_path, monkeypatch):
    run = Run(shutil.copytree(UPGRADE / "v1-rbm", tmp_path / "run"))
    assert model_class(run) is RBM
    path = run.folder / ".hydra" / "config.yaml"
    whole = path.read_text()
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    for target in ("evil.Model", "aectl.models.rbm.torch.os.system", "aectl.models.none.RBM", "torch.nn.Linear", "5"):
        path.write_text(whole.replace("aectl.models.rbm.RBM", target))
        assert model_class(Run(run.folder)) is Model
    path.write_text("seed: 1\n")
    assert model_class(Run(run.folder)) is Model


def test_a_class_of_models_adds_to_the_metrics_of_its_bases():
    class Mine(RBM):
        metrics = (Metric("energy", "of mine"),)

    assert find_metric(collect_metrics(Mine), "energy").meaning == "of mine"
    assert {"loss", "mse", "pseudo_nll"} <= {one.name for one in collect_metrics(Mine)}
    assert find_metric(collect_metrics(IWAE), "kl_2").unit == "nats per image"

    class Other(Model):
        metrics = property(lambda self: ["x"])

    assert collect_metrics(Other) == Model.metrics
    Other.metrics = (Metric("a"), "b")
    with pytest.raises(TypeError, match=r"model: Other\.metrics has 'b', not an aectl\.models\.Metric"):
        collect_metrics(Other)


def test_a_sweep_states_the_meaning_of_an_objective_that_all_its_models_share(tmp_path):
    def job(number, meaning, name="val/squint", objective="val/squint"):
        goal = {"objective": objective, "meaning": meaning}
        return Job(number, tmp_path, {}, "done", objective={"name": name, "value": 1.0}, record={"goal": goal})

    def meaning(*jobs):
        return find_metric([*describe_objectives(jobs, METRICS["sweep"]), *METRICS["sweep"]], "val/squint").meaning

    plain = "best value on validation images, a mean over them"
    assert meaning(job(0, "how grey"), job(1, "how grey")) == f"how grey: {plain}"
    assert meaning(job(0, "how grey"), job(1, "how bright")) == meaning(job(0, "")) == plain
    # Jobs that are compared by another metric than they minimised.
    assert meaning(job(0, "how grey", objective="val/loss")) == plain


def test_an_exact_name_comes_before_a_pattern():
    metrics = (Metric("linear_*", "few"), Metric("linear_10", "ten"), Metric("*", "any"))
    assert [find_metric(metrics, name).meaning for name in ("linear_10", "linear_9", "knn")] == ["ten", "few", "any"]
    assert find_metric(metrics[:2], "knn") == Metric("knn")
    assert describe_columns(["linear_9", "knn"], metrics[:2]) == {"linear_9": {"meaning": "few"}}


FULL = Metric("a", "b", "lower", "c", ".2f", detail=True, condition=True, alike=("x", "y"))


@pytest.mark.parametrize("metric", [FULL, Metric("a")])
def test_a_description_is_read_as_it_was_written(metric):
    assert read_metric("a", json.loads(json.dumps(metric.to_json()))) == metric
    assert read_metric("a", {**metric.to_json(), "new": 5}) == metric


@pytest.mark.parametrize(
    "stored",
    [
        5,
        "x",
        [],
        {"meaning": 5},
        {"better": "more"},
        {"better": ["lower"]},
        {"format": ".999999999f"},
        {"format": "100d"},
        {"format": ".2f}{"},
        {"detail": 1},
        {"alike": "exact"},
        {"alike": [5]},
    ],
)
def test_descriptions_that_no_evaluation_writes_are_damage(stored):
    with pytest.raises(ValueError, match="metric mse"):
        read_metric("mse", stored)
    section = {"codes": {"model": {"mse": 1.0}}, "columns": {"codes": {"mse": stored}}}
    assert find_damage(section) == "columns.codes"
    assert find_damage({**section, "columns": {"codes": {"mse": FULL.to_json()}}}) == ""


@pytest.mark.parametrize("columns", [5, [], "x", {"codes": 5}, {"codes": ["mse"]}, {"codes": None}], ids=repr)
def test_descriptions_of_another_shape_are_damage(columns):
    assert find_damage({"codes": {"model": {"mse": 1.0}}, "columns": columns}).startswith("columns")


def test_a_metrics_own_format_is_used():
    rows = [{"a": 1.0, "a_sd": 0.5}, {"a": 2.25}, {"a": "x"}, {"a": float("nan"), "a_sd": float("nan")}]
    assert format_column(rows, Metric("a", format=".1f")) == [("1.0", "± 0.5"), ("2.2", ""), ("x", ""), ("–", "")]


def test_rows_of_other_conditions_are_not_compared():
    metrics = (Metric("kind", alike=("exact", "bound")), Metric("images", condition=True), Metric("nll"))
    rows = [
        {"nll": 1.0, "kind": kind, "images": n} for kind, n in (("exact", 5), ("bound", 5), ("AIS", 5), ("exact", 6))
    ]
    found = [conditions_of(row, metrics) for row in rows]
    assert found[0] == found[1] and len(set(found)) == 3

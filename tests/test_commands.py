"""Every model through the real commands: train, eval, sample, resume and load, on bundled digits."""

import csv
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import aectl as package
from aectl.config import conf_dir
from aectl.figures import style
from aectl.html_report.render import CAPTIONS, find_caption_index
from aectl.runs.metrics_json import column_names, tables_of
from aectl.runs.run import Run, find_run
from tests.small import QUICK, SMALL, SOME, training_words


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures are drawn with a ninth of the dots: what they show is looked at elsewhere."""
    monkeypatch.setattr(style, "DPI", 50)


MODELS = sorted(p.stem for p in Path(conf_dir(), "model").glob("*.yaml") if p.stem != "custom")
NOISES = sorted(p.stem for p in Path(conf_dir(), "noise").glob("*.yaml"))


def record(folder):
    return json.loads((folder / "run.json").read_text())


def only_run():
    return find_run("latest").absolute()


def own_noise(model):
    """Return the noise that a model's file chooses."""
    defaults = OmegaConf.load(Path(conf_dir(), f"model/{model}.yaml")).get("defaults", [])
    return next((one["override /noise"] for one in defaults if "override /noise" in one), "none")


def check_rows(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    # One epoch of each stage; what another stage logs, a row leaves out.
    assert len(rows) == len({row["stage"] for row in rows})
    assert all(np.isfinite(float(value)) for row in rows for name, value in row.items() if name != "stage" and value)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_and_loads(shared_run, model):
    folder = shared_run(model)
    assert "device cpu, fp32, device.threads=1\n" in (folder / "train.log").read_text()
    assert record(folder)["status"] == "done"
    assert {"git", "versions", "device", "seed", "command", "started", "ended"} <= set(record(folder))
    names = {p.name for p in folder.iterdir()}
    assert {".hydra", "run.json", "metrics.csv", "metrics.json", "checkpoints", "train.log"} <= names
    kept = {"before.pt"} if Run(folder).record["epochs"] > 1 else set()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.pt", "best.pt"} | kept
    assert list(folder.glob("events.out.tfevents.*"))
    check_rows(folder)
    assert Run(folder).record["choices"]["noise"] == own_noise(model)
    loaded = package.load(folder)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


ONE_OF_A_FAMILY = ("gan", "made", "rbm", "stacked_ae", "vae")
"""Models that between them have every ability; `make test` evaluates and samples these, `make test-all` all."""


def in_families(models):
    return [pytest.param(model, marks=() if model in ONE_OF_A_FAMILY else pytest.mark.slow) for model in models]


@pytest.mark.parametrize("model", in_families(MODELS))
def test_every_model_evaluates(aectl, trained, model):
    folder = trained(model)
    code, out, err = aectl("eval", "run=latest", "device=cpu", "device.threads=1")
    assert code == 0, out + err
    section = json.loads((folder / "metrics.json").read_text())["test"]
    assert (section["images"], section["threads"]) == (360, 1)
    verdicts = [one["text"] for one in section["verdicts"]]
    assert 1 <= len(verdicts) <= 4
    # A long one takes several lines.
    assert " ".join(verdicts) in " ".join(out.split())
    shown = {(table, name) for table, rows in tables_of(section).items() for name in column_names(rows.values())}
    described = {(table, name): one for table, found in section["columns"].items() for name, one in found.items()}
    assert shown == described.keys() and all(one["meaning"] for one in described.values())
    figures = [path.stem for path in (folder / "figures").glob("*.png")]
    assert figures and all(find_caption_index(name) < len(CAPTIONS) for name in figures)
    page = html.unescape((folder / "report.html").read_text())
    assert f"{record(folder)['command']}\naectl eval run={folder} device=cpu device.threads=1\n" in page
    assert "The model's own loss and metrics, on test images" in page


@pytest.mark.parametrize("model", in_families(MODELS))
def test_every_model_samples(aectl, trained, model):
    folder = trained(model)
    code, out, err = aectl("sample", "run=latest", "device=cpu", "n=20")
    assert code == 0, out + err
    assert list((folder / "samples").glob("*.png"))
    for path in (folder / "samples").glob("*.npz"):
        assert all(np.isfinite(array).all() for array in np.load(path).values())


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize(("model", "noise"), [(m, noise) for m in MODELS for noise in NOISES if noise != own_noise(m)])
def test_every_model_trains_under_every_other_noise(aectl, model, noise):
    code, out, err = aectl("train", *training_words(model), f"noise={noise}")
    assert code == 0, out + err
    check_rows(only_run())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["minimax", "lsgan", "hinge", "wgan_gp", "relativistic"])
def test_every_loss_of_the_gan_trains(aectl, loss):
    assert aectl("train", "model=gan", f"model.loss={loss}", *QUICK)[0] == 0


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("adamw", "constant"), ("sgd", "cosine"), ("adagrad", "constant"), ("rmsprop", "cosine")],
)
def test_every_optimizer_and_every_schedule_trains(aectl, optimizer, schedule):
    choices = (f"optimizer={optimizer}", f"schedule={schedule}", "schedule.warmup=0.2", "optimizer.lr=0.001")
    assert aectl("train", "model=undercomplete", *choices, "grad_clip=1", *QUICK)[0] == 0


def test_bf16_trains(aectl):
    assert aectl("train", "model=vae", "device.precision=bf16", *QUICK)[0] == 0


@pytest.mark.parametrize(("model", "table"), [("dae", "reconstruction"), ("vae", "reconstruction"), ("gan", "samples")])
def test_eval_on_the_validation_images_repeats_the_trainers_numbers(aectl, trained, model, table):
    trained(model)
    words = ("split=valid", "checkpoint=last", "device=cpu", f"only={table}", "figures=false")
    code, out, err = aectl("eval", "run=latest", *words)
    assert code == 0, out + err
    metrics = json.loads((only_run() / "metrics.json").read_text())
    trained = {k.removeprefix("val/"): v for k, v in metrics["train"].items() if k.startswith("val/")}
    assert metrics["valid"]["objective"]["model"] == pytest.approx(trained, rel=1e-6)


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(aectl, shared_run):
    folders = [shared_run("dae")]
    for seed in (0, 1):
        assert aectl("train", *training_words("dae", f"seed={seed}"))[0] == 0
        folders.append(only_run())
    weights = [torch.cat([p.flatten() for p in package.load(folder).parameters()]) for folder in folders]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_resume_extends_to_what_one_go_would_have_been(aectl):
    long = ("model=dae", "schedule=constant", *[q for q in QUICK if not q.startswith("epochs")])
    aectl("train", *long, "epochs=4")
    whole = only_run()
    aectl("train", *long, "epochs=2")
    part = only_run()
    code, out, err = aectl("train", f"resume={part}", "epochs=4")
    assert code == 0, out + err
    assert only_run() == part
    for key, value in package.load(whole, "last").state_dict().items():
        assert torch.equal(value, package.load(part, "last").state_dict()[key])
    assert timeless(whole) == timeless(part)
    assert (part / ".hydra.1/config.yaml").is_file()
    assert Run(part).config().epochs == 4


def timeless(folder):
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_extending_a_cosine_says_that_the_schedule_changes(aectl, trained):
    trained()
    code, out, err = aectl("train", "resume=latest", "epochs=2")
    assert code == 0
    assert "schedule depends on the number of epochs" in out + err


def test_resuming_a_finished_run_says_how_to_extend_it_and_leaves_no_trace(aectl, trained):
    trained()
    before = sorted(p.name for p in only_run().iterdir())
    code, out, err = aectl("train", "resume=latest")
    assert code != 0
    assert "epochs=2 would extend it" in err
    assert sorted(p.name for p in only_run().iterdir()) == before


def test_max_time_stops_with_a_checkpoint_that_goes_on(aectl):
    code, out, err = aectl("train", "model=dae", *QUICK, "max_time=0.001", "epochs=3")
    assert code == 0, out + err
    assert record(only_run())["status"] == "interrupted"
    assert "resume=" in out
    code, out, err = aectl("train", "resume=latest", "max_time=null")
    assert code == 0, out + err
    assert record(only_run())["status"] == "done"
    assert len(timeless(only_run())) == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SIGTERM", 143), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("SIGINT", 130), ("SIGUSR1", 138)))],
)
def test_signals_end_at_a_step_with_a_resumable_checkpoint(aectl, tmp_path, name, expected):
    command = [sys.executable, "-m", "aectl", "train", "model=dae", "dataset=digits", "epochs=100000", "device=cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("outputs/*/*/*/checkpoints/last.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(getattr(signal, name))
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == expected, output
    assert "Traceback" not in output
    folder = only_run()
    assert record(folder)["status"] == "interrupted"
    done = len(timeless(folder))
    code, out, err = aectl("train", "resume=latest", f"epochs={done + 2}")
    assert code == 0, out + err
    assert [int(row["epoch"]) for row in timeless(folder)] == list(range(1, done + 3))


def test_init_from_starts_a_new_run_from_anothers_weights(aectl, trained):
    source = trained().absolute()
    words = ("noise=masking", f"init_from={source}", "optimizer.lr=0")
    code, out, err = aectl("train", *training_words("dae", *words))
    assert code == 0, out + err
    assert only_run() != source
    a, b = package.load(source).state_dict(), package.load("latest").state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    code, out, err = aectl("train", "model=undercomplete", f"init_from={source}", *QUICK)
    assert code != 0
    assert "does not fit this model" in err


def test_excluded_classes_are_never_trained_on_but_tested(aectl, trained):
    trained("undercomplete", "dataset.exclude=[3]")
    config = Run(only_run()).config()
    assert list(config.dataset.exclude) == [3]
    assert aectl("eval", "run=latest", "device=cpu", "only=anomalies", "figures=false")[0] == 0


MINE = """
from torch import nn
from aectl.models import Loss, Model

class Mine(Model):
    def __init__(self, shape, width=8):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        layers = [nn.Flatten(), nn.Linear(pixels, width), nn.Linear(width, pixels), nn.Unflatten(1, shape)]
        self.net = nn.Sequential(*layers)
    def reconstruct(self, x):
        return self.net(x)
    def losses(self, batch, stage, rng):
        yield Loss((self.net(batch.x) - batch.x).square().sum() / len(batch.x))
    def validate(self, batch, rng):
        return {"loss": (self.net(batch.x) - batch.x).square().sum() / len(batch.x)}

class Blur(nn.Module):
    def forward(self, x, rng):
        return x * 0.5

class Square(nn.Module):
    def forward(self, h):
        return h.square().sum() / len(h)
"""


def test_ones_own_model_trains_evaluates_and_resumes_and_is_not_trusted_unasked(aectl, tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(MINE)
    code, out, err = aectl("train", "model=custom", "model._target_=my_module.Mine", "model.width=4", *QUICK)
    assert code == 0, out + err
    code, out, err = aectl("eval", "run=latest", "device=cpu")
    assert code != 0
    assert "trust=my_module" in err
    for command in (("eval", *SOME), ("sample", "n=4")):
        code, out, err = aectl(*command, "run=latest", "device=cpu", "trust=my_module")
        assert code == 0, out + err
    code, out, err = aectl("train", "resume=latest", "epochs=2")
    assert code != 0
    assert "trust=my_module" in err
    code, out, err = aectl("train", "resume=latest", "epochs=2", "trust=my_module")
    assert code == 0, out + err
    assert package.load("latest", trust="my_module").net[1].out_features == 4


def test_ones_own_noise_and_penalty(aectl, tmp_path):
    (tmp_path / "my_parts.py").write_text(MINE)
    parts = ("+noise._target_=my_parts.Blur", "+penalty._target_=my_parts.Square")
    parts = tuple(p.lstrip("+") for p in parts)
    code, out, err = aectl("train", "model=undercomplete", *parts, *QUICK)
    assert code == 0, out + err
    with (only_run() / "metrics.csv").open() as file:
        assert float(next(csv.DictReader(file))["train/penalty"]) > 0


def test_a_model_without_use_for_noise_refuses_it_in_one_line(aectl, tmp_path):
    (tmp_path / "my_plain.py").write_text(MINE)
    code, out, err = aectl("train", "model=custom", "model._target_=my_plain.Mine", "noise=masking", *QUICK)
    assert code != 0
    assert "noise: the model Mine does not use it" in err
    assert not Path("outputs").exists() or not any(Path("outputs").rglob("*.yaml"))


def test_asking_for_what_a_model_cannot_do_names_those_that_can(aectl, trained):
    trained()
    code, out, err = aectl("sample", "run=latest", "kind=prior", "device=cpu")
    assert code != 0
    able = "boltzmann, dbm, dbn, ebm, fvsbn, gan, gan_conv, iwae, made, nade, rbm, vae, vae2, vae_conv"
    assert f"model 'dae' cannot sample: it has no prior. Models that can: {able}" in err
    assert len(err.strip().splitlines()) <= 2


BAD = [
    (("model.code=0",), "code must be at least 1"),
    (("batch_size=100000",), "batch_size must be at most"),
    (("optimizer.lr=nan",), "optimizer.lr"),
    (("device=tpu",), "cuda"),
    (("objective=val/accuracy",), "choose from"),
    (("dataset=arrays", "dataset.path=absent.npy"), "absent.npy"),
    (("dataset.valid=99999",), "valid"),
    (("model.encoder.widths=[a]",), "widths"),
]


@pytest.mark.parametrize(("arguments", "hint"), BAD, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_bad_input_is_one_or_two_clear_lines_and_leaves_nothing(aectl, arguments, hint):
    quick = [q for q in QUICK if q.split("=")[0] not in {a.split("=")[0] for a in arguments}]
    code, out, err = aectl("train", *quick, *arguments)
    assert code != 0
    lines = err.strip().splitlines()
    assert 1 <= len(lines) <= 2, err
    assert lines[0].startswith("aectl: ")
    assert hint in err
    assert not any(Path().rglob("run.json"))
    assert not any(Path().rglob("config.yaml"))


@pytest.mark.parametrize("command", ["eval", "sample"])
@pytest.mark.parametrize("which", ["nowhere", "latest", "."])
def test_a_run_that_is_none_is_said_to_be_none(aectl, command, which):
    code, out, err = aectl(command, f"run={which}", "device=cpu")
    assert code != 0
    assert re.search(r"\bno(t a)? run\b", err)
    assert len(err.strip().splitlines()) <= 2


def test_a_damaged_checkpoint_is_said_to_be_damaged(aectl, trained):
    trained()
    path = only_run() / "checkpoints/best.pt"
    path.write_bytes(path.read_bytes()[:1000])
    code, out, err = aectl("eval", "run=latest", "device=cpu")
    assert code != 0
    assert "best.pt is damaged" in err
    assert "checkpoint=last" in err
    assert aectl("eval", "run=latest", "checkpoint=last", "device=cpu", *SOME)[0] == 0


def test_an_unfinished_run_evaluates_with_a_warning(aectl, trained):
    trained()
    Run(only_run()).update(status="running")
    code, out, err = aectl("eval", "run=latest", "device=cpu", *SOME)
    assert code == 0
    assert "not finished" in out + err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_one_line(aectl, tmp_path):
    tmp_path.chmod(0o500)
    code, out, err = aectl("train", *QUICK)
    tmp_path.chmod(0o700)
    assert code != 0
    assert len(err.strip().splitlines()) <= 2


@pytest.mark.slow
def test_a_sweep_trains_every_combination_and_ends_in_a_table(aectl):
    code, out, err = aectl("train", "-m", "model=undercomplete,vae", "seed=0,1", *QUICK)
    assert code == 0, out + err
    (sweep,) = Path("outputs/multirun").iterdir()
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["model"], row["seed"]) for row in rows} == {(m, s) for m in ("undercomplete", "vae") for s in "01"}
    assert all(row["status"] == "done" for row in rows)
    assert "± std" in out
    assert "=" not in "".join(p.name for p in sweep.iterdir())


def test_bad_input_never_deletes_what_was_there_before(aectl, tmp_path):
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/precious.txt").write_text("mine")
    for arguments in (("hydra.run.dir=keep", "epochs=0"), ("hydra.run.dir=.", "epochs=0"), ("--config-name", "eval")):
        code, out, err = aectl("train", *arguments)
        assert code != 0
        assert (tmp_path / "keep/precious.txt").read_text() == "mine"
    assert sorted(p.name for p in (tmp_path / "keep").iterdir()) == ["precious.txt"]


def test_a_resume_does_not_need_the_run_that_it_was_started_from(aectl, trained):
    source = trained()
    aectl("train", *training_words("dae", f"init_from={source}"))
    (source / "run.json").unlink()
    code, out, err = aectl("train", "resume=latest", "epochs=2")
    assert code == 0, out + err


def test_early_stopping_is_told_and_a_stalled_run_says_what_lets_it_go_on(aectl):
    quick = [q for q in QUICK if not q.startswith("epochs")]
    code, out, err = aectl("train", "model=dae", "optimizer.lr=0", "epochs=9", "patience=1", *quick)
    assert code == 0
    assert "stopped early" in out
    code, out, err = aectl("train", "resume=latest")
    assert code != 0
    assert "patience=" in err


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(60, 20, 10), (60, 10, 20), (60, 3, 9, 7)], ids=str)
def test_arrays_of_any_side_train_and_evaluate(aectl, tmp_path, shape):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    settings = ("dataset=arrays", "dataset.path=x.npy", "batch_size=16", "epochs=1", "device=cpu", "device.threads=1")
    code, out, err = aectl("train", "model=undercomplete", *settings)
    assert code == 0, out + err
    assert aectl("eval", "run=latest", "device=cpu")[0] == 0


@pytest.mark.parametrize("name", ["run.json", ".hydra/config.yaml"])
def test_damaged_records_are_said_to_be_damaged(aectl, trained, name):
    trained()
    folder = only_run()
    (folder / name).write_text("[]")
    code, out, err = aectl("eval", f"run={folder}", "device=cpu")
    assert code != 0
    assert "damaged" in err
    assert len(err.strip().splitlines()) <= 2


def test_a_yaml_of_ones_own_is_found_by_config_dir(aectl, tmp_path):
    (tmp_path / "my_yaml_module.py").write_text(MINE)
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/blurred.yaml").write_text("_target_: my_yaml_module.Mine\nwidth: 5\n")
    code, out, err = aectl("train", "--config-dir", "mine", "model=blurred", *QUICK)
    assert code == 0, out + err
    assert package.load("latest", trust="my_yaml_module").net[1].out_features == 5


def test_a_run_killed_behind_its_last_checkpoint_is_brought_to_its_end(aectl, trained):
    trained()
    run, before = only_run(), timeless(only_run())
    Run(run).update(status="running", objective=None)
    code, out, err = aectl("train", f"resume={run}")
    assert code == 0, out + err
    assert Run(run).record["status"] == "done" and Run(run).record["objective"]["value"] is not None
    assert timeless(run) == before
    code, _, err = aectl("train", f"resume={run}")
    assert code == 2 and "has trained its" in err


def test_other_epochs_that_would_move_a_run_into_another_stage_are_refused(aectl):
    words = ("model=stacked_ae", "model.widths=[8,8]", *[q for q in QUICK if not q.startswith(("epochs", "model"))])
    aectl("train", *words, "model.pretrain_epochs=2", "epochs=1")
    run = only_run()
    config = Run(run).config()
    config.model.pretrain_epochs = 4
    (run / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(config))
    code, _, err = aectl("train", f"resume={run}")
    assert code == 2 and err.strip().endswith("the run was in stage 'finetune', not in 'layer_2'"), err


def test_a_refused_resume_leaves_no_config_behind(aectl, trained):
    trained()
    assert aectl("train", "resume=latest", "epochs=0")[0] == 2
    assert not list(only_run().glob(".hydra.*"))


@pytest.mark.parametrize(
    "model",
    ["undercomplete", *(pytest.param(m, marks=pytest.mark.slow) for m in ("gan_conv", "vae", "rbm", "stacked_dae"))],
)
def test_colour_images_of_ones_own_train_and_evaluate(aectl, tmp_path, model):
    for number in range(60):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    words = ("dataset=folder", "dataset.root=photos", "dataset.size=8", "dataset.channels=3", "batch_size=16")
    code, out, err = aectl(
        "train", f"model={model}", *words, *SMALL[model], "epochs=1", "device=cpu", "device.threads=1"
    )
    assert code == 0, out + err
    assert package.dataset("latest").shape == (3, 8, 8)
    code, out, err = aectl("eval", "run=latest", "only=[reconstruction,samples]")
    assert code == 0, out + err
    code, out, err = aectl("sample", "run=latest", "n=4")
    assert code == 0 or "cannot" in err, out + err

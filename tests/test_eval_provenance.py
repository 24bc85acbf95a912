"""Tables of metrics.json: merged one by one, marked stale when the weights change, printed again without computing."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from aectl.commands import eval_run
from aectl.commands.eval_data import QUICK_LIMITS
from aectl.evaluation.registry import EVALUATIONS, lacking
from aectl.models.base import Model
from aectl.runs.metrics_json import find_damage, origin_note
from aectl.runs.run import Run
from tests.faults.conftest import UPGRADE

TWO = "only=[reconstruction,codes]"
PLAIN = ("device=cpu", "device.threads=1")


@pytest.fixture
def copied(aectl, tmp_path):
    """Return a function that copies a small trained run; its stored evaluation lacks origins, as in old versions."""

    def copy(name="undercomplete", to="run", metrics=False):
        run = Run(Path(shutil.copytree(UPGRADE / f"v1-{name}", tmp_path / to)))
        if not metrics:
            (run.folder / "metrics.json").unlink()
        return run

    return copy


@pytest.fixture
def trained(copied):
    return copied()


def train_further(run):
    """Write other weights of a later epoch into a checkpoint, as a resumed training does."""
    path = run.checkpoint_path("best")
    state = torch.load(path, weights_only=True)
    state["epoch"] += 1
    state["model"] = {name: 0.9 * weights for name, weights in state["model"].items()}
    torch.save(state, path)


@pytest.fixture
def unopened(monkeypatch):
    """Make opening a run an error: what is printed must be stored."""

    def refuse():
        def fail(*_):
            raise AssertionError("the run was opened")

        monkeypatch.setattr(eval_run, "open_run", fail)

    return refuse


def evaluate(aectl, run, *words):
    code, out, err = aectl("eval", f"run={run.folder}", *PLAIN, *words)
    assert code == 0, out + err
    return out


def test_only_replaces_one_table_and_keeps_the_others(aectl, trained):
    evaluate(aectl, trained, TWO)
    before = trained.metrics["test"]
    out = evaluate(aectl, trained, "only=codes", "seed=1")
    after = trained.metrics["test"]
    assert list(after["titles"]) == ["objective", "reconstruction", "codes"]
    assert after["reconstruction"] == before["reconstruction"]
    assert after["made"]["reconstruction"] == before["made"]["reconstruction"]
    assert after["made"]["codes"]["settings"] == "seed=1"
    assert after["made"]["codes"]["when"] > before["made"]["codes"]["when"]
    assert {"checkpoint", "epoch", "weights", "when", "seconds", "settings"} <= set(after["made"]["codes"])
    assert "hoyer" in out and "ssim" not in out
    page = (trained.folder / "report.html").read_text()
    assert "hoyer" in page and "ssim" in page and " · seed=0" in page
    assert origin_note(after, "reconstruction") == "seed=0"
    assert not origin_note(after, "codes")


def test_tables_of_earlier_weights_are_stale_until_they_are_made_anew(aectl, trained):
    evaluate(aectl, trained, TWO, "figures=false")
    train_further(trained)
    out = evaluate(aectl, trained, "only=codes", "figures=false")
    section = trained.metrics["test"]
    made = section["made"]
    assert "stale" in made["reconstruction"] and "stale" not in made["codes"]
    assert made["reconstruction"]["epoch"] == made["codes"]["epoch"] - 1
    assert "stale, of earlier weights: reconstruction; aectl eval run=run computes them again" in out
    evaluate(aectl, trained, TWO, "figures=false")
    section = trained.metrics["test"]
    assert not [name for name in section["titles"] if origin_note(section, name)]


@pytest.mark.slow
def test_a_leaderboard_marks_stale_rows(aectl, copied):
    one, other = copied(to="one"), copied(to="other")
    for run in (one, other):
        evaluate(aectl, run, TWO, "figures=false")
    train_further(one)
    out = evaluate(aectl, one, "only=codes", "figures=false")
    code, out, err = aectl("eval", "run=one,other", "only=codes", *PLAIN, "figures=false")
    assert code == 0, out + err
    assert len(re.findall(r"\(stale\)", out)) == 1


def test_a_stored_evaluation_is_printed_without_computing_it(aectl, trained, unopened):
    first = evaluate(aectl, trained, TWO, "figures=false")
    unopened()
    again = evaluate(aectl, trained, TWO, "figures=false")
    assert re.search(r"evaluated \d{4}-\d\d-\d\d \d\d:\d\d UTC; again=true evaluates it again", again)
    assert again.partition("again\n")[2].strip() == first.strip()
    for changed in ("again=true", "seed=2", "checkpoint=last", "split=valid"):
        code, _, err = aectl("eval", f"run={trained.folder}", TWO, changed, *PLAIN)
        assert code != 0 and "the run was opened" in err, changed


@pytest.mark.slow
def test_a_whole_evaluation_makes_only_what_is_missing_or_outdated(aectl, trained, unopened):
    evaluate(aectl, trained, "only=reconstruction", "figures=false")
    kept = trained.metrics["test"]["made"]["reconstruction"]["when"]
    evaluate(aectl, trained, "figures=false")
    made = trained.metrics["test"]["made"]
    assert made["reconstruction"]["when"] == kept < made["codes"]["when"]
    unopened()
    assert "again=true evaluates it again" in evaluate(aectl, trained, "figures=false")


def test_of_several_runs_those_that_lack_the_ability_are_left_out(aectl, copied):
    for name, to in (("stacked_ae", "a"), ("rbm", "b"), ("rbm", "c")):
        copied(name=name, to=to)
    words = ("only=classification", "figures=false", "yes=true", *PLAIN)
    code, out, err = aectl("eval", "run=a,b", *words)
    assert code == 0, err
    assert "b is left out: only=classification does not apply to this run" in out + err
    assert "1 run on digits" in out
    code, _, err = aectl("eval", "run=b,c", *words)
    assert code == 2
    assert "only=classification does not apply" in err


def test_only_says_which_ability_a_model_lacks(aectl, trained):
    code, out, err = aectl("eval", "run=run", "only=samples", *PLAIN)
    assert code == 2
    assert "only=samples does not apply to this run; samples: the model does not sample" in err
    out = evaluate(aectl, trained, "only=[codes,samples]", "figures=false")
    assert "no table of samples: the model does not sample" in out
    assert "codes" in trained.metrics["test"]


def test_a_density_of_codes_stands_in_for_a_prior(aectl, trained):
    out = evaluate(aectl, trained, "only=[samples]", "figures=false", "sampler=mixture")
    assert "fitted a mixture of 6 Gaussians to the codes of 1,337 images" in out
    assert "samples: energy distance" in out and "(mixture on codes)" in out
    (kept,) = (trained.folder / "densities").iterdir()
    first, made = trained.metrics["test"]["samples"], kept.stat().st_mtime_ns
    out = evaluate(aectl, trained, "only=[samples]", "figures=false", "sampler=[mixture]")
    assert "again=true evaluates it again" in out
    out = evaluate(aectl, trained, "only=[samples]", "figures=false", "sampler=mixture,gaussian")
    assert "fitted a Gaussian" in out and "fitted a mixture" not in out
    assert kept.stat().st_mtime_ns == made
    rows = trained.metrics["test"]["samples"]
    assert list(rows)[:2] == ["model, mixture on codes", "model, gaussian on codes"]
    assert rows["model, mixture on codes"] == first["model, mixture on codes"]
    words = ("only=[samples]", "figures=false", "sampler=gaussian", "components=3")
    assert "components has no effect without sampler=mixture" in evaluate(aectl, trained, *words)


@pytest.mark.slow
def test_tables_of_samples_come_and_go_with_the_sampler(aectl, trained):
    out = evaluate(aectl, trained, "figures=false")
    assert "no samples, distances, classes: the model has no prior; sampler=mixture samples from its codes" in out
    evaluate(aectl, trained, "figures=false", "sampler=mixture")
    assert {"samples", "classes"} <= set(trained.metrics["test"]["titles"])
    assert "again=true" in evaluate(aectl, trained, "figures=false", "sampler=mixture")
    evaluate(aectl, trained, "figures=false")
    assert not {"samples", "classes"} & set(trained.metrics["test"]["titles"])
    assert "again=true" in evaluate(aectl, trained, "figures=false")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sampler=foo",), "sampler: there is no 'foo'; choose from gaussian, mixture"),
        (("sampler=mixtur",), "sampler: there is no 'mixtur'; did you mean 'mixture'?"),
        (("sampler=3",), "sampler must be a density's name or a list of them, not 3"),
        (("sampler=mixture", "components=0"), "components must be at least 1, not 0"),
        (("sampler=mixture", "components=1338"), "components=1,338 needs at least 1,338 training images"),
    ],
)
def test_a_bad_sampler_is_refused_in_a_line(aectl, trained, words, message):
    code, _, err = aectl("eval", f"run={trained.folder}", "device=cpu", "device.threads=1", *words)
    assert code != 0
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_quick_evaluation_says_so_and_stays_apart(aectl, trained, monkeypatch):
    monkeypatch.setitem(QUICK_LIMITS, "images", 100)
    monkeypatch.setitem(QUICK_LIMITS, "train", 200)
    evaluate(aectl, trained, "only=codes", "figures=false")
    full = trained.metrics["test"]
    out = evaluate(aectl, trained, "only=codes", "quick=true")
    told = "quick look: 100 of 360 test images, baselines from 200 of 1,337 training images"
    assert told + "\n\n" in out
    quick = trained.metrics["test_quick"]
    assert trained.metrics["test"] == full
    assert quick["images"] == 100 and quick["quick"] == told
    assert quick["titles"]["codes"] == "codes (quick look)"
    assert quick["codes"]["PCA-4"] != full["codes"]["PCA-4"]
    assert "quick look" in (trained.folder / "report_quick.html").read_text()
    assert not (trained.folder / "report.html").exists()
    assert not list(trained.folder.glob("events*.eval"))


@pytest.mark.parametrize(("chosen", "is_told"), [((), True), (("likelihood",), True), (("codes",), False)])
def test_the_draws_of_a_likelihood_are_told_with_its_table_alone(chosen, is_told, trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    quick = "quick look: 100 of 360 test images" + eval_run.LIKELIHOOD_PART + "100 images and 100 draws"
    section = {"images": 100, "split": "test", "epoch": 1, "quick": quick, "missing": {}}
    tables = {"codes": {"model": {"units": 4}}, "likelihood": {"model": {"nll": 3.0}}}
    eval_run.print_section({**section, **tables, "titles": dict.fromkeys(tables, "x")}, trained, chosen)
    out = capsys.readouterr().out
    assert "quick look: 100 of 360 test images" in out
    assert ("draws" in out) == is_told
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("table", [one.name for one in EVALUATIONS])
def test_each_table_says_what_a_model_without_abilities_lacks(table):
    assert lacking(Model(), table)


@pytest.mark.parametrize(
    "made", ["x", [], {"codes": 1}, {"codes": {"epoch": {}}}, {"codes": {"epoch": 2**70}}], ids=str
)
def test_origins_that_no_evaluation_writes_are_damage(made):
    assert find_damage({"codes": {"model": {"units": 1}}, "made": made}).startswith("made")


def test_sections_of_earlier_versions_are_merged_by_their_epoch(aectl, copied):
    run = copied(metrics=True)
    before = run.metrics["test"]
    assert "made" not in before
    evaluate(aectl, run, "only=codes", "figures=false")
    section = run.metrics["test"]
    assert set(before["titles"]) <= set(section["titles"])
    assert section["reconstruction"] == before["reconstruction"]
    assert section["made"]["reconstruction"]["epoch"] == before["epoch"]
    assert not origin_note(section, "reconstruction")
    Run(run.folder).add_metrics(test={**before, "epoch": before["epoch"] - 1})
    evaluate(aectl, run, "only=codes", "figures=false")
    assert origin_note(run.metrics["test"], "reconstruction").startswith("stale")

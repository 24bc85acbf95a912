"""Runs that earlier versions left, held against today's code: see upgrade/README.md."""

import json

import pytest
import torch

import aectl as package
from aectl.config import ConfigError
from aectl.runs import listing
from aectl.runs.run import Run, find_run
from aectl.runs.run_json import FORMAT
from aectl.training import checkpoint
from aectl.training.checkpoint import CheckpointError

RUNS = {"v1-undercomplete": 3, "v1-halfway": 3, "v1-rbm": 2, "v1-stacked_ae": 4}
"""The kept runs, and the epochs that each was to have, those of earlier stages among them."""
QUICK = "v1-stacked_ae"
"""Of these the numbers are repeated in the short form too."""
MEASURED = ("nll_images=50", "only=[reconstruction,denoising,codes,classification,likelihood]", "figures=false")
"""As in upgrade/make.py."""


def numbers(tables, path=""):
    """Return the numbers in tables by their places."""
    if isinstance(tables, dict):
        return {
            where: number for key, value in tables.items() for where, number in numbers(value, f"{path}/{key}").items()
        }
    return {path: tables} if isinstance(tables, (int, float)) else {}


def opened(kept, name):
    """Return a copy of a kept run."""
    return Run(kept(name.partition("-")[2]))


@pytest.mark.parametrize("name", RUNS)
def test_a_kept_run_loads_and_its_numbers_are_repeated(kept, aectl, torture, name, tally):
    run = opened(kept, name)
    for which in ("best", "last"):
        model = package.load(run.folder, which)
        assert all(weights.isfinite().all() for weights in model.parameters())
    assert package.dataset(run.folder).split("test").shape == (1, 8, 8)
    before = run.metrics["test"]
    if not torture and name != QUICK:
        return
    measured = MEASURED if torture else [*MEASURED, "only=[reconstruction]"]
    assert aectl("eval", f"run={run.folder}", *measured)[0] == 0
    after = run.metrics["test"]
    tables = after["titles"]
    assert len(tables) >= (3 if torture else 2)
    assert not torture or list(tables) == list(before["titles"])
    for table in tables:
        stored, found = numbers(before[table]), numbers(after[table])
        # A later version may measure more.
        now = {key: found[key] for key in stored}
        assert now == pytest.approx(stored, rel=1e-3, abs=1e-5, nan_ok=True), table
    tally("kept runs that repeat their numbers")


@pytest.mark.parametrize("name", RUNS)
def test_a_kept_run_is_sampled_and_goes_on(kept, aectl, torture, name, tally):
    run = opened(kept, name)
    if not torture and name != QUICK:
        pytest.skip("in the long form")
    assert aectl("sample", f"run={run.folder}", "n=4", "steps=3", *([] if torture else ["kind=reconstruction"]))[0] == 0
    assert list((run.folder / "samples").glob("*.npz"))
    done = run.record["status"] == "done"
    more = [f"epochs={run.config().epochs + 1}"] if done else []
    code, _, said = aectl("train", f"resume={run.folder}", *more)
    assert code == 0, said
    assert run.record["status"] == "done"
    assert run.record["epochs"] == RUNS[name] + done
    assert len(run.record["resumed"]) == 1
    tally("kept runs that resume")


def test_a_kept_run_that_was_stopped_ends_where_the_whole_one_did(kept, aectl):
    stopped, whole = Run(kept("halfway")), Run(kept("undercomplete", to="whole"))
    assert aectl("train", f"resume={stopped.folder}")[0] == 0
    assert stopped.record["objective"]["value"] == pytest.approx(whole.record["objective"]["value"], rel=1e-4)
    states = [checkpoint.load(run.checkpoint_path("last"))["model"] for run in (stopped, whole)]
    for one, other in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_nothing_in_a_kept_run_tells_of_the_machine_that_it_was_made_on(kept):
    for name in RUNS:
        run = kept(name.partition("-")[2], to=name)
        assert Run(run).record["host"] == "somewhere"
        content = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
        assert not [word for word in (b"/tmp", b"/home", b"/root", b"/Users", b"/work") if word in content]


def newer(run):
    """Make a run one of the next format."""
    path = run / "run.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1, "started": "9999", "status": {"new": 1}})
    )


COMMANDS = [
    ("eval", "run=outputs/run"),
    ("eval", "run=latest"),
    ("eval", "run=outputs/run,outputs/other"),
    ("eval", "run=outputs/run", "export=safetensors"),
    ("sample", "run=outputs/run"),
    ("train", "resume=outputs/run"),
    ("train", "dataset=digits", "model=undercomplete", "init_from=outputs/run", "device=cpu"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_run_of_a_newer_aectl_is_said_to_be_one(kept, aectl, torture, words, tally):
    if not torture and words not in COMMANDS[1:7:2]:
        pytest.skip("in the long form")
    kept(to="outputs/other")
    newer(kept(to="outputs/run"))
    code, _, said = aectl(*words)
    assert code == 2
    assert f"comes from a newer aectl: its format is {FORMAT + 1}, this aectl reads {FORMAT}" in said
    assert len(said.strip().splitlines()) <= 2
    tally("newer runs reported")


def test_a_list_shows_a_run_of_a_newer_aectl(kept, aectl):
    kept("rbm", to="outputs/other")
    newer(kept(to="outputs/run"))
    code, out, _ = aectl("eval")
    assert code == 0
    assert "newer aectl" in out
    assert "outputs/run" in out
    assert "rbm " in out


def test_python_is_told_of_a_newer_aectl_too(kept):
    run = kept()
    newer(run)
    for use in (package.load, package.dataset, find_run):
        with pytest.raises(ConfigError, match="comes from a newer aectl"):
            use(run)


def test_a_checkpoint_of_a_newer_aectl_is_said_to_be_one(kept, aectl):
    run = kept()
    path = run / "checkpoints" / "best.pt"
    torch.save({**torch.load(path, weights_only=True), "format": checkpoint.FORMAT + 1}, path)
    with pytest.raises(CheckpointError, match=r"comes from a newer aectl: its format is 2, this aectl reads 1"):
        package.load(run)
    assert "newer aectl" in aectl("eval", f"run={run}")[2]
    assert listing.describe_run(run)[2] == "done"


def test_a_sweep_of_a_newer_aectl_is_said_to_be_one(aectl, tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 2, "command": ["-m"], "jobs": {}}))
    assert "comes from a newer aectl: its format is 2, this aectl reads 1" in aectl("train", "-m", "resume=.")[2]

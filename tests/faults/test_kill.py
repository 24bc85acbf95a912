"""SIGKILL at any instant: resume= always works, and what comes of it is what an uninterrupted run would have been."""

import json
import random
import shutil
import signal
import socket
import time
from collections import Counter

import pytest

from tests.faults import children
from tests.faults.children import Fault, finish
from tests.faults.small import MODELS, check_same, curves, timeless, words

SHORT = {"undercomplete": 2, "stacked_dae": 1}
"""Kills of each model in the short form, one of each kind at most."""
KINDS = ("time", "event", "bytes")
SECONDS, EVENTS, BYTES = 0.7, 130, 80_000
"""The length of a small run, how many times it touches a file of its folder, and the size of its largest file."""
PLACES = (
    "aectl.runs.run.Run.record_start",
    "aectl.tensorboard.training.TensorBoard.started",
    "aectl.training.trainer.Trainer.record_step",
    "aectl.training.trainer.validate",
    "aectl.training.observers.CsvLog.epoch_ended",
    "aectl.tensorboard.training.TensorBoard.epoch_ended",
    "aectl.training.checkpoint.save",
    "torch.save",
    "os.fsync",
    "os.link",
    "pathlib.Path.replace",
    "aectl.tensorboard.training.TensorBoard.add_projector",
    "aectl.runs.run.Run.add_metrics",
    "aectl.runs.run.Run.record_end",
)


def go_on(model, run, fault=None):
    """Start a command that begins a run or goes on with it, as anybody would."""
    return children.start(["train", f"resume={run}"] if (run / "run.json").is_file() else words(model, run), run, fault)


def drawn(kind, rng, number):
    """Return a fault of a kind, at random; each start has a clock of its own, for one lasts less than a second."""
    if kind == "event":
        return Fault(event=rng.randrange(EVENTS), clock=2.0 * number)
    if kind == "bytes":
        return Fault(bytes=int(100 * (BYTES / 100) ** rng.random()), clock=2.0 * number)
    return Fault(clock=2.0 * number)


def torment(model, run, kills, rng, kinds=KINDS):
    """Kill a run `kills` times, then let it come to its end; returns the kills by kind, and the runs that ended."""
    counts = Counter()
    for number in range(100_000):
        kind = None if counts.total() - counts["ends"] >= kills else kinds[number % len(kinds)]
        process = go_on(model, run, drawn(kind, rng, number))
        if kind == "time":
            process.join(rng.uniform(0, SECONDS))
            process.kill()
        process.join(120)
        said = (run.parent / "said.txt").read_text() if (run.parent / "said.txt").is_file() else ""
        if process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ):
            counts[kind] += 1
            continue
        # The kill may have come behind the last word.
        assert process.exitcode == 0 or "has trained its" in said, said
        if kind is None:
            return counts
        put_by(run)
        counts["ends"] += 1
    raise AssertionError("it never ends")


def put_by(run):
    """Make room for a new run where one has come to its end between two kills."""
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    number = sum(1 for _ in run.parent.glob("ended-*"))
    run.rename(run.parent / f"ended-{number}")


@pytest.mark.parametrize("model", MODELS)
def test_a_killed_run_ends_as_an_uninterrupted_one(model, whole, tmp_path, torture, tally):
    if not torture and model not in SHORT:
        pytest.skip("in the long form")
    run = tmp_path / "run"
    counts = torment(model, run, 24 if torture else SHORT[model], random.Random(f"kill {model}"))
    for one in [run, *tmp_path.glob("ended-*")]:
        check_same(one, whole(model))
        assert not list(one.glob("**/.*.aside"))
    for kind in KINDS:
        tally(f"kills survived, by {kind}", counts[kind])


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_at_a_place_in_the_code_goes_on(place, behind, whole, tmp_path, torture, tally):
    if not torture and (place, behind) != ("os.link", True):
        pytest.skip("in the long form")
    run = tmp_path / "run"
    numbers = {"record_step": (1, 19), "validate": (1, 3), "save": (1, 2, 5), "fsync": (2, 9), "replace": (2, 4, 7)}
    for number in numbers.get(place.rpartition(".")[2], (1,)) if torture else (1,):
        fault = Fault(function=place, behind=behind, number=number)
        code, said = finish(words("undercomplete", run), run, fault)
        assert code == -signal.SIGKILL, said
        resume_or_begin(run, whole)
        tally("kills survived, at a place in the code")


def resume_or_begin(run, whole):
    """Go on with a killed run to its end and hold it against a whole one; then remove it."""
    process = go_on("undercomplete", run, Fault(clock=2.0))
    process.join(120)
    said = (run.parent / "said.txt").read_text()
    assert process.exitcode == 0 or "has trained its" in said, said
    check_same(run, whole("undercomplete"))
    shutil.rmtree(run)


def test_what_never_began_is_said_to_be_none_and_its_folder_is_free(whole, tmp_path):
    run = tmp_path / "run"
    assert (
        finish(words("undercomplete", run), run, Fault(function="aectl.runs.run.Run.record_start"))[0]
        == -signal.SIGKILL
    )
    code, said = finish(["train", f"resume={run}"], run)
    assert (code, said.count("\n")) == (2, 1) and "stopped before its first step: run its command again" in said
    assert finish(words("undercomplete", run), run)[0] == 0
    check_same(run, whole("undercomplete"))


def test_a_resume_within_the_second_of_the_kill_comes_behind_it(whole, tmp_path):
    """The names of event files have whole seconds, and TensorBoard reads the files in the order of their names."""
    run = tmp_path / "run"
    fault = Fault(function="aectl.training.checkpoint.save", number=6)
    assert finish(words("undercomplete", run), run, fault)[0] == -signal.SIGKILL
    (first,) = run.glob("events.out.tfevents.*")
    # A process of a larger number, so that it would be read last; and as late as can be.
    stamp = f"{int(time.time()) + 1}.{socket.gethostname()}.{'9' * 9}.0"
    first.rename(run / f"events.out.tfevents.{stamp}")
    assert finish(["train", f"resume={run}"], run)[0] == 0
    check_same(run, whole("undercomplete"))


@pytest.mark.slow
def test_a_killed_evaluation_leaves_whole_files_and_can_be_repeated(whole, tmp_path, tally):
    rng, run, other = random.Random("kill eval"), tmp_path / "run", tmp_path / "other" / "run"
    shutil.copytree(whole("undercomplete"), run)
    shutil.copytree(whole("undercomplete"), other)
    evaluate = ["eval", "again=true", "only=[reconstruction,codes]", "device=cpu", "device.threads=1"]
    # Twice, for baselines are computed once, and only then kept.
    for _ in range(2):
        began = time.monotonic()
        assert finish([*evaluate, f"run={other}"], other)[0] == 0
    seconds, killed = time.monotonic() - began, 0
    for _ in range(10):
        process = children.start([*evaluate, f"run={run}"], run, Fault(event=rng.randrange(60)) if killed % 2 else None)
        process.join(rng.uniform(0, seconds))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert "train" in json.loads((run / "metrics.json").read_text())
        for picture in (run / "figures").glob("[!.]*.png"):
            assert picture.read_bytes().endswith(b"IEND\xaeB`\x82")
        page = run / "report.html"
        assert not page.exists() or page.read_text().rstrip().endswith("</html>")
    code, said = finish([*evaluate, f"run={run}"], run)
    assert code == 0, said
    assert measured(run) == measured(other)
    assert {p.name: p.read_bytes() for p in (run / "figures").iterdir()} == {
        p.name: p.read_bytes() for p in (other / "figures").iterdir()
    }
    assert curves(run) == curves(other)
    tally("kills survived, of evaluations", killed)


def measured(run):
    """Return what metrics.json holds, but for the time of day."""
    found = json.loads((run / "metrics.json").read_text())
    test = {k: v for k, v in found["test"].items() if k != "when"}
    origins = {name: timeless_origin(one) for name, one in test["made"].items()}
    return timeless({**found, "test": {**test, "made": origins}})


def timeless_origin(origin):
    """Return where a table comes from, but for when it was made and how long that took."""
    return {k: v for k, v in origin.items() if k not in ("when", "seconds", "weights", "fingerprint")}

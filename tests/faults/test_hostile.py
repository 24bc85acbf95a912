"""Bad input: whatever is typed either runs, or is refused in a line or two, within seconds, and leaves nothing."""

import contextlib
import json
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from omegaconf import OmegaConf

from aectl.data.datasets import arrays
from aectl.data.downloads import DataError
from aectl.data.folder import folder
from tests.faults import hostile, hostile_files, hostile_lines
from tests.faults.hostile import NET, SMALL

LIMIT_SECONDS = 5.0
PARTS = 8
ROOM_BYTES = 6 * 2**30
SHORT, EVERY = 12, 3
"""How many keys the short form attacks, and which lines it tries: it has seconds."""


class TooSlow(BaseException):
    """The time is up."""


def stop(number, frame):
    raise TooSlow


@contextlib.contextmanager
def guarded():
    """Give what is within twice its time, and ROOM_BYTES of memory beside what is taken already."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM_BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, 2 * LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def attack(aectl, monkeypatch):
    """Return a function that types words and returns the exit code, what was said, and what was wrong with it."""
    # Nothing is fetched.
    monkeypatch.setattr("aectl.data.downloads.list_sources", lambda name: iter(()))

    def type_in(*words):
        started = time.monotonic()
        try:
            with guarded():
                code, out, err = aectl(*words)
        except TooSlow:
            return 0, "", "no end"
        except BaseException as error:
            return 0, "", f"{type(error).__name__}: {error}"
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_num_threads(1)
        return code, err, wrong(code, out, err, time.monotonic() - started)

    return type_in


def wrong(code, out, err, seconds):
    """Return what an answer lacks of the promise; nothing if it is kept."""
    said, left = err.rstrip("\n").split("\n"), [json.loads(p.read_text()) for p in Path().glob("outputs/**/run.json")]
    files = [path for path in Path().glob("outputs/**/*") if path.is_file()]
    shutil.rmtree("outputs", ignore_errors=True)
    tests = {
        f"it took {seconds:.1f} s": seconds > LIMIT_SECONDS,
        f"a traceback: {err}": "Traceback" in out + err,
        "a run that is said to be running": any(record["status"] == "running" for record in left),
        f"not foreseen: {err}": code and (not err.startswith("aectl: ") or "AECTL_DEBUG" in err),
        f"not a line or two: {err}": code and (len(said) > 2 or len(said[0]) > 420),
        f"not printable: {err!r}": code and not all(line.isprintable() for line in said),
        f"files are left: {files[:3]}": code and files and not left,
    }
    return next((what for what, is_so in tests.items() if is_so), "")


@pytest.fixture(scope="session")
def trained(train_once):
    """The folder of a run that eval and sample are told of."""
    return train_once("hostile", "dataset=digits", *NET, *SMALL)


def words_of(target, told, run):
    """Return the line that does to a target what is told."""
    return (target.command, *target.base, *(word.format(run=run) for word in hostile.RUN[target.command]), *told)


def summed(found, tally):
    """Count the answers and fail for those that were wrong."""
    for _, (code, _, problem) in found:
        if not problem:
            tally("hostile inputs refused" if code else "hostile inputs that ran")
    if bad := [f"{' '.join(words)}\n    {problem}" for words, (_, _, problem) in found if problem]:
        pytest.fail("\n".join(bad), pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_key_of_every_option_is_attacked(part, attack, trained, tally):
    found = []
    for target in hostile.targets()[part::PARTS]:
        # Those of train have many options each.
        number = 1 if target.command == "train" else 6
        for told in hostile.draws(hostile.lines(target), repr(target), number):
            words = words_of(target, told, trained)
            found.append((words, attack(*words)))
    summed(found, tally)


def test_some_keys_are_attacked(attack, trained, tally):
    found = []
    for target in hostile.draws(st.sampled_from(hostile.targets()), "targets", SHORT):
        for told in hostile.draws(hostile.lines(target), f"short {target}", 1):
            words = words_of(target, told, trained)
            found.append((words, attack(*words)))
    summed(found, tally)


@pytest.mark.parametrize(("number", "words", "message"), [(i, *one) for i, one in enumerate(hostile_lines.lines())])
def test_lines_that_were_faults(number, words, message, torture, attack, tally):
    if not torture and number % EVERY:
        pytest.skip("in the long form")
    summed([(words, answer := attack(*words))], tally)
    assert_said(answer, message)


@pytest.mark.parametrize(("number", "line"), list(enumerate(hostile_lines.OF_A_RUN)))
def test_lines_of_a_run_that_were_faults(number, line, torture, attack, trained, tally):
    if not torture and number % EVERY:
        pytest.skip("in the long form")
    command, told, message = line
    words = words_of(hostile.Target(command, "", ()), told.split(), trained)
    summed([(words, answer := attack(*words))], tally)
    assert_said(answer, message)


def assert_said(answer, message):
    code, err, _ = answer
    assert (code == 0) == (message == hostile_lines.RUNS), err
    assert re.match("aectl: " * bool(message) + ".*".join(map(re.escape, message.split("…"))), err), err


def test_names_like_numbers_stay_what_they_are(aectl):
    code, _, err = aectl("train", *hostile_lines.TINY, "tags.a=1e3", "tags.b=007", "hydra.run.dir=run")
    assert code == 0, err
    assert OmegaConf.load("run/.hydra/config.yaml").tags == {"a": "1e3", "b": "007"}
    assert "'007' names no run" in aectl("eval", "run=007")[2]


def config_of(content):
    """Write a config file and return the words that use it."""
    path = Path("own", "model", "mine.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ("train", "--config-dir=own", "model=mine", "dataset=digits", *SMALL)


def arrays_of(content):
    """Write a file of arrays and return the words that train on it."""
    Path("mine.npz").write_bytes(content)
    return ("train", "dataset=arrays", "dataset.path=mine.npz", *NET, *SMALL, "batch_size=20")


def folder_of(content):
    """Write a folder of pictures, of which this is one, and return the words that train on it."""
    place = Path("mine")
    place.mkdir(exist_ok=True)
    for number in range(30):
        # Equal pictures would all be of one split.
        (place / f"{number}.png").write_bytes(hostile_files.picture(colour=number))
    (place / "mine.png").write_bytes(content)
    return ("train", "dataset=folder", "dataset.root=mine", *NET, *SMALL, "batch_size=2")


OWN = [(arrays_of, *one) for one in hostile_files.ARRAYS] + [(folder_of, *one) for one in hostile_files.PICTURES]
NUMBERED = [f"{kind.__name__} {number}" for number, (kind, *_) in enumerate(OWN)]


def summed_files(answers, tally):
    """Count the answers to files and fail for those that were wrong or that did not say what they should."""
    found = []
    for content, message, (code, err, problem) in answers:
        as_expected = message in err and (code == 0) == (not message)
        found.append(((repr(content[:60]), message), (code, err, problem or ("" if as_expected else f"it says {err}"))))
    summed(found, tally)


def test_configs_that_are_none(attack, tally):
    summed_files([(content, said, attack(*config_of(content))) for content, said in hostile_files.CONFIGS], tally)


@pytest.mark.slow
def test_files_that_are_no_images(attack, tally):
    # Of a folder a file that cannot be read is left out.
    said_of = {arrays_of: lambda said: said, folder_of: lambda said: ""}
    summed_files([(content, said_of[kind](said), attack(*kind(content))) for kind, content, said in OWN], tally)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("kind", "content", "message"), OWN, ids=[f"{one[0].__name__} {i}" for i, one in enumerate(OWN)]
)
def test_what_is_no_image_is_not_read(kind, content, message, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AECTL_DATA", str(tmp_path))
    kind(content)
    if kind is folder_of:
        dataset = folder("mine")
        assert sum(len(dataset.split(which)) for which in ("train", "valid", "test")) == (30 if message else 31)
        assert ("mine: skipped unreadable mine/mine.png" in caplog.text) == bool(message)
        return
    with pytest.raises(DataError, match=re.escape(message)) if message else contextlib.nullcontext():
        arrays("mine.npz").split("train")
    assert not Path("unpickled").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [config_of, arrays_of, folder_of])
def test_damaged_files(kind, attack, tally):
    whole = {
        config_of: hostile_files.MINE.encode(),
        arrays_of: hostile_files.npz(x=hostile_files.IMAGES, y=hostile_files.LABELS),
        folder_of: hostile_files.picture(),
    }[kind]
    found = []
    for content in hostile_files.draws_of(whole, kind.__name__):
        found.append(((kind.__name__, repr(content[:300])), attack(*kind(content))))
    summed(found, tally)

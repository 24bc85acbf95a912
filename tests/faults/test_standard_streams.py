"""Standard output and error that are closed, full, absent, or in an encoding that lacks what is to be shown."""

import errno
import io
import subprocess
import sys

import pytest

from aectl.sweep.table import write_results
from aectl.system.standard_streams import LenientStream, lenient_streams, replace_unencodable, stand_in
from tests.small import DENSE, QUICK
from tests.test_sweep_table import write_job

AECTL = f"{sys.executable} -m aectl"
FULL = "aectl: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--help >&-", 0, ""),
        ("train --cfg job >&- 2>&- <&-", 0, ""),
        ("--version >/dev/full", 1, FULL),
        ("train --cfg job >/dev/full", 1, FULL),
        ("--version >/dev/full 2>/dev/full", 1, ""),
        ("--help | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("nix 2>&-", 2, ""),
        ("nix 2>/dev/full", 2, ""),
    ],
)
def test_a_command_ends_quietly_without_its_streams(tmp_path, line, code, said):
    done = subprocess.run(["bash", "-c", f"{AECTL} {line}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)
    if "2>&-" in line:
        assert not done.stdout


@pytest.mark.parametrize("streams", ["absent", "full", "pipe"])
def test_a_run_is_trained_whatever_its_streams(aectl, tmp_path, monkeypatch, streams):
    class Broken(io.TextIOWrapper):
        def write(self, text):
            raise OSError(errno.ENOSPC if streams == "full" else errno.EPIPE, "broken")

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None if streams == "absent" else Broken(io.BytesIO(), encoding="utf-8"))
    assert aectl("train", *QUICK, *DENSE, f"hydra.run.dir={tmp_path}/run")[0] == 0
    assert '"status": "done"' in (tmp_path / "run/run.json").read_text(encoding="utf-8")
    assert "best val/loss" in (tmp_path / "run/train.log").read_text(encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        stream.close() if streams == "absent" else stream.detach()


@pytest.mark.parametrize(
    "encoding",
    ["ascii", "utf-8", *(pytest.param(one, marks=pytest.mark.slow) for one in ("latin-1", "cp1252", "cp437"))],
)
def test_tables_are_shown_in_any_encoding(aectl, kept, tmp_path, monkeypatch, encoding):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    code, _, err = aectl("eval", f"run={kept()}", "only=reconstruction", "figures=false", "device.threads=1")
    assert (code, err) == (0, "")
    text = shown.getvalue().decode(encoding)
    assert "mse ↓" in text if encoding == "utf-8" else "mse v" in text
    assert "±" in text if encoding in ("utf-8", "cp1252", "latin-1") else "~" in text or "±" in text
    sys.stdout.detach()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_sweeps_report_is_written_in_any_encoding(tmp_path, monkeypatch, encoding):
    for seed in (0, 1):
        write_job(tmp_path, seed, [f"seed={seed}", "tags.name=σ\udcff"], 1.0 + seed)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with lenient_streams():
        write_results(tmp_path)
    assert (tmp_path / "report.html").is_file()
    sys.stdout.detach()


def test_what_an_encoding_lacks_has_a_stand_in_of_one_character():
    assert [stand_in(one) for one in "±↓…ü汉"] == ["~", "v", ".", "?", "?"]
    assert stand_in("\udcff") == "\\xff"
    with pytest.raises(UnicodeDecodeError):
        replace_unencodable(UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"))


def test_the_first_error_is_kept_and_an_exit_code_of_the_command_stays():
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(5, text)

    stream = LenientStream(Broken())
    assert (stream.write("one"), stream.write("three")) == (3, 5)
    assert stream.error.strerror == "one"
    assert stream.isatty() is False


def test_a_lost_line_does_not_change_the_code_of_an_error(aectl, monkeypatch):
    class Broken(io.TextIOWrapper):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "broken")

    monkeypatch.setattr(sys, "stdout", Broken(io.BytesIO()))
    code, _, err = aectl("eval", "run=nothing")
    assert code == 2
    assert "nothing" in err
    sys.stdout.detach()

"""What a terminal shows of a sweep's jobs while they run and after they have ended."""

import io
import json
import re

import pytest
from rich.console import Console

from aectl.sweep.plan import PlannedJob
from aectl.sweep.progress import ProgressLines, ProgressTable, name_by_differences


def screen(text):
    """Return the lines that a terminal shows after `text`, by the codes that move the cursor and clear lines."""
    lines, row, column = [""], 0, 0
    for code, count, letter, character in re.findall(r"(\x1b\[\??([\d;]*)([A-Za-z]))|([\s\S])", text):
        if letter == "A":
            row = max(0, row - int(count or 1))
        elif letter == "K":
            lines[row] = ""
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif character == "\r":
            column = 0
        elif not code:
            lines[row] = f"{lines[row][:column]:{column}}{character}{lines[row][column + 1 :]}"
            column += 1
    return [line.rstrip() for line in lines]


def planned(folder, count):
    """Return jobs whose folders have the records of finished runs."""
    jobs = [PlannedJob(number, (f"model.code={number}", "epochs=2"), folder / f"{number}-x") for number in range(count)]
    for job in jobs:
        job.folder.mkdir()
        objective = {"name": "val/loss", "value": 1.5, "epoch": 2}
        (job.folder / "run.json").write_text(json.dumps({"status": "done", "objective": objective}))
    return jobs


@pytest.mark.parametrize("parallel", [1, 2])
def test_what_the_terminal_showed_before_stays_and_every_job_keeps_its_line(tmp_path, monkeypatch, parallel):
    out = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, _environ={"TERM": "xterm"})
    monkeypatch.setattr("aectl.sweep.progress.make_console", lambda: out)
    jobs = planned(tmp_path, 4)
    before = ["earlier 1", "earlier 2", "earlier 3", "$ aectl train -m"]
    out.file.write("\n".join(before) + "\n")
    live = ProgressTable(len(jobs), name_by_differences(jobs))
    for first in range(0, len(jobs), parallel):
        for job in jobs[first : first + parallel]:
            live.started(job)
        live.tick()
        assert f"{live.count} of 4 ended" in "\n".join(screen(out.file.getvalue()))
        live.tick()
        for job in jobs[first : first + parallel]:
            live.ended(job, "no memory" if job.number == 2 else "")
            live.tick()
    shown = [line for line in screen(out.file.getvalue()) if line]
    assert shown[:4] == before
    assert [line.split()[:2] for line in shown[4:]] == [["done", "0"], ["done", "1"], ["failed", "2"], ["done", "3"]]
    assert "2  model.code=2  no memory" in shown[6]


def test_statuses_have_one_column(tmp_path, monkeypatch):
    out = Console(file=io.StringIO(), width=100)
    monkeypatch.setattr("aectl.sweep.progress.make_console", lambda: out)
    jobs = planned(tmp_path, 4)
    (tmp_path / "1-x" / "run.json").write_text(json.dumps({"status": "interrupted"}))
    (tmp_path / "2-x" / "checkpoints").mkdir()
    (tmp_path / "2-x" / "checkpoints" / "last.pt").touch()
    lines = ProgressLines(len(jobs), name_by_differences(jobs))
    for job in jobs:
        lines.started(job)
        lines.ended(job, "boom" * (job.number == 3))
    said = out.file.getvalue().splitlines()
    assert {line.split()[0] for line in said} == {"begins", "resumes", "done", "interrupted", "failed"}
    assert {line.index("model.code") for line in said} == {len("interrupted  0  ")}

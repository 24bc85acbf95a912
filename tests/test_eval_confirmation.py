"""Many evaluations are announced, with their number and likely time, before the first one begins."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from aectl.commands import eval_confirmation, eval_run
from aectl.commands.eval_confirmation import confirm_evaluations, format_estimate
from aectl.config import ConfigError
from aectl.config.schema import EvalConfig


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Thirty trained runs, of which one has been evaluated in 40 s."""
    monkeypatch.chdir(tmp_path)
    found = [Path(f"run{number:02}") for number in range(30)]
    for folder in found:
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/best.pt").touch()
        (folder / "run.json").write_text("{}")
    made = {"codes": {"seconds": 10}, "probes": {"seconds": 30}}
    (found[0] / "metrics.json").write_text(json.dumps({"test": {"complete": True, "made": made}, "train": {"x": 1}}))
    return found


def confirm(folders, known=(), yes=False, quick=False):
    confirm_evaluations(folders, known or folders, yes=yes, quick=quick)


def answer(monkeypatch, text):
    """Let a terminal give an answer; return the list of its questions."""
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or text)
    return asked


def test_twenty_begin_unasked(folders, capsys):
    confirm(folders[:20])
    assert capsys.readouterr().out == ""


def test_more_are_refused_where_nobody_can_be_asked(folders):
    with pytest.raises(ConfigError) as error:
        confirm(folders[:21])
    first, second = str(error.value).splitlines()
    assert first == "21 runs to evaluate, from run00 to run20: about 14 minutes"
    assert "yes=true" in second


def test_yes_announces_and_begins(folders, capsys):
    confirm(folders, yes=True)
    assert capsys.readouterr().out == "30 runs to evaluate, from run00 to run29: about 20 minutes\n"


@pytest.mark.parametrize(("text", "begins"), [("y", True), ("Yes ", True), ("", False), ("n", False), ("maybe", False)])
def test_on_a_terminal_it_is_asked(folders, monkeypatch, capsys, text, begins):
    asked = answer(monkeypatch, text)
    if begins:
        confirm(folders)
    else:
        with pytest.raises(ConfigError, match="nothing was evaluated"):
            confirm(folders)
    assert "30 runs to evaluate" in capsys.readouterr().out
    assert len(asked) == 1


def test_the_likely_time_is_that_of_evaluations_there_are_or_a_usual_one(folders):
    assert eval_confirmation.estimate_seconds(folders, quick=False) == 40
    assert eval_confirmation.estimate_seconds(folders, quick=False, tables=["codes"]) == 10
    assert (
        eval_confirmation.estimate_seconds(folders, quick=False, tables=["chains"]) == eval_confirmation.USUAL_SECONDS
    )
    assert eval_confirmation.estimate_seconds(folders, quick=True) == eval_confirmation.QUICK_SECONDS
    assert eval_confirmation.estimate_seconds(folders[1:], quick=False) == eval_confirmation.USUAL_SECONDS


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "about 1 seconds"), (80, "about 80 seconds"), (600, "about 10 minutes"), (9e3, "about 2.5 hours")],
)
def test_times_in_words(seconds, words):
    assert format_estimate(seconds) == words


def test_a_comparison_counts_what_is_left_to_evaluate_and_refuses_before_the_first(folders, monkeypatch):
    evaluated = []
    monkeypatch.setattr(eval_run, "evaluate", lambda config, folder: evaluated.append(folder))
    config = OmegaConf.structured(EvalConfig(run="run*"))
    with pytest.raises(ConfigError, match="30 runs to evaluate"):
        eval_run.compare_runs(config, folders)
    assert not evaluated
    monkeypatch.setattr(eval_run, "find_stored_section", lambda run, *_: run.folder in folders[5:])
    monkeypatch.setattr(eval_run.leaderboard, "build_boards", lambda *_: pytest.skip("five were evaluated unasked"))
    with pytest.raises(pytest.skip.Exception):
        eval_run.compare_runs(config, folders)
    assert evaluated == folders[:5]

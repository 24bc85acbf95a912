"""Functions that begin at one moment, each in a process of its own, forked where no thread can be left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from tests.faults.children import forks

SECONDS = 60
"""For which processes wait for one another."""
Call = tuple[Callable[..., Any], Sequence[Any]]


def raced(*calls: Call, first: Sequence[Callable[[], None]] = ()) -> list[Any]:
    """Call functions at one moment, each behind those that come `first`; returns what each gave, by JSON."""
    gate = forks().Barrier(len(calls))
    where = (str(Path.cwd()), dict(os.environ))
    children = [
        forks().Process(target=answer, args=(number, gate, *where, tuple(first), *call))
        for number, call in enumerate(calls)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(2 * SECONDS)
    return [json.loads(Path(f"{number}.answer").read_text()) for number in range(len(calls))]


def answer(
    number: int,
    gate: Barrier,
    place: str,
    environment: dict[str, str],
    first: Sequence[Callable[[], None]],
    function: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    """Be one of the processes."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    for prepare in first:
        prepare()
    gate.wait(SECONDS)
    Path(f"{number}.answer").write_text(json.dumps(function(*arguments)))


def typed(*words: str) -> tuple[int, str]:
    """Type a command in this process; returns the exit code and what it said on stderr."""
    from aectl.cli import main as cli

    said, sys.argv = io.StringIO(), ["aectl", *words]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(bool(stop.code)), said.getvalue()
    return 0, said.getvalue()


def be_patient() -> None:
    """Train, from now on, only once another process has given its answer."""
    from aectl.training.trainer import Trainer

    fit = Trainer.fit

    def wait_and_fit(*arguments: Any) -> str | None:
        end = time.monotonic() + SECONDS
        while not list(Path().glob("*.answer")) and time.monotonic() < end:
            time.sleep(0.01)
        return fit(*arguments)

    Trainer.fit = wait_and_fit


def stop_the_clock() -> None:
    """Let all that begins do so in one microsecond."""
    from hydra.core import utils

    moment = utils.datetime(2026, 1, 2, 3, 4, 5, 678)

    class Clock:
        @staticmethod
        def now() -> Any:
            return moment

    utils.datetime = Clock


def ask(cache: str) -> int:
    """Ask a cache for something that takes its time to compute, and that a file counts."""
    import torch

    from aectl.evaluation.baseline_cache import Cache

    def compute() -> dict[str, torch.Tensor]:
        with Path("computed").open("a") as file:
            file.write("x")
        time.sleep(0.05)
        return {"a": torch.arange(1000)}

    return int(Cache(Path(cache)).arrays("some", compute)["a"].sum())

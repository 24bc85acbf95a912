"""Commands of aectl in processes that may be killed, forked from one that has imported all: 0.3 s each, not 3 s."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import pkgutil
import resource
import signal
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

IMPORTED = (
    "torch",
    "sklearn.datasets",
    "tensorboard.summary.writer.event_file_writer",
    "torch.utils.tensorboard",
    "aectl.commands.train",
    "aectl.commands.eval",
    "aectl.cli.hydra_main",
    "tests.faults.children",
    "tests.faults.racing",
)
EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir")
"""What Python tells audit hooks of files, before it does it."""


@dataclass(frozen=True)
class Fault:
    """What happens to a command: killed before the n-th file event in its folder, or by a write beyond so many bytes.

    `function` is a dotted name: killed when that is called for the n-th time, or has returned if `behind`. `clock` are
    seconds that it lives ahead of others. If it shall `obey`, modes of files hold for it even where it is root.
    """

    event: int | None = None
    bytes: int | None = None
    function: str | None = None
    number: int = 1
    behind: bool = False
    clock: float = 0.0
    obey: bool = False


@cache
def forks() -> multiprocessing.context.BaseContext:
    """Return what forks children, from a process with a single thread, where one thread is all they have."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def start(
    words: list[str], folder: Path, fault: Fault | None = None, place: Path | None = None
) -> multiprocessing.Process:
    """Type `aectl …` in a child, in a place beside the run's folder; what it says goes to said.txt there."""
    place = place or folder.parent
    place.mkdir(parents=True, exist_ok=True)
    process = forks().Process(target=type_in, args=(words, place, folder, fault or Fault(), dict(os.environ)))
    process.start()
    return process


def finish(words: list[str], folder: Path, fault: Fault | None = None, place: Path | None = None) -> tuple[int, str]:
    """Type `aectl …` in a child and wait for its end; returns the exit code, and what was said."""
    process = start(words, folder, fault, place)
    process.join(120)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode, ((place or folder.parent) / "said.txt").read_text()


def type_in(words: list[str], place: Path, folder: Path, fault: Fault, environment: dict[str, str]) -> None:
    """Be the child: the command, with the fault armed."""
    from aectl.cli import main as cli

    os.environ.clear()
    os.environ.update(environment)
    said = os.open(place / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(said, number)
    os.chdir(place)
    sys.argv = ["aectl", *words]
    arm(fault, folder)
    code: int | str | None = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def arm(fault: Fault, folder: Path) -> None:
    """Let the fault happen in this process."""
    if fault.clock:
        real = time.time
        time.time = lambda: real() + fault.clock
    if fault.event is not None:
        left = [fault.event]

        def hear(event: str, details: tuple) -> None:
            if event in EVENTS and str(details[0]).startswith(str(folder)):
                left[0] -= 1
                if left[0] < 0:
                    die()

        sys.addaudithook(hear)
    if fault.bytes is not None:
        # Python turns the signal into an error otherwise.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.bytes, resource.RLIM_INFINITY))
    if fault.function is not None:
        wrap(fault)
    if fault.obey:
        give_up_powers()


def wrap(fault: Fault) -> None:
    """Kill this process in the place that a fault names."""
    name, _, attribute = fault.function.rpartition(".")
    owner = pkgutil.resolve_name(name)
    true, calls = getattr(owner, attribute), [0]

    def deadly(*arguments, **settings):
        calls[0] += 1
        if calls[0] == fault.number and not fault.behind:
            die()
        result = true(*arguments, **settings)
        if calls[0] == fault.number:
            die()
        return result

    setattr(owner, attribute, deadly)


def give_up_powers() -> None:
    """Give up all that root may do beyond others (Linux)."""
    version, none = 0x20080522, (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(version, 0), none):
        raise OSError(ctypes.get_errno(), "capset")


def die() -> None:
    """End this process as SIGKILL does, nothing flushed."""
    os.kill(os.getpid(), signal.SIGKILL)

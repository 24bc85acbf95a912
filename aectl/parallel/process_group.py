"""How processes come to train together: one leads, the others are started, follow it, and end with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

import aectl
from aectl.parallel import Lost
from aectl.system.machine import launched_processes

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# To mypy `rendezvous` and `TCPStore` are not exported by torch.distributed, whose documentation names both.

WORDS, HERE, ERROR = "aectl/words", "aectl/here/", "aectl/error/"
"""Keys of the store: what the leader says, which followers have come, and what has gone wrong with them."""
GRACE_SECONDS = 3.0
"""Time for a process to end by itself, and for the leader to say what is wrong before its followers are gone."""
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", "MASTER_ADDR": "127.0.0.1"}
"""Processes of one machine need no network."""
FOLLOWER = "import sys; sys.path[:] = filter(None, sys.path); from aectl.cli.main import main; main()"
"""What a follower runs. `-m aectl` would import from the working folder, before Python 3.11 in any environment."""


@contextlib.contextmanager
def lead(processes: int, words: str) -> Iterator[None]:
    """Train within with `processes`, those that torchrun started or others that are started here, told `words`.

    Raises Lost if one of them ends before.
    """
    if processes == 1:
        yield
        return
    followers: list[subprocess.Popen[bytes]] = []
    if launched_processes() > 1:
        store: Store = next(iter(dist.rendezvous("env://")))[0]  # type: ignore[attr-defined]
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK["GLOO_SOCKET_IFNAME"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            LOOPBACK["MASTER_ADDR"], 0, processes, is_master=True, wait_for_workers=False
        )
        followers = [start(number, processes, store.port) for number in range(1, processes)]
    try:
        store.set(WORDS, words)
        wait(store, followers)
        dist.init_process_group(backend(), store=store, rank=0, world_size=processes)
        yield
    except Lost as error:
        raise Lost(told(store, processes) or which(followers) or str(error)) from error
    finally:
        leave()
        end(followers)


def start(number: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    """Start a process on this machine that follows this one."""
    ranks = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
    }
    place: dict[str, int | str] = {**ranks, **LOOPBACK, "MASTER_PORT": port}
    # The same aectl, wherever this one was found; and no module of one's own in the place of an installed one.
    root = str(Path(aectl.__file__).parents[1])
    # An empty entry would be the working folder, whose sitecustomize.py Python runs.
    known = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    place |= {"PYTHONPATH": os.pathsep.join((root, *known)), "PYTHONSAFEPATH": 1}
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
    return subprocess.Popen([sys.executable, "-c", FOLLOWER, "train"], env=environment, stdin=subprocess.DEVNULL)


def wait(store: Store, followers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until the processes that were started here are there; raises Lost if one of them ends before."""
    for number in range(1, len(followers) + 1):
        while not store.check([f"{HERE}{number}"]):
            if any(follower.poll() is not None for follower in followers):
                raise Lost("a process has ended before training began")
            time.sleep(0.05)


def end(followers: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the processes that were started here, which write nothing; one that waits for a dead one hears no SIGTERM."""
    for follower in followers:
        follower.terminate()
    for follower in followers:
        try:
            follower.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            follower.kill()
            follower.wait()


def which(followers: Sequence[subprocess.Popen[bytes]]) -> str:
    """Return which of the processes that were started here has ended; nothing if none of them has."""
    for number, follower in enumerate(followers, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"process {number} has ended early, with code {follower.wait(1.0)}"
    return ""


def told(store: Store, processes: int) -> str:
    """Return what a follower has said before it ended; nothing if none has."""
    for number in range(1, processes):
        if store.check([f"{ERROR}{number}"]):
            return f"process {number}: {store.get(f'{ERROR}{number}').decode()}"
    return ""


@contextlib.contextmanager
def follow() -> Iterator[str]:
    """Train within with the process that leads; gives its words, and lets it know of an error."""
    store, number, processes = next(iter(dist.rendezvous("env://")))  # type: ignore[attr-defined]
    store.set(f"{HERE}{number}", "")
    words = store.get(WORDS).decode()
    try:
        dist.init_process_group(backend(), store=store, rank=number, world_size=processes)
        yield words
    except Exception as error:
        if not isinstance(error, Lost):
            store.set(f"{ERROR}{number}", f"{type(error).__name__}: {error}")
        # Were this one the first to end, torchrun would stop the leader before it has told what is wrong.
        time.sleep(GRACE_SECONDS)
        raise
    finally:
        leave()


def leave() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def backend() -> str:
    """Return how processes talk: tensors by where they are, and decisions by way of the CPU."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"

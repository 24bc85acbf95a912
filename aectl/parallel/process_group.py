"""Start and end the processes of a multi-process run: a leader and its followers."""

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

WORDS, READY, ERROR = "aectl/words", "aectl/here/", "aectl/error/"
"""Keys of the store: the message of the leader, the followers that are ready, and their errors."""
GRACE_SECONDS = 3.0
"""Time for a process to end by itself, and for the leader to report an error before its followers end."""
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", "MASTER_ADDR": "127.0.0.1"}
"""Environment variables for processes on one machine, which need no network."""
FOLLOWER = "import sys; sys.path[:] = filter(None, sys.path); from aectl.cli.main import main; main()"
"""Code that a follower runs. `python -m aectl` would import modules of the working folder; before Python 3.11 no
environment variable prevents that."""


@contextlib.contextmanager
def lead(processes: int, words: str) -> Iterator[None]:
    """Lead a group of `processes` within the block and send `words` to the followers.

    The followers were started by torchrun or are started here. Raises Lost if one of them ends early.
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
        followers = [start_follower(number, processes, store.port) for number in range(1, processes)]
    try:
        store.set(WORDS, words)
        wait_for_followers(store, followers)
        dist.init_process_group(choose_backend(), store=store, rank=0, world_size=processes)
        yield
    except Lost as error:
        raise Lost(read_follower_error(store, processes) or describe_ended_follower(followers) or str(error)) from error
    finally:
        leave_group()
        end_followers(followers)


def start_follower(number: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    """Start a follower process on this machine."""
    ranks = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
    }
    place: dict[str, int | str] = {**ranks, **LOOPBACK, "MASTER_PORT": port}
    # Import the same aectl package as this process, and no modules of the working folder.
    root = str(Path(aectl.__file__).parents[1])
    # An empty entry means the working folder, whose sitecustomize.py Python would run.
    known = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    place |= {"PYTHONPATH": os.pathsep.join((root, *known)), "PYTHONSAFEPATH": 1}
    environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
    return subprocess.Popen([sys.executable, "-c", FOLLOWER, "train"], env=environment, stdin=subprocess.DEVNULL)


def wait_for_followers(store: Store, followers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all followers started here are ready; raises Lost if one of them ends before."""
    for number in range(1, len(followers) + 1):
        while not store.check([f"{READY}{number}"]):
            if any(follower.poll() is not None for follower in followers):
                raise Lost("a process has ended before training began")
            time.sleep(0.05)


def end_followers(followers: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the followers started here. They write no files, so they can be killed if they ignore SIGTERM."""
    for follower in followers:
        follower.terminate()
    for follower in followers:
        try:
            follower.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            follower.kill()
            follower.wait()


def describe_ended_follower(followers: Sequence[subprocess.Popen[bytes]]) -> str:
    """Describe which follower started here has ended; an empty string if none has."""
    for number, follower in enumerate(followers, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"process {number} has ended early, with code {follower.wait(1.0)}"
    return ""


def read_follower_error(store: Store, processes: int) -> str:
    """Return the error that a follower reported before it ended; an empty string if there is none."""
    for number in range(1, processes):
        if store.check([f"{ERROR}{number}"]):
            return f"process {number}: {store.get(f'{ERROR}{number}').decode()}"
    return ""


@contextlib.contextmanager
def follow() -> Iterator[str]:
    """Follow the leader within the block: yield its words, and report an error to it."""
    store, number, processes = next(iter(dist.rendezvous("env://")))  # type: ignore[attr-defined]
    store.set(f"{READY}{number}", "")
    words = store.get(WORDS).decode()
    try:
        dist.init_process_group(choose_backend(), store=store, rank=number, world_size=processes)
        yield words
    except Exception as error:
        if not isinstance(error, Lost):
            store.set(f"{ERROR}{number}", f"{type(error).__name__}: {error}")
        # If this process ended first, torchrun would stop the leader before it could report the error.
        time.sleep(GRACE_SECONDS)
        raise
    finally:
        leave_group()


def leave_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def choose_backend() -> str:
    """Return the backend: NCCL for CUDA tensors, Gloo for CPU tensors, which also carry decisions."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"

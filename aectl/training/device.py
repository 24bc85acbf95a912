"""Where a run computes, and in which precision."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from aectl import parallel
from aectl.system.idle_cores import idle_cores
from aectl.system.machine import keep_memory, usable_cores
from aectl.training import precision as precisions
from aectl.training.graph_recorder import RECORDERS
from aectl.training.precision import Precision
from aectl.training.spin_wait import process_watch

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Where libraries of numbers look for how many threads they may have."""


MOST = 1024
"""Threads, or processes, that can be asked for of a machine with fewer cores; of a larger one, as many as it has."""
SMALL = 5e6
"""Multiplications in the layers of a model, for one batch forwards, below which a second thread gains nothing.

Measured on two cores: at 6e5 (64-32-8 on digits) one thread takes 0.72 ms a step and two 0.76, at 6e6 1.3 and 1.6."""


class Device:
    """A device with precision, threads and determinism; `apply()` makes the process use them.

    `auto` takes CUDA, then MPS, then the CPU. `threads=None` means every core that is idle now, see `idle_cores.py`;
    one alone for what is too `small` to be shared, and a share of them where `count` processes train together, each on
    a GPU of its own if there are GPUs. `precision` is fp32, bf16, tf32 (CUDA) or auto, which `reduce()` decides upon;
    weights and optimizers are in fp32 with all of them. With a `graph`, which CUDA has unless told otherwise, training
    steps are recorded and replayed, see `capture.py`; with `compile` they are compiled. Raises ValueError for a device
    that this machine lacks, an unknown precision, fewer than one thread or process, or a graph where there can be none.
    """

    def __init__(
        self,
        name: Literal["auto", "cpu", "cuda", "mps"] | str = "auto",
        precision: Precision = "fp32",
        threads: int | None = None,
        deterministic: bool = False,
        count: int | None = None,
        graph: bool | None = None,
        compile: bool = False,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        if count is not None and count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        check_most("threads", threads, max(MOST, usable_cores()))
        self.torch = own(torch.device(choose(name)))
        precisions.check(precision, self.torch)
        self.precision = precision
        self.threads_are_told = threads is not None
        self.is_small = False
        self.deterministic, self.compile = deterministic, compile
        self.graph = self.torch.type == "cuda" and parallel.count() == 1 if graph is None else graph
        if graph and self.torch.type not in RECORDERS:
            raise ValueError(f"graph=true needs CUDA, and the device is {self.torch.type}")
        if (graph or compile) and parallel.count() > 1:
            name = "graph" if graph else "compile"
            raise ValueError(f"{name}=true is for one process alone, not for the {parallel.count()} of device.count")
        # Last: it takes a moment, and processes that train together meet for it.
        self.threads = threads or share_of_idle_cores()

    def suit(self, multiplications: float) -> None:
        """Take one thread for steps of so few multiplications that several would mostly wait for one another."""
        self.is_small = multiplications < SMALL
        if not self.threads_are_told and self.is_small:
            self.threads = 1
            self.apply()

    def reduce(self, images: int, weights: int, fp32_only: bool = False) -> None:
        """Decide on a precision, where that is `auto`: fp32, unless another pays for so many images in a batch.

        `weights` are those of dense layers. A model that is `fp32_only` gets that whatever was told. Processes that
        train together do as the first one.
        """
        if fp32_only:
            self.precision = "fp32"
        elif self.precision == "auto":
            found = parallel.leaders({"pays": float(precisions.pays(images, weights, self.torch))})
            self.precision = "bf16" if found["pays"] else "fp32"

    def apply(self) -> None:
        """Set the process's GPU, its threads and its choice of algorithms."""
        if self.torch.type == "cuda":
            torch.cuda.set_device(self.torch)
        # Weights of pixels that are always black shrink to denormal numbers, on which a CPU is many times slower.
        # Before the threads are made: they inherit it.
        for number in (np.float32, np.float64):
            # NumPy 1 looks for the smallest number when it is first asked for its limits, and warns if that is 0.
            np.finfo(number)
        torch.set_flush_denormal(True)
        keep_memory()
        torch.set_num_threads(self.threads)
        # NumPy and scikit-learn have threads of their own; libraries that are loaded later read the environment.
        os.environ |= dict.fromkeys(THREADS, str(self.threads))
        threadpool_limits(self.threads)
        process_watch.start(self.threads)
        # Only where it changes something: the call imports torch's compiler, which takes longer than all the rest.
        if self.deterministic != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(self.deterministic)
        if self.deterministic:
            # cuBLAS repeats itself only with a fixed workspace, read when CUDA starts.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def products(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which losses and their gradients are computed: it may round factors of products."""
        if precisions.rounds(self.precision, self.torch):
            return precisions.rounded(self.precision)
        return contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which losses alone are computed: it has bf16 where `products()` has it not."""
        if self.precision != "bf16" or precisions.rounds("bf16", self.torch):
            return contextlib.nullcontext()
        return torch.autocast(self.torch.type, torch.bfloat16)

    def describe(self) -> dict[str, Any]:
        """Return what a run's record says of its device."""
        model = torch.cuda.get_device_name(self.torch) if self.torch.type == "cuda" else None
        return {
            "name": str(self.torch),
            "model": model,
            "precision": self.precision,
            "threads": self.threads,
            "deterministic": self.deterministic,
            "graph": self.graph,
            "compile": self.compile,
            "processes": parallel.count(),
        }


def share_of_idle_cores() -> int:
    """Return how many threads each of the processes that train together gets: its share of the leader's idle cores."""
    # All of them sleep while they measure, so that none counts another.
    parallel.meet()
    cores = parallel.leaders({"cores": idle_cores()})["cores"]
    return max(1, int(cores) // parallel.local_count())


def check_most(name: str, value: int | None, most: int) -> None:
    """Raise ValueError if `value` is more than this machine can have."""
    if value is not None and value > most:
        raise ValueError(f"{name} must be at most {most:,}, not {value:,}")


def choose(name: str) -> str:
    """Return the device that `name` stands for on this machine; raises ValueError with the choices if it has none."""
    present = available()
    if name == "auto":
        return present[0]
    if name.split(":")[0] not in present:
        raise ValueError(f"no device '{name}' on this machine, choose from auto, {', '.join(present)}")
    return name


def own(device: torch.device) -> torch.device:
    """Return the GPU of this process among those that train together; raises ValueError if there are too few."""
    if device.type != "cuda":
        return device
    if parallel.count() == 1:
        # By its number: torch makes no GPU the process's own without one.
        return torch.device("cuda", device.index or 0)
    if parallel.local_count() > torch.cuda.device_count():
        raise ValueError(f"this machine has {torch.cuda.device_count()} GPUs, not {parallel.local_count()}")
    return torch.device("cuda", parallel.local_rank())


def available() -> list[str]:
    """Return the devices of this machine, the fastest kind first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]

"""The device of a run, its precision, threads and determinism."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from aectl import parallel
from aectl.system.idle_cores import count_idle_cores
from aectl.system.machine import count_usable_cores, keep_memory
from aectl.training import precision as precisions
from aectl.training.graph_recorder import RECORDERS
from aectl.training.precision import Precision
from aectl.training.spin_wait import process_watch

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Environment variables from which numerical libraries read their number of threads."""


MAX_THREADS = 1024
"""Bound of `threads` and `count` on a machine with fewer cores; on a larger one, the number of cores."""
MIN_MULTIPLICATIONS = 5e6
"""Multiplications in a model's forward pass over a batch below which a second thread gains nothing.

Measured on two cores: at 6e5 (64-32-8 on digits) one thread takes 0.72 ms a step and two 0.76, at 6e6 1.3 and 1.6."""


class Device:
    """A device with its precision, threads and determinism; `apply()` sets them for the process.

    `auto` selects CUDA, then MPS, then the CPU. `threads=None` uses the cores that are idle now (see `idle_cores.py`),
    one thread for small models (see `adapt_threads`), and an equal share for each of the `count` processes of a run,
    each of which has its own GPU if there are GPUs. `precision` is fp32, bf16, tf32 (CUDA) or auto (see
    `choose_precision`); weights and optimizers are always in fp32. `graph`, the default on CUDA, records training steps
    and replays them (see `cuda_graph.py`); `compile` compiles them (see `compiled.py`).

    Raises ValueError for a missing device, an unknown precision, fewer than one thread or process, or a `graph` or
    `compile` that is not possible.
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
        check_at_most("threads", threads, max(MAX_THREADS, count_usable_cores()))
        self.torch = select_gpu(torch.device(choose_device(name)))
        precisions.check_precision(precision, self.torch)
        self.precision = precision
        self.has_set_threads = threads is not None
        self.is_small = False
        self.deterministic, self.compile = deterministic, compile
        self.graph = self.torch.type == "cuda" and parallel.count() == 1 if graph is None else graph
        if graph and self.torch.type not in RECORDERS:
            raise ValueError(f"graph=true needs CUDA, and the device is {self.torch.type}")
        if (graph or compile) and parallel.count() > 1:
            name = "graph" if graph else "compile"
            raise ValueError(f"{name}=true needs one process, and device.count is {parallel.count()}")
        # Last, since it takes a moment and synchronises the processes.
        self.threads = threads or share_of_idle_cores()

    def adapt_threads(self, multiplications: float) -> None:
        """Use one thread if a step has so few multiplications that several threads would mostly wait."""
        self.is_small = multiplications < MIN_MULTIPLICATIONS
        if not self.has_set_threads and self.is_small:
            self.threads = 1
            self.apply()

    def choose_precision(self, images: int, weights: int, fp32_only: bool = False) -> None:
        """Resolve the precision `auto`: bf16 if it is faster for `images` per batch and `weights` in dense layers.

        A model that is `fp32_only` always uses fp32. All processes of a run use the choice of process 0.
        """
        if fp32_only:
            self.precision = "fp32"
        elif self.precision == "auto":
            found = parallel.broadcast_numbers({"pays": float(precisions.is_bf16_faster(images, weights, self.torch))})
            self.precision = "bf16" if found["pays"] else "fp32"

    def apply(self) -> None:
        """Set the GPU, the threads and the deterministic algorithms of the process."""
        if self.torch.type == "cuda":
            torch.cuda.set_device(self.torch)
        # Weights of pixels that are always black decay to denormal numbers, which are many times slower on a CPU.
        # Threads inherit the setting, so it comes before they are created.
        for number in (np.float32, np.float64):
            # NumPy 1 computes the smallest number at the first call, and warns if it is flushed to 0.
            np.finfo(number)
        torch.set_flush_denormal(True)
        keep_memory()
        torch.set_num_threads(self.threads)
        # NumPy and scikit-learn have their own threads; libraries that are loaded later read the environment.
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        threadpool_limits(self.threads)
        process_watch.start(self.threads)
        # Only if it changes something, since the call imports torch's compiler, which takes over a second.
        if self.deterministic != torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(self.deterministic)
        if self.deterministic:
            # cuBLAS is deterministic only with a fixed workspace, which it reads when CUDA starts.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def matmul_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of losses and gradients, which may round the factors of matrix products."""
        if precisions.uses_rounded_matmul(self.precision, self.torch):
            return precisions.round_matmul_factors(self.precision)
        return contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of losses: bf16 autocast unless `matmul_precision()` already provides bf16."""
        if self.precision != "bf16" or precisions.uses_rounded_matmul("bf16", self.torch):
            return contextlib.nullcontext()
        return torch.autocast(self.torch.type, torch.bfloat16)

    def describe(self) -> dict[str, Any]:
        """Return the device's entry in run.json."""
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
    """Return the number of threads per process: an equal share of the cores that process 0 finds idle."""
    # All processes sleep while they measure, so that none counts another.
    parallel.wait_for_all()
    cores = parallel.broadcast_numbers({"cores": count_idle_cores()})["cores"]
    return max(1, int(cores) // parallel.local_count())


def check_at_most(name: str, value: int | None, most: int) -> None:
    """Raise ValueError if `value` is greater than `most`."""
    if value is not None and value > most:
        raise ValueError(f"{name} must be at most {most:,}, not {value:,}")


def choose_device(name: str) -> str:
    """Return the device that `name` selects on this machine; raises ValueError with the choices if there is none."""
    present = available_devices()
    if name == "auto":
        return present[0]
    if name.split(":")[0] not in present:
        raise ValueError(f"no device '{name}' on this machine, choose from auto, {', '.join(present)}")
    return name


def select_gpu(device: torch.device) -> torch.device:
    """Return the GPU of this process; raises ValueError if there are fewer GPUs than processes."""
    if device.type != "cuda":
        return device
    if parallel.count() == 1:
        # torch.cuda.set_device needs an index.
        return torch.device("cuda", device.index or 0)
    if parallel.local_count() > torch.cuda.device_count():
        raise ValueError(f"this machine has {torch.cuda.device_count()} GPUs, not {parallel.local_count()}")
    return torch.device("cuda", parallel.local_rank())


def available_devices() -> list[str]:
    """Return the types of device on this machine, fastest first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]

"""How the operations of a step are recorded on a device, to be run again without Python: CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Scalars = dict[str, Tensor]


class Recorder(Protocol):
    """Records what a function does on the device; it takes and returns the same tensors at every run."""

    def warm_up(self, function: Callable[[], Scalars]) -> None:
        """Run a function until all that is made at first use is there; raises RuntimeError if it waits for numbers."""

    def record(self, function: Callable[[], Scalars], generator: torch.Generator) -> Callable[[], Scalars]:
        """Record a function that draws from `generator`; what is returned does it again, with new random numbers.

        Recording may run the function or not: its effects count from the first replay on. A replay returns the tensors
        that the function had returned, with new values. Raises RuntimeError for what cannot be recorded.
        """


class CudaRecorder:
    """Records as a CUDA graph, on one side stream, as PyTorch's notes on CUDA semantics describe it.

    A replay starts where the generator stands and moves it on as far as the same draws would without a graph, so that
    both draw the same numbers and the generator's state remains all there is to save.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def warm_up(self, function: Callable[[], Scalars]) -> None:
        before = torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream), warnings.catch_warnings():
                # An optimizer that can be captured warns that it is not, and the mode below that it misses some reads.
                warnings.simplefilter("ignore")
                function()
                function()
                # A read by the host would break the capture; here it is an ordinary error, with nothing to clean up.
                torch.cuda.set_sync_debug_mode("error")
                function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
            torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, function: Callable[[], Scalars], generator: torch.Generator) -> Callable[[], Scalars]:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                made = function()
        finally:
            # A capture that fails leaves its own stream the current one.
            torch.cuda.set_stream(before)

        def replay() -> Scalars:
            graph.replay()
            return made

        return replay


RECORDERS: dict[str, Callable[[], Recorder]] = {"cuda": CudaRecorder}
"""What records steps, by the type of device."""

"""Recorders of a step's operations on a device, for replays without Python: CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Scalars = dict[str, Tensor]


class Recorder(Protocol):
    """Records the operations of a function that reads and returns the same tensors at every call."""

    def warm_up(self, function: Callable[[], Scalars]) -> None:
        """Run a function until its lazy initialisation is done; raises RuntimeError if it makes the host wait."""

    def record(self, function: Callable[[], Scalars], generator: torch.Generator) -> Callable[[], Scalars]:
        """Return a replay of a function that draws from `generator`; each replay draws new numbers.

        Recording may run the function or not, so callers must undo its effects. A replay returns the same tensors with
        new values. Raises RuntimeError if the function cannot be recorded.
        """


class CudaRecorder:
    """Records a CUDA graph on a side stream, as described in PyTorch's notes on CUDA semantics.

    A replay draws the same numbers and advances the generator as far as the function would without a graph, so that
    the generator's state is all that a checkpoint needs.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def warm_up(self, function: Callable[[], Scalars]) -> None:
        before = torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream), warnings.catch_warnings():
                # A capturable optimizer warns that it is not being captured, and the debug mode that it is incomplete.
                warnings.simplefilter("ignore")
                function()
                function()
                # A read by the host would break the capture; here it raises an error that needs no clean-up.
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
            # A failed capture leaves its stream selected.
            torch.cuda.set_stream(before)

        def replay() -> Scalars:
            graph.replay()
            return made

        return replay


RECORDERS: dict[str, Callable[[], Recorder]] = {"cuda": CudaRecorder}
"""Recorder by type of device."""

"""What records on a CPU as CUDA graphs do on a GPU: operations on fixed tensors, and Python no more."""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from aectl.training.graph_recorder import RECORDERS

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.nonzero_static.default,
    aten.masked_select.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
"""Operations whose result, or its shape, the host has to wait for on a GPU."""
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class HostRead(RuntimeError):
    """An operation that makes the host wait for the device, or copies a number to it."""


class NoHostReads(TorchDispatchMode):
    """Raises HostRead where a GPU would be waited for; with `sends`, where Python makes a tensor of a number too."""

    def __init__(self, sends=True):
        super().__init__()
        self.sends = sends

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = [t for t in tree_leaves(args[1:]) if isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8)]
        if func in READS or (self.sends and func is aten.lift_fresh.default) or (func in INDEXING and masks):
            raise HostRead(str(func))
        return func(*args, **(kwargs or {}))


def aliases(tree):
    """Return the same numbers in tensors whose shapes nobody changes later, as torch does with products of vectors."""
    return tree_map_only(Tensor, Tensor.detach, tree)


class Tape(TorchDispatchMode):
    """Keeps all operations with their tensors; `replay` runs them again into the same ones."""

    def __init__(self, generator):
        super().__init__()
        self.generator, self.calls = generator, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Generator) and leaf._cdata != self.generator._cdata:
                raise RuntimeError("a generator that is not registered with the graph")
        if func in READS:
            raise HostRead(str(func))
        before = aliases((args, kwargs))
        out = func(*args, **kwargs)
        # A graph has the kernels that were chosen while it was made.
        self.calls.append((func, before, aliases(out), torch.get_float32_matmul_precision()))
        return out

    @torch.no_grad()
    def replay(self):
        now = torch.get_float32_matmul_precision()
        for func, given, out, precision in self.calls:
            torch.set_float32_matmul_precision(precision)
            args, kwargs = aliases(given)
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                # Views, and what was changed in place, are where they belong.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
        torch.set_float32_matmul_precision(now)


class TapeRecorder:
    """A recorder for CPUs; `records` counts the recordings, `replays` the replays of all of them."""

    records = replays = 0

    def warm_up(self, function):
        function()
        # An optimizer may make a number, here where its own are on the same device.
        with NoHostReads(sends=False):
            function()

    def record(self, function, generator):
        TapeRecorder.records += 1
        with Tape(generator) as tape:
            made = function()

        def replay():
            TapeRecorder.replays += 1
            tape.replay()
            return made

        return replay


@contextmanager
def taped(recorder=TapeRecorder):
    """Let CPUs record steps; gives the recorder's class."""
    TapeRecorder.records = TapeRecorder.replays = 0
    RECORDERS["cpu"] = recorder
    try:
        yield TapeRecorder
    finally:
        del RECORDERS["cpu"]

"""Means of what a model logs, kept on the device and read once an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aectl.parallel import average, count, largest


class Meter:
    """Sums named scalars over steps, and remembers the first step at which one of them was not finite."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything, for a new epoch."""
        self.names: list[str] = []
        self.steps = 0
        self.sums = torch.zeros(0, device=self.device)
        self.bad_step = torch.full((), -1, device=self.device)
        self.bad_terms = torch.zeros(0, dtype=torch.bool, device=self.device)

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Add one step's scalars, the same names at every step; nothing is read back from the device."""
        values = torch.stack([value.detach().float() for value in scalars.values()])
        if not self.names:
            self.names = list(scalars)
            # Doubles keep the mean of a long epoch exact to the printed digits; MPS has none.
            dtype = torch.float32 if self.device.type == "mps" else torch.float64
            self.sums = torch.zeros(len(values), dtype=dtype, device=self.device)
            self.bad_terms = torch.zeros(len(values), dtype=torch.bool, device=self.device)
        bad = ~torch.isfinite(values)
        first = bad.any() & (self.bad_step < 0)
        self.bad_step = torch.where(first, self.steps, self.bad_step)
        self.bad_terms = torch.where(first, bad, self.bad_terms)
        self.sums = self.sums + values
        self.steps += 1

    def join(self) -> None:
        """Make these the means over the processes that share a batch, and the first bad step that of any of them."""
        if count() == 1:
            return
        self.sums = average(self.sums)
        own = torch.where(self.bad_step < 0, self.steps, self.bad_step)
        first = largest(-own).neg()
        self.bad_terms = largest((self.bad_terms & (own == first)).int()).bool()
        self.bad_step = torch.where(first < self.steps, first, -1)

    def means(self) -> dict[str, float]:
        """Return the mean of each name over the steps."""
        return dict(zip(self.names, (self.sums / max(self.steps, 1)).tolist(), strict=True))

    def first_bad(self) -> tuple[int, str] | None:
        """Return the first step (from 0) at which a scalar was not finite and that scalar's name, or None."""
        step = int(self.bad_step)
        if step < 0:
            return None
        return step, self.names[self.bad_terms.tolist().index(True)]

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors, numbers and strings, for a checkpoint within an epoch."""
        tensors = {"sums": self.sums.clone(), "bad_step": self.bad_step, "bad_terms": self.bad_terms}
        return {"names": list(self.names), "steps": self.steps, **tensors}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state()` returned."""
        self.names, self.steps = list(state["names"]), int(state["steps"])
        for name in ("sums", "bad_step", "bad_terms"):
            setattr(self, name, state[name].to(self.device))

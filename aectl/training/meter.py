"""The scalars of each step, kept on the device and read once per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aectl.parallel import average
from aectl.training.model_checks import ModelError

ROWS = 512
"""Steps for which memory is allocated at first."""


class Meter:
    """Collects named scalars of each step, their means, and the first one that is NaN or infinite."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Drop all scalars, for a new epoch."""
        self.names: list[str] = []
        self.steps = 0
        self.rows = torch.zeros(0, 0, device=self.device)

    @torch.no_grad()
    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Add the scalars of a step without reading them from the device; raises ModelError if their names change."""
        if not self.names:
            self.names = list(scalars)
            self.rows = torch.zeros(ROWS, len(self.names), device=self.device)
            if not self.names:
                raise ModelError("model: losses yields no loss")
        if scalars.keys() != set(self.names):
            raise ModelError(
                f"model: losses and their metrics are {', '.join(scalars) or 'none'} at step {self.steps + 1}, "
                f"but were {', '.join(self.names)} at the first step of the epoch"
            )
        if self.steps == len(self.rows):
            self.rows = torch.cat([self.rows, torch.zeros_like(self.rows)])
        # Written in place, since every further operation slows down steps of a few milliseconds.
        torch.stack([scalars[name].float() for name in self.names], out=self.rows[self.steps])
        self.steps += 1

    @property
    def filled(self) -> Tensor:
        """The scalars so far, [steps, names]."""
        return self.rows[: self.steps]

    def join(self) -> None:
        """Replace each scalar by its mean over the processes, which is finite only if it is in all of them."""
        self.filled.copy_(average(self.filled))

    def means(self) -> dict[str, float]:
        """Return the mean of each name over the steps."""
        # In double precision, which some devices lack, so that long epochs are averaged accurately.
        return dict(zip(self.names, self.filled.cpu().double().mean(0).tolist(), strict=True))

    def first_bad(self) -> tuple[int, str] | None:
        """Return the first step (from 0) with a NaN or infinite scalar and that scalar's name, or None."""
        bad = (~torch.isfinite(self.filled)).nonzero()
        return (int(bad[0, 0]), self.names[int(bad[0, 1])]) if len(bad) else None

    def row(self, step: int) -> dict[str, float]:
        """Return the scalars of a step (from 0) by name."""
        return dict(zip(self.names, self.filled[step].tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """Return the names and scalars, for a checkpoint within an epoch."""
        return {"names": list(self.names), "rows": self.filled.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state()` returned."""
        self.names, self.rows = list(state["names"]), state["rows"].to(self.device).clone()
        self.steps = len(self.rows)

"""What a model logs at each step, kept on the device and read once an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aectl.parallel import average
from aectl.training.model_checks import ModelError

ROWS = 512
"""Steps that there is room for to begin with."""


class Meter:
    """A row of named scalars for each step: their means, and the first step at which one of them was not finite."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything, for a new epoch."""
        self.names: list[str] = []
        self.steps = 0
        self.rows = torch.zeros(0, 0, device=self.device)

    @torch.no_grad()
    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Add one step's scalars, the same names at every step; nothing is read back from the device."""
        if not self.names:
            self.names = list(scalars)
            self.rows = torch.zeros(ROWS, len(self.names), device=self.device)
            if not self.names:
                raise ModelError("model: losses yields nothing to descend")
        if scalars.keys() != set(self.names):
            raise ModelError(
                f"model: losses and their metrics were {', '.join(self.names)} at the first step of the epoch, "
                f"and are {', '.join(scalars) or 'none'} at step {self.steps + 1}"
            )
        if self.steps == len(self.rows):
            self.rows = torch.cat([self.rows, torch.zeros_like(self.rows)])
        # Straight into its row: at steps of a few milliseconds every further operation shows.
        torch.stack([scalars[name].float() for name in self.names], out=self.rows[self.steps])
        self.steps += 1

    @property
    def filled(self) -> Tensor:
        """What was added, [steps, names]."""
        return self.rows[: self.steps]

    def join(self) -> None:
        """Make each scalar the mean over the processes that share a batch; it is finite if it was in all of them."""
        self.filled.copy_(average(self.filled))

    def means(self) -> dict[str, float]:
        """Return the mean of each name over the steps."""
        # Doubles keep the mean of a long epoch exact to the printed digits; not all devices have them.
        return dict(zip(self.names, self.filled.cpu().double().mean(0).tolist(), strict=True))

    def first_bad(self) -> tuple[int, str] | None:
        """Return the first step (from 0) at which a scalar was not finite and that scalar's name, or None."""
        bad = (~torch.isfinite(self.filled)).nonzero()
        return (int(bad[0, 0]), self.names[int(bad[0, 1])]) if len(bad) else None

    def row(self, step: int) -> dict[str, float]:
        """Return the scalars of a step (from 0) by name."""
        return dict(zip(self.names, self.filled[step].tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors and strings, for a checkpoint within an epoch."""
        return {"names": list(self.names), "rows": self.filled.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state()` returned."""
        self.names, self.rows = list(state["names"]), state["rows"].to(self.device).clone()
        self.steps = len(self.rows)

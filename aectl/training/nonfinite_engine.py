"""The engine that names the first non-finite number; it reads every tensor, so it is used only after one was found."""

from __future__ import annotations

from collections.abc import Iterator

from aectl.models.base import Batch, Loss
from aectl.rng import Rng
from aectl.system.terminal import format_significant
from aectl.training.engine import Engine
from aectl.training.nonfinite import NotFinite, describe_losses, first_bad, optimizer_state, weights


class NonfiniteEngine(Engine):
    """Engine that checks every loss, gradient and weight, and raises NotFinite naming the first bad one."""

    label = ""
    exempt: frozenset[str] = frozenset()

    def losses(self, batch: Batch, rng: Rng) -> Iterator[Loss]:
        for loss in super().losses(batch, rng):
            scalars = {self.loss_name(loss.group): loss.value, **(loss.metrics or {})}
            values = {name: float(value.detach()) for name, value in scalars.items()}
            if not all(abs(value) < float("inf") for value in values.values()):
                raise NotFinite(describe_losses(values, self.label))
            self.loss = f"{self.loss_name(loss.group)} is {format_significant(values[self.loss_name(loss.group)])}"
            yield loss

    def descend(self, group: str) -> None:
        gradients = {name: p.grad for name, p in self.named_parameters(group).items() if p.grad is not None}
        norms = {name: gradient.norm() for name, gradient in gradients.items()}
        if name := first_bad(gradients) or first_bad(norms):
            raise NotFinite(f"the gradient of {name} is not finite at {self.label}, though {self.loss}")
        super().descend(group)
        if name := first_bad(weights(self.model) | optimizer_state(self), self.exempt):
            raise NotFinite(f"{name} is not finite after {self.label}, though its gradient is")

"""How one step runs: each loss a model yields moves its own group's parameters before the model goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from aectl.data.datasets import Source
from aectl.models.base import Batch, Loss, Model, Stage
from aectl.parallel import average_gradients
from aectl.rng import Rng
from aectl.training.device import Device
from aectl.training.model_checks import ModelError, check_loss, groups_of
from aectl.training.optimizers import load, step_of, without_compiler


class Engine:
    """A model with one optimizer for each parameter group of a stage."""

    def __init__(
        self,
        model: Model,
        stage: Stage,
        optimizer: Callable[..., Optimizer],
        device: Device,
        grad_clip: float | None = None,
    ) -> None:
        self.model, self.stage, self.device, self.grad_clip = model, stage, device, grad_clip
        self.make_optimizer = optimizer
        self.params: dict[str, list[nn.Parameter]] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.steps: dict[str, Callable[[], object]] = {}
        without_compiler()
        for name, group in groups_of(model, stage).items():
            self.params[name] = [p for p in group.params if p.requires_grad]
            if not self.params[name]:
                raise ValueError(f"model: the group '{name}' has no weights to train")
            try:
                self.optimizers[name] = optimizer(self.params[name], **group.overrides)
            except (TypeError, ValueError) as error:
                raise ModelError(f"model: no optimizer for the group '{name}': {error}") from error
            self.steps[name] = step_of(self.optimizers[name])
        self.rates = {name: [g["lr"] for g in opt.param_groups] for name, opt in self.optimizers.items()}

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times the one its optimizer was made with."""
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
                group["lr"] = rate * factor

    def step(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Run one step and return its scalars by name, still on the device."""
        scalars: dict[str, Tensor] = {}
        losses = iter(self.losses(batch, rng))
        while True:
            with self.device.products():
                # The model's code runs inside next(); autocast around the loop body would miss it.
                with self.device.autocast():
                    loss = next(losses, None)
                if loss is None:
                    return scalars
                loss = check_loss(self.model, loss, self.params)
                params = self.params[loss.group]
                for parameter in params:
                    parameter.grad = None
                if loss.value.requires_grad:
                    loss.value.backward(inputs=params)
                if all(parameter.grad is None for parameter in params):
                    raise ValueError(f"model: {self.called(loss.group)} does not depend on the weights that it trains")
            average_gradients(params)
            self.descend(loss.group)
            scalars[self.called(loss.group)] = loss.value
            scalars.update(loss.metrics or {})

    def losses(self, batch: Batch, rng: Rng) -> Iterator[Loss]:
        """Return the model's losses of a step, one by one."""
        return self.model.losses(batch, self.stage, rng)

    def called(self, group: str) -> str:
        """Return the name under which a group's loss is logged."""
        return "loss" if len(self.params) == 1 else f"loss_{group}"

    def descend(self, group: str) -> None:
        """Move a group's parameters by the gradients that they have."""
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.params[group], self.grad_clip)
        self.steps[group]()

    def step_on(self, source: Source, indices: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Run one step on the examples of a source at `indices` [N], and return its scalars like `step`.

        They are good until the next step.
        """
        return self.step(source.batch(indices), rng)

    def begin_epoch(self) -> None:
        """Learn that an epoch begins: what was made of the model may not hold any more."""

    def rate(self) -> float:
        """Return the learning rate that was set last, of the first group if there are several."""
        return next(iter(self.optimizers.values())).param_groups[0]["lr"]

    def gradient_norm(self) -> Tensor:
        """Return the Euclidean norm of the gradients that the last step left, over all groups."""
        gradients = [p.grad for params in self.params.values() for p in params if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        return torch.linalg.vector_norm(norms)

    def state(self) -> dict[str, Mapping[str, Any]]:
        """Return every optimizer's state, for a checkpoint."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go back to what `state()` returned."""
        for name, optimizer in self.optimizers.items():
            load(optimizer, state[name])

"""The engine runs one step: each loss that a model yields updates its group's parameters before the next one."""

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
from aectl.training.optimizers import bypass_compiler, load_state, make_step


class Engine:
    """Runs the steps of a stage, with one optimizer for each of its parameter groups."""

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
        bypass_compiler()
        for name, group in groups_of(model, stage).items():
            self.params[name] = [p for p in group.params if p.requires_grad]
            if not self.params[name]:
                raise ValueError(f"model: the group '{name}' has no weights to train")
            try:
                self.optimizers[name] = optimizer(self.params[name], **group.overrides)
            except (TypeError, ValueError) as error:
                raise ModelError(f"model: no optimizer for the group '{name}': {error}") from error
            self.steps[name] = make_step(self.optimizers[name])
        self.rates = {name: [g["lr"] for g in opt.param_groups] for name, opt in self.optimizers.items()}

    def parameter_names(self) -> dict[Tensor, str]:
        """Return the name of each parameter of the model."""
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def named_parameters(self, group: str) -> dict[str, Tensor]:
        """Return the parameters of a group by name, in the model's order."""
        chosen = set(self.params[group])
        return {name: parameter for parameter, name in self.parameter_names().items() if parameter in chosen}

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to `factor` times its initial value."""
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
                group["lr"] = rate * factor

    def step(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Run one step; returns its scalars by name, still on the device."""
        scalars: dict[str, Tensor] = {}
        losses = iter(self.losses(batch, rng))
        while True:
            with self.device.matmul_precision():
                # The model's code runs inside next(), and needs autocast.
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
                    raise ValueError(
                        f"model: {self.loss_name(loss.group)} does not depend on the weights that it trains"
                    )
            average_gradients(params)
            self.descend(loss.group)
            scalars[self.loss_name(loss.group)] = loss.value
            scalars.update(loss.metrics or {})

    def losses(self, batch: Batch, rng: Rng) -> Iterator[Loss]:
        """Yield the losses of the model in order."""
        return self.model.losses(batch, self.stage, rng)

    def loss_name(self, group: str) -> str:
        """Return the name under which a group's loss is logged."""
        return "loss" if len(self.params) == 1 else f"loss_{group}"

    def descend(self, group: str) -> None:
        """Clip the gradients of a group and step its optimizer."""
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.params[group], self.grad_clip)
        self.steps[group]()

    def step_on(self, source: Source, indices: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Run one step on the images of `source` at `indices` [N]; returns its scalars, valid until the next step."""
        return self.step(source.batch(indices), rng)

    def begin_epoch(self) -> None:
        """Called at the start of an epoch; drops compiled and recorded steps if the model has changed."""

    def rate(self) -> float:
        """Return the current learning rate, that of the first group if there are several."""
        return next(iter(self.optimizers.values())).param_groups[0]["lr"]

    def gradient_norm(self) -> Tensor:
        """Return the Euclidean norm of the gradients of the last step over all groups."""
        gradients = [p.grad for params in self.params.values() for p in params if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        return torch.linalg.vector_norm(norms)

    def state(self) -> dict[str, Mapping[str, Any]]:
        """Return the state of every optimizer by group, for a checkpoint."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Load what `state()` returned."""
        for name, optimizer in self.optimizers.items():
            load_state(optimizer, state[name])

"""Batch normalisation with the statistics of a whole batch that several processes share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aectl.parallel import average, count


def share_statistics(model: nn.Module) -> None:
    """Make all batch normalisation layers of a model use the statistics of the whole batch."""
    if count() > 1:
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.forward = SharedStatistics(layer)  # type: ignore[method-assign, assignment]  # nn.Module calls this attribute


class SharedStatistics:
    """Forward function of a batch normalisation layer that uses the statistics of the whole batch in training."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not layer.training:
            return type(layer).forward(layer, x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = average(x.float().mean(dims))
        # Two passes, because mean(x²) - mean(x)² loses precision.
        variance = average((x.float() - mean.view(shape)).square().mean(dims))
        self.update_running_statistics(mean.detach(), variance.detach(), count() * x.numel() // x.shape[1])
        y = (x.float() - mean.view(shape)) * (variance + layer.eps).rsqrt().view(shape)
        if layer.affine:
            y = y * layer.weight.view(shape) + layer.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def update_running_statistics(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Update the running statistics as torch does, with the unbiased variance of n numbers."""
        layer = self.layer
        if layer.num_batches_tracked is None or layer.running_mean is None or layer.running_var is None:
            return
        layer.num_batches_tracked += 1
        share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance * n / max(n - 1, 1), share)

"""Batch normalisation where several processes share a batch: by the statistics of the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aectl.parallel import average, count


def share(model: nn.Module) -> None:
    """Let the model's batch normalisation take the statistics of the whole batch, where processes share it."""
    if count() > 1:
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.forward = Normalised(layer)  # type: ignore[method-assign, assignment]  # torch calls what stands there


class Normalised:
    """What a layer of batch normalisation does with its input: in training, by the statistics of the whole batch."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        if not layer.training:
            return type(layer).forward(layer, x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = average(x.float().mean(dims))
        # Two passes: the mean of squares less the square of the mean loses digits.
        variance = average((x.float() - mean.view(shape)).square().mean(dims))
        self.follow(mean.detach(), variance.detach(), count() * x.numel() // x.shape[1])
        y = (x.float() - mean.view(shape)) * (variance + layer.eps).rsqrt().view(shape)
        if layer.affine:
            y = y * layer.weight.view(shape) + layer.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def follow(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Move the running statistics, as torch does: the variance is then the unbiased one of n numbers."""
        layer = self.layer
        if layer.num_batches_tracked is None or layer.running_mean is None or layer.running_var is None:
            return
        layer.num_batches_tracked += 1
        share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean, share)
        layer.running_var.lerp_(variance * n / max(n - 1, 1), share)

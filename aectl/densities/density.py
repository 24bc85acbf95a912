"""A density of codes: a distribution in the coordinates of their principal directions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aectl.densities.distribution import Distribution
from aectl.rng import Rng

MAX_DIRECTIONS = 64
"""Largest number of principal directions of a distribution; in all further directions a density is a Gaussian."""
PILED = 0.01
"""Share of codes from which a unit's smallest or largest value is a bound, such as the zero of a ReLU."""
FRAME = ("mean", "axes", "scale", "spread", "low", "high")


class Density(nn.Module):
    """Density of codes: mean + axes (u, v), clamped to the units' bounds.

    u [d] is a point of `distribution` times `scale`. v ~ N(0, diag(spread²)) covers the remaining directions, in which
    codes vary least. A unit is bounded by its smallest or largest value if at least one in a hundred codes has that
    value, as with the zero of a ReLU. A constant unit keeps its value.
    """

    mean: Tensor
    """[code]"""
    axes: Tensor
    """[code, code], one direction per column."""
    scale: Tensor
    """The largest standard deviation of codes in any direction."""
    spread: Tensor
    """[code - d]"""
    low: Tensor
    """[code], -∞ for a unit without a bound."""
    high: Tensor
    """[code]"""

    def __init__(self, frame: Mapping[str, Tensor], distribution: Distribution) -> None:
        super().__init__()
        for name in FRAME:
            self.register_buffer(name, frame[name])
        self.distribution = distribution

    @classmethod
    def fit(cls, family: type[Distribution], codes: Tensor, rng: Rng, components: int = 1) -> Density:
        """Fit a density to codes [N, code]."""
        codes = codes.detach().cpu()
        points = codes.double()
        mean = points.mean(0)
        variances, axes = torch.linalg.eigh((points - mean).T @ (points - mean) / len(points))
        spread, axes = variances.flip(0).clamp_min(0).sqrt(), axes.flip(1)
        d = min(codes.shape[1], MAX_DIRECTIONS)
        scale = spread[0].clamp_min(torch.finfo(torch.float32).tiny)
        low, high = codes.amin(0), codes.amax(0)
        frame = {"mean": mean, "axes": axes, "scale": scale, "spread": spread[d:]}
        frame = {name: tensor.float().contiguous() for name, tensor in frame.items()}
        frame["low"] = low.where((codes == low).double().mean(0) >= PILED, -torch.inf)
        frame["high"] = high.where((codes == high).double().mean(0) >= PILED, torch.inf)
        return cls(frame, family.fit(((points - mean) @ axes[:, :d] / scale).float(), rng, components))

    @classmethod
    def restore(cls, family: type[Distribution], state: Mapping[str, Tensor]) -> Density:
        """Return the density whose `state_dict()` this is; raises KeyError or RuntimeError if it is none."""
        own = "distribution."
        return cls(state, family.restore({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)}))

    def sample(self, n: int, rng: Rng, temperature: float = 1.0) -> Tensor:
        """Return n codes [n, code]; `temperature` scales the normal noise that they are made of."""
        u = self.scale * self.distribution.sample(n, rng, temperature)
        v = temperature * rng.normal(n, len(self.spread)) * self.spread
        return (self.mean + torch.cat([u, v], 1) @ self.axes.T).clamp(self.low, self.high)

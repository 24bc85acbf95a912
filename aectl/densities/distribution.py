"""What a density of codes is made of: a distribution of points that is fitted, sampled and restored from tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from aectl.rng import Rng


class Distribution(nn.Module):
    """A distribution of points [N, d], whose largest standard deviation in any direction is about 1."""

    name: ClassVar[str]
    """The value of `density=` and `sampler=`."""
    has_components: ClassVar[bool] = False

    @classmethod
    def describe(cls, components: int) -> str:
        """Return what the distribution is, in a sentence."""
        return f"a {cls.name}"

    @classmethod
    def fit(cls, points: Tensor, rng: Rng, components: int) -> Distribution:
        """Fit the distribution to points [N, d] on the CPU; only a mixture has `components`."""
        raise NotImplementedError

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Distribution:
        """Return the distribution whose `state_dict()` this is; raises KeyError or RuntimeError if it is none."""
        raise NotImplementedError

    def sample(self, n: int, rng: Rng, temperature: float) -> Tensor:
        """Return n points [n, d]; `temperature` scales the normal noise that they are made of."""
        raise NotImplementedError

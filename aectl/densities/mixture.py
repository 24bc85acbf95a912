"""A Gaussian, and a mixture of Gaussians with full covariances."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from aectl.densities.distribution import Distribution
from aectl.rng import Rng


class Mixture(Distribution):
    """Mixture of the Gaussians N(means_k, factors_k factors_kᵀ), fitted by expectation maximisation from k-means."""

    name, has_components = "mixture", True
    weights: Tensor
    """[components]"""
    means: Tensor
    """[components, d]"""
    factors: Tensor
    """[components, d, d]"""

    def __init__(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)

    @classmethod
    def describe(cls, components: int) -> str:
        return f"a mixture of {components} Gaussians"

    @classmethod
    def fit(cls, points: Tensor, rng: Rng, components: int) -> Mixture:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        # The default tolerance takes twice as long for less than 0.1 nats.
        mixture = GaussianMixture(components, tol=1e-2, random_state=rng.seed % 2**32)
        # With several threads sums are not reproducible, and matrices this small do not benefit from them.
        with threadpool_limits(1), warnings.catch_warnings():
            # Harmless: k-means finds fewer clusters if points coincide, and EM need not converge for a good fit.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(points.double().numpy())
        found = (mixture.weights_, mixture.means_, mixture.covariances_)
        weights, means, covariances = (torch.from_numpy(one) for one in found)
        return cls(*(one.float() for one in (weights, means, torch.linalg.cholesky(covariances))))

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Mixture:
        return cls(state["weights"], state["means"], state["factors"])

    def sample(self, n: int, rng: Rng, temperature: float) -> Tensor:
        edges = self.weights.cumsum(0)
        chosen = torch.searchsorted(edges, rng.uniform(n) * edges[-1], right=True).clamp_max(len(edges) - 1)
        noise = temperature * rng.normal(n, self.means.shape[1])
        return self.means[chosen] + (self.factors[chosen] @ noise[:, :, None]).squeeze(2)


class Gaussian(Mixture):
    """The Gaussian with the points' mean and covariance."""

    name, has_components = "gaussian", False

    @classmethod
    def describe(cls, components: int) -> str:
        return "a Gaussian"

    @classmethod
    def fit(cls, points: Tensor, rng: Rng, components: int) -> Mixture:
        return super().fit(points, rng, 1)

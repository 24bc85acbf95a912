"""Sample new images from a model's prior, or from a density fitted to the codes of training images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.data.encoding import encode_source
from aectl.models.base import Decodes, Encodes, Model, Samples
from aectl.rng import Rng
from aectl.sampling.kind import Kind
from aectl.sampling.request import Arrays, Impossible, Request, has

MAX_IMAGES = 10_000
"""Largest number of training images to which a density is fitted, so that it takes seconds instead of minutes."""
CHUNK = 1000
MAX_DIRECTIONS = 64
"""Largest number of principal directions of a mixture; in all further directions the density is a single Gaussian."""


def sample_prior(model: Model, request: Request) -> Arrays:
    """Sample `images` [n, C, H, W] from the model, of the requested class if any."""
    rng = request.rng.fork("prior")
    y = {} if request.label is None else {"y": request.labels()}
    return {"images": cast("Samples", model).sample(request.n, rng=rng, temperature=request.temperature, **y)}


def prior_title(model: Model, request: Request) -> str:
    """Return the title of samples, with class and temperature if requested."""
    kind = "" if request.label is None else f" of class {request.label}"
    at = "" if request.temperature == 1 else f" at temperature {request.temperature:g}"
    return f"Samples{kind} of the model{at}"


def is_conditional(model: type | Model) -> bool:
    """Return whether a model can sample images of a given class."""
    return has(model, Samples) and getattr(model, "conditional", False)


def sample_density(model: Model, request: Request) -> Arrays:
    """Sample `codes` [n, code] from a density fitted to the codes of training images, and decode `images` [n, C, H, W].

    This allows sampling from autoencoders without a prior (Ghosh et al. 2020, "From variational to deterministic
    autoencoders"). Raises Impossible if there are fewer training images than components.
    """
    k, n = count_components(request), len(request.train or ())
    if request.train is None:
        raise Impossible(request.why_none)
    if n < k:
        raise Impossible(f"components={k:,} needs at least {k:,} training images, but there are {n:,}")
    codes = encode_training_images(cast("Encodes", model), request.train, request.rng.fork("images"))
    fitted = Mixture.fitted(codes, k, request.rng.fork("fit").seed % 2**32)
    drawn = fitted.sample(request.n, request.rng.fork("density"), request.temperature)
    return {"images": cast("Decodes", model).decode(drawn), "codes": drawn}


def density_title(model: Model, request: Request) -> str:
    """Return the title of images sampled from a density, which says that they are not samples of the model."""
    k, fitted_to = count_components(request), min(MAX_IMAGES, len(cast("Source", request.train)))
    what = "a Gaussian" if k == 1 else f"a mixture of {k} Gaussians"
    return f"Drawn from {what} fitted afterwards to the codes of {fitted_to:,} training images, not from a prior"


def count_components(request: Request) -> int:
    """Return the number of Gaussians of the requested density."""
    return 1 if request.density == "gaussian" else request.components


def encode_training_images(model: Encodes, train: Source, rng: Rng) -> Tensor:
    """Return the codes [N, code] of at most MAX_IMAGES random training images."""
    chosen = rng.permutation(len(train))[:MAX_IMAGES]
    return encode_source(model, train, CHUNK, chosen)


@dataclass(frozen=True)
class Mixture:
    """Mixture of Gaussians with full covariances over codes, in the coordinates of their principal directions.

    A code is mean + axes (u, v). u [d] is a sample of the mixture with components N(means_k, factors_k factors_kᵀ), and
    v ~ N(0, diag(spread²)) covers the remaining directions, in which codes vary least.
    """

    mean: Tensor
    """[code]"""
    axes: Tensor
    """[code, code], one direction per column."""
    weights: Tensor
    """[components]"""
    means: Tensor
    """[components, d]"""
    factors: Tensor
    """[components, d, d]"""
    spread: Tensor
    """[code - d]"""

    @classmethod
    def fitted(cls, codes: Tensor, components: int, seed: int) -> Mixture:
        """Fit a mixture to codes [N, code] by expectation maximisation, initialised by k-means.

        With one component it is the Gaussian with the mean and covariance of the codes.
        """
        points = codes.double().cpu()
        mean = points.mean(0)
        variances, axes = torch.linalg.eigh((points - mean).T @ (points - mean) / len(points))
        variances, axes = variances.flip(0).clamp_min(0), axes.flip(1)
        d = min(points.shape[1], MAX_DIRECTIONS)
        # Scale the largest standard deviation to 1: scikit-learn adds an absolute constant to variances.
        scale = float(variances[0].sqrt()) or 1.0
        weights, means, covariances = fit_mixture(((points - mean) @ axes[:, :d] / scale).numpy(), components, seed)
        factors = scale * torch.linalg.cholesky(torch.from_numpy(covariances))
        parts = (mean, axes, torch.from_numpy(weights), scale * torch.from_numpy(means), factors, variances[d:].sqrt())
        return cls(*(part.to(codes) for part in parts))

    def sample(self, n: int, rng: Rng, temperature: float = 1.0) -> Tensor:
        """Return n codes [n, code]; `temperature` scales the standard deviation of each Gaussian."""
        edges = self.weights.cumsum(0)
        chosen = torch.searchsorted(edges, rng.uniform(n) * edges[-1], right=True).clamp_max(len(edges) - 1)
        noise = temperature * rng.normal(n, len(self.mean))
        u, v = noise.tensor_split([self.means.shape[1]], dim=1)
        u = self.means[chosen] + (self.factors[chosen] @ u[:, :, None]).squeeze(2)
        return self.mean + torch.cat([u, v * self.spread], 1) @ self.axes.T


def fit_mixture(points: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return the weights [k], means [k, d] and covariances [k, d, d] of a mixture fitted to points [N, d]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    mixture = GaussianMixture(components, random_state=seed)
    # With several threads sums are not reproducible, and matrices this small do not benefit from them.
    with threadpool_limits(1), warnings.catch_warnings():
        # Harmless: k-means finds fewer clusters if codes coincide, and the fit is good enough if EM has not converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(points)
    return mixture.weights_, mixture.means_, mixture.covariances_


KINDS = (
    Kind(
        "prior",
        "samples of the model",
        can=lambda model: has(model, Samples),
        make=sample_prior,
        verb="sample",
        lacks="it has no prior",
        title=prior_title,
        layout="grid",
        uses=lambda model: ("temperature", "label"),
        order=10,
    ),
    Kind(
        "density",
        "drawn from a density fitted to codes",
        can=lambda model: has(model, Encodes, Decodes),
        make=sample_density,
        verb="have a density fitted to its codes",
        lacks="it does not both encode and decode",
        title=density_title,
        layout="grid",
        uses=lambda model: ("temperature", "density", "components"),
        needs=lambda model: ("train",),
        order=20,
    ),
)

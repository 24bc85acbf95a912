"""New images: drawn from a model's prior, or from a density that is fitted afterwards to the codes of images."""

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

IMAGES = 10_000
"""At most so many training images have their codes in a density: enough for it, and seconds instead of minutes."""
CHUNK = 1000
WIDEST = 64
"""Directions in which a density is a mixture; in what a wider code has beside them it is a single Gaussian."""


def prior(model: Model, request: Request) -> Arrays:
    """Draw images from the model, of one class if the request names one: `images` [n, C, H, W]."""
    rng = request.rng.fork("prior")
    y = {} if request.label is None else {"y": request.labels()}
    return {"images": cast("Samples", model).sample(request.n, rng=rng, temperature=request.temperature, **y)}


def prior_title(model: Model, request: Request) -> str:
    """Return the title of samples, with their class and temperature if they were asked for."""
    kind = "" if request.label is None else f" of class {request.label}"
    at = "" if request.temperature == 1 else f" at temperature {request.temperature:g}"
    return f"Samples{kind} of the model{at}"


def is_conditional(model: type | Model) -> bool:
    """Return whether a model heeds the class that it is asked to draw."""
    return has(model, Samples) and getattr(model, "conditional", False)


def density(model: Model, request: Request) -> Arrays:
    """Draw codes from a density fitted to those of training images: `images` [n, C, H, W], `codes` [n, code].

    So an autoencoder, which has no prior, can sample too (Ghosh et al. 2020, "From variational to deterministic
    autoencoders"). Raises Impossible if there are fewer training images than components.
    """
    k, n = components(request), len(request.train or ())
    if request.train is None:
        raise Impossible(request.why_none)
    if n < k:
        raise Impossible(f"{k:,} components need as many training images, of which there are {n:,}")
    codes = codes_of_training(cast("Encodes", model), request.train, request.rng.fork("images"))
    fitted = Mixture.fitted(codes, k, request.rng.fork("fit").seed % 2**32)
    drawn = fitted.sample(request.n, request.rng.fork("density"), request.temperature)
    return {"images": cast("Decodes", model).decode(drawn), "codes": drawn}


def density_title(model: Model, request: Request) -> str:
    """Return the title of pictures drawn from a density: they are not samples of the model."""
    k, fitted_to = components(request), min(IMAGES, len(cast("Source", request.train)))
    what = "a Gaussian" if k == 1 else f"a mixture of {k} Gaussians"
    return f"Drawn from {what} fitted afterwards to the codes of {fitted_to:,} training images, not from a prior"


def components(request: Request) -> int:
    """Return how many Gaussians the request's density has."""
    return 1 if request.density == "gaussian" else request.components


def codes_of_training(model: Encodes, train: Source, rng: Rng) -> Tensor:
    """Return the codes [N, code] of at most IMAGES images, chosen at random."""
    chosen = rng.permutation(len(train))[:IMAGES]
    return encode_source(model, train, CHUNK, chosen)


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians with full covariances over codes, in the coordinates of their principal directions.

    A code is mean + axes (u, v): u [d] of the mixture, whose component k is N(means_k, factors_k factors_kᵀ), and
    v ~ N(0, diag(spread²)) in the directions that are left over, where codes vary least.
    """

    mean: Tensor
    """[code]"""
    axes: Tensor
    """[code, code], a direction in each column."""
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
        """Return the mixture that fits codes [N, code] best, by expectation maximisation from a start by k-means.

        With one component it is the Gaussian of their mean and covariance: principal directions are uncorrelated.
        """
        points = codes.double().cpu()
        mean = points.mean(0)
        variances, axes = torch.linalg.eigh((points - mean).T @ (points - mean) / len(points))
        variances, axes = variances.flip(0).clamp_min(0), axes.flip(1)
        d = min(points.shape[1], WIDEST)
        # In units of the widest spread, so that the floor which scikit-learn puts under variances suits any code.
        scale = float(variances[0].sqrt()) or 1.0
        weights, means, covariances = expectation_maximisation(
            ((points - mean) @ axes[:, :d] / scale).numpy(), components, seed
        )
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


def expectation_maximisation(points: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return the weights [k], means [k, d] and covariances [k, d, d] of a mixture fitted to points [N, d]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    mixture = GaussianMixture(components, random_state=seed)
    # Several threads add up in an order of their own, so that the same seed would not give the same file; and on
    # matrices this small they mostly wait for one another.
    with threadpool_limits(1), warnings.catch_warnings():
        # Where codes coincide k-means finds fewer clusters, and a likelihood that still creeps is fitted well enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(points)
    return mixture.weights_, mixture.means_, mixture.covariances_


KINDS = (
    Kind(
        "prior",
        "samples of the model",
        can=lambda model: has(model, Samples),
        make=prior,
        verb="sample",
        lacks="it has no prior",
        title=prior_title,
        layout="grid",
        heeds=lambda model: ("temperature", "label"),
        order=10,
    ),
    Kind(
        "density",
        "drawn from a density fitted to codes",
        can=lambda model: has(model, Encodes, Decodes),
        make=density,
        verb="have a density fitted to its codes",
        lacks="it does not both encode and decode",
        title=density_title,
        layout="grid",
        heeds=lambda model: ("temperature", "density", "components"),
        needs=lambda model: ("train",),
        order=20,
    ),
)

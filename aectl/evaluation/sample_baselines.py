"""Baselines of samples: simple densities, and training images, which no model can be expected to beat."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from aectl.evaluation.context import Benchmark

MIXTURE, MIXTURE_CODE, MIXTURE_IMAGES = 50, 32, 20_000
"""Maximum numbers of components of the mixture, of its dimensions, and of training images that it is fitted to."""


def sample_baselines(bench: Benchmark) -> dict[str, Callable[[], Tensor]]:
    """Return functions that draw as many images [N, C, H, W] as are held out, by the name of their row.

    Random training images are samples of the true distribution. "PCA-Gaussian" is the normal distribution with the
    training images' mean and covariance, "GMM-k" a mixture of k normal distributions, see `sample_mixture`.
    """
    n, pixels, shape = len(bench.held_out), math.prod(bench.train.shape), bench.train.shape
    chosen = bench.rng("real training images").permutation(len(bench.train))[:n]
    return {
        "real training images": lambda: bench.train.batch(chosen).x,
        "PCA-Gaussian": lambda: bench.pca.sample(n, pixels, bench.rng("PCA-Gaussian"), shape),
        f"GMM-{mixture_size(bench)}": lambda: sample_mixture(bench),
    }


def mixture_size(bench: Benchmark) -> int:
    """Return the number of components of the mixture, such that each has at least 200 images."""
    return max(1, min(MIXTURE, len(bench.train) // 200))


def sample_mixture(bench: Benchmark) -> Tensor:
    """Return as many samples [N, C, H, W] as images are held out, of a mixture of normals in PCA space."""

    def compute() -> dict[str, Tensor]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        chosen = bench.rng("mixture").permutation(len(bench.train))[:MIXTURE_IMAGES]
        images = bench.train.batch(chosen).x
        codes = bench.pca.encode(images, min(MIXTURE_CODE, max(bench.pca.rank, 1))).double().cpu().numpy()
        # The default tolerance takes three times as long for less than 0.1 nats.
        model = GaussianMixture(mixture_size(bench), tol=1e-2, reg_covar=1e-4, random_state=bench.seed)
        # Matrices this small are slower with more threads. The fit need not converge.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            drawn_codes, _ = model.fit(codes).sample(len(bench.held_out))
        return {"codes": torch.from_numpy(drawn_codes).float()}

    codes = bench.cache.arrays(f"mixture-{mixture_size(bench)}-seed-{bench.seed}", compute)["codes"]
    pca, shape = bench.pca, bench.train.shape
    images = codes.to(pca.mean).double() @ pca.components[:, : codes.shape[1]].T + pca.mean
    return images.float().clamp(0, 1).view(-1, *shape)

"""Inputs of an evaluation: a trained model, the images it is measured on, and what its baselines need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.data.encoding import check_count, encode_source
from aectl.densities import CodeDensities, Density, decode_codes
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.judge import Judge, Seen
from aectl.evaluation.nearest_neighbours import nearest
from aectl.evaluation.pca import PCA
from aectl.models.base import Decodes, Encodes, Model, Reconstructs, Samples
from aectl.rng import Rng

Row = dict[str, float | str]
"""One row of a table: values by column. `mse_ci95` is half the width of the 95 % confidence interval of `mse`."""

Rows = dict[str, Row]
"""One table: rows by name. The model's row is called "model" and comes first, baselines follow."""

CHUNK = 1000
"""Images processed at a time, to bound the memory."""


class Unmeasured(Exception):
    """A table cannot be made for this model or these data; the message gives the reason."""


@dataclass(frozen=True)
class Benchmark:
    """The images that models of one data set are measured on, and results that do not depend on the model.

    Baselines are fitted to `train` and measured on `held_out`, as models are. `outliers` are out-of-distribution
    images by name of the set. `excluded` are the classes that models were trained without. `judge` is the classifier
    whose features compare sets of images, or the reason why there is none. Results that do not depend on the model go
    into `cache`.
    """

    train: Source
    held_out: Source
    outliers: Mapping[str, Source] = field(default_factory=dict)
    judge: Judge | str = "no judge was given"
    cache: Cache = field(default_factory=Cache)
    seed: int = 0
    excluded: Sequence[int] = ()

    @cached_property
    def inliers(self) -> Source:
        """The held-out images of the classes that models were trained on."""
        return self.held_out.take((~self.is_excluded).nonzero().squeeze(1))

    @cached_property
    def all_outliers(self) -> dict[str, Source]:
        """The outliers, and the held-out images of the excluded classes if there are any."""
        own = self.held_out.take(self.is_excluded.nonzero().squeeze(1))
        return {**self.outliers, **({"excluded classes": own} if len(own) else {})}

    @property
    def is_excluded(self) -> Tensor:
        """For each held-out image, whether its class was excluded from training, [N]."""
        labels = self.held_out.labels
        return torch.isin(labels, torch.tensor(tuple(self.excluded), dtype=labels.dtype, device=labels.device))

    @cached_property
    def pca(self) -> PCA:
        """The principal components of the training images."""
        return PCA(self.train, self.cache)

    @cached_property
    def seen(self) -> Seen:
        """The judge's features and classes of the held-out images; raises Unmeasured if there is no judge."""
        return self.see("held-out", self.held_out)

    @cached_property
    def seen_train(self) -> Seen:
        """The judge's features and classes of the training images; raises Unmeasured if there is no judge."""
        return self.see("train", self.train)

    def see(self, name: str, source: Source) -> Seen:
        """Return what the judge sees in images, cached under `name`."""
        judge = self.judged()
        found = self.cache.arrays(f"seen-{name}-{judge.name}", lambda: judge.see(source.pixels())._asdict())
        return Seen(**{key: value.to(self.train.images.device) for key, value in found.items()})

    def rng(self, *names: str | int) -> Rng:
        """Return a random number generator that depends only on the seed and on `names`."""
        return Rng(self.seed, self.train.images.device).fork(*names)

    def judged(self) -> Judge:
        """Return the judge; raises Unmeasured with the reason if there is none."""
        if isinstance(self.judge, str):
            raise Unmeasured(self.judge)
        return self.judge


@dataclass(frozen=True)
class Drawn:
    """Samples, as many as there are held-out images, and results that several evaluations use."""

    images: Tensor
    """[N, C, H, W], pixels in [0, 1]"""
    bench: Benchmark

    @cached_property
    def nearest(self) -> tuple[Tensor, Tensor]:
        """The distance [N] of each sample to the nearest training image, in pixels, and that image's index [N]."""
        return nearest(self.images, self.bench.train.pixels())

    @cached_property
    def seen(self) -> Seen:
        """The judge's features and classes of the samples; raises Unmeasured if there is no judge."""
        return self.bench.judged().see(self.images)


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode with frozen weights, and results that several evaluations use.

    `sampler` names the `densities` of codes that are sampled besides the model's prior, mixtures with `components`.
    """

    model: Model
    bench: Benchmark
    nll_images: int = 1000
    nll_samples: int = 1000
    sampler: Sequence[str] = ()
    components: int | None = None
    densities: CodeDensities = field(default_factory=CodeDensities)

    @cached_property
    def codes(self) -> Tensor:
        """The codes [N, code] of the held-out images; the model must encode."""
        return encode_source(cast("Encodes", self.model), self.bench.held_out, CHUNK)

    @cached_property
    def train_codes(self) -> Tensor:
        """The codes [N, code] of the training images; the model must encode."""
        return encode_source(cast("Encodes", self.model), self.bench.train, CHUNK)

    @cached_property
    def reconstructed(self) -> Tensor:
        """The reconstructions of the held-out images, [N, C, H, W]; the model must reconstruct."""
        return apply(cast("Reconstructs", self.model).reconstruct, self.bench.held_out.pixels())

    @cached_property
    def drawn(self) -> dict[str, Drawn]:
        """Samples by their row: "model" for its prior, if it has one, and for example "model, mixture on codes".

        Raises Unmeasured if a density cannot be fitted.
        """
        found, model = {}, self.model
        if isinstance(model, Samples):
            rng = self.bench.rng("samples")
            found["model"] = self.draw(lambda n: model.sample(n, rng=rng), "sample")
        if isinstance(model, Encodes) and isinstance(model, Decodes):
            for name in self.sampler:
                density, rng = self.fit_density(name), self.bench.rng("samples", name)
                found[f"model, {name} on codes"] = self.draw(partial(decode_samples, model, density, rng), "decode")
        return found

    @cached_property
    def by_class(self) -> tuple[Drawn, Tensor] | None:
        """Samples of the classes of training images, equally many of each, and their classes [N].

        None if the model is not conditional; it must sample.
        """
        if not self.model.conditional:
            return None
        labels, rng = self.bench.train.labels, self.bench.rng("samples by class")
        present = labels[labels >= 0].unique()
        y = present.repeat(-(-len(self.bench.held_out) // len(present)))[: len(self.bench.held_out)]
        parts, model = iter(y.split(CHUNK)), cast("Samples", self.model)
        return self.draw(lambda n: model.sample(n, rng=rng, y=next(parts)), "sample"), y

    @torch.no_grad()
    def draw(self, sample: Callable[[int], Tensor], name: str) -> Drawn:
        """Return as many images as are held out from `sample(n)`, which calls the model's method `name`."""
        n = len(self.bench.held_out)
        parts = [check_count(sample(size), size, name) for size in (min(CHUNK, n - i) for i in range(0, n, CHUNK))]
        return Drawn(torch.cat(parts).clamp(0, 1), self.bench)

    def fit_density(self, name: str) -> Density:
        """Return a density of the codes of training images; raises Unmeasured with the reason if there is none."""
        train = self.bench.train
        try:
            density = self.densities.fit_or_load(
                name, self.components, len(train), lambda chosen: self.train_codes[chosen.to(self.train_codes.device)]
            )
        except ValueError as reason:
            raise Unmeasured(str(reason)) from None
        return density.to(train.images.device)


def decode_samples(model: Decodes, density: Density, rng: Rng, n: int) -> Tensor:
    """Return the images [n, C, H, W] of n samples of a density of codes."""
    return decode_codes(model, density.sample(n, rng), rng)


@torch.no_grad()
def apply(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return `function(images)`, computed in chunks."""
    name = getattr(function, "__name__", "a method")
    return torch.cat([check_count(function(chunk), len(chunk), name) for chunk in images.split(CHUNK)])


def mean_ci95(values: Tensor, name: str) -> dict[str, float]:
    """Return the mean of `values` [N] as `name` and 1.96 standard errors as `name_ci95`."""
    values = values.double()
    spread = 1.96 * float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {name: float(values.mean()), f"{name}_ci95": spread}


def digest(*sources: Source) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of images and labels in this order."""
    found = hashlib.sha256()
    for source in sources:
        # Equal bytes are other images at another scale.
        found.update(repr(source.scale).encode())
        for part in (source.images, source.labels):
            found.update(repr((part.dtype, tuple(part.shape))).encode())
            for piece in part.split(CHUNK):
                found.update(piece.contiguous().cpu().numpy().data)
    return found.hexdigest()[:16]

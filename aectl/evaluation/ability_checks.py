"""Check once that a model's methods return what their abilities promise, before anything is measured by them.

A classifier whose logits are NaN has an accuracy of 10 %, and a log-probability of +10⁶ nats is a record: neither is a
result. Built-in models pass; the checks are for models of one's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.models.base import (
    Classifies,
    Decodes,
    Encodes,
    Energy,
    HasPosterior,
    Model,
    Normalises,
    Reconstructs,
    Samples,
    Score,
    Scores,
    Walks,
)
from aectl.rng import Rng

log = logging.getLogger("aectl")

IMAGES = 8
"""Images that each method is tried on."""
EXCESS, OTHER_RANGE = 0.1, 1.0
"""Mean distances of pixels from [0, 1] above which there is a warning, and an error: a trained linear decoder leaves it
by 0.01, an untrained one by up to 0.2, and pixels from 0 to 255 by a hundred."""
KINDS = ("exact", "bound", "estimate", "no likelihood")


class AbilityError(ValueError):
    """A method of a model returned something other than its ability promises; the message names both."""


class DoubtfulRange(AbilityError):
    """Images that leave [0, 1] by so much that their numbers are doubtful."""


def check_abilities(model: Model, x: Tensor, classes: int, seed: int = 0) -> None:
    """Call each method that the model has on images x [N, C, H, W] in [0, 1], and check what it returns.

    Shapes must fit N, C, H, W and `classes`, numbers must be finite, images must lie in [0, 1] but for an overshoot,
    and an exact log-probability or a bound of binary pixels is at most 0. Raises AbilityError for the first that fails;
    images that leave [0, 1] by more than an overshoot, but are of its scale, are a warning.
    """
    x = x[:IMAGES]
    if not len(x):
        return
    rng = Rng(seed, x.device).fork("ability checks")
    with torch.no_grad():
        for name, check in checks_of(model, x, classes, rng):
            try:
                check()
            except DoubtfulRange as warning:
                log.warning("model: %s.%s %s", type(model).__name__, name, warning)
            except AbilityError as error:
                raise AbilityError(f"model: {type(model).__name__}.{name} {error}") from None


def first_images(source: Source) -> Tensor:
    """Return the images of a source to check a model on."""
    return source.batch(torch.arange(min(IMAGES, len(source)), device=source.labels.device)).x


def checks_of(model: Model, x: Tensor, classes: int, rng: Rng) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the name of each method that the model has, with its check."""
    n = len(x)
    codes: list[Tensor] = []
    if isinstance(model, Encodes):

        def encode() -> None:
            codes.append(check_tensor(model.encode(x), (n, ...)))

        yield "encode", encode
    if isinstance(model, HasPosterior):
        yield "posterior", lambda: check_posterior(model.posterior(x), n)
    if isinstance(model, Decodes) and codes:
        yield "decode", lambda: check_images(model.decode(codes[0]), x.shape)
    if isinstance(model, Reconstructs):
        yield "reconstruct", lambda: check_images(model.reconstruct(x), x.shape)
    if isinstance(model, Classifies) and classes:
        yield "classify", lambda: void(check_tensor(model.classify(x), (n, classes)))
    if isinstance(model, Samples):
        yield "sample", lambda: check_images(model.sample(3, rng=rng), (3, *x.shape[1:]))
    if isinstance(model, Scores) and not isinstance(model, Normalises):
        # With a constant to be estimated first, a score takes seconds.
        yield "log_prob", lambda: check_score(model.log_prob(x, rng=rng, samples=2), n)
    if isinstance(model, Energy):
        yield "energy", lambda: void(check_tensor(model.energy(x), (n,)))
    if isinstance(model, Walks):
        yield "start", lambda: check_images(model.start(3, rng=rng), (3, *x.shape[1:]), in_range=False)
        yield "walk", lambda: check_images(model.walk(x, rng), x.shape, in_range=False)


def check_tensor(found: Any, shape: tuple[Any, ...]) -> Tensor:
    """Return a tensor of finite numbers of a shape, whose `...` stands for at least one dimension of any size."""
    if not isinstance(found, Tensor):
        raise AbilityError(f"returned {type(found).__name__}, not a tensor")
    size = tuple(found.shape)
    fits = size[:1] == shape[:1] and len(size) >= 2 and found.numel() if shape[-1] is ... else size == shape
    if not fits:
        wanted = ", ".join("…" if part is ... else str(part) for part in shape)
        raise AbilityError(f"returned {list(size)}, not [{wanted}]")
    if not torch.isfinite(found).all():
        raise AbilityError(f"returned {count_of(~torch.isfinite(found))} that are NaN or infinite")
    return found


def check_images(found: Any, shape: tuple[Any, ...], in_range: bool = True) -> None:
    """Raise AbilityError unless these are images of a shape, with pixels in [0, 1] but for an overshoot."""
    pixels = check_tensor(found, tuple(shape)).float()
    excess = float((pixels - pixels.clamp(0, 1)).abs().mean())
    message = f"returned pixels from {float(pixels.min()):.4g} to {float(pixels.max()):.4g}, not in [0, 1]"
    if in_range and excess > OTHER_RANGE:
        raise AbilityError(message)
    if in_range and excess > EXCESS:
        raise DoubtfulRange(message)


def check_posterior(found: Any, n: int) -> None:
    """Raise AbilityError unless these are the means and log-variances of n codes."""
    if not isinstance(found, tuple) or len(found) != 2:
        raise AbilityError(f"returned {type(found).__name__}, not mu and logvar")
    mu = check_tensor(found[0], (n, ...))
    check_tensor(found[1], tuple(mu.shape))


def check_score(found: Any, n: int) -> None:
    """Raise AbilityError unless this is a Score of n images that can be one."""
    if not isinstance(found, Score):
        raise AbilityError(f"returned {type(found).__name__}, not an aectl.models.base.Score")
    if found.kind not in KINDS:
        raise AbilityError(f"returned the kind '{found.kind}', not one of {', '.join(KINDS)}")
    value = check_tensor(found.value, (n,))
    if found.kind in ("exact", "bound") and found.of == "binary pixels" and float(value.max()) > 1e-3:
        raise AbilityError(
            f"returned log p(x) = {float(value.max()):.4g} nats: a probability of binary pixels is at most 1, its log 0"
        )


def count_of(wrong: Tensor) -> str:
    """Return how many of a tensor's numbers are wrong."""
    return f"{int(wrong.sum()):,} of {wrong.numel():,} numbers"


def void(_: object) -> None:
    """Drop a result that is not needed."""

"""Check that a model's methods return what their abilities promise, before an evaluation.

A classifier whose logits are NaN has an accuracy of 10 %, and a log-probability of +10⁶ nats would be a record. Neither
is a result. Models of aectl pass; the checks are for a user's own models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from aectl.models.base import (
    AbilityError,
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
from aectl.system.terminal import first_line_of

log = logging.getLogger("aectl")

CHECKED_IMAGES = 8
"""Number of images that each method is called with."""
EXCESS, OTHER_RANGE = 0.1, 1.0
"""Mean distances of pixels from [0, 1] above which there is a warning, and an error.

It is 0.01 for a trained linear decoder, at most 0.2 for an untrained one, and about 100 for pixels from 0 to 255."""
KINDS = ("exact", "bound", "estimate", "no likelihood")
LARGEST = 2**31
"""Limit of the size of a code."""
PIXELS = ("binary pixels", "grey pixels")
"""What a score may refer to."""


class DoubtfulRange(AbilityError):
    """Pixels are so far outside [0, 1] that metrics of them are doubtful."""


def check_abilities(model: Model, x: Tensor, classes: int, seed: int = 0) -> None:
    """Call each method that the model has on images x [N, C, H, W] in [0, 1], and check what it returns.

    Results must be dense float tensors on the device of x with finite numbers and shapes that fit N, C, H, W and
    `classes`. Images must be in [0, 1] up to an overshoot. Exact log-probabilities of binary pixels, and bounds on
    them, must be at most 0. A method must not raise, and must not change its images or the model. Raises AbilityError
    for the first method that fails. Images that overshoot by more than `EXCESS`, but have the right scale, log a
    warning.
    """
    x = x[:CHECKED_IMAGES].clone()
    if not len(x):
        return
    rng = Rng(seed, x.device).fork("ability checks")
    with torch.no_grad():
        for name, check in checks_of(model, x, classes, rng):
            before = x.clone(), state_of(model), model.training
            try:
                check()
                check_unchanged(model, x, *before)
            except DoubtfulRange as warning:
                log.warning("model: %s.%s %s", type(model).__name__, name, warning)
            except AbilityError as error:
                raise AbilityError(f"model: {type(model).__name__}.{name} {error}") from None
            except (MemoryError, OSError, torch.OutOfMemoryError):
                # The cause is the machine, not the model.
                raise
            except Exception as error:
                raise AbilityError(
                    f"model: {type(model).__name__}.{name} raised {type(error).__name__}: {first_line_of(error)}"
                ) from error


def state_of(model: Model) -> dict[str, Tensor]:
    """Return copies of the tensors in a model's state dict, by name."""
    return {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def check_unchanged(model: Model, x: Tensor, images: Tensor, state: dict[str, Tensor], training: bool) -> None:
    """Raise AbilityError if a method has changed its images, the model's weights or its mode."""
    if not torch.equal(x, images):
        raise AbilityError("changes the images that it is given: it may work on a copy, x.clone()")
    now = model.state_dict()
    odd = [name for name, value in state.items() if name not in now or not torch.equal(now[name], value)]
    # NaN differs from itself, and a mask may contain NaN.
    odd = [name for name in odd if name not in now or not now[name].isnan().any()]
    if odd or model.training != training:
        raise AbilityError(f"changes the model: {odd[0] if odd else 'its mode, by train() or eval()'}")


def checks_of(model: Model, x: Tensor, classes: int, rng: Rng) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the name of each method that the model has, with its check."""
    n, device = len(x), x.device
    codes: list[Tensor] = []
    if isinstance(model, Encodes):

        def encode() -> None:
            codes.append(check_tensor(model.encode(x), (n, ...), device))

        yield "encode", encode
    if isinstance(model, HasPosterior):
        yield "posterior", lambda: check_posterior(model.posterior(x), n, device)
    if isinstance(model, Decodes) and codes:
        yield "decode", lambda: check_decoded(model, codes[0], x.shape, device)
    if isinstance(model, Decodes) and not isinstance(model, Encodes):
        yield "code", lambda: check_code(model)
    if isinstance(model, Reconstructs):
        yield "reconstruct", lambda: check_images(model.reconstruct(x), x.shape, device)
    if isinstance(model, Classifies) and classes:
        yield "classify", lambda: void(check_tensor(model.classify(x), (n, classes), device))
    drawn = (3, *x.shape[1:])
    if isinstance(model, Samples):
        yield "sample", lambda: check_images(model.sample(3, rng=rng), drawn, device)
    if isinstance(model, Samples) and getattr(model, "conditional", False) is True and classes:
        y = torch.arange(3, device=device) % classes
        yield "sample(y=…)", lambda: check_images(model.sample(3, rng=rng, y=y), drawn, device)
    if isinstance(model, Scores) and not isinstance(model, Normalises):
        # A model that has to estimate its constant first would take seconds.
        yield "log_prob", lambda: check_score(model.log_prob(x, rng=rng, samples=2), n, device)
    if isinstance(model, Energy):
        yield "energy", lambda: void(check_tensor(model.energy(x), (n,), device))
    if isinstance(model, Normalises):
        yield "observe", lambda: check_images(model.observe(x, rng), x.shape, device)
    if isinstance(model, Walks):
        yield "start", lambda: check_images(model.start(3, rng=rng), drawn, device, in_range=False)
        yield "walk", lambda: check_images(model.walk(x, rng), x.shape, device, in_range=False)


def check_tensor(found: Any, shape: tuple[Any, ...], device: torch.device) -> Tensor:
    """Return `found`; raises AbilityError unless it is a tensor of finite floats of this shape.

    `...` at the end of the shape stands for at least one dimension of any size.
    """
    if not isinstance(found, Tensor):
        raise AbilityError(f"returned {type(found).__name__}, not a tensor")
    if found.layout is not torch.strided or not found.is_floating_point():
        kind = str(found.dtype if found.layout is torch.strided else found.layout).removeprefix("torch.")
        raise AbilityError(f"returned a tensor of {kind}, not of floats")
    if found.dim() > 1 and found.dtype is not torch.float32:
        # Images, codes and logits are multiplied with float32 tensors.
        raise AbilityError(f"returned a tensor of {str(found.dtype).removeprefix('torch.')}, not of float32")
    if found.device != device:
        raise AbilityError(f"returned a tensor on {found.device}, not on {device}")
    size = tuple(found.shape)
    fits = size[:1] == shape[:1] and len(size) >= 2 and found.numel() if shape[-1] is ... else size == shape
    if not fits:
        wanted = ", ".join("…" if part is ... else str(part) for part in shape)
        raise AbilityError(f"returned {list(size)}, not [{wanted}]")
    if not torch.isfinite(found).all():
        raise AbilityError(f"returned {count_of(~torch.isfinite(found))} that are NaN or infinite")
    return found


def check_images(found: Any, shape: tuple[Any, ...], device: torch.device, in_range: bool = True) -> None:
    """Raise AbilityError unless these are images of this shape, with pixels in [0, 1] up to an overshoot."""
    pixels = check_tensor(found, tuple(shape), device).float()
    excess = float((pixels - pixels.clamp(0, 1)).abs().mean())
    message = f"returned pixels from {float(pixels.min()):.4g} to {float(pixels.max()):.4g}, not in [0, 1]"
    if in_range and excess > OTHER_RANGE:
        raise AbilityError(message)
    if in_range and excess > EXCESS:
        raise DoubtfulRange(message)


def check_decoded(model: Decodes, codes: Tensor, shape: tuple[Any, ...], device: torch.device) -> None:
    """Raise AbilityError unless codes are decoded to images and stay unchanged."""
    given = codes.clone()
    check_images(model.decode(given), shape, device)
    if not torch.equal(given, codes):
        raise AbilityError("changes the codes that it is given: it may work on a copy, z.clone()")


def check_posterior(found: Any, n: int, device: torch.device) -> None:
    """Raise AbilityError unless this is a pair of means and log-variances of n codes."""
    if not isinstance(found, tuple) or len(found) != 2:
        raise AbilityError(f"returned {type(found).__name__}, not mu and logvar")
    mu = check_tensor(found[0], (n, ...), device)
    check_tensor(found[1], tuple(mu.shape), device)


def check_score(found: Any, n: int, device: torch.device) -> None:
    """Raise AbilityError unless this is a valid Score of n images."""
    if not isinstance(found, Score):
        raise AbilityError(f"returned {type(found).__name__}, not an aectl.models.base.Score")
    if found.kind not in KINDS:
        raise AbilityError(f"returned the kind '{found.kind}', not one of {', '.join(KINDS)}")
    if found.of not in PIXELS:
        raise AbilityError(f"returned a score of '{found.of}', not of {' or '.join(PIXELS)}")
    value = check_tensor(found.value, (n,), device)
    if found.kind in ("exact", "bound") and found.of == "binary pixels" and float(value.max()) > 1e-3:
        raise AbilityError(
            f"returned log p(x) = {float(value.max()):.4g} nats: a probability of binary pixels is at most 1, its log 0"
        )


def check_code(model: Any) -> None:
    """Raise AbilityError unless a model that decodes but does not encode states the size of its codes."""
    size = getattr(model, "code", None)
    if type(size) is not int or not 1 <= size < LARGEST:
        raise AbilityError(f"is {size!r}: what decodes needs the size of its codes there, a whole number")


def count_of(wrong: Tensor) -> str:
    """Return how many numbers of a tensor are wrong, in words."""
    return f"{int(wrong.sum()):,} of {wrong.numel():,} numbers"


def void(_: object) -> None:
    """Discard a value, for use in a lambda."""

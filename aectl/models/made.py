"""Autoregressive models of binary pixels, with exact log p(x) (Frey 1998; Germain et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Score, Stage
from aectl.models.networks import Activation, Shape, activation_layer, check_positive
from aectl.rng import Rng

Orderings = Literal["raster", "random", "several"]
ORDERINGS = get_args(Orderings)
MIN_MEAN = 1e-3
"""Pixel means are clipped to [MIN_MEAN, 1 - MIN_MEAN] before their logits become biases."""
MIN_UNIFORM = 2.0**-25
"""Replaces a uniform number of 0: half the spacing of the rng's uniform numbers."""
SAMPLE_BATCH = 1000
"""Images sampled at a time, so that their units fit the processor's cache."""


class FullyVisible(Model):
    """Base class of autoregressive models, log p(x) = Σ_i log p(x_i | x_<i) over binary pixels in some ordering.

    A model with M `sets` (of orderings or masks) is their mixture p(x) = 1/M Σ_m p_m(x), so log p(x) is the logsumexp
    of all log p_m(x) minus log M. Averaging logits over orderings instead would not give a normalised distribution,
    since each pixel would depend on all others. Each training step minimises -log p_m(x) of one random set.

    With `binarise`, x ~ Bernoulli(pixels) is drawn at every step; binary pixels stay as they are. Noise corrupts only
    the inputs of the conditionals, and only in training, like dropout; it never changes the target pixels.
    """

    metrics: ClassVar = (
        Metric("one_set", "negative log-likelihood of a single ordering, mean over orderings", unit="nats per image"),
    )
    metric_settings: ClassVar = {"loss": ("binarise",)}
    loss_unit = "nats"
    nll_metric = "val/loss"
    sets: int = 1

    def __init__(self, shape: Shape, *, binarise: bool, noise: nn.Module | None) -> None:
        super().__init__()
        self.shape, self.pixels = tuple(shape), math.prod(shape)
        self.binarise, self.noise = binarise, noise
        self.bias = nn.Parameter(torch.zeros(self.pixels))

    def logits(self, x: Tensor, which: Tensor) -> Tensor:
        """Return the logits of p_m(x_i = 1 | x_<i), [N, D], of pixels x [N, D] under set m = `which` [1]."""
        raise NotImplementedError(f"{type(self).__name__} defines no logits")

    def ancestral(self, thresholds: Tensor, which: Tensor) -> Tensor:
        """Sample pixels [N, D] in the ordering of a set; a pixel is 1 where its logit exceeds its threshold [N, D]."""
        raise NotImplementedError(f"{type(self).__name__} defines no ancestral")

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set the output biases to the logits of the mean training image, clipped away from 0 and 1."""
        sums = [(batch.x.flatten(1).sum(0), len(batch.x)) for batch in batches]
        mean = cast("Tensor", sum(total for total, _ in sums)) / sum(count for _, count in sums)
        self.bias.copy_(mean.clamp(MIN_MEAN, 1 - MIN_MEAN).logit())

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the corrupted images Ñ(x), or x if the run has no noise."""
        return x if self.noise is None else self.noise(x, rng)

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x binarised at random if `binarise`, else x itself."""
        return rng.bernoulli(x) if self.binarise else x

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x = self.observe(batch.x, rng)
        yield Loss(self.nll(x, self.corrupt(x, rng), self.draw_sets(1, rng.whole)).mean())

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Return `loss`, the mean -log p(x) in nats, and with several sets `one_set`, the mean -log p_m(x)."""
        parts = self.log_probs(self.observe(batch.x, rng))
        loss = -log_mixture(parts).mean()
        return {"loss": loss} if self.sets == 1 else {"loss": loss, "one_set": -parts.mean()}

    def draw_sets(self, n: int, rng: Rng) -> Tensor:
        """Draw n set indices [n]; a model with one set uses no random numbers."""
        if self.sets == 1:
            return torch.zeros(n, dtype=torch.int64, device=self.bias.device)
        return (rng.uniform(n) * self.sets).long().clamp_max(self.sets - 1)

    def nll(self, x: Tensor, seen: Tensor, which: Tensor) -> Tensor:
        """Return -log p_m(x), [N] in nats, with `seen` instead of x as input of the conditionals."""
        logits = self.logits(seen.flatten(1), which).to(x.dtype)
        return F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none").sum(1)

    def log_probs(self, x: Tensor) -> Tensor:
        """Return log p_m(x), [M, N] in nats, of binary images x for each set."""
        sets = torch.arange(self.sets, device=x.device).split(1)
        return torch.stack([-self.nll(x, x, which) for which in sets])

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return the exact log p(x), [N] in nats, of binarised images.

        Without `binarise`, the cross-entropy of grey pixels is returned, of kind 'no likelihood'.
        """
        x = self.observe(x, rng)
        binary = bool(((x == 0) | (x == 1)).all())
        kind, of = ("exact", "binary pixels") if binary else ("no likelihood", "grey pixels")
        return Score(log_mixture(self.log_probs(x)), kind, of)

    @torch.no_grad()
    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return n exact samples [n, C, H, W], binary, each from a random set; `temperature` divides the logits."""
        # u < sigmoid(s / T) if and only if s > T logit(u). At T = 0 the latter picks the more probable value.
        thresholds = temperature * rng.uniform(n, self.pixels).clamp_min(MIN_UNIFORM).logit().to(self.bias)
        chosen = self.draw_sets(n, rng)
        x = torch.empty_like(thresholds)
        for which in chosen.unique().split(1):
            for rows in (chosen == which).nonzero().squeeze(1).split(SAMPLE_BATCH):
                x[rows] = self.ancestral(thresholds[rows], which)
        return x.view(n, *self.shape)


def log_mixture(parts: Tensor) -> Tensor:
    """Return log 1/M Σ_m p_m(x) [N] from log p_m(x) [M, N]."""
    return parts.logsumexp(0) - math.log(len(parts))


def draw_orderings(kind: str, pixels: int, count: int, rng: Rng) -> Tensor:
    """Return `count` orderings [count, D]: the position of each pixel.

    `raster` goes row by row, `random` repeats one random ordering, and `several` draws one for each. Raises ValueError
    for an unknown kind.
    """
    if kind not in ORDERINGS:
        raise ValueError(f"orderings must be {', '.join(ORDERINGS[:-1])} or {ORDERINGS[-1]}, not '{kind}'")
    if kind == "raster":
        return torch.arange(pixels).expand(count, -1)
    drawn = torch.empty(count if kind == "several" else 1, pixels, dtype=torch.int64)
    for row in drawn:
        row.copy_(rng.permutation(pixels))
    return drawn.expand(count, -1)


class MADE(FullyVisible):
    """Masked autoencoder (MADE): dense layers whose weight masks let each pixel depend only on earlier pixels.

    Pixel d has position o(d) in the ordering. Each hidden unit has a random degree m in 0 … D-2. Layers compute
    h = s((W ⊙ M) x + b) with the mask M = [m ≥ o(d)] for the first layer, [m′ ≥ m] between hidden layers and
    [o(d) > m] for the output. `direct` adds connections from pixels to pixels, masked by [o(d′) > o(d)]. With
    `hidden: []` only these remain: a fully visible sigmoid belief network (Frey et al. 1996).

    The weights are shared by `masks` sets of degrees. Their orderings are `raster`, one `random` ordering for all, or
    `several`, one random ordering for each set. Degrees and orderings are drawn from `mask_seed` and saved with the
    weights.

    Raises ValueError for sizes below 1, unknown names, or a model without any weights.
    """

    hidden: Sequence[nn.Linear]
    places: Tensor

    def __init__(
        self,
        shape: Shape,
        hidden: Sequence[int] = (1000,),
        *,
        direct: bool = True,
        masks: int = 1,
        orderings: Orderings = "raster",
        activation: Activation = "relu",
        mask_seed: int = 0,
        binarise: bool = True,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__(shape, binarise=binarise, noise=noise)
        check_positive("hidden", hidden)
        check_positive("masks", masks)
        if not hidden and not direct:
            raise ValueError("direct must be true if there are no hidden layers: the model would have no weights")
        self.sets, self.activation = masks, activation_layer(activation)
        layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise([self.pixels, *hidden]))
        self.hidden = cast("Sequence[nn.Linear]", layers)
        self.output = nn.Linear(hidden[-1], self.pixels, bias=False) if hidden else None
        self.direct = nn.Linear(self.pixels, self.pixels, bias=False) if direct else None
        rng = Rng(mask_seed).fork("masks")
        self.register_buffer("places", draw_orderings(orderings, self.pixels, masks, rng).int().contiguous())
        lowest = torch.zeros(masks, 1)
        for i, width in enumerate(hidden):
            # A degree below all degrees of the previous layer would leave the unit without inputs.
            degrees = lowest + rng.uniform(masks, width) * (self.pixels - 1 - lowest)
            self.register_buffer(f"degrees_{i}", degrees.int())
            lowest = degrees.floor().amin(1, keepdim=True)

    def degrees(self, which: Tensor) -> list[Tensor]:
        """Return a list for the set of degrees `which` [1]: pixel positions [D], then each hidden layer [H]."""
        layers = [getattr(self, f"degrees_{i}") for i in range(len(self.hidden))]
        # index_select leaves the set index on the device; indexing by a Python number would make the host wait for it.
        return [one.index_select(0, which).squeeze(0) for one in (self.places, *layers)]

    def logits(self, x: Tensor, which: Tensor) -> Tensor:
        places, *degrees = self.degrees(which)
        h, below = x, places
        for layer, own in zip(self.hidden, degrees, strict=True):
            h = self.activation(F.linear(h, apply_mask(layer.weight, own[:, None] >= below), layer.bias))
            below = own
        logits: Tensor = self.bias
        if self.output is not None:
            logits = logits + F.linear(h, apply_mask(self.output.weight, places[:, None] > below))
        if self.direct is not None:
            logits = logits + F.linear(x, apply_mask(self.direct.weight, places[:, None] > places))
        return logits

    def ancestral(self, thresholds: Tensor, which: Tensor) -> Tensor:
        """Sample pixels [N, D] at the cost of a single forward pass.

        Pixels and units are sorted by position and degree, so the inputs of a unit are a prefix of the layer below.
        Each unit is computed once, as soon as its last input has been sampled.
        """
        places, *degrees = self.degrees(which)
        order, pixels = places.argsort(), self.pixels
        layers, ends, columns = [], [], order
        for layer, own in zip(self.hidden, degrees, strict=True):
            rows = own.argsort()
            layers.append((layer.weight[rows][:, columns], layer.bias[rows, None]))
            ends.append([0, *torch.bincount(own, minlength=pixels).cumsum(0).tolist()])
            columns = rows
        output = None if self.output is None else self.output.weight[order][:, columns]
        direct = None if self.direct is None else self.direct.weight[order][:, order]
        bias, x = self.bias[order], thresholds.t()[order]
        units = [x, *(x.new_empty(len(weight), x.shape[1]) for weight, _ in layers)]
        for i in range(pixels):
            logit = bias[i]
            if output is not None:
                logit = logit + output[i, : ends[-1][i]] @ units[-1][: ends[-1][i]]
            if direct is not None:
                logit = logit + direct[i, :i] @ x[:i]
            # The pixel overwrites its threshold, which is no longer needed.
            x[i] = x[i] < logit
            seen = i + 1
            for (weight, offset), end, below, own in zip(layers, ends, units[:-1], units[1:], strict=True):
                new = slice(end[i], end[i + 1])
                if new.start < new.stop:
                    own[new] = self.activation(weight[new, :seen] @ below[:seen] + offset[new])
                seen = new.stop
        return x.t()[:, places]


def apply_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """Return the weights where the mask is true, 0 elsewhere."""
    return torch.where(mask, weight, 0.0)

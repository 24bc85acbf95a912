"""Belief nets of which every unit is visible: log p(x) is exact, pixel by pixel (Frey 1998; Germain et al. 2015)."""

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
from aectl.models.networks import Activation, Shape, activation_layer, positive
from aectl.rng import Rng

Orderings = Literal["raster", "random", "several"]
ORDERINGS = get_args(Orderings)
DARKEST = 1e-3
"""The least that the mean of a pixel counts for, or lacks to 1, where biases begin."""
SMALLEST = 2.0**-25
"""Half the distance between two of the rng's uniform numbers, in the place of 0."""
ROWS = 1000
"""Images drawn at a time, so that their units stay near the processor."""


class FullyVisible(Model):
    """Base of the nets that factorise log p(x) = Σ_i log p(x_i | x_<i) over binary pixels in some ordering.

    A model of several `sets`, of orderings or of masks, is their mixture, p(x) = 1/M Σ_m p_m(x): log p(x) is the
    logsumexp of the full log p_m(x) less log M. (Logits averaged pixel by pixel over orderings would let each pixel see
    all others, and sum to no 1.) Each training step descends -log p_m(x) of one set, drawn anew.

    `binarise` draws x ~ Bernoulli(pixels) anew at every step, which leaves binary pixels as they are. Noise corrupts
    what the conditionals see in training, as dropout would; never the pixels whose probability is asked for, and not
    in validation.
    """

    metrics: ClassVar = (
        Metric("one_set", "mean over the orderings of each one's own negative log-likelihood", unit="nats per image"),
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
        """Return the logits of p_m(x_i = 1 | x_<i), [N, D], of pixels [N, D]; `which` [1] is the set m."""
        raise NotImplementedError(f"{type(self).__name__} defines no logits")

    def ancestral(self, thresholds: Tensor, which: Tensor) -> Tensor:
        """Return pixels [N, D] drawn in the ordering of a set, each 1 where its logit exceeds its threshold [N, D]."""
        raise NotImplementedError(f"{type(self).__name__} defines no ancestral")

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set the output biases to the logits of the pixels' means over the training images, kept off 0 and 1."""
        sums = [(batch.x.flatten(1).sum(0), len(batch.x)) for batch in batches]
        mean = cast("Tensor", sum(total for total, _ in sums)) / sum(count for _, count in sums)
        self.bias.copy_(mean.clamp(DARKEST, 1 - DARKEST).logit())

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x̃ = Ñ(x); x itself where the run has no noise."""
        return x if self.noise is None else self.noise(x, rng)

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return what the likelihood is of: a binary draw of the pixels, or the pixels."""
        return rng.bernoulli(x) if self.binarise else x

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x = self.observe(batch.x, rng)
        yield Loss(self.nll(x, self.corrupt(x, rng), self.pick(1, rng.whole)).mean())

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Return `loss`, the mean of -log p(x) in nats, and of several sets `one_set`, that of their -log p_m(x)."""
        parts = self.log_probs(self.observe(batch.x, rng))
        loss = -mixture(parts).mean()
        return {"loss": loss} if self.sets == 1 else {"loss": loss, "one_set": -parts.mean()}

    def pick(self, n: int, rng: Rng) -> Tensor:
        """Draw the sets [n] of n images, or of as many steps; where there is one only, nothing is drawn."""
        if self.sets == 1:
            return torch.zeros(n, dtype=torch.int64, device=self.bias.device)
        return (rng.uniform(n) * self.sets).long().clamp_max(self.sets - 1)

    def nll(self, x: Tensor, seen: Tensor, which: Tensor) -> Tensor:
        """Return -log p_m(x) [N] in nats; the conditionals are given what is `seen` in the place of x."""
        logits = self.logits(seen.flatten(1), which).to(x.dtype)
        return F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none").sum(1)

    def log_probs(self, x: Tensor) -> Tensor:
        """Return log p_m(x) of binary images x for each set, [M, N] in nats."""
        sets = torch.arange(self.sets, device=x.device).split(1)
        return torch.stack([-self.nll(x, x, which) for which in sets])

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return the exact log p(x) [N] in nats of binary draws; a cross-entropy of grey pixels is told to be none."""
        x = self.observe(x, rng)
        binary = bool(((x == 0) | (x == 1)).all())
        kind, of = ("exact", "binary pixels") if binary else ("no likelihood", "grey pixels")
        return Score(mixture(self.log_probs(x)), kind, of)

    @torch.no_grad()
    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return n binary images [n, C, H, W], drawn exactly, each from one set; `temperature` divides the logits."""
        # u < sigmoid(s / T) where s > T logit(u), which holds at T = 0 as well: there the likelier value.
        thresholds = temperature * rng.uniform(n, self.pixels).clamp_min(SMALLEST).logit().to(self.bias)
        chosen = self.pick(n, rng)
        x = torch.empty_like(thresholds)
        for which in chosen.unique().split(1):
            for rows in (chosen == which).nonzero().squeeze(1).split(ROWS):
                x[rows] = self.ancestral(thresholds[rows], which)
        return x.view(n, *self.shape)


def mixture(parts: Tensor) -> Tensor:
    """Return log 1/M Σ_m p_m(x), [N], of log p_m(x) [M, N]."""
    return parts.logsumexp(0) - math.log(len(parts))


def orders(kind: str, pixels: int, count: int, rng: Rng) -> Tensor:
    """Return `count` orderings [count, D], the place of each pixel in them: of rows, one at random, or several.

    Raises ValueError for an unknown kind.
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
    """Masked autoencoder: dense layers, of whose weights masks leave what keeps each pixel's logit to earlier pixels.

    Pixel d has the place o(d) in the ordering, a hidden unit a degree m in 0 … D-2 drawn at random, and
    h = s((W ⊙ M) x + b) with M = [m ≥ o(d)], between hidden layers [m′ ≥ m], at the output [o(d) > m]; `direct` adds
    links from pixel to pixel, [o(d′) > o(d)]. `hidden: []` leaves those alone: the logistic autoregression that is the
    fully visible sigmoid belief net (Frey et al. 1996).

    `masks` sets of degrees share the weights; their orderings are `raster`, one at `random`, or `several`, one for each
    set, which makes the model agnostic of order. They follow from `mask_seed`, and are kept with the weights, which
    mean nothing without them.

    Raises ValueError for sizes below 1, unknown names, or a model without any weight.
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
        positive("hidden", hidden)
        positive("masks", masks)
        if not hidden and not direct:
            raise ValueError("without hidden layers a model has direct links or none at all: direct must be true")
        self.sets, self.activation = masks, activation_layer(activation)
        layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise([self.pixels, *hidden]))
        self.hidden = cast("Sequence[nn.Linear]", layers)
        self.output = nn.Linear(hidden[-1], self.pixels, bias=False) if hidden else None
        self.direct = nn.Linear(self.pixels, self.pixels, bias=False) if direct else None
        rng = Rng(mask_seed).fork("masks")
        self.register_buffer("places", orders(orderings, self.pixels, masks, rng).int().contiguous())
        lowest = torch.zeros(masks, 1)
        for i, width in enumerate(hidden):
            # A unit that no unit below it may reach would be a bias.
            degrees = lowest + rng.uniform(masks, width) * (self.pixels - 1 - lowest)
            self.register_buffer(f"degrees_{i}", degrees.int())
            lowest = degrees.floor().amin(1, keepdim=True)

    def degrees(self, which: Tensor) -> list[Tensor]:
        """Return the places of the pixels [D] and the degrees of each layer's units [H] in a set."""
        layers = [getattr(self, f"degrees_{i}") for i in range(len(self.hidden))]
        # A selection rather than an index: the host need not wait to know which.
        return [one.index_select(0, which).squeeze(0) for one in (self.places, *layers)]

    def logits(self, x: Tensor, which: Tensor) -> Tensor:
        places, *degrees = self.degrees(which)
        h, below = x, places
        for layer, own in zip(self.hidden, degrees, strict=True):
            h = self.activation(F.linear(h, masked(layer.weight, own[:, None] >= below), layer.bias))
            below = own
        logits: Tensor = self.bias
        if self.output is not None:
            logits = logits + F.linear(h, masked(self.output.weight, places[:, None] > below))
        if self.direct is not None:
            logits = logits + F.linear(x, masked(self.direct.weight, places[:, None] > places))
        return logits

    def ancestral(self, thresholds: Tensor, which: Tensor) -> Tensor:
        """Return pixels [N, D] drawn at the cost of one pass: with its last input drawn, each unit is computed once.

        With pixels and units sorted by place and degree, those that a unit may see come before all others.
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
            # Its threshold is no longer needed: the pixel takes its place.
            x[i] = x[i] < logit
            seen = i + 1
            for (weight, offset), end, below, own in zip(layers, ends, units[:-1], units[1:], strict=True):
                new = slice(end[i], end[i + 1])
                if new.start < new.stop:
                    own[new] = self.activation(weight[new, :seen] @ below[:seen] + offset[new])
                seen = new.stop
        return x.t()[:, places]


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """Return the weights where the mask holds, 0 elsewhere."""
    return torch.where(mask, weight, 0.0)

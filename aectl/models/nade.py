"""The neural autoregressive distribution estimator (Larochelle & Murray 2011)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aectl.models.made import FullyVisible, draw_orderings
from aectl.models.networks import Shape, check_positive
from aectl.rng import Rng

Elementwise = Callable[..., Tensor]

Ordering = Literal["raster", "random"]
Activation = Literal["sigmoid", "tanh", "relu"]
ACTIVATIONS: dict[str, tuple[Elementwise, Elementwise]] = {
    "sigmoid": (torch.sigmoid, torch.ops.aten.sigmoid_backward),
    "tanh": (torch.tanh, torch.ops.aten.tanh_backward),
    "relu": (torch.relu, lambda gradient, h: torch.ops.aten.threshold_backward(gradient, h, 0)),
}
"""For each name: the activation h = s(a), and its backward, which maps (∂L/∂h, h) to ∂L/∂a."""


class NADE(FullyVisible):
    """Neural autoregressive distribution estimator: p(x_i = 1 | x_<i) = σ(b_i + V_i · h_i).

    Each pixel i has a hidden layer h_i = s(c + Σ_{j<i} x_j W_j), and all share W [D, H]. The arguments of h_i and
    h_{i-1} differ by one row of W, so log p(x) costs O(D H). The pixel ordering is `raster`, or `random` from
    `order_seed`; it is saved with the weights.

    Raises ValueError for fewer than one hidden unit or an unknown name.
    """

    # bf16 is six times slower for these matrix-vector products, and its rounding errors accumulate over pixels.
    fp32_only = True

    places: Tensor

    def __init__(
        self,
        shape: Shape,
        hidden: int = 500,
        *,
        ordering: Ordering = "raster",
        activation: Activation = "sigmoid",
        order_seed: int = 0,
        binarise: bool = True,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__(shape, binarise=binarise, noise=noise)
        check_positive("hidden", hidden)
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation '{activation}': choose from {', '.join(ACTIVATIONS)}")
        if ordering not in get_args(Ordering):
            raise ValueError(f"ordering must be {' or '.join(get_args(Ordering))}, not '{ordering}'")
        self.activation = activation
        self.w, self.v = (nn.Parameter(torch.empty(self.pixels, hidden)) for _ in range(2))
        self.c = nn.Parameter(torch.zeros(hidden))
        for weight, inputs in ((self.w, self.pixels), (self.v, hidden)):
            nn.init.uniform_(weight, -(inputs**-0.5), inputs**-0.5)
        (places,) = draw_orderings(ordering, self.pixels, 1, Rng(order_seed).fork("masks"))
        self.register_buffer("places", places.clone())

    def logits(self, x: Tensor, which: Tensor) -> Tensor:
        order = self.places.argsort()
        # Rounding errors of half precision would accumulate over thousands of sums.
        with torch.autocast(x.device.type, enabled=False):
            scores = Conditionals.apply(x.to(self.w)[:, order], self.w[order], self.c, self.v[order], self.activation)
            return scores[:, self.places] + self.bias

    def ancestral(self, thresholds: Tensor, which: Tensor) -> Tensor:
        activate, _ = ACTIVATIONS[self.activation]
        x = thresholds.t().contiguous()
        a = self.c.repeat(x.shape[1], 1)
        for pixel in self.places.argsort().tolist():
            x[pixel] = x[pixel] < torch.mv(activate(a), self.v[pixel]) + self.bias[pixel]
            a.addr_(x[pixel], self.w[pixel])
        return x.t()


class Conditionals(torch.autograd.Function):
    """Compute V_i · s(c + Σ_{j<i} x_j W_j), [N, D], for ordered pixels x [N, D]; W and V are [D, H], c is [H].

    The backward pass runs from the last pixel to the first and subtracts x_i W_i from the sum, so that it stores O(N H)
    numbers instead of O(N D H). On a CPU this loop over single pixels is several times faster than one over chunks of
    pixels, because its N H numbers stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, c: Tensor, v: Tensor, activation: str) -> Tensor:
        activate, _ = ACTIVATIONS[activation]
        x = x.t().contiguous()
        scores, a = torch.empty_like(x), c.repeat(x.shape[1], 1)
        for i in range(len(x)):
            torch.mv(activate(a), v[i], out=scores[i])
            a.addr_(x[i], w[i])
        ctx.save_for_backward(x, w, v, a)
        ctx.activation = activation
        return scores.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        activate, backward = ACTIVATIONS[ctx.activation]
        x, w, v, a = ctx.saved_tensors
        gradient, a = gradient.t().contiguous(), a.clone()
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        to_w, to_v, to_a = torch.empty_like(w), torch.empty_like(v), torch.zeros_like(a)
        for i in range(len(x) - 1, -1, -1):
            # to_a sums the gradients of the hidden layers after pixel i, which are those that depend on it.
            torch.mv(to_a.t(), x[i], out=to_w[i])
            if to_x is not None:
                torch.mv(to_a, w[i], out=to_x[i])
            h = activate(a.addr_(x[i], w[i], alpha=-1))
            torch.mv(h.t(), gradient[i], out=to_v[i])
            to_a += backward(torch.outer(gradient[i], v[i]), h)
        return None if to_x is None else to_x.t(), to_w, to_a.sum(0), to_v, None

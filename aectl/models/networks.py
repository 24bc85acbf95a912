"""Encoders and decoders: the two maps f and g that the models are made of.

A YAML names a network without its sizes (`_partial_: true`); the model that receives it calls it with `shape`
(C, H, W) and `code`, the code's width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]

MOST_REPEATS = 1_000_000
"""Between two steps alone can training be stopped: one that repeats something more often would not end in a day."""

Activation = Literal["identity", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "softplus"]
Norm = Literal["none", "batch"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


def activation_layer(name: str | nn.Module) -> nn.Module:
    """Return the function s(·) called `name`, or given as a module; raises ValueError with the choices for no name."""
    if isinstance(name, nn.Module):
        return name
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation called '{name}', choose from {', '.join(ACTIVATIONS)}")
    return LeakyReLU() if name == "leaky_relu" else ACTIVATIONS[name]()


class LeakyReLU(nn.LeakyReLU):
    """Leaky rectifier with the slope that adversarial networks use, s(a) = max(a, 0.2 a) (Radford et al. 2016)."""

    def __init__(self) -> None:
        super().__init__(0.2)


class TopK(nn.Module):
    """Keeps the k largest units of each code and sets the others to 0; α k of them outside of training.

    Gradients flow through the kept units alone. Raises ValueError unless 1 ≤ k and α ≥ 1 and, when called, if the
    code has fewer than k units. Source: Makhzani & Frey 2013.
    """

    def __init__(self, k: int, alpha: float = 1.0) -> None:
        super().__init__()
        positive("k", k)
        if not 1 <= alpha < math.inf:
            raise ValueError(f"alpha must be a finite number ≥ 1, not {alpha}")
        self.k, self.alpha = k, float(alpha)

    def forward(self, h: Tensor) -> Tensor:
        """Return codes [N, code] with at most k units, or α k, that are not 0."""
        width = h.shape[1]
        if self.k > width:
            raise ValueError(f"k must be at most the {width} units of the code, not {self.k}")
        kept = self.k if self.training else min(round(self.alpha * self.k), width)
        largest = h.topk(kept, sorted=False)
        return torch.zeros_like(h).scatter(1, largest.indices, largest.values)


def positive(name: str, values: int | Sequence[int]) -> None:
    """Raise ValueError unless every size is at least 1."""
    sizes = [values] if isinstance(values, int) else list(values)
    if any(size < 1 for size in sizes):
        raise ValueError(f"{name} must be at least 1, not {values}")


def repeats(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless `value`, how often something is done within one step, lies in [least, MOST_REPEATS]."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    if value > MOST_REPEATS:
        raise ValueError(f"{name} must be at most {MOST_REPEATS:,}, not {value:,}")


class Encoder(nn.Module):
    """Images to codes in two parts, h = head(features(x)), so that dropout can stand just before the code layer."""

    body: nn.Module
    head: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Return what the code layer sees, [N, features], of images [N, C, H, W]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return codes [N, code] of images [N, C, H, W]."""
        return self.head(self.features(x))


class DenseEncoder(Encoder):
    """Dense layers, h = s_code(W_L … s(W_1 x + b_1) … + b_L); no widths: a single layer, as the lecture first has it.

    Raises ValueError for a width or code below 1 and for an unknown activation or norm.
    """

    def __init__(
        self,
        shape: Shape,
        code: int,
        widths: Sequence[int] = (),
        activation: Activation = "relu",
        code_activation: Activation | nn.Module = "identity",
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        positive("widths", widths)
        positive("code", code)
        sizes = [math.prod(shape), *widths]
        self.body = nn.Sequential(nn.Flatten(), *dense_layers(sizes, activation, norm))
        self.head = nn.Sequential(nn.Linear(sizes[-1], code), activation_layer(code_activation))


class DenseDecoder(nn.Module):
    """Dense layers from codes [N, code] to images [N, C, H, W] before their output function.

    Raises ValueError for a width or code below 1 and for an unknown activation or norm.
    """

    def __init__(
        self, shape: Shape, code: int, widths: Sequence[int] = (), activation: Activation = "relu", norm: Norm = "none"
    ) -> None:
        super().__init__()
        positive("widths", widths)
        positive("code", code)
        sizes = [code, *widths]
        self.layers = nn.Sequential(*dense_layers(sizes, activation, norm), nn.Linear(sizes[-1], math.prod(shape)))
        self.shape = tuple(shape)

    def forward(self, z: Tensor) -> Tensor:
        """Return pre-activation pixels [N, C, H, W] of codes [N, code]."""
        return self.layers(z).view(-1, *self.shape)


class ConvEncoder(Encoder):
    """Blocks of 3×3 convolution, activation and 2×2 max pooling, then a dense code layer.

    Source: lecture, "Deep Undercomplete Autoencoders". Raises ValueError for sizes below 1 or unknown names.
    """

    def __init__(
        self,
        shape: Shape,
        code: int,
        channels: Sequence[int] = (32, 64),
        activation: Activation = "relu",
        code_activation: Activation | nn.Module = "identity",
        norm: Norm = "none",
        pool: bool = True,
    ) -> None:
        super().__init__()
        positive("channels", channels)
        positive("code", code)
        blocks: list[nn.Module] = []
        planes = [shape[0], *channels]
        for before, after in pairwise(planes):
            # Without pooling the convolution itself takes every second pixel, as adversarial networks prefer.
            blocks += [nn.Conv2d(before, after, 3, stride=1 if pool else 2, padding=1)]
            blocks += norm_layers(norm, after, nn.BatchNorm2d)
            blocks += [activation_layer(activation)]
            blocks += [nn.MaxPool2d(2, ceil_mode=True)] if pool else []
        height, width = halvings(shape, len(channels))[-1]
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Sequential(nn.Linear(planes[-1] * height * width, code), activation_layer(code_activation))


class ConvDecoder(nn.Module):
    """A dense layer, then transposed convolutions that double the side, to pre-activation pixels [N, C, H, W].

    Works for any image side: each doubling is cut to the size that the encoder had there. Raises ValueError for
    sizes below 1 or unknown names.
    """

    def __init__(
        self,
        shape: Shape,
        code: int,
        channels: Sequence[int] = (64, 32),
        activation: Activation = "relu",
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        positive("channels", channels)
        positive("code", code)
        self.sizes = halvings(shape, len(channels))[::-1]
        height, width = self.sizes[0]
        self.start = (channels[0], height, width)
        self.dense = nn.Sequential(nn.Linear(code, math.prod(self.start)), activation_layer(activation))
        planes = [*channels, shape[0]]
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(planes)
        )
        self.between = nn.ModuleList(
            nn.Sequential(*norm_layers(norm, after, nn.BatchNorm2d), activation_layer(activation))
            for after in planes[1:-1]
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return pre-activation pixels [N, C, H, W] of codes [N, code]."""
        x = self.dense(z).view(-1, *self.start)
        for i, up in enumerate(self.ups):
            height, width = self.sizes[i + 1]
            x = up(x)[..., :height, :width]
            if i < len(self.between):
                x = self.between[i](x)
        return x


class TiedLinear(nn.Module):
    """A layer that uses another's weight transposed, y = Wᵀ h + b′, with a bias of its own."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.weight = source.weight
        self.bias = nn.Parameter(self.weight.new_zeros(source.in_features))

    def forward(self, h: Tensor) -> Tensor:
        """Return [N, in_features of the source] of [N, out_features of the source]."""
        return F.linear(h, self.weight.t(), self.bias)


def tie(encoder: nn.Module, decoder: nn.Module) -> None:
    """Give the decoder the encoder's weights transposed, W′ = Wᵀ, layer by layer from the code outwards.

    Raises ValueError unless both are dense and mirror each other.
    """
    down = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)]
    layers = decoder.layers if isinstance(decoder, DenseDecoder) else nn.Sequential()
    up = {i: layer for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)}
    mirrored = [(layer.out_features, layer.in_features) for layer in reversed(down)]
    if not up or mirrored != [(layer.in_features, layer.out_features) for layer in up.values()]:
        raise ValueError("tied weights need a dense decoder whose widths mirror the dense encoder's")
    for place, source in zip(up, reversed(down), strict=True):
        layers[place] = TiedLinear(source)


def dense_layers(sizes: Sequence[int], activation: str, norm: str) -> list[nn.Module]:
    """Return linear, norm and activation layers through all `sizes`."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), *norm_layers(norm, after, nn.BatchNorm1d), activation_layer(activation)]
    return layers


def norm_layers(name: str, width: int, batch_norm: type[nn.Module]) -> list[nn.Module]:
    """Return the normalisation called `name` for `width` features or channels, as a list of none or one layer."""
    if name not in get_args(Norm):
        raise ValueError(f"norm must be none or batch, not '{name}'")
    return [batch_norm(width)] if name == "batch" else []


def halvings(shape: Shape, times: int) -> list[tuple[int, int]]:
    """Return the image sides (height, width) at the start and after each of `times` halvings, rounded up."""
    sides = [(shape[1], shape[2])]
    for _ in range(times):
        height, width = sides[-1]
        sides.append(((height + 1) // 2, (width + 1) // 2))
    return sides

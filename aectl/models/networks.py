"""Encoders and decoders.

A YAML file configures a network without its sizes (`_partial_: true`); the model then calls it with `shape` (C, H, W)
and `code`, the size of the code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

Shape = tuple[int, int, int]

MAX_REPEATS = 1_000_000
"""Limit on repetitions within a training step. Training can be stopped only between steps, so a step must end."""

Activation = Literal["identity", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "softplus"]
Norm = Literal["none", "batch", "spectral"]

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
    """Return the activation layer called `name`; modules are returned as they are.

    Raises ValueError for an unknown name.
    """
    if isinstance(name, nn.Module):
        return name
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation '{name}': choose from {', '.join(ACTIVATIONS)}")
    return LeakyReLU() if name == "leaky_relu" else ACTIVATIONS[name]()


class LeakyReLU(nn.LeakyReLU):
    """Leaky ReLU with slope 0.2, as usual in GANs: s(a) = max(a, 0.2 a) (Radford et al. 2016)."""

    def __init__(self) -> None:
        super().__init__(0.2)


class TopK(nn.Module):
    """Keep the k largest units of each code and set the others to 0; in evaluation mode keep α k units.

    Gradients flow only through the kept units. Raises ValueError unless k ≥ 1 and α ≥ 1, and, when called, if the code
    has fewer than k units. Source: Makhzani & Frey 2013.
    """

    def __init__(self, k: int, alpha: float = 1.0) -> None:
        super().__init__()
        check_positive("k", k)
        if not 1 <= alpha < math.inf:
            raise ValueError(f"alpha must be a finite number ≥ 1, not {alpha}")
        self.k, self.alpha = k, float(alpha)

    def forward(self, h: Tensor) -> Tensor:
        """Return codes [N, code] with all but the k (or α k) largest units set to 0."""
        width = h.shape[1]
        if self.k > width:
            raise ValueError(f"k must be at most the {width} units of the code, not {self.k}")
        kept = self.k if self.training else min(round(self.alpha * self.k), width)
        largest = h.topk(kept, sorted=False)
        return torch.zeros_like(h).scatter(1, largest.indices, largest.values)


def check_positive(name: str, values: int | Sequence[int]) -> None:
    """Raise ValueError unless all values are at least 1."""
    sizes = [values] if isinstance(values, int) else list(values)
    if any(size < 1 for size in sizes):
        raise ValueError(f"{name} must be at least 1, not {values}")


def check_repeats(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless `value`, a number of repetitions within a step, lies in [least, MAX_REPEATS]."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    if value > MAX_REPEATS:
        raise ValueError(f"{name} must be at most {MAX_REPEATS:,}, not {value:,}")


class Encoder(nn.Module):
    """Base class of encoders, h = head(features(x)). The split allows dropout just before the code layer."""

    body: nn.Module
    head: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the code layer [N, features] for images [N, C, H, W]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return codes [N, code] of images [N, C, H, W]."""
        return self.head(self.features(x))


class DenseEncoder(Encoder):
    """Dense encoder, h = s_code(W_L … s(W_1 x + b_1) … + b_L); without `widths`, a single layer.

    `minibatch_std` appends the feature of `MinibatchStd` to the input of the last layer. Raises ValueError for a width
    or code below 1 and for an unknown activation or norm.
    """

    def __init__(
        self,
        shape: Shape,
        code: int,
        widths: Sequence[int] = (),
        activation: Activation = "relu",
        code_activation: Activation | nn.Module = "identity",
        norm: Norm = "none",
        minibatch_std: bool = False,
    ) -> None:
        super().__init__()
        check_positive("widths", widths)
        check_positive("code", code)
        sizes = [math.prod(shape), *widths]
        statistics = [MinibatchStd()] if minibatch_std else []
        self.body = nn.Sequential(nn.Flatten(), *dense_layers(sizes, activation, norm), *statistics)
        self.head = code_layers(sizes[-1] + len(statistics), code, code_activation, norm)


class DenseDecoder(nn.Module):
    """Dense decoder from codes [N, code] to images [N, C, H, W] before the output function.

    Raises ValueError for a width or code below 1 and for an unknown activation or norm.
    """

    def __init__(
        self, shape: Shape, code: int, widths: Sequence[int] = (), activation: Activation = "relu", norm: Norm = "none"
    ) -> None:
        super().__init__()
        check_positive("widths", widths)
        check_positive("code", code)
        sizes = [code, *widths]
        # In the order of the layers, which is that of their initial random numbers.
        layers = dense_layers(sizes, activation, norm)
        self.layers = nn.Sequential(*layers, normalise_weight(nn.Linear(sizes[-1], math.prod(shape)), norm))
        self.shape = tuple(shape)

    def forward(self, z: Tensor) -> Tensor:
        """Return pre-activation pixels [N, C, H, W] of codes [N, code]."""
        return self.layers(z).view(-1, *self.shape)


class ConvEncoder(Encoder):
    """Convolutional encoder: blocks of 3×3 convolution, activation and 2×2 max pooling, then a dense code layer.

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
        check_positive("channels", channels)
        check_positive("code", code)
        blocks: list[nn.Module] = []
        planes = [shape[0], *channels]
        for before, after in pairwise(planes):
            # Without pooling the convolution has stride 2, as usual in GANs.
            blocks += conv_layers(before, after, activation, norm, stride=1 if pool else 2)
            blocks += [nn.MaxPool2d(2, ceil_mode=True)] if pool else []
        height, width = halved_sizes(shape, len(channels))[-1]
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = code_layers(planes[-1] * height * width, code, code_activation, norm)


class ConvDecoder(nn.Module):
    """Convolutional decoder: a dense layer, then transposed convolutions, each of which doubles height and width.

    Returns pixels [N, C, H, W] before the output function. Works for any image size: each output is cropped to the size
    of the corresponding encoder layer. Raises ValueError for sizes below 1 or unknown names.
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
        check_positive("channels", channels)
        check_positive("code", code)
        self.sizes = halved_sizes(shape, len(channels))[::-1]
        height, width = self.sizes[0]
        self.start = (channels[0], height, width)
        self.dense = code_layers(code, math.prod(self.start), activation, norm)
        planes = [*channels, shape[0]]
        self.ups = nn.ModuleList(
            normalise_weight(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), norm)
            for before, after in pairwise(planes)
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


class StridedEncoder(Encoder):
    """Convolutional encoder for discriminators: each 3×3 convolution halves height and width, then dense layers.

    The first halving moves squares of 2×2 pixels into channels, because a convolution with few input channels uses a
    processor badly. `widths` are dense layers between the convolutions and the code layer. `minibatch_std` appends the
    channel of `MinibatchStd` to the last map. Raises ValueError for sizes below 1 or unknown names.
    """

    def __init__(
        self,
        shape: Shape,
        code: int,
        channels: Sequence[int] = (32, 64),
        widths: Sequence[int] = (256,),
        activation: Activation = "leaky_relu",
        code_activation: Activation | nn.Module = "identity",
        norm: Norm = "none",
        minibatch_std: bool = False,
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("widths", widths)
        check_positive("code", code)
        if not channels:
            raise ValueError("channels needs at least one number")
        blocks: list[nn.Module] = [FoldPixels(), *conv_layers(4 * shape[0], channels[0], activation, norm)]
        for before, after in pairwise(channels):
            blocks += conv_layers(before, after, activation, norm, 2)
        statistics = [MinibatchStd()] if minibatch_std else []
        height, width = halved_sizes(shape, len(channels))[-1]
        sizes = [(channels[-1] + len(statistics)) * height * width, *widths]
        self.body = nn.Sequential(*blocks, *statistics, nn.Flatten(), *dense_layers(sizes, activation, norm))
        self.head = code_layers(sizes[-1], code, code_activation, norm)
        # A step is 1.3 to 2 times as fast on a CPU as with the usual memory format, which weights decide here.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations


class SubpixelDecoder(nn.Module):
    """Convolutional decoder for generators: a dense layer, then layers that each double height and width.

    All doublings but the last are transposed convolutions. In the last, a 3×3 convolution makes four channels for each
    channel of the image, which become squares of 2×2 pixels (Shi et al. 2016): on a CPU it is several times as fast as
    a convolution at the full size. Returns pixels [N, C, H, W] before the output function, for any image size. Raises
    ValueError for sizes below 1 or unknown names.
    """

    def __init__(
        self,
        shape: Shape,
        code: int,
        channels: Sequence[int] = (64, 32),
        activation: Activation = "leaky_relu",
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        check_positive("channels", channels)
        check_positive("code", code)
        if not channels:
            raise ValueError("channels needs at least one number, that of the smallest map")
        smallest, *sizes = halved_sizes(shape, len(channels))[::-1]
        self.start = (channels[0], *smallest)
        self.dense = normalise_weight(nn.Linear(code, math.prod(self.start)), norm)
        blocks = [*norm_layers(norm, channels[0], nn.BatchNorm2d), activation_layer(activation)]
        for (before, after), size in zip(pairwise(channels), sizes, strict=False):
            up = normalise_weight(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), norm)
            blocks += [up, Crop(size), *norm_layers(norm, after, nn.BatchNorm2d), activation_layer(activation)]
        last = normalise_weight(nn.Conv2d(channels[-1], 4 * shape[0], 3, padding=1), norm)
        self.body = nn.Sequential(*blocks, last, nn.PixelShuffle(2), Crop(sizes[-1]))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations

    def forward(self, z: Tensor) -> Tensor:
        """Return pre-activation pixels [N, C, H, W] of codes [N, code]."""
        smallest = self.dense(z).view(-1, *self.start)
        return self.body(smallest.contiguous(memory_format=torch.channels_last))


class FoldPixels(nn.Module):
    """Move squares of 2×2 pixels into channels; images of odd sizes get a row or column of zeros first."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, 4 C, ⌈H/2⌉, ⌈W/2⌉] of images [N, C, H, W]."""
        height, width = x.shape[-2:]
        return F.pixel_unshuffle(F.pad(x, (0, width % 2, 0, height % 2)), 2)


class Crop(nn.Module):
    """Keep the first rows and columns of a map that was doubled in size."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, C, H, W] cropped to `size`."""
        return x[..., : self.size[0], : self.size[1]]


class MinibatchStd(nn.Module):
    """Append a feature that shows a discriminator how varied samples are (Karras et al. 2018).

    It is the standard deviation of each feature over a group of 4 consecutive images, averaged over the features. The
    last group is filled up with the first images of the batch. So processes that share a batch get the values of a
    single one if each one's share is a multiple of 4.
    """

    GROUP, EPSILON = 4, 1e-8

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, C, …] with another feature or channel, [N, C + 1, …]."""
        group = min(self.GROUP, len(x))
        filled = torch.cat([x, x[: -len(x) % group]]).unflatten(0, (-1, group))
        # The square root has no slope at 0.
        deviations = (filled.var(1, unbiased=False) + self.EPSILON).sqrt().flatten(1).mean(1)
        each = deviations[:, None].expand(-1, group).flatten()[: len(x)]
        return torch.cat([x, each.view(-1, *[1] * (x.dim() - 1)).expand(-1, 1, *x.shape[2:])], 1)


class TiedLinear(nn.Module):
    """Linear layer with the transposed weight of another layer and its own bias: y = Wᵀ h + b′."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.weight = source.weight
        self.bias = nn.Parameter(self.weight.new_zeros(source.in_features))

    def forward(self, h: Tensor) -> Tensor:
        """Return y [N, source.in_features] for h [N, source.out_features]."""
        return F.linear(h, self.weight.t(), self.bias)


def tie_weights(encoder: nn.Module, decoder: nn.Module) -> None:
    """Replace the decoder's linear layers by the transposed layers of the encoder, W′ = Wᵀ.

    Raises ValueError unless both are dense and the decoder's widths mirror the encoder's, and for spectral norm.
    """
    if any(is_parametrized(layer) for layer in (*encoder.modules(), *decoder.modules())):
        raise ValueError("tied weights need norm=none or batch")
    down = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)]
    layers = decoder.layers if isinstance(decoder, DenseDecoder) else nn.Sequential()
    up = {i: layer for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)}
    mirrored = [(layer.out_features, layer.in_features) for layer in reversed(down)]
    if not up or mirrored != [(layer.in_features, layer.out_features) for layer in up.values()]:
        raise ValueError("tied weights need a dense decoder whose widths mirror the dense encoder's")
    for place, source in zip(up, reversed(down), strict=True):
        layers[place] = TiedLinear(source)


def dense_layers(sizes: Sequence[int], activation: str, norm: str) -> list[nn.Module]:
    """Return the linear, normalisation and activation layers between consecutive `sizes`."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [normalise_weight(nn.Linear(before, after), norm), *norm_layers(norm, after, nn.BatchNorm1d)]
        layers += [activation_layer(activation)]
    return layers


def conv_layers(before: int, after: int, activation: str, norm: str, stride: int = 1) -> list[nn.Module]:
    """Return a 3×3 convolution with its normalisation and activation layers."""
    conv = normalise_weight(nn.Conv2d(before, after, 3, stride, padding=1), norm)
    return [conv, *norm_layers(norm, after, nn.BatchNorm2d), activation_layer(activation)]


def code_layers(before: int, after: int, activation: str | nn.Module, norm: str) -> nn.Sequential:
    """Return a linear layer and its activation; its weight is normalised if `norm` is spectral."""
    return nn.Sequential(normalise_weight(nn.Linear(before, after), norm), activation_layer(activation))


def normalise_weight(layer: nn.Module, norm: str) -> nn.Module:
    """Return the layer, if `norm` is spectral with its weight divided by an estimate of its largest singular value.

    Each step of training improves the estimate by a power iteration. Source: Miyato et al. 2018.
    """
    return spectral_norm(layer) if norm == "spectral" else layer


def norm_layers(name: str, width: int, batch_norm: type[nn.Module]) -> list[nn.Module]:
    """Return a list with the layer that normalises `width` features or channels; empty unless `name` is batch."""
    if name not in get_args(Norm):
        raise ValueError(f"norm must be none, batch or spectral, not '{name}'")
    return [batch_norm(width)] if name == "batch" else []


def has_batch_statistics(network: nn.Module) -> bool:
    """Return whether, in training, the output for an image depends on the other images of the batch."""
    return any(isinstance(layer, (_BatchNorm, MinibatchStd)) for layer in network.modules())


def halved_sizes(shape: Shape, times: int) -> list[tuple[int, int]]:
    """Return (height, width) of the image and after each of `times` halvings, rounded up."""
    sides = [(shape[1], shape[2])]
    for _ in range(times):
        height, width = sides[-1]
        sides.append(((height + 1) // 2, (width + 1) // 2))
    return sides

"""Stacked autoencoders: a deep classifier whose layers are first trained one after the other, each without labels.

Stacks of autoencoders, of denoising autoencoders and of restricted Boltzmann machines differ in their layers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Group, Loss, Mean, Model, Stage
from aectl.models.classifier import class_layer, cross_entropy, error, of_labelled
from aectl.models.networks import Shape, TiedLinear, positive
from aectl.rng import Rng

FINETUNE = Stage("finetune", labelled=True)
Number = TypeVar("Number", int, float)


class Layer(nn.Module):
    """One layer of a stack: s(W h + b) upwards, s(W′ h + b′) downwards, s the sigmoid, W′ = Wᵀ if `tied`.

    Weights start uniform on ±√(6 / (inputs + outputs)) (Glorot & Bengio 2010), biases at 0.
    """

    def __init__(self, inputs: int, outputs: int, tied: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(inputs, outputs)
        self.down = TiedLinear(self.up) if tied else nn.Linear(outputs, inputs)
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.dim() == 2 else nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        """Return codes [N, outputs] in [0, 1] of codes [N, inputs]."""
        return self.up(h).sigmoid()

    def decode(self, h: Tensor) -> Tensor:
        """Return codes [N, inputs] in [0, 1] of codes [N, outputs]."""
        return self.down(h).sigmoid()

    def reconstruction(self, clean: Tensor, seen: Tensor) -> Tensor:
        """Return the cross-entropy of `clean` with what comes back of `seen`, both [N, inputs] in [0, 1], in nats.

        -Σ h log ĥ + (1 - h) log(1 - ĥ), summed over units, averaged over the batch.
        """
        return F.binary_cross_entropy_with_logits(self.down(self(seen)), clean, reduction="sum") / len(clean)

    def loss(self, clean: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        """Return what this layer descends: it sees `seen`, the corruption of `clean`, both [N, inputs]."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss(clean, seen, rng)")


class AutoencoderLayer(Layer):
    """Learns to bring back the clean code from its corruption; without noise it is a plain autoencoder.

    Source: Vincent et al. 2010, sections 2.2 and 3.1, with sigmoid units and the cross-entropy.
    """

    def loss(self, clean: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        return self.reconstruction(clean, seen)


class RBMLayer(Layer):
    """A restricted Boltzmann machine trained by one step of contrastive divergence, F(v) - F(v′).

    F(v) = -b′ᵀv - Σⱼ log(1 + exp(Wⱼv + bⱼ)); v are the codes of the layer below taken as probabilities, v′ the
    probabilities of visible units given a draw of the hidden ones. The gradient, with v′ held fixed, is that of
    CD-1. Under noise it learns the distribution of corrupted codes. Weights start as N(0, 0.01²).
    Source: Hinton 2002; Hinton, Osindero & Teh 2006.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, tied=True)
        nn.init.normal_(self.up.weight, std=0.01)

    def free_energy(self, v: Tensor) -> Tensor:
        """Return F(v), [N] in nats up to a constant, of visible units [N, inputs]."""
        return -(v @ self.down.bias) - F.softplus(self.up(v)).sum(1)

    def loss(self, clean: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        with torch.no_grad():
            dreamt = self.decode(rng.bernoulli(self(seen)))
        return (self.free_energy(seen) - self.free_energy(dreamt)).mean()


class Finetuned(nn.Module):
    """What fine-tuning adds to a layer of a stack: s((W + ΔW) h + b + Δb), with ΔW and Δb 0 to begin with.

    A step of gradient descent on the difference is one on the weights; what was pretrained stays as it is.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(layer.up.weight))
        self.bias = nn.Parameter(torch.zeros_like(layer.up.bias))

    def forward(self, h: Tensor, layer: Layer) -> Tensor:
        """Return codes [N, outputs] in [0, 1] of codes [N, inputs], by the layer with what was added to it."""
        up = layer.up
        return F.linear(h, up.weight.detach() + self.weight, up.bias.detach() + self.bias).sigmoid()


class Stacked(Model):
    """Learns its layers greedily, then the classes: min -log p(y|x), p = softmax(V h_L + c), h_k = s(W_k h_(k-1) + b_k)
    from h_0 = x.

    In stage `layer_k` layer k alone is trained, on the clean codes h_(k-1) of the layers below; the noise corrupts
    what this layer sees, and nothing else. Stage `finetune` sees labelled images, without noise, and moves all W, b, V
    and c. The k-th layer is pretrained for `pretrain_epochs`[k] epochs at the rate `pretrain_lr`[k]; one number means
    all layers, and with 0 epochs everywhere the model is a plain multilayer perceptron. To the noise a code is an
    image of one row.

    Fine-tuned encoders no longer fit the decoders. Therefore the model keeps both: it encodes, decodes and
    reconstructs as pretrained, and classifies as fine-tuned.

    Raises ValueError for sizes, epochs or rates out of range, lists of another length than `widths`, or fewer than two
    classes. Source: Vincent et al. 2010, section 3.4; Bengio et al. 2007.
    """

    metrics: ClassVar = (
        Metric("error", "share of labelled images classified wrongly", "lower"),
        Metric("reconstruction_*", "error of this layer in reconstructing its input, a mean over images"),
    )
    objective = "val/error"
    loss_unit = "nats"
    layers: Sequence[Layer]

    def __init__(
        self,
        shape: Shape,
        classes: int,
        widths: Sequence[int],
        layer: Callable[..., Layer],
        *,
        pretrain_epochs: int | Sequence[int] = 10,
        pretrain_lr: float | Sequence[float] = 0.001,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        positive("widths", widths)
        if not widths:
            raise ValueError("widths must have a layer at least")
        self.shape, self.noise, self.code = tuple(shape), noise, widths[-1]
        self.names = [f"layer_{k}" for k in range(1, len(widths) + 1)]
        self.epochs = dict(zip(self.names, each("pretrain_epochs", pretrain_epochs, len(widths)), strict=True))
        self.learns_to_reconstruct = any(self.epochs.values())
        self.rates = dict(zip(self.names, each("pretrain_lr", pretrain_lr, len(widths)), strict=True))
        self.flatten = nn.Flatten()
        layers = nn.ModuleList(layer(inputs=a, outputs=b) for a, b in pairwise([math.prod(shape), *widths]))
        self.layers = cast("Sequence[Layer]", layers)
        self.finetuned = nn.ModuleList(Finetuned(one) for one in self.layers)
        self.head = class_layer(widths[-1], classes)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes h_L of the top layer as pretrained, [N, code] in [0, 1]."""
        return self.flatten(self.below(x, len(self.layers)))

    def decode(self, z: Tensor) -> Tensor:
        """Return images [N, C, H, W] in [0, 1] of codes [N, code], down through the layers."""
        for layer in reversed(self.layers):
            z = layer.decode(z)
        return z.view(-1, *self.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return images up and down again through the layers as pretrained, [N, C, H, W] in [0, 1]."""
        return self.decode(self.encode(x))

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits of the classes, [N, classes], of images [N, C, H, W]."""
        h = self.flatten(x)
        for layer, finetuned in zip(self.layers, self.finetuned, strict=True):
            h = finetuned(h, layer)
        return self.head(h)

    def below(self, x: Tensor, k: int) -> Tensor:
        """Return what layer k, from 0, has below it: the images x, or codes as images of one row, [N, 1, 1, width]."""
        for layer in self.layers[:k]:
            x = layer(self.flatten(x))[:, None, None]
        return x

    def corrupt(self, h: Tensor, rng: Rng) -> Tensor:
        """Return h̃ = Ñ(h); h itself where the run has no noise."""
        return h if self.noise is None else self.noise(h, rng)

    def stages(self) -> Iterator[Stage]:
        for name, epochs in self.epochs.items():
            if epochs:
                yield Stage(name, epochs)
        yield FINETUNE

    def groups(self, stage: Stage) -> dict[str, Group]:
        if stage.name in self.names:
            layer = self.layers[self.names.index(stage.name)]
            return {"model": Group(layer.parameters(), {"lr": self.rates[stage.name]})}
        return {"model": Group([*self.finetuned.parameters(), *self.head.parameters()])}

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        if stage.name in self.names:
            yield Loss(self.pretraining(batch.x, self.names.index(stage.name), rng))
            return
        logits = self.classify(batch.x).float()
        yield Loss(cross_entropy(logits, batch.y), metrics={"error": error(logits, batch.y)})

    def pretraining(self, x: Tensor, k: int, rng: Rng) -> Tensor:
        """Return the loss of layer k, from 0, on the clean codes of the layers below it."""
        with torch.no_grad():
            clean = self.below(x, k)
            seen = self.corrupt(clean, rng)
        return self.layers[k].loss(self.flatten(clean), self.flatten(seen), rng)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor | Mean]:
        metrics, h = {}, self.flatten(batch.x)
        for k, layer in enumerate(self.layers, 1):
            metrics[f"reconstruction_{k}"] = layer.reconstruction(h, h)
            h = layer(h)
        logits = self.classify(batch.x).float()
        measured = {"loss": cross_entropy(logits, batch.y), "error": error(logits, batch.y)}
        return {**{name: of_labelled(value, batch.y) for name, value in measured.items()}, **metrics}


def each(name: str, value: Number | Sequence[Number], layers: int) -> list[Number]:
    """Return a number for each layer from one for all or a list of them; raises ValueError unless all are ≥ 0."""
    values = list(value) if isinstance(value, Sequence) else [value] * layers
    if len(values) != layers:
        raise ValueError(f"{name} must be one number or {layers}, one a layer, not {values}")
    if any(not 0 <= one < math.inf for one in values):
        raise ValueError(f"{name} must be finite numbers ≥ 0, not {value}")
    return values

"""Stacked autoencoders: deep classifiers with greedy layer-wise pretraining without labels.

Stacks of autoencoders, denoising autoencoders and RBMs differ only in the class of their layers.
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
from aectl.models.classifier import class_layer, cross_entropy, error, mean_over_labelled
from aectl.models.networks import Shape, TiedLinear, check_positive
from aectl.rng import Rng

FINETUNE = Stage("finetune", labelled=True)
Number = TypeVar("Number", int, float)


class Layer(nn.Module):
    """Base class of stack layers: s(W h + b) upwards, s(W′ h + b′) downwards, s the sigmoid, W′ = Wᵀ if `tied`.

    Initial weights are uniform on ±√(6 / (inputs + outputs)) (Glorot & Bengio 2010), initial biases 0.
    """

    def __init__(self, inputs: int, outputs: int, tied: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(inputs, outputs)
        self.down = TiedLinear(self.up) if tied else nn.Linear(outputs, inputs)
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.dim() == 2 else nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        """Return codes [N, outputs] in [0, 1] for inputs [N, inputs]."""
        return self.up(h).sigmoid()

    def decode(self, h: Tensor) -> Tensor:
        """Return reconstructed inputs [N, inputs] in [0, 1] for codes [N, outputs]."""
        return self.down(h).sigmoid()

    def reconstruction(self, clean: Tensor, seen: Tensor) -> Tensor:
        """Return the cross-entropy in nats between `clean` and the reconstruction of `seen`, both [N, inputs].

        -Σ h log ĥ + (1 - h) log(1 - ĥ), with h in [0, 1], summed over units and averaged over the batch.
        """
        return F.binary_cross_entropy_with_logits(self.down(self(seen)), clean, reduction="sum") / len(clean)

    def loss(self, clean: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        """Return the pretraining loss, given inputs `clean` and their corruption `seen`, both [N, inputs]."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss(clean, seen, rng)")


class AutoencoderLayer(Layer):
    """Denoising autoencoder layer; a plain autoencoder layer if the run has no noise.

    Source: Vincent et al. 2010, sections 2.2 and 3.1, with sigmoid units and cross-entropy.
    """

    def loss(self, clean: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        return self.reconstruction(clean, seen)


class RBMLayer(Layer):
    """RBM layer, trained by one step of contrastive divergence: the loss is F(v) - F(v′).

    F(v) = -b′ᵀv - Σⱼ log(1 + exp(Wⱼv + bⱼ)). v are the codes of the layer below, taken as probabilities. v′ are the
    probabilities of the visible units given sampled hidden units, and constant for the gradient, which is that of
    CD-1. With noise, the layer models corrupted codes. Initial weights are N(0, 0.01²). Source: Hinton 2002; Hinton,
    Osindero & Teh 2006.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, tied=True)
        nn.init.normal_(self.up.weight, std=0.01)

    def free_energy(self, v: Tensor) -> Tensor:
        """Return F(v), [N] in nats up to a constant, of visible units v [N, inputs]."""
        return -(v @ self.down.bias) - F.softplus(self.up(v)).sum(1)

    def loss(self, clean: Tensor, seen: Tensor, rng: Rng) -> Tensor:
        with torch.no_grad():
            negative = self.decode(rng.bernoulli(self(seen)))
        return (self.free_energy(seen) - self.free_energy(negative)).mean()


class Finetuned(nn.Module):
    """Changes ΔW and Δb of a layer by fine-tuning, initially 0: s((W + ΔW) h + b + Δb).

    A gradient step on ΔW equals one on W + ΔW, while the pretrained W stays unchanged.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(layer.up.weight))
        self.bias = nn.Parameter(torch.zeros_like(layer.up.bias))

    def forward(self, h: Tensor, layer: Layer) -> Tensor:
        """Return codes [N, outputs] in [0, 1] of the fine-tuned layer for inputs [N, inputs]."""
        up = layer.up
        return F.linear(h, up.weight.detach() + self.weight, up.bias.detach() + self.bias).sigmoid()


class Stacked(Model):
    """Classifier whose layers are pretrained greedily: min -log p(y|x), p = softmax(V h_L + c).

    h_k = s(W_k h_(k-1) + b_k), h_0 = x, s the sigmoid.

    Stage `layer_k` trains only layer k, on the clean codes h_(k-1) of the layers below; noise corrupts only the input
    of layer k, as an image of one row. Stage `finetune` trains all W, b, V and c on labelled images without noise.
    Layer k is pretrained for `pretrain_epochs`[k] epochs with learning rate `pretrain_lr`[k]; a single number applies
    to all layers. With 0 epochs the model is a plain multilayer perceptron.

    Fine-tuned encoders no longer match the decoders, so the model keeps both: encode, decode and reconstruct use the
    pretrained layers, and classify uses the fine-tuned ones.

    Raises ValueError for sizes, epochs or rates out of range, lists whose length differs from that of `widths`, or
    fewer than two classes. Source: Vincent et al. 2010, section 3.4; Bengio et al. 2007.
    """

    metrics: ClassVar = (
        Metric("error", "share of labelled images classified wrongly", "lower"),
        Metric("reconstruction_*", "reconstruction error of this layer, mean over images"),
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
        check_positive("widths", widths)
        if not widths:
            raise ValueError("widths must list at least one layer")
        self.shape, self.noise, self.code = tuple(shape), noise, widths[-1]
        self.names = [f"layer_{k}" for k in range(1, len(widths) + 1)]
        self.epochs = dict(
            zip(self.names, expand_to_layers("pretrain_epochs", pretrain_epochs, len(widths)), strict=True)
        )
        self.learns_to_reconstruct = any(self.epochs.values())
        self.rates = dict(zip(self.names, expand_to_layers("pretrain_lr", pretrain_lr, len(widths)), strict=True))
        self.flatten = nn.Flatten()
        layers = nn.ModuleList(layer(inputs=a, outputs=b) for a, b in pairwise([math.prod(shape), *widths]))
        self.layers = cast("Sequence[Layer]", layers)
        self.finetuned = nn.ModuleList(Finetuned(one) for one in self.layers)
        self.head = class_layer(widths[-1], classes)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes h_L of the pretrained top layer, [N, code] in [0, 1]."""
        return self.flatten(self.layer_input(x, len(self.layers)))

    def decode(self, z: Tensor) -> Tensor:
        """Return images [N, C, H, W] in [0, 1] for codes [N, code], decoded by the pretrained layers."""
        for layer in reversed(self.layers):
            z = layer.decode(z)
        return z.view(-1, *self.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstructions [N, C, H, W] in [0, 1] of the pretrained layers."""
        return self.decode(self.encode(x))

    def classify(self, x: Tensor) -> Tensor:
        """Return class logits [N, classes] of the fine-tuned layers for images [N, C, H, W]."""
        h = self.flatten(x)
        for layer, finetuned in zip(self.layers, self.finetuned, strict=True):
            h = finetuned(h, layer)
        return self.head(h)

    def layer_input(self, x: Tensor, k: int) -> Tensor:
        """Return the input of layer k, from 0: the images x, or codes as one-row images [N, 1, 1, width]."""
        for layer in self.layers[:k]:
            x = layer(self.flatten(x))[:, None, None]
        return x

    def corrupt(self, h: Tensor, rng: Rng) -> Tensor:
        """Return the corrupted Ñ(h), or h if the run has no noise."""
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
            yield Loss(self.pretraining_loss(batch.x, self.names.index(stage.name), rng))
            return
        logits = self.classify(batch.x).float()
        yield Loss(cross_entropy(logits, batch.y), metrics={"error": error(logits, batch.y)})

    def pretraining_loss(self, x: Tensor, k: int, rng: Rng) -> Tensor:
        """Return the pretraining loss of layer k, from 0."""
        with torch.no_grad():
            clean = self.layer_input(x, k)
            seen = self.corrupt(clean, rng)
        return self.layers[k].loss(self.flatten(clean), self.flatten(seen), rng)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor | Mean]:
        metrics, h = {}, self.flatten(batch.x)
        for k, layer in enumerate(self.layers, 1):
            metrics[f"reconstruction_{k}"] = layer.reconstruction(h, h)
            h = layer(h)
        logits = self.classify(batch.x).float()
        measured = {"loss": cross_entropy(logits, batch.y), "error": error(logits, batch.y)}
        return {**{name: mean_over_labelled(value, batch.y) for name, value in measured.items()}, **metrics}


def expand_to_layers(name: str, value: Number | Sequence[Number], layers: int) -> list[Number]:
    """Return a list with one number for each layer; raises ValueError for a wrong length or negative numbers."""
    values = list(value) if isinstance(value, Sequence) else [value] * layers
    if len(values) != layers:
        raise ValueError(f"{name} must be a number, or a list of {layers}, not {values}")
    if any(not 0 <= one < math.inf for one in values):
        raise ValueError(f"{name} must be finite numbers ≥ 0, not {value}")
    return values

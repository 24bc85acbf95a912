"""Restricted Boltzmann machines (lecture, "Boltzmann Machines"; Smolensky 1986, Hinton 2002)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Partition, Score, Stage
from aectl.models.networks import Shape, check_repeats
from aectl.models.partition import CHAINS, ais, enumerate_log_z, is_enumerable, mean_to_bias, reverse_ais
from aectl.parallel import average
from aectl.rng import Rng

Binarise = Literal["draw", "threshold"]
BINARISE = get_args(Binarise)
PROBES = 10
"""Random pixels of each image from which the pseudo-likelihood is estimated."""
MIN_TEMPERATURE = 1e-6
"""Replaces a temperature of 0, at which a unit takes its more probable state."""

PSEUDO_NLL = Metric("pseudo_nll", "negative pseudo-log-likelihood of the binary pixels", unit="nats per image")
FREE_ENERGY = Metric("energy", "mean free energy of the images", "lower", "nats")


class RBM(Model):
    """Restricted Boltzmann machine over binary pixels v and binary hidden units h: p(v, h) = exp(-E(v, h)) / Z.

    E(v, h) = -(v - μ)·b - (h - λ)·c - (h - λ)ᵀ W (v - μ), so p(h = 1|v) = s(c + W (v - μ)) and p(v = 1|h) =
    s(b + Wᵀ (h - λ)), s the logistic function. F(v) is the free energy, i.e. h summed out.

    The loss is the mean F(v) of the data minus the mean F(v_k) of model samples v_k. Its gradient is that of
    contrastive divergence; for W, -(<(h - λ)(v - μ)ᵀ>_data - <(h - λ)(v - μ)ᵀ>_k). The v_k come from `steps` steps of
    Gibbs sampling. With `persistent` = 0 these start from the data (CD-k, Hinton 2002), otherwise from that many chains
    which persist between batches (PCD, Tieleman 2008). `weight_decay` d adds d/2 Σ W².

    With `centring` ν > 0, μ is the mean of the training images and λ tracks the mean of the hidden units,
    λ ← (1 - ν) λ + ν <h>, with b ← b + ν Wᵀ (<h> - λ), which keeps p(v, h) unchanged (Montavon & Müller 2012; Melchior
    et al. 2016). With ν = 0 both are zero. Grey pixels are binarised at every step, by a random `draw` or by a
    `threshold` of 0.5; noise is applied before that.

    The best checkpoint minimises the negative pseudo-log-likelihood -Σ_i log p(v_i|others) of held-out images in nats,
    estimated from PROBES pixels of each. p(v) itself needs the unknown Z, and the loss, a difference of two decreasing
    energies, does not measure the fit. Raises ValueError for numbers out of range.
    """

    metrics: ClassVar = (PSEUDO_NLL, FREE_ENERGY)
    metric_settings: ClassVar = {"pseudo_nll": ("binarise",)}
    objective = "val/pseudo_nll"
    loss_unit = "nats"
    nll_metric = "val/pseudo_nll"

    mean: Tensor
    visible_offset: Tensor
    hidden_offset: Tensor
    chains: Tensor
    centring: Tensor
    weight_decay: Tensor

    def __init__(
        self,
        shape: Shape,
        hidden: int,
        *,
        steps: int = 1,
        persistent: int = 100,
        centring: float = 0.01,
        weight_decay: float = 0.0,
        binarise: Binarise = "draw",
        sample_steps: int = 200,
        temperatures: int = 1000,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value, smallest in (("hidden", hidden, 1), ("persistent", persistent, 0)):
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, not {value}")
        check_repeats("steps", steps)
        check_repeats("sample_steps", sample_steps)
        check_repeats("temperatures", temperatures, 2)
        if not 0 <= centring <= 1:
            raise ValueError(f"centring must lie in [0, 1], not {centring}")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a finite number ≥ 0, not {weight_decay}")
        if binarise not in BINARISE:
            raise ValueError(f"binarise must be {' or '.join(BINARISE)}, not '{binarise}'")
        self.shape, self.code, self.steps, self.noise = tuple(shape), hidden, steps, noise
        self.binarise, self.sample_steps, self.temperatures = binarise, sample_steps, temperatures
        pixels = math.prod(shape)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden))
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.hidden_bias)
        self.visible_bias = nn.Parameter(torch.zeros(pixels))
        self.is_centred = centring > 0
        self.register_buffer("mean", torch.full((pixels,), 0.5))
        self.register_buffer("visible_offset", torch.full((pixels,), 0.5 * self.is_centred))
        self.register_buffer("hidden_offset", torch.full((hidden,), 0.5 * self.is_centred))
        self.register_buffer("chains", nn.init.uniform_(torch.empty(persistent, pixels)).round())
        self.register_buffer("centring", torch.tensor(float(centring)), persistent=False)
        self.register_buffer("weight_decay", torch.tensor(float(weight_decay)), persistent=False)
        self.known: tuple[Tensor, Partition] | None = None

    @property
    def weight(self) -> nn.Parameter:
        """Weights W, [hidden, pixels]."""
        return cast("nn.Parameter", cast("nn.Linear", self.encoder[1]).weight)

    @property
    def hidden_bias(self) -> nn.Parameter:
        """Hidden biases c, [hidden]."""
        return cast("nn.Linear", self.encoder[1]).bias

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set μ to the mean of the training images and b to its logit."""
        total, count = torch.zeros_like(self.mean), 0
        for batch in batches:
            total, count = total + self.expected(batch.x).flatten(1).sum(0), count + len(batch.x)
        self.mean.copy_(total / count)
        self.visible_bias.copy_(mean_to_bias(self.mean))
        if self.is_centred:
            self.visible_offset.copy_(self.mean)

    def expected(self, x: Tensor) -> Tensor:
        """Return the means of the binarised pixels."""
        return (x >= 0.5).to(x) if self.binarise == "threshold" else x

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x binarised, at random or by a threshold, as `binarise` says."""
        return self.expected(x) if self.binarise == "threshold" else rng.bernoulli(x)

    def inputs(self, v: Tensor) -> Tensor:
        """Return the hidden logits c + W (v - μ), [N, hidden], of pixels v [N, …]."""
        return self.encoder(v.flatten(1) - self.visible_offset).float()

    def outputs(self, h: Tensor) -> Tensor:
        """Return the pixel logits b + Wᵀ (h - λ), [N, pixels], of hidden units h [N, hidden]."""
        return F.linear(h - self.hidden_offset, self.weight.T, self.visible_bias).float()

    def biases(self) -> tuple[Tensor, Tensor]:
        """Return the pixel and hidden biases of the same distribution without offsets μ and λ."""
        return (
            self.visible_bias - self.hidden_offset @ self.weight,
            self.hidden_bias - self.weight @ self.visible_offset,
        )

    def free_energy(self, v: Tensor, inputs: Tensor) -> Tensor:
        """Return F(v) = -v·(b - Wᵀ λ) - Σ_j log(1 + exp(c + W (v - μ))_j), [N], given v and its hidden logits."""
        return -(v.flatten(1) * self.biases()[0]).sum(1) - F.softplus(inputs).sum(1)

    def energy(self, x: Tensor) -> Tensor:
        """Return the free energies F(x), [N] in nats, up to log Z."""
        return self.free_energy(x, self.inputs(x))

    @torch.no_grad()
    def gibbs(self, v: Tensor, steps: int, rng: Rng, temperature: float = 1.0) -> Tensor:
        """Return the pixels [N, pixels] after `steps` steps of h ~ p(h|v), v ~ p(v|h), at the given temperature."""
        for _ in range(steps):
            h = rng.bernoulli((self.inputs(v) / temperature).sigmoid())
            v = rng.bernoulli((self.outputs(h) / temperature).sigmoid())
        return v

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x = batch.x if self.noise is None else self.noise(batch.x, rng)
        v = self.observe(x, rng).flatten(1)
        if len(self.chains):
            v_k = self.gibbs(self.chains, self.steps, rng.whole)
            self.chains.copy_(v_k)
        else:
            v_k = self.gibbs(v, self.steps, rng)
        inputs = self.inputs(v)
        energies = self.free_energy(v, inputs).mean(), self.energy(v_k).mean()
        metrics = {"energy": energies[0], "pseudo_nll": self.pseudo_nll(v, inputs, rng, 1)}
        yield Loss(energies[0] - energies[1] + self.decay(), metrics=metrics)
        if self.is_centred:
            self.update_offsets(average(inputs.detach().sigmoid().mean(0)))

    @torch.no_grad()
    def update_offsets(self, hidden_mean: Tensor) -> None:
        """Move λ towards the mean activity [hidden], with a change of b that keeps the distribution unchanged."""
        change = self.centring * (hidden_mean - self.hidden_offset)
        self.hidden_offset += change
        self.visible_bias.add_(change @ self.weight)

    def decay(self) -> Tensor:
        """Return the weight decay term, d/2 Σ W²."""
        return 0.5 * self.weight_decay * self.weight.square().sum()

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        v = self.observe(batch.x, rng).flatten(1)
        v_k = self.chains if len(self.chains) else self.gibbs(v, self.steps, rng)
        inputs = self.inputs(v)
        energy, pseudo_nll = self.free_energy(v, inputs).mean(), self.pseudo_nll(v, inputs, rng, PROBES)
        loss = energy - self.energy(v_k).mean() + self.decay()
        mse = F.mse_loss(self.reconstruct(batch.x), batch.x)
        return {"pseudo_nll": pseudo_nll, "loss": loss, "energy": energy, "mse": mse}

    @torch.no_grad()
    def pseudo_nll(self, v: Tensor, inputs: Tensor, rng: Rng, probes: int) -> Tensor:
        """Return the mean of -Σ_i log p(v_i|others) in nats, estimated from `probes` random pixels of each image.

        p(v_i|others) = s(F(v with pixel i flipped) - F(v)). Source: Besag 1975.
        """
        bias, before = self.biases()[0], F.softplus(inputs).sum(1)
        terms = []
        for i in (rng.uniform(probes, len(v), batch=1) * v.shape[1]).long():
            flip = 1 - 2 * v.gather(1, i[:, None]).squeeze(1)
            after = F.softplus(inputs + flip[:, None] * self.weight.T[i]).sum(1)
            terms.append(F.softplus(flip * bias[i] + after - before))
        return v.shape[1] * torch.stack(terms).mean()

    def encode(self, x: Tensor) -> Tensor:
        """Return p(h = 1|v = x), [N, hidden]."""
        return self.inputs(x).sigmoid()

    def decode(self, z: Tensor) -> Tensor:
        """Return p(v = 1|h = z), [N, C, H, W]."""
        return self.outputs(z).sigmoid().unflatten(1, self.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return p(v = 1|h) at the means of p(h|v = x), [N, C, H, W]."""
        return self.decode(self.encode(x))

    def start(self, n: int, *, rng: Rng) -> Tensor:
        """Return n images [n, C, H, W] of independent pixels, each image with its own p(pixel = 1) ~ U(0, 1)."""
        return rng.bernoulli(rng.uniform(n, 1, 1, 1).expand(-1, *self.shape))

    def walk(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the images [N, C, H, W] after one step of Gibbs sampling."""
        return self.gibbs(x, 1, rng).view_as(x)

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return p(v = 1|h) after `sample_steps` steps of Gibbs sampling, for n chains.

        The chains start from independent pixels with the means of the training images, which converges faster than
        `start`. `temperature` T samples from p(v, h)^(1/T).
        """
        temperature = max(temperature, MIN_TEMPERATURE)
        v = self.gibbs(self.independent(n, rng), self.sample_steps - 1, rng, temperature)
        h = rng.bernoulli((self.inputs(v) / temperature).sigmoid())
        return (self.outputs(h) / temperature).sigmoid().unflatten(1, self.shape)

    def independent(self, n: int, rng: Rng) -> Tensor:
        """Sample independent pixels [n, pixels] with the means of the training images."""
        return rng.bernoulli(self.mean.expand(n, -1))

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return the exact log Z if a layer is small enough, then AIS and reverse AIS over `temperatures` steps."""
        return list(self.partitions(rng))

    def partitions(self, rng: Rng) -> Iterator[Partition]:
        """Yield log Z by each method. Reverse AIS starts from chains of `temperatures` Gibbs steps."""
        energy = (self.weight, *self.biases())
        if is_enumerable(self.weight):
            yield enumerate_log_z(*energy)
        how: dict[str, Any] = {"rng": rng, "base_bias": mean_to_bias(self.mean), "betas": self.temperatures}
        yield ais(*energy, **how)
        states = self.gibbs(self.independent(CHAINS, rng), self.temperatures, rng)
        yield reverse_ais(*energy, states, **how)

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return -F(v) - log Z, [N] in nats, of binarised images v: 'exact' if log Z is, else an 'estimate' by AIS.

        log Z is cached until the weights change, so later calls do not use their random numbers for it.
        """
        weights = torch.cat([part.flatten() for part in (self.weight, *self.biases())]).cpu()
        if self.known is None or not torch.equal(self.known[0], weights):
            self.known = weights, next(self.partitions(rng))
        log_z = self.known[1]
        kind = "exact" if log_z.kind == "exact" else "estimate"
        return Score(-self.energy(self.observe(x, rng)) - log_z.value, kind, log_z.of)

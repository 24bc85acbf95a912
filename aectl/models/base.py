"""What a model is to the trainer, and what it may be able to do for everybody else.

A model yields named losses; the trainer steps the named group's optimizer at each yield. What a model can do besides
is a set of abilities: protocols of methods, asked for with `isinstance`, never by the model's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from aectl.metric import Metric
from aectl.rng import Rng

METHODS = ("encode", "decode", "reconstruct", "sample", "log_prob", "classify", "energy")
"""What a model may be able to do, by the method; see the protocols below."""


class Batch(NamedTuple):
    """Examples that travel together."""

    x: Tensor
    """Images [N, C, H, W], pixels in [0, 1]."""
    y: Tensor
    """Classes [N], int64; -1 where there is no label."""
    index: Tensor  # type: ignore[assignment]  # of a tuple's own `index` a batch has no need
    """Positions in the source [N], int64."""


class Loss(NamedTuple):
    """A scalar to descend, the group of parameters that descends it, and what to log beside it."""

    value: Tensor
    group: str = "model"
    metrics: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimizer, with settings (lr, betas, …) that replace the run's."""

    params: Iterable[nn.Parameter]
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A phase of training with optimizers of its own.

    `epochs=None` means the run's epochs; a `labelled` stage sees only the training images that have a label.
    """

    name: str = "fit"
    epochs: int | None = None
    labelled: bool = False


class Mean(NamedTuple):
    """A metric that is a mean over `count` of a batch's images, such as those with a label; of none it says nothing."""

    value: Tensor
    count: int  # type: ignore[assignment]  # of a tuple's own `count` a mean has no need


class Model(nn.Module):
    """Base of all models: the four methods that the trainer calls.

    A subclass's constructor names what it needs of the run: `shape` (C, H, W), `classes`, `noise`, `penalty`; the rest
    of its arguments are the keys of its YAML.
    """

    code: int
    """The size of a code, of a model that has codes."""

    objective: str = "val/loss"
    """The metric that 'best', early stopping and searches minimise."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("loss", "what training minimises, a mean over images", "lower"),
        Metric("mse", "mean squared error per pixel", "lower"),
    )
    """Descriptions of what `losses` and `validate` return. A subclass adds its own; those of its bases hold too."""

    metric_settings: ClassVar[Mapping[str, Sequence[str]]] = {}
    """By metric of `validate`, the constructor's arguments that its formula contains: runs that differ in one of them
    cannot be compared by that metric."""

    loss_unit: str = ""
    """What `val/loss` is in, such as nats."""

    nll_metric: str = ""
    """The metric that is -log p(x) of binary pixels in nats, a bound on it or a pseudo-likelihood; empty: none is."""

    learns_to_reconstruct: bool = True
    """Of a model that reconstructs: whether it is trained to, so that one no better than the mean image has failed."""

    conditional: bool = False
    """Whether sample(y=…) heeds the classes y."""

    fp32_only: bool = False
    """Whether less precision would spoil it, so that it is trained in fp32 whatever `device.precision` says."""

    def abilities(self) -> tuple[str, ...]:
        """Return the names of the methods, of those in `METHODS`, that this model has."""
        return tuple(name for name in METHODS if hasattr(type(self), name) or name in self._modules)

    def __getattr__(self, name: str) -> Any:
        """Return a submodule, parameter or buffer; of an ability that the model lacks, the error lists those it has."""
        # A submodule may be the method: self.encode = nn.Linear(784, 32).
        if name not in METHODS or name in self.__dict__.get("_modules", ()):
            return super().__getattr__(name)
        abilities = ", ".join(self.abilities()) or "none of the methods for others"
        raise AttributeError(f"{type(self).__name__} has no {name}(): this model has {abilities}")

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set what the training images decide before the first step, such as biases from their mean; here nothing.

        `batches` are all of them in order. It is called once, by a run that begins with fresh weights.
        """

    def stages(self) -> Iterator[Stage]:
        """Yield the phases of training in order."""
        yield Stage()

    def groups(self, stage: Stage) -> dict[str, Group]:
        """Return the parameters that `stage` trains, one optimizer for each name."""
        return {"model": Group(self.parameters())}

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        """Yield the losses of one step; the code behind a `yield` runs after that loss's optimizer has stepped.

        Never yield inside a context manager: it would stay open in the trainer.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no losses")

    def validate(self, batch: Batch, rng: Rng) -> Mapping[str, Tensor | Mean]:
        """Return metrics of a held-out batch, each a mean over it or over some of it; changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} defines no validate")

    def alarms(self, metrics: Mapping[str, float]) -> Mapping[str, str]:
        """Return what an epoch's metrics tell to be wrong, sentences by the alarm's name; here nothing.

        A run goes on all the same, and says each once. `metrics` are those of metrics.csv, such as `val/loss`.
        """
        return {}


def metrics_of(kind: type[Model]) -> tuple[Metric, ...]:
    """Return the metrics that a class of models and its bases describe, its own first.

    Raises TypeError if one of several is not a Metric.
    """
    found = []
    for base in kind.__mro__:
        own = vars(base).get("metrics")
        # A class may use the name for something else, such as a property.
        for one in own if isinstance(own, (tuple, list)) else ():
            if not isinstance(one, Metric):
                raise TypeError(f"model: {base.__name__}.metrics has {one!r:.40}, not an aectl.models.Metric")
            found.append(one)
    return tuple(found)


class Score(NamedTuple):
    """Log-likelihoods of images in nats, and how to read them."""

    value: Tensor
    """log p(x) of each image [N], or a number in its place."""
    kind: str
    """'exact', 'bound' (from below), 'estimate', or 'no likelihood', of nothing that sums or integrates to one."""
    of: str = "grey pixels"
    """'binary pixels', drawn from the grey ones if these are not 0 or 1, or 'grey pixels', whose value is a density."""


class AbilityError(ValueError):
    """A method of a model returned something other than its ability promises; the message names both."""


@runtime_checkable
class Encodes(Protocol):
    """Maps images to codes."""

    def encode(self, x: Tensor) -> Tensor:
        """Return codes [N, code] of images [N, C, H, W]."""


@runtime_checkable
class HasPosterior(Protocol):
    """Maps images to distributions of codes."""

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z|x), each [N, code], of images [N, C, H, W]."""


@runtime_checkable
class Decodes(Protocol):
    """Maps codes to images."""

    def decode(self, z: Tensor) -> Tensor:
        """Return images [N, C, H, W] in [0, 1] of codes [N, code]."""


@runtime_checkable
class Reconstructs(Protocol):
    """Maps images to images through a code."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return images [N, C, H, W] in [0, 1]."""


@runtime_checkable
class Samples(Protocol):
    """Draws new images from a prior."""

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return n images [n, C, H, W] in [0, 1]; `temperature` scales the prior's standard deviation."""


@runtime_checkable
class Scores(Protocol):
    """Gives images a log-likelihood."""

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return log p(x) of each image [N], in nats."""


@runtime_checkable
class Classifies(Protocol):
    """Tells the classes of images."""

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits of the classes [N, classes] of images [N, C, H, W]."""


@runtime_checkable
class Energy(Protocol):
    """Gives images an unnormalised negative log-density."""

    def energy(self, x: Tensor) -> Tensor:
        """Return energies [N], in nats up to a constant."""


class Partition(NamedTuple):
    """What the energies of a model are to be normalised by, and how it was found."""

    value: float
    """log Z in nats: log p(x) = -energy(x) - log Z."""
    ci95: float
    """Half the width of its 95 % confidence interval, in nats; 0 if exact."""
    kind: str
    """What -energy(x) - log Z then is of log p(x): 'exact', 'bound', or an estimate by its name, such as 'AIS'."""
    of: str = "binary pixels"
    """What has the probability: 'binary pixels' or 'grey pixels'."""


@runtime_checkable
class Normalises(Energy, Protocol):
    """Knows, or estimates in several ways, the constant that its energies lack."""

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return what energies are of, [N, C, H, W]: binary draws of the grey pixels x, or x itself."""

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z by each way that is open to the model, the most trustworthy first."""


@runtime_checkable
class Walks(Protocol):
    """Walks a Markov chain whose states are, in the long run, distributed as the model says."""

    def start(self, n: int, *, rng: Rng) -> Tensor:
        """Return n states [n, C, H, W] to begin with, spread wider than the model's own distribution."""

    def walk(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the states [N, C, H, W] one step behind the states x."""

"""The interface between models and the rest of the program: the methods of training, and optional abilities.

A model yields losses, each with the name of a parameter group; at each yield the trainer steps that group's optimizer.
Everything else that a model can do is an ability: a protocol of methods, tested with `isinstance`, never by the
model's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from aectl.metric import Metric
from aectl.rng import Rng

METHODS = ("encode", "decode", "reconstruct", "sample", "log_prob", "classify", "energy")
"""Names of the ability methods; the protocols below define them."""


class Batch(NamedTuple):
    """A batch of examples."""

    x: Tensor
    """Images [N, C, H, W], pixels in [0, 1]."""
    y: Tensor
    """Classes [N], int64; -1 where there is no label."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which batches do not use
    """Positions in the data file [N], int64."""


class Loss(NamedTuple):
    """A scalar to minimise, the name of the parameter group to update, and metrics to log with it."""

    value: Tensor
    group: str = "model"
    metrics: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimizer; `overrides` (lr, betas, …) replace the run's optimizer settings."""

    params: Iterable[nn.Parameter]
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A phase of training with its own optimizers.

    `epochs=None` uses the run's number of epochs. A `labelled` stage trains only on images that have a label.
    """

    name: str = "fit"
    epochs: int | None = None
    labelled: bool = False


class Mean(NamedTuple):
    """A mean over `count` images of a batch, e.g. the labelled ones; ignored if `count` is 0."""

    value: Tensor
    count: int  # type: ignore[assignment]  # hides tuple.count, which means do not use


class Model(nn.Module):
    """Base class of all models.

    A subclass must define `losses` and `validate`. Its constructor may take `shape` (C, H, W), `classes`, `noise` and
    `penalty`, which the run supplies; its other arguments are the keys of its YAML file.
    """

    code: int
    """Size of a code, if the model has codes."""

    objective: str = "val/loss"
    """Metric that the best checkpoint, early stopping and searches minimise."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("loss", "what training minimises, a mean over images", "lower"),
        Metric("mse", "mean squared error per pixel", "lower"),
    )
    """Descriptions of the metrics of `losses` and `validate`, in addition to those of the base classes."""

    metric_settings: ClassVar[Mapping[str, Sequence[str]]] = {}
    """For a metric of `validate`, the constructor arguments that its formula contains. Runs that differ in one of them
    cannot be compared by that metric."""

    loss_unit: str = ""
    """Unit of `val/loss`, e.g. nats."""

    nll_metric: str = ""
    """Metric that equals, bounds or approximates -log p(x) of binary pixels in nats; empty if there is none."""

    learns_to_reconstruct: bool = True
    """Whether training minimises a reconstruction error. If so, a model no better than the mean image has failed."""

    conditional: bool = False
    """Whether `sample(y=…)` uses the classes y."""

    is_recorded: bool = False
    """Set while the trainer records steps as a CUDA graph: each step must then consist of the same operations."""

    fp32_only: bool = False
    """If true, the model always trains in fp32 and ignores `device.precision`."""

    def abilities(self) -> tuple[str, ...]:
        """Return the names in `METHODS` that this model defines."""
        return tuple(name for name in METHODS if hasattr(type(self), name) or name in self._modules)

    def __getattr__(self, name: str) -> Any:
        """Return a submodule, parameter or buffer; for a missing ability, the error lists those the model has."""
        # An ability may be a submodule: self.encode = nn.Linear(784, 32).
        if name not in METHODS or name in self.__dict__.get("_modules", ()):
            return super().__getattr__(name)
        abilities = ", ".join(self.abilities()) or "none of the methods for others"
        raise AttributeError(f"{type(self).__name__} has no {name}(): this model has {abilities}")

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Initialise parameters from the training images, e.g. biases from their mean. The default does nothing.

        `batches` yields all training images in order. Called once, before the first step of a run that starts from
        scratch.
        """

    def stages(self) -> Iterator[Stage]:
        """Yield the stages of training in order."""
        yield Stage()

    def groups(self, stage: Stage) -> dict[str, Group]:
        """Return the parameter groups that `stage` trains, by name; each has its own optimizer."""
        return {"model": Group(self.parameters())}

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        """Yield the losses of one step. Code after a `yield` runs after that loss's optimizer has stepped.

        Do not yield inside a context manager: it would stay open while the trainer runs.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no losses")

    def validate(self, batch: Batch, rng: Rng) -> Mapping[str, Tensor | Mean]:
        """Return the metrics of a held-out batch, each a mean over all or some of its images.

        Must not change the model.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no validate")

    def alarms(self, metrics: Mapping[str, float]) -> Mapping[str, str]:
        """Return warnings about an epoch's metrics, by the name of the alarm. The default returns none.

        `metrics` has the names of metrics.csv, e.g. `val/loss`. A run logs each alarm once and continues.
        """
        return {}


def collect_metrics(kind: type[Model]) -> tuple[Metric, ...]:
    """Return the metric descriptions of a model class and its base classes, its own first.

    Raises TypeError for an entry that is not a Metric.
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
    """Log-likelihoods of images in nats, and how to interpret them."""

    value: Tensor
    """log p(x) of each image [N], or what `kind` says."""
    kind: str
    """'exact', 'bound' (a lower bound), 'estimate', or 'no likelihood' if nothing is normalised to one."""
    of: str = "grey pixels"
    """'binary pixels' (grey pixels are binarised at random), or 'grey pixels' (the value is a log-density)."""


class AbilityError(ValueError):
    """A method of a model returned something other than its ability promises; the message names both."""


@runtime_checkable
class Encodes(Protocol):
    """Maps images to codes."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes [N, code] of images [N, C, H, W]."""


@runtime_checkable
class HasPosterior(Protocol):
    """Maps images to distributions over codes."""

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and log-variance of q(z|x), each [N, code], for images [N, C, H, W]."""


@runtime_checkable
class Decodes(Protocol):
    """Maps codes to images."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the images [N, C, H, W], pixels in [0, 1], of codes [N, code]."""


@runtime_checkable
class Reconstructs(Protocol):
    """Maps images to images through a code."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return reconstructions [N, C, H, W], pixels in [0, 1]."""


@runtime_checkable
class Samples(Protocol):
    """Draws new images from a prior."""

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return n images [n, C, H, W], pixels in [0, 1]; `temperature` scales the prior's standard deviation."""


@runtime_checkable
class DrawsClasses(Protocol):
    """Samples images of given classes if it is `conditional`."""

    def draw_classes(self, n: int, y: Tensor | None, rng: Rng) -> Tensor | None:
        """Return n classes [n]: y, or classes drawn with their training frequencies; None if not `conditional`."""


@runtime_checkable
class Scores(Protocol):
    """Computes log-likelihoods of images."""

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return log p(x) of each image [N], in nats."""


@runtime_checkable
class Classifies(Protocol):
    """Predicts the classes of images."""

    def classify(self, x: Tensor) -> Tensor:
        """Return class logits [N, classes] for images [N, C, H, W]."""


@runtime_checkable
class ClassifiesCodes(Protocol):
    """Predicts the classes of images from their codes alone, as `classify` does from the images."""

    def classify_codes(self, z: Tensor) -> Tensor:
        """Return class logits [N, classes] for codes [N, code]."""


@runtime_checkable
class Energy(Protocol):
    """Computes energies of images, i.e. unnormalised negative log-densities."""

    def energy(self, x: Tensor) -> Tensor:
        """Return energies [N] in nats, up to an additive constant."""


class Partition(NamedTuple):
    """The log normalising constant of a model's energies, and how it was computed."""

    value: float
    """log Z in nats: log p(x) = -energy(x) - log Z."""
    ci95: float
    """Half-width of its 95 % confidence interval, in nats; 0 if exact."""
    kind: str
    """How -energy(x) - log Z relates to log p(x): 'exact', 'bound', or the name of the estimator, e.g. 'AIS'."""
    of: str = "binary pixels"
    """What the probability refers to: 'binary pixels' or 'grey pixels'."""


@runtime_checkable
class Normalises(Energy, Protocol):
    """Computes or estimates the normalising constant of its energies."""

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the input of `energy` [N, C, H, W]: x binarised at random, or x itself."""

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z by every available method, the most reliable first."""


@runtime_checkable
class Walks(Protocol):
    """Runs a Markov chain whose stationary distribution is the model's distribution."""

    def start(self, n: int, *, rng: Rng) -> Tensor:
        """Return n initial states [n, C, H, W], more dispersed than the model's distribution."""

    def walk(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the states [N, C, H, W] that follow the states x after one step of the chain."""

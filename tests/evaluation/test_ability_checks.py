"""What a model's methods return is checked before it is measured."""

import pytest
import torch

from aectl.data.datasets import Source
from aectl.evaluation import anomaly, classification
from aectl.evaluation.ability_checks import AbilityError, check_abilities
from aectl.evaluation.context import Benchmark, Subject, Unmeasured, apply
from aectl.models.base import Model, Score

SHAPE = (1, 4, 4)
X = torch.linspace(0, 1, 10 * 16).view(10, *SHAPE)


class Right(Model):
    """Has every ability, and returns what each promises."""

    def encode(self, x):
        return x.flatten(1)[:, :3]

    def posterior(self, x):
        return self.encode(x), self.encode(x)

    def decode(self, z):
        return z.mean(1)[:, None, None, None].expand(len(z), *SHAPE)

    def reconstruct(self, x):
        return x * 1.02 - 0.01  # a linear decoder overshoots a little

    def classify(self, x):
        return x.flatten(1)[:, :10]

    def sample(self, n, *, rng, y=None, temperature=1.0):
        return rng.uniform(n, *SHAPE)

    def log_prob(self, x, *, rng, samples=None):
        return Score(-x.flatten(1).sum(1), "exact", "binary pixels")

    def energy(self, x):
        return x.flatten(1).sum(1)

    def start(self, n, *, rng):
        return rng.uniform(n, *SHAPE)

    def walk(self, x, rng):
        return x


def test_a_model_that_keeps_its_promises_passes():
    check_abilities(Right(), X, 10)
    check_abilities(Right(), X[:0], 10)
    check_abilities(Right(), X, 0)
    check_abilities(Model(), X, 10)


@pytest.mark.parametrize(
    ("method", "returns", "message"),
    [
        ("classify", lambda x: x.flatten(1)[:, :10] * torch.nan, r"classify returned 80 of 80 numbers that are NaN"),
        ("classify", lambda x: x.flatten(1)[:, :3], r"classify returned \[8, 3\], not \[8, 10\]"),
        ("sample", lambda n, **_: torch.rand(n // 2, *SHAPE), r"sample returned \[1, 1, 4, 4\], not \[3, 1, 4, 4\]"),
        ("sample", lambda n, **_: torch.full((n, *SHAPE), -9.0), r"sample returned pixels from -9 to -9, not in "),
        ("sample", lambda n, **_: torch.rand(n, 16), r"sample returned \[3, 16\], not \[3, 1, 4, 4\]"),
        ("reconstruct", lambda x: 255 * x, r"reconstruct returned pixels from 0 to \d+\.?\d*, not in \[0, 1\]"),
        ("reconstruct", lambda x: x[:, :, :2], r"reconstruct returned \[8, 1, 2, 4\]"),
        ("decode", lambda z: None, r"decode returned NoneType, not a tensor"),
        ("encode", lambda x: x.sum(), r"encode returned \[\], not \[8, …\]"),
        ("encode", lambda x: x[:3].flatten(1), r"encode returned \[3, 16\], not \[8, …\]"),
        ("encode", lambda x: x[:, :, :0].flatten(1), r"encode returned \[8, 0\]"),
        ("posterior", lambda x: x.flatten(1), r"posterior returned Tensor, not mu and logvar"),
        ("energy", lambda x: x, r"energy returned \[8, 1, 4, 4\], not \[8\]"),
        ("energy", lambda x: torch.full((len(x),), torch.inf), r"energy returned 8 of 8 numbers that are NaN"),
        ("log_prob", lambda x, **_: Score(x.sum((1, 2, 3)) + 1e6, "exact", "binary pixels"), r"log_prob .* at most 1"),
        ("log_prob", lambda x, **_: Score(x.flatten(1).sum(1), "certain"), r"log_prob returned the kind 'certain'"),
        ("log_prob", lambda x, **_: -x.flatten(1).sum(1), r"log_prob returned Tensor, not an .*Score"),
        ("walk", lambda x, rng: x[:2], r"walk returned \[2, 1, 4, 4\], not \[8, 1, 4, 4\]"),
        ("walk", lambda x, rng: x.bool(), r"walk returned a tensor of bool, not of floats"),
        ("classify", lambda x: x.flatten(1)[:, :10].to(torch.complex64), r"classify returned a tensor of complex64"),
        ("reconstruct", lambda x: x.double(), r"reconstruct returned a tensor of float64, not of float32"),
        ("sample", lambda n, **_: torch.rand(n, *SHAPE).bfloat16(), r"sample returned a tensor of bfloat16, not of"),
        ("reconstruct", lambda x: x.to("meta"), r"reconstruct returned a tensor on meta, not on cpu"),
        ("reconstruct", lambda x: x.to_sparse(), r"reconstruct returned a tensor of sparse_coo, not of floats"),
        ("reconstruct", lambda x: 1 / 0, r"reconstruct raised ZeroDivisionError: division by zero"),
        ("reconstruct", lambda x: x.mul_(0), r"reconstruct changes the images that it is given"),
        ("decode", lambda z: 0 * Right().decode(z.zero_()), r"decode changes the codes"),
        ("log_prob", lambda x, **_: Score(-x.flatten(1).sum(1), "exact", "pixels"), r"log_prob returned a score of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_method(method, returns, message):
    wrong = type("Wrong", (Right,), {method: staticmethod(returns)})()
    with pytest.raises(AbilityError, match=f"Wrong.{message}"):
        check_abilities(wrong, X, 10)


def test_a_density_of_grey_pixels_may_be_above_one():
    grey = type(
        "Grey", (Right,), {"log_prob": staticmethod(lambda x, **_: Score(x.flatten(1).sum(1) + 500, "exact"))}
    )()
    check_abilities(grey, X, 10)
    # An estimate of log Z takes seconds: a score that needs one is not tried.
    refuse = staticmethod(lambda *_, **__: 1 / 0)
    observe = {"observe": staticmethod(lambda x, rng: x)}
    slow = type("Slow", (Right,), observe | dict.fromkeys(("log_partition", "log_prob"), refuse))()
    check_abilities(slow, X, 10)


def test_images_that_leave_the_range_by_little_are_a_warning(caplog):
    # Of a linear decoder that is hardly trained, or of one that ends in tanh.
    signed = type("Signed", (Right,), {"reconstruct": staticmethod(lambda x: 2 * x - 1)})()
    check_abilities(signed, X, 10)
    assert "Signed.reconstruct returned pixels from -1 to " in caplog.text


def test_a_method_that_changes_the_model_is_named():
    class Drifts(Right):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def energy(self, x):
            self.seen += 1
            return x.flatten(1).sum(1)

    class Trains(Right):
        def energy(self, x):
            self.train()
            return x.flatten(1).sum(1)

    with pytest.raises(AbilityError, match=r"Drifts.energy changes the model: seen"):
        check_abilities(Drifts().eval(), X, 10)
    with pytest.raises(AbilityError, match=r"Trains.energy changes the model: its mode"):
        check_abilities(Trains().eval(), X, 10)


def test_samples_of_a_class_are_tried_too():
    class Conditional(Right):
        conditional = True

        def sample(self, n, *, rng, y=None, temperature=1.0):
            return rng.uniform(n if y is None else 1, *SHAPE)

    with pytest.raises(AbilityError, match=r"sample\(y=…\) returned \[1, 1, 4, 4\], not \[3, 1, 4, 4\]"):
        check_abilities(Conditional(), X, 10)


@pytest.mark.parametrize("size", [None, "8", 0, 10**30])
def test_what_decodes_and_encodes_nothing_has_a_size_of_codes(size):
    class Decoder(Model):
        code = size

        def decode(self, z):
            return z

    with pytest.raises(AbilityError, match=r"Decoder.code is"):
        check_abilities(Decoder(), X, 10)


def test_logits_and_scores_that_are_not_numbers_later_are_not_measured():
    """The check tries eight images; a NaN among later logits would count as some class, among scores as some rank."""
    x = torch.rand(20, *SHAPE)
    held_out = Source(x, torch.arange(20) % 2, torch.arange(20), 1.0, 10)
    bench = Benchmark(held_out, held_out, outliers={"others": held_out})
    late = torch.where(torch.arange(20) < 9, 1.0, torch.nan)
    wrong = type(
        "Late",
        (Right,),
        {
            "classify": staticmethod(lambda x: x.flatten(1)[:, :10] * late[: len(x), None]),
            "energy": staticmethod(lambda x: late[: len(x)]),
        },
    )()
    check_abilities(wrong, x, 10)
    for measure, what in ((classification.measure, "logits"), (anomaly.energies, "scores")):
        with pytest.raises(Unmeasured, match=f"its {what} are NaN"):
            measure(Subject(wrong, bench))
    with pytest.raises(AbilityError, match=r"returned \[8, 1, 4, 4\] for 20 images"):
        apply(lambda x: x[:8], x)


def test_fewer_samples_than_were_asked_for_are_not_measured():
    held_out = Source(torch.rand(20, *SHAPE), torch.zeros(20).long(), torch.arange(20), 1.0, 10)
    lazy = type("Lazy", (Right,), {"sample": staticmethod(lambda n, rng: torch.rand(min(n, 8), *SHAPE))})()
    check_abilities(lazy, X, 10)
    with pytest.raises(AbilityError, match=r"sample returned \[8, 1, 4, 4\] for 20 images"):
        Subject(lazy, Benchmark(held_out, held_out)).drawn  # noqa: B018

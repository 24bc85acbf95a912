"""What a model's methods return is checked before it is measured."""

import pytest
import torch

from aectl.evaluation.ability_checks import AbilityError, check_abilities
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
    slow = type("Slow", (Right,), dict.fromkeys(("observe", "log_partition", "log_prob"), refuse))()
    check_abilities(slow, X, 10)


def test_images_that_leave_the_range_by_little_are_a_warning(caplog):
    # Of a linear decoder that is hardly trained, or of one that ends in tanh.
    signed = type("Signed", (Right,), {"reconstruct": staticmethod(lambda x: 2 * x - 1)})()
    check_abilities(signed, X, 10)
    assert "Signed.reconstruct returned pixels from -1 to " in caplog.text

"""Models and images of one's own that are odd: numbers that mean nothing are not measured, and work is not lost."""

import json
import math
import random
from types import SimpleNamespace

import pytest
import torch

from aectl.config.untrusted_files import to_json
from aectl.data.datasets import Source
from aectl.evaluation.ability_checks import AbilityError, check_abilities
from aectl.models.base import Model
from aectl.tensorboard.images import draw_pictures
from aectl.tensorboard.training import THUMBNAIL_SIDE, TensorBoard
from tests.evaluation.test_ability_checks import Right, X

METHODS = ("encode", "posterior", "decode", "reconstruct", "classify", "sample", "energy", "log_prob", "walk")
DAMAGE = {
    "NaN": lambda found: found * torch.nan,
    "one infinite number": lambda found: found + torch.tensor([torch.inf, *[0.0] * (found.numel() - 1)]).view_as(found),
    "half of them": lambda found: found[: len(found) // 2],
    "one more": lambda found: torch.cat([found, found[:1]]),
    "none": lambda found: None,
    "numbers": lambda found: found.tolist(),
    "no dimension": lambda found: found.sum(),
}


def damaged(found, how):
    """Return a method's result with its tensor damaged, within a Score or a pair too."""
    if isinstance(found, torch.Tensor):
        return how(found)
    if isinstance(found, tuple) and not hasattr(found, "_fields"):
        return (how(found[0]), found[1])
    return type(found)(how(found.value), found.kind, found.of)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_returns_anything_else_is_named(method, tally):
    for how in DAMAGE.values():
        right = getattr(Right, method)
        wrong = type("Wrong", (Right,), {method: lambda *a, right=right, how=how, **k: damaged(right(*a, **k), how)})()
        with pytest.raises(AbilityError, match=rf"Wrong\.{method} returned"):
            check_abilities(wrong, X, 10)
        tally("results of own models' methods refused")


def elongated(n, height, width):
    images = torch.randint(0, 256, (n, 1, height, width), dtype=torch.uint8)
    return Source(images, torch.arange(n) % 10, torch.arange(n), scale=1 / 255, classes=10)


class Copy(Model):
    """Returns images as they are."""

    def reconstruct(self, x):
        return x


def test_pictures_of_elongated_images_stay_small(tmp_path, torture, tally):
    written = {}
    board = TensorBoard(tmp_path, {}, lambda model: {})
    board.writer = SimpleNamespace(add_embedding=lambda codes, labels, x, *rest, **named: written.update(x=x))
    for height, width in [(1, 1024), (1024, 1), (2, 3000), *([(1, 60_000), (60_000, 1), (3, 20_000)] * torture)]:
        source = elongated(128, height, width)
        board.add_embedding(torch.rand(128, 2), [source.batch(torch.arange(128))], 1)
        assert written["x"].shape[2:] == (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        drawn = draw_pictures(Copy(), source)
        assert drawn and all(image.numel() < 2**24 for image in drawn.values())
        tally("sizes of elongated images drawn within bounds")


NUMBERS = (math.nan, math.inf, -math.inf, 1.5, -0.0, 10**15, True, None, "NaN", "\x1b[2J")


def test_what_is_written_is_strict_json(torture, tally):
    chance = random.Random(0)

    def grow(depth):
        kind = chance.randrange(3) if depth else 2
        if kind == 0:
            return {f"k{i}": grow(depth - 1) for i in range(chance.randrange(4))}
        if kind == 1:
            return [grow(depth - 1) for _ in range(chance.randrange(4))]
        return chance.choice(NUMBERS)

    def refuse(constant):
        raise AssertionError(constant)

    for _ in range(2000 if torture else 50):
        json.loads(to_json({"x": grow(4)}), parse_constant=refuse)
        tally("records written as strict JSON")

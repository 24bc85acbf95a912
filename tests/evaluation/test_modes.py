"""Of samples it is counted which classes they reach, and how many lie where no data are."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from aectl.data.toy import curve, toy
from aectl.evaluation import samples
from aectl.evaluation.context import Benchmark, Subject
from aectl.models.base import Model
from aectl.rng import Rng


class Draws(Model):
    """A model whose samples are the points that it is given."""

    def __init__(self, points):
        super().__init__()
        self.points = points.view(-1, 1, 1, 2)

    def sample(self, n, *, rng, y=None, temperature=1.0):
        return self.points[:n]


@cache
def bench():
    data = toy("gaussians", points=6000, spread=0.02, valid=0, test=1000)
    return Benchmark(data.split("train"), data.split("test"))


def row(points, around=None):
    around = around or bench()
    return samples.measure(Subject(Draws(points), around))["model"]


def points_at(modes, n=1000, seed=5):
    centres = curve("gaussians", torch.arange(8) / 8)[torch.tensor(modes)]
    return centres[torch.arange(n) % len(modes)] + 0.02 * Rng(seed).normal(n, 2)


def test_modes_are_the_classes_that_are_reached_and_fresh_points_are_no_strays():
    every = row(points_at(list(range(8))))
    assert every["modes"] == 8
    assert every["strays"] == pytest.approx(1, abs=1.2)
    some = row(points_at([0, 3, 4]))
    assert some["modes"] == 3
    # A mode that one sample in a hundred reaches, where it should be an eighth of them, is not covered.
    assert row(torch.cat([points_at([0, 1, 2, 3, 4, 5, 6], 990), points_at([7], 10)]))["modes"] == 7


def test_strays_are_the_share_that_lies_between():
    centre = torch.tensor([0.5, 0.5]).expand(250, 2)
    found = row(torch.cat([points_at(list(range(8)), 750), centre]))
    assert found["strays"] == pytest.approx(25 + 0.75, abs=1.2)
    assert 0 < found["strays_ci95"] < 4


def test_without_labels_there_are_no_modes():
    around = bench()
    nameless = replace(around, train=replace(around.train, labels=torch.full((5000,), -1)))
    found = row(points_at([0, 1]), nameless)
    assert "modes" not in found
    assert "strays" in found

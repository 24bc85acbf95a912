"""The figure of an energy is low where the energy is, and planar models that have energies get it."""

import math

import numpy as np
import pytest
import torch

from aectl.data.datasets import Source
from aectl.figures import planar_fields, planar_report
from aectl.models.base import Model
from aectl.rng import Rng
from aectl.sampling import Request


class Bowl(Model):
    """A normal density about (0.25, 0.75), of standard deviation 0.05, times a factor."""

    def energy(self, x):
        return (x.flatten(1) - torch.tensor([0.25, 0.75])).square().sum(1) / (2 * 0.05**2) - 3


def source():
    points = (0.05 * Rng(0).normal(200, 1, 1, 2) + torch.tensor([0.25, 0.75])).clamp(0, 1)
    return Source(points, torch.zeros(200, dtype=torch.int64), torch.arange(200), scale=1.0, classes=1)


def shades(axes):
    (found,) = [drawn for drawn in axes.collections if hasattr(drawn, "levels")]
    return found


def test_energies_and_their_exponentials_are_drawn_where_they_are():
    figure = planar_fields.landscape(Bowl(), source(), "a bowl")
    low, high = shades(figure.axes[0]), shades(figure.axes[1])
    assert low.levels[0] == pytest.approx(-3, abs=0.05)
    assert low.levels[-1] == pytest.approx(-3 + planar_fields.MAX_ENERGY_RANGE, abs=0.05)
    assert 0.9 * math.exp(3) < high.levels[-1] < 1.3 * math.exp(3)
    for drawn, which in ((low, 0), (high, -1)):
        # The innermost shade is around the bottom, and no wider than the level says.
        inside = np.concatenate([part.vertices for part in drawn.get_paths()[which : which + 1 or None]])
        assert np.abs(inside - [0.25, 0.75]).max() < 0.12


@torch.no_grad()
def test_planar_models_with_energies_have_the_figure():
    found = dict(planar_report.figures(Bowl(), source(), Request(10, Rng(0), 1.0, source())))
    assert list(found) == ["energy"]


def test_a_flat_energy_is_drawn_too():
    class Flat(Model):
        def energy(self, x):
            return torch.zeros(len(x))

    assert len(planar_fields.landscape(Flat(), source(), "flat").axes) == 4

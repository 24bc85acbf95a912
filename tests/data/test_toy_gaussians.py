"""Eight normal distributions on a ring: where they lie, how wide they are, and that their classes are the modes."""

import math

import pytest
import torch

from aectl.data.toy import MODES, curve, toy


def whole(**settings):
    """Return all points [N, 2] and their classes in the order of their drawing."""
    train = toy("gaussians", **{"valid": 0, "test": 0, **settings}).split("train")
    return train.pixels().view(-1, 2), train.labels


def test_the_modes_are_eight_places_of_the_circle_of_the_curves():
    centres = curve("gaussians", torch.arange(MODES) / MODES) - 0.5
    angle = 2 * math.pi * torch.arange(8) / 8
    assert torch.allclose(centres, 0.36 * torch.stack([angle.cos(), angle.sin()], 1), atol=1e-6)
    # Everywhere in between it is one of them.
    every = curve("gaussians", torch.arange(4000) / 4000) - 0.5
    assert torch.cdist(every, centres).min(1).values.max() < 1e-6
    assert torch.cdist(every, centres).argmin(1).bincount().tolist() == [500] * 8


def test_each_mode_is_a_class_and_a_round_normal_distribution_of_the_spread():
    points, labels = whole(points=40_000, spread=0.02)
    assert toy("gaussians").classes == MODES
    assert labels.bincount().sub(5000).abs().max() < 4 * (40_000 * 7 / 64) ** 0.5
    centres = curve("gaussians", torch.arange(MODES) / MODES)
    for mode in range(MODES):
        off = (points[labels == mode] - centres[mode]) / 0.02
        n = len(off)
        assert off.mean(0).abs().max() < 4 / n**0.5
        assert torch.allclose(off.T.cov(), torch.eye(2), atol=0.1)
        # Of a normal distribution in the plane the squared distance is exponential: e⁻² of it beyond 2 spreads.
        assert float((off.norm(dim=1) > 2).float().mean()) == pytest.approx(math.exp(-2), abs=0.025)


def test_nearest_centres_are_the_classes():
    points, labels = whole(points=5000, spread=0.02)
    centres = curve("gaussians", torch.arange(MODES) / MODES)
    assert torch.equal(torch.cdist(points, centres).argmin(1), labels)


def test_modes_can_be_left_out_of_training():
    data = toy("gaussians", points=2000, valid=200, test=400, exclude=[3, 7])
    assert data.split("train").labels.unique().tolist() == [0, 1, 2, 4, 5, 6]
    assert len(data.split("test").labels.unique()) == MODES


def test_the_choices_name_it():
    with pytest.raises(ValueError, match=r"kind must be one of .*gaussians.*, not 'gaussian'"):
        toy("gaussian")

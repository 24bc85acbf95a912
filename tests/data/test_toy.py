"""Points of the plane lie about their curve as they should, in splits that are always the same."""

import math

import pytest
import torch
from sklearn.datasets import make_moons

from aectl.data.toy import CURVES, MAX_SPREAD, curve, toy

KINDS = sorted(CURVES)


def whole(*arguments, **settings):
    """Return all points [N, 2] of a toy data set in the order of their drawing, and their classes."""
    data = toy(*arguments, **{"valid": 0, "test": 0, **settings})
    train = data.split("train")
    return train.pixels().view(-1, 2), train.labels


def distance(points, kind):
    """Return how far points [N, 2] are from the curve, which is tried at 20,000 places."""
    places = curve(kind, torch.arange(20_000) / 20_000).double()
    return torch.cat([torch.cdist(part.double(), places).min(1).values for part in points.split(500)])


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_near_their_curve_by_the_spread(kind):
    points, _ = whole(kind, points=4000, spread=0.01)
    far = distance(points, kind)
    # Of the two coordinates of the noise one leads along the curve and does not count.
    assert float(far.square().mean().sqrt()) == pytest.approx(0.01, rel=0.06)
    assert float(far.max()) < 0.05
    assert float(distance(whole(kind, points=1000, spread=0.0)[0], kind).max()) < 3e-4


@pytest.mark.parametrize("kind", KINDS)
def test_points_and_curve_fill_the_square_and_stay_in_it(kind):
    points, _ = whole(kind, spread=MAX_SPREAD)
    assert points.min() >= 0
    assert points.max() <= 1
    places = curve(kind, torch.arange(20_000) / 20_000)
    assert float((places - 0.5).abs().max()) == pytest.approx(0.36, abs=1e-3)
    # Cut to the square is hardly any.
    assert float(((points == 0) | (points == 1)).any(1).float().mean()) < 1 / 200


def test_the_circle_is_one_and_the_spirals_radius_grows_with_its_angle():
    round_it = curve("circle", torch.arange(1000) / 1000) - 0.5
    assert torch.allclose(round_it.norm(dim=1), torch.tensor(0.36), atol=1e-6)
    out = curve("spiral", torch.arange(1000) / 999) - 0.5
    radius = out.norm(dim=1)
    assert float(radius[-1]) == pytest.approx(0.36)
    assert float(radius[0]) == pytest.approx(0.36 / 8)
    angle = 4 * math.pi * radius / 0.36
    assert torch.allclose(out, radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), atol=1e-5)


def test_the_moons_are_scikit_learns():
    theirs, labels = make_moons(400, shuffle=False, noise=None)
    theirs = 0.5 + 0.36 * (torch.from_numpy(theirs).float() - torch.tensor([0.5, 0.25])) / 1.5
    for moon, first in ((0, 0.0), (1, 0.5)):
        ours = curve("moons", first + torch.arange(200) / 400)
        assert float(torch.cdist(theirs[labels == moon], ours).min(1).values.max()) < 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_along_the_curve_is_even(kind):
    # From a sixth of the way on, the spiral's turns are much longer than its steps outwards.
    u = torch.linspace(1 / 6, 0.999, 5000)
    steps = curve(kind, u).diff(dim=0).norm(dim=1)
    steps = steps[steps < 10 * steps.median()]  # from one moon to the other is no way
    assert float(steps.max() / steps.min()) < 1.02


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_equal_parts_of_the_way(kind):
    points, labels = whole(kind, points=3000, spread=0.0)
    classes = CURVES[kind][1]
    assert toy(kind).classes == classes
    assert labels.unique().tolist() == list(range(classes))
    assert labels.bincount().float().div(3000).sub(1 / classes).abs().max() < 0.04
    for label in range(classes):
        part = curve(kind, (label + torch.arange(5000) / 5000) / classes)
        own, other = points[labels == label], points[labels != label]
        assert float(torch.cdist(own, part).min(1).values.max()) < 1e-3
        assert float((torch.cdist(other, part).min(1).values < 1e-3).float().mean()) < 0.02


def test_splits_have_their_sizes_share_nothing_and_are_all():
    data = toy(points=900, valid=100, test=0.2)
    parts = [data.split(name) for name in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [620, 100, 180]
    assert sorted(torch.cat([part.index for part in parts]).tolist()) == list(range(900))
    every, _ = whole(points=900)
    for part in parts:
        assert part.shape == data.shape == (1, 1, 2)
        assert torch.equal(part.pixels().view(-1, 2), every[part.index])
        # All along the curve, and no piece of it.
        assert part.labels.bincount().min() > 0.25 * len(part)
    assert [len(toy().split(name)) for name in ("train", "valid", "test")] == [7000, 1000, 2000]


def test_the_seed_and_the_kind_decide_the_points_and_nothing_else_does():
    first, labels = whole("circle", seed=3, points=200)
    again, _ = whole("circle", seed=3, points=200)
    assert torch.equal(first, again)
    assert not torch.equal(first, whole("circle", seed=4, points=200)[0])
    assert not torch.equal(labels, whole("spiral", seed=3, points=200)[1])
    wide, same_labels = whole("circle", seed=3, points=200, spread=0.03)
    assert torch.equal(labels, same_labels)
    exact, _ = whole("circle", seed=3, points=200, spread=0.0)
    assert torch.allclose((wide - exact), 3 * (first - exact), atol=1e-5)


def test_classes_can_be_left_out_of_training():
    data = toy("moons", points=400, valid=50, test=100, exclude=[0])
    assert data.split("train").labels.unique().tolist() == [1]
    assert data.split("valid").labels.unique().tolist() == [1]
    assert data.split("test").labels.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "square"}, "kind must be one of spiral, moons, circle, .*, not 'square'"),
        ({"points": 2}, "points must be at least 3, not 2"),
        ({"spread": 0.051}, r"spread must lie in \[0, 0.05\], not 0.051"),
        ({"spread": -0.01}, "spread must lie in"),
        ({"points": 100, "test": 100}, "test must be a count from 0 to 99"),
        ({"points": 100, "test": 50, "valid": 50}, "valid must be a count from 0 to 49"),
        ({"exclude": [3]}, "exclude must list classes from 0 to 2"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy(**settings)
    with pytest.raises(ValueError, match="not 'line'"):
        curve("line", torch.zeros(1))

"""Corruptions have the statistics they state, are drawn anew, and refuse impossible strengths."""

from functools import partial

import pytest
import torch

from aectl.data.noise import Gaussian, Jitter, Masking, SaltAndPepper
from aectl.rng import Rng

GREY = torch.full((200, 1, 28, 28), 0.5)


def test_gaussian_adds_zero_mean_noise_of_the_given_std():
    change = Gaussian(std=1.0)(GREY, Rng(0)) - GREY
    assert abs(float(change.mean())) < 0.01
    assert float(change.std()) == pytest.approx(1.0, abs=0.01)


def test_gaussian_clips_only_when_asked():
    assert float(Gaussian(1.0)(GREY, Rng(0)).max()) > 1
    clipped = Gaussian(1.0, clip=True)(GREY, Rng(0))
    assert 0 <= float(clipped.min()) < float(clipped.max()) <= 1


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_masking_zeroes_the_share_p_and_leaves_the_rest(p):
    noisy = Masking(p)(GREY, Rng(0))
    assert float((noisy == 0).float().mean()) == pytest.approx(p, abs=0.01)
    assert set(noisy.unique().tolist()) <= {0.0, 0.5}


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_salt_and_pepper_come_in_even_shares(p):
    noisy = SaltAndPepper(p)(GREY, Rng(0))
    assert float((noisy == 0).float().mean()) == pytest.approx(p / 2, abs=0.01)
    assert float((noisy == 1).float().mean()) == pytest.approx(p / 2, abs=0.01)


def shifted(x, down, right):
    """Return an image [C, H, W] so many pixels further down and to the right, black where there was nothing."""
    moved = torch.zeros_like(x)
    height, width = x.shape[1:]
    for row in range(max(0, down), min(height, height + down)):
        for column in range(max(0, right), min(width, width + right)):
            moved[:, row, column] = x[:, row - down, column - right]
    return moved


def test_jitter_is_one_of_all_whole_shifts_the_same_in_all_channels():
    x = 0.1 + Rng(0).uniform(2, 5, 7)
    ways = {(i, j): shifted(x, i, j) for i in range(-2, 3) for j in range(-2, 3)}
    counts = dict.fromkeys(ways, 0)
    for moved in Jitter(shift=2)(x.expand(2500, 2, 5, 7), Rng(1)):
        (way,) = (way for way, expected in ways.items() if torch.equal(moved, expected))
        counts[way] += 1
    # Of 2500 images 100 each, with a standard deviation of 9.8.
    assert min(counts.values()) > 60
    assert max(counts.values()) < 140


def test_jitter_mirrors_the_share_p_and_then_shifts():
    x = 0.1 + Rng(0).uniform(1, 6, 6)
    for p in (0.0, 0.25, 1.0):
        moved = Jitter(shift=0, p=p)(x.expand(4000, 1, 6, 6), Rng(1))
        mirrored = (moved == x.flip(-1)).flatten(1).all(1)
        assert (mirrored | (moved == x).flatten(1).all(1)).all()
        assert float(mirrored.float().mean()) == pytest.approx(p, abs=0.03)
    ways = torch.stack([shifted(x.flip(-1), i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    for moved in Jitter(shift=1, p=1.0)(x.expand(50, 1, 6, 6), Rng(2)):
        assert (moved == ways).flatten(1).all(1).sum() == 1


@pytest.mark.parametrize("noise", [Gaussian(), Masking(), SaltAndPepper(), Jitter(), Jitter(0, 0.5)])
def test_every_call_draws_anew_and_the_seed_repeats_it(noise):
    x = GREY if not isinstance(noise, Jitter) else Rng(0).uniform(*GREY.shape)
    rng = Rng(3)
    before = x.clone()
    first, second = noise(x, rng), noise(x, rng)
    assert not torch.equal(first, second)
    assert torch.equal(first, noise(x, Rng(3)))
    assert first.shape == x.shape
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (Gaussian, -1), (Gaussian, float("nan")), (Masking, 1.5), (Masking, -0.1), (SaltAndPepper, 2), (Jitter, -1),
        (partial(Jitter, 2), 1.5),
    ],
)  # fmt: skip
def test_impossible_strengths_are_refused_with_their_value(make, wrong):
    with pytest.raises(ValueError, match=str(wrong)):
        make(wrong)

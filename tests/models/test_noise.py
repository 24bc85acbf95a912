"""Corruptions have the statistics they state, are drawn anew, and refuse impossible strengths."""

import pytest
import torch

from aectl.data.noise import Gaussian, Masking, SaltAndPepper
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


@pytest.mark.parametrize("noise", [Gaussian(), Masking(), SaltAndPepper()])
def test_every_call_draws_anew_and_the_seed_repeats_it(noise):
    rng = Rng(3)
    first, second = noise(GREY, rng), noise(GREY, rng)
    assert not torch.equal(first, second)
    assert torch.equal(first, noise(GREY, Rng(3)))


@pytest.mark.parametrize(
    ("make", "wrong"),
    [(Gaussian, -1), (Gaussian, float("nan")), (Masking, 1.5), (Masking, -0.1), (SaltAndPepper, 2)],
)
def test_impossible_strengths_are_refused_with_their_value(make, wrong):
    with pytest.raises(ValueError, match=str(wrong)):
        make(wrong)

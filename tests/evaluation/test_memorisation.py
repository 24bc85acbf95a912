"""Copies of training vectors are found in any share, and blurred, poor or held-out vectors are not taken for copies."""

import pytest
import torch

from aectl.evaluation.memorisation import find_resembled, memorisation
from aectl.rng import Rng


def normal(n, seed, width=5):
    return Rng(seed).fork("vectors").normal(n, width)


TRAIN, HELD_OUT, FRESH = normal(4000, 0), normal(1000, 1), normal(1000, 2)


def with_copies(share, others):
    """Return `others`, of which the first ones are replaced by training vectors with a little noise."""
    count = round(share * len(others))
    return torch.cat([TRAIN[:count] + 0.01 * normal(count, 3), others[count:]])


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_planted_copies_are_found_whatever_the_others_are(share, scale):
    row = memorisation(with_copies(share, scale * FRESH), TRAIN, HELD_OUT)
    # Three standard errors, for nine cases.
    assert row["memorised"] == pytest.approx(100 * share, abs=1.5 * row["memorised_ci95"])
    assert row["memorised_ci95"] < 12


def test_two_percent_of_copies_are_found_among_images():
    """Few images resemble one by chance, as images have more than 5 dimensions."""
    train, held_out, fresh = normal(4000, 0, 16), normal(1000, 1, 16), normal(1000, 2, 16)
    row = memorisation(torch.cat([train[:20] + 0.01, fresh[20:]]), train, held_out)
    assert row["memorised"] == pytest.approx(2, abs=0.5)
    assert row["memorised"] > row["memorised_ci95"]


def test_only_vectors_that_resemble_one_are_searched_in_full():
    """The shortcut by the nearest training and the nearest held-out vector changes nothing."""
    x = with_copies(0.2, FRESH)
    vectors = torch.cat([TRAIN, HELD_OUT])
    found = find_resembled(x, vectors)
    excess = int((found < 4000).sum()) - 4 * int((found >= 4000).sum())
    assert memorisation(x, TRAIN, HELD_OUT)["memorised"] == pytest.approx(excess / 10)


def test_held_out_vectors_are_not_copies():
    assert memorisation(HELD_OUT, TRAIN, HELD_OUT)["memorised"] < 0
    half = HELD_OUT[:500]
    row = memorisation(half, TRAIN, HELD_OUT[500:])
    assert abs(row["memorised"]) <= row["memorised_ci95"]


@pytest.mark.parametrize("width", [2, 5])
def test_the_statistic_is_standard_normal_if_nothing_is_copied(width):
    z = []
    for seed in range(3, 300, 3):
        sets = normal(300, seed + 2, width), normal(400, seed, width), normal(200, seed + 1, width)
        row = memorisation(*sets)
        z.append(1.96 * row["memorised"] / row["memorised_ci95"])
    z = torch.tensor(z)
    assert float(z.mean()) == pytest.approx(0, abs=0.3)
    assert float(z.std()) == pytest.approx(1, abs=0.25)


def test_copies_of_images_that_occur_twice_are_found_and_shared_images_prove_nothing():
    twice = memorisation(TRAIN[:500] + 0.001, TRAIN.repeat(2, 1), HELD_OUT)
    assert twice["memorised"] == 100
    shared = memorisation(TRAIN[:500], TRAIN, TRAIN)
    assert abs(shared["memorised"]) <= shared["memorised_ci95"]


def test_without_a_resembling_vector_the_interval_is_that_of_no_event():
    assert memorisation(normal(100, 0, 400), normal(200, 1, 400), normal(200, 2, 400)) == {
        "memorised": 0,
        "memorised_ci95": 3,
    }

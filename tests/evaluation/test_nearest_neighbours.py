"""Exact nearest neighbours by lower bounds, against all distances computed one by one."""

import pytest
import torch

from aectl.evaluation.nearest_neighbours import Neighbours, nearest
from aectl.rng import Rng


def vectors(n, dimensions=200, rank=20, noise=0.1, seed=0):
    """Return vectors near a subspace of `rank` dimensions, as images and codes are."""
    rng = Rng(seed)
    basis = Rng(1).normal(rank, dimensions)
    return 5 + rng.normal(n, rank) @ basis + noise * rng.normal(n, dimensions)


def counted(monkeypatch):
    """Return the list of numbers of vectors that are compared with all of the reference."""
    calls, real = [], Neighbours.compare_all
    monkeypatch.setattr(Neighbours, "compare_all", lambda self, x, k: calls.append(len(x)) or real(self, x, k))
    return calls


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("noise", [0.1, 10.0])
def test_neighbours_are_those_of_all_distances(monkeypatch, k, noise):
    calls = counted(monkeypatch)
    reference, x = vectors(6000, noise=noise), vectors(700, noise=noise, seed=2)
    distances, positions = Neighbours(reference).search(x, k)
    expected = torch.cdist(x.double(), reference.double()).topk(k, largest=False)
    assert torch.equal(positions, expected.indices)
    torch.testing.assert_close(distances, expected.values.float(), rtol=1e-5, atol=1e-5)
    assert not calls if noise == 0.1 else True


def test_where_bounds_tell_nothing_all_distances_are_computed(monkeypatch):
    calls = counted(monkeypatch)
    reference, x = Rng(0).normal(6000, 400), Rng(1).normal(600, 400)
    _, positions = Neighbours(reference).search(x)
    assert calls == [500, 100]
    assert torch.equal(positions[:, 0], torch.cdist(x.double(), reference.double()).argmin(1))


def test_few_or_narrow_vectors_are_compared_directly():
    assert not Neighbours(torch.zeros(6000, 64)).bounded
    assert not Neighbours(torch.zeros(100, 784)).bounded


def test_copies_are_at_distance_0_and_the_first_of_equals_is_found():
    reference = vectors(6000)
    reference[4000:4100] = reference[:100]
    distances, positions = nearest(reference[4000:4100].view(-1, 1, 10, 20), reference.view(-1, 1, 10, 20))
    assert torch.equal(distances, torch.zeros(100))
    assert torch.equal(positions, torch.arange(100))


def test_constant_vectors_have_neighbours_too():
    distances, _ = Neighbours(torch.ones(6000, 200)).search(torch.zeros(3, 200))
    torch.testing.assert_close(distances, torch.full((3, 1), 200**0.5))

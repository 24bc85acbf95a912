"""Principal components against scikit-learn's, and what is said of a linear decoder."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as Reference

from aectl.data.datasets import Source
from aectl.evaluation.cache import Cache
from aectl.evaluation.pca import PCA, affine_basis
from aectl.models.autoencoder import Autoencoder
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.rng import Rng

SHAPE = (1, 8, 8)


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def correlated(n, seed=0, rank=10):
    mixing = Rng(0).normal(rank, 64) * 0.05
    return (0.5 + Rng(seed).fork("z").normal(n, rank) @ mixing).clamp(0, 1).view(n, *SHAPE)


def reference(x, code):
    return Reference(code, svd_solver="full").fit(x.flatten(1).double().numpy())


def test_pca_is_scikit_learns():
    x, held_out = correlated(500), correlated(50, seed=1)
    theirs, ours = reference(x, 5), PCA(source(x))
    expected = theirs.inverse_transform(theirs.transform(held_out.flatten(1).numpy()))
    assert np.allclose(ours.reconstruct(held_out, 5).flatten(1).numpy(), expected, atol=1e-6)
    # Theirs divides by n - 1; and which way a component points is nobody's choice.
    assert torch.allclose(ours.variances[:5], torch.from_numpy(theirs.explained_variance_) * 499 / 500)
    codes = theirs.transform(held_out.flatten(1).numpy())
    assert np.allclose(ours.encode(held_out, 5).abs().numpy(), np.abs(codes), atol=1e-5)


def test_it_is_fitted_on_all_images_also_where_they_are_many():
    # More than are summed at a time, and the last ones unlike the first.
    x = torch.cat([Rng(0).uniform(5000, 1, 2, 2), 0.2 * Rng(1).uniform(700, 1, 2, 2)])
    theirs, ours = reference(x, 4), PCA(source(x))
    assert torch.allclose(ours.mean, torch.from_numpy(theirs.mean_))
    assert torch.allclose(ours.variances, torch.from_numpy(theirs.explained_variance_) * 5699 / 5700)
    assert ours.variances.tolist() == sorted(ours.variances.tolist(), reverse=True)


def test_pixels_that_never_vary_have_no_negative_variance():
    x = correlated(100)
    x[:, :, 2:] = 0.1
    found = PCA(source(x))
    assert (found.variances >= 0).all()
    assert torch.allclose(found.reconstruct(x, 16)[:, :, 2:], x[:, :, 2:], atol=1e-6)


def test_samples_have_the_mean_and_the_covariance_of_the_images():
    x = correlated(400)
    drawn = PCA(source(x)).sample(20_000, 64, Rng(0), SHAPE)
    assert drawn.shape == (20_000, *SHAPE)
    assert torch.allclose(drawn.mean(0), x.mean(0), atol=0.01)
    found, expected = (torch.cov(images.flatten(1).T) for images in (drawn, x))
    assert (found - expected).norm() < 0.1 * expected.norm()
    bright = PCA(source((x + 0.4).clamp(0, 1))).sample(200, 64, Rng(0), SHAPE)
    assert bright.max() == 1


def test_components_are_found_once(tmp_path):
    x = source(correlated(100))
    first = PCA(x, Cache(tmp_path))
    again = PCA(source(torch.zeros(3, *SHAPE)), Cache(tmp_path))
    for name in ("mean", "components", "variances"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert getattr(again, name).dtype == torch.float64


def test_the_angle_to_ones_own_components_is_zero_and_to_the_others_ninety():
    pca = PCA(source(correlated(500)))
    # An arccosine near 1 loses half of the digits.
    mixed = pca.components[:, :5] @ Rng(0).normal(5, 5).double()
    assert pca.largest_angle_deg(mixed) == pytest.approx(0, abs=1e-4)
    assert pca.largest_angle_deg(pca.components[:, 5:10]) == pytest.approx(90)
    # One direction of three is turned by 30° out of the plane of the others.
    turned = pca.components[:, :3].clone()
    turned[:, 2] = 3**0.5 / 2 * pca.components[:, 2] + 0.5 * pca.components[:, 7]
    assert pca.largest_angle_deg(turned) == pytest.approx(30)


def test_an_affine_decoder_is_found_out_by_trying_it():
    torch.manual_seed(0)
    linear = Autoencoder(SHAPE, 3, partial(DenseEncoder), partial(DenseDecoder))
    basis = affine_basis(linear, 3, torch.device("cpu"))
    assert torch.allclose(basis, linear.decoder.layers[0].weight, atol=1e-5)
    deep = Autoencoder(SHAPE, 3, partial(DenseEncoder), partial(DenseDecoder, widths=[16]))
    assert affine_basis(deep, 3, torch.device("cpu")) is None
    squashed = Autoencoder(SHAPE, 3, partial(DenseEncoder), partial(DenseDecoder), output="sigmoid")
    assert affine_basis(squashed, 3, torch.device("cpu")) is None


def test_a_decoder_that_gives_no_numbers_is_not_called_affine():
    linear = Autoencoder(SHAPE, 3, partial(DenseEncoder), partial(DenseDecoder)).requires_grad_(False)
    linear.decoder.layers[0].bias.fill_(float("nan"))
    assert affine_basis(linear, 3, torch.device("cpu")) is None

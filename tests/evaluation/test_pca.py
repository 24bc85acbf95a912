"""Principal components against scikit-learn's, and what is said of a linear decoder."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as Reference

from aectl.data.datasets import Source
from aectl.evaluation import codes, reconstruction
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.context import Benchmark, Subject
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


def test_fewer_images_than_pixels_have_as_many_components_as_their_rank():
    # 20 of 64 dimensions vary, and of 12 images 11 directions: a code of 32 has no 32 components to be compared with.
    x, held_out = correlated(12, rank=20), correlated(200, seed=1, rank=20)
    pca = PCA(source(x))
    assert pca.rank == 11
    theirs = reference(x, 11)
    expected = theirs.inverse_transform(theirs.transform(held_out.flatten(1).numpy()))
    assert np.allclose(pca.reconstruct(held_out, pca.rank).flatten(1).numpy(), expected, atol=1e-6)
    few = 0.5 + (Rng(0).normal(100, 20) @ Rng(1).normal(20, 64) * 1e-3).view(-1, *SHAPE)
    assert PCA(source(few)).rank == 20
    assert PCA(source(torch.full((5, *SHAPE), 0.3))).rank == 0


def test_the_baseline_of_a_wide_code_is_named_by_the_rank():
    train, held_out = source(correlated(12, rank=20)), source(correlated(40, seed=1, rank=20))
    model = Autoencoder(SHAPE, 32, partial(DenseEncoder), partial(DenseDecoder)).requires_grad_(False)
    subject = Subject(model, Benchmark(train, held_out))
    rows = reconstruction.measure(subject)
    assert list(rows) == ["model", "PCA-11", "mean image"] and "angle_to_pca_deg" not in rows["model"]
    left = reference(train.images, 11)
    x = held_out.images.flatten(1).numpy()
    assert rows["PCA-11"]["mse"] == pytest.approx(
        np.square(x - left.inverse_transform(left.transform(x))).mean(), rel=1e-4
    )
    assert list(codes.code_baselines(subject)) == ["PCA-11", "raw pixels"]

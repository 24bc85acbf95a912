"""Each measure against a case whose answer is known."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian, Masking
from aectl.evaluation.codes import sparsity
from aectl.evaluation.denoising import AffineDenoiser
from aectl.evaluation.generation import class_shares, nearest_classes
from aectl.evaluation.reconstruction import PCA, affine_basis, fidelity, psnr
from aectl.evaluation.report import report
from aectl.models.autoencoder import Autoencoder
from aectl.models.gan import GAN
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.rng import Rng

SHAPE = (1, 8, 8)


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def correlated(n, seed=0, rank=10):
    rng = Rng(0)
    mixing = rng.normal(rank, 64) * 0.05
    return (0.5 + Rng(seed).fork("z").normal(n, rank) @ mixing).clamp(0, 1).view(n, *SHAPE)


def test_psnr_of_a_known_error():
    assert psnr(0.01) == pytest.approx(20)
    clean = torch.zeros(2, *SHAPE)
    restored = torch.stack([torch.full(SHAPE, 0.1), torch.full(SHAPE, 0.01)])
    row = fidelity(clean, restored)
    assert row["mse"] == pytest.approx((0.01 + 0.0001) / 2)
    assert row["psnr"] == pytest.approx(10 * math.log10(1 / 0.00505))
    assert row["psnr_image"] == pytest.approx((20 + 40) / 2, rel=1e-5)


@pytest.mark.parametrize("side", [8, 28])
def test_ssim_is_one_for_equal_images_and_less_for_others(side):
    x = Rng(0).uniform(20, 1, side, side)
    assert fidelity(x, x)["ssim"] == pytest.approx(1, abs=1e-5)
    assert fidelity(x, Rng(1).uniform(20, 1, side, side))["ssim"] < 0.2


def test_pca_is_scikit_learns():
    from sklearn.decomposition import PCA as Reference

    x, held_out = correlated(500), correlated(50, seed=1)
    reference = Reference(5, svd_solver="full").fit(x.flatten(1).numpy())
    expected = reference.inverse_transform(reference.transform(held_out.flatten(1).numpy()))
    ours = PCA(source(x)).reconstruct(held_out, 5).flatten(1).numpy()
    assert np.allclose(ours, expected, atol=1e-5)


def test_the_angle_to_ones_own_components_is_zero_and_to_the_others_ninety():
    pca = PCA(source(correlated(500)))
    # An arccosine near 1 loses half of the digits.
    assert pca.largest_angle_deg(pca.components[:, :5] @ torch.randn(5, 5).double()) == pytest.approx(0, abs=1e-4)
    assert pca.largest_angle_deg(pca.components[:, 5:10]) == pytest.approx(90)


def test_an_affine_decoder_is_found_out_by_trying_it():
    linear = Autoencoder(SHAPE, 3, partial(DenseEncoder), partial(DenseDecoder))
    basis = affine_basis(linear, 3, torch.device("cpu"))
    assert torch.allclose(basis, linear.decoder.layers[0].weight, atol=1e-5)
    deep = Autoencoder(SHAPE, 3, partial(DenseEncoder), partial(DenseDecoder, widths=[16]))
    assert affine_basis(deep, 3, torch.device("cpu")) is None


def test_the_affine_denoiser_is_the_wiener_filter():
    train, test = correlated(4000), correlated(500, seed=1)
    noise = Gaussian(0.3)
    x = train.flatten(1).double()
    covariance = torch.cov(x.T)
    matrix = torch.linalg.solve(covariance + 0.09 * torch.eye(64).double(), covariance)
    noisy = noise(test, Rng(5))
    wiener = ((noisy.flatten(1).double() - x.mean(0)) @ matrix + x.mean(0)).clamp(0, 1)
    best = float((wiener - test.flatten(1)).square().mean())
    ours = float((AffineDenoiser(source(train), noise, Rng(1))(noisy) - test).square().mean())
    assert best <= ours <= 1.03 * best
    assert ours < 0.5 * float((noisy - test).square().mean())


def test_the_affine_denoiser_bears_pixels_that_never_vary():
    x = correlated(200)
    x[:, :, 0] = 0
    restored = AffineDenoiser(source(x), Masking(0.5), Rng(0))(x)
    assert torch.isfinite(restored).all()


def test_sparsity_counts_active_and_dead_units():
    codes = torch.tensor([[0.0, 1.0, 0.0, -1e-4], [0.0, 2.0, -0.5, 0.0]])
    assert sparsity(codes) == {"active_share": 3 / 8, "active_units": 1.5, "dead_units": 2.0, "units": 4.0}


def test_tables_follow_the_abilities():
    dense = partial(DenseEncoder, widths=[8]), partial(DenseDecoder, widths=[8])
    data = source(correlated(200))
    plain = report(Autoencoder(SHAPE, 3, *dense), data, data, seed=0)
    assert set(plain) == {"reconstruction", "codes"}
    assert list(plain["reconstruction"]) == ["model", "PCA-3"]
    denoiser = report(Autoencoder(SHAPE, 3, *dense, noise=Gaussian()), data, data, seed=0)
    assert list(denoiser["denoising"]) == ["model", "best affine", "noisy input"]
    gan = report(GAN(SHAPE, 3, dense[1], dense[0]).eval(), data, data, seed=0)
    assert set(gan) == {"classes of samples (%)"}


def test_samples_are_given_the_class_of_the_nearest_training_image():
    train = Source(
        torch.stack([torch.full(SHAPE, v) for v in (0.0, 0.5, 1.0)]),
        torch.tensor([0, 1, 2]),
        torch.arange(3),
        scale=1.0,
        classes=4,
    )
    images = torch.stack([torch.full(SHAPE, v) for v in (0.1, 0.2, 0.6, 0.9)])
    assert nearest_classes(images, train).tolist() == [0, 0, 1, 2]
    shares = class_shares(images, train)
    assert shares == {"class_0": 50.0, "class_1": 25.0, "class_2": 25.0, "class_3": 0.0, "smallest": 25.0}

"""Denoisers against the Wiener filter, and closed forms against draws."""

import math
from functools import partial

import pytest
import torch

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian, Jitter, Masking, SaltAndPepper
from aectl.evaluation import denoising
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.evaluation.denoising import AffineDenoiser, decibels, estimate_moments, exact_moments, moments, pixelwise
from aectl.evaluation.reconstruction import psnr
from aectl.models.autoencoder import Autoencoder
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.rng import Rng

SHAPE = (1, 8, 8)
NOISES = [Gaussian(0.3), Masking(0.25), Masking(0.75), SaltAndPepper(0.25)]


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def correlated(n, seed=0, rank=10):
    mixing = Rng(0).normal(rank, 64) * 0.05
    return (0.5 + Rng(seed).fork("z").normal(n, rank) @ mixing).clamp(0, 1).view(n, *SHAPE)


def bench(cache=None, **others):
    return Benchmark(source(correlated(1000)), source(correlated(200, seed=1)), cache=cache or Cache(), **others)


def subject(noise=None, **others):
    dense = partial(DenseEncoder, widths=[8]), partial(DenseDecoder, widths=[8])
    torch.manual_seed(0)
    return Subject(Autoencoder(SHAPE, 3, *dense, noise=noise).eval().requires_grad_(False), bench(**others))


def mse(a, b):
    return float((a - b).square().mean())


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_moments_in_closed_form_are_those_of_many_draws(noise):
    images = source(correlated(500))
    of_draws = estimate_moments(noise, source(images.images.repeat(100, 1, 1, 1)), Rng(0))
    in_closed_form = exact_moments(pixelwise(noise), Benchmark(images, images).pca)
    for drawn, true in zip(of_draws, in_closed_form, strict=True):
        # 150,000 draws of numbers whose standard deviation is at most 0.5
        assert torch.allclose(drawn, true, atol=4 * 0.5 / 150_000**0.5)


def test_the_affine_denoiser_is_the_wiener_filter():
    x, noise, test = correlated(1000).flatten(1).double(), Gaussian(0.3), bench()
    covariance = torch.cov(x.T, correction=0)
    matrix = torch.linalg.solve(covariance + 0.09 * torch.eye(64).double(), covariance)
    noisy = noise(test.held_out.images, Rng(5))
    wiener = ((noisy.flatten(1).double() - x.mean(0)) @ matrix + x.mean(0)).clamp(0, 1).view_as(noisy)
    ours = AffineDenoiser(moments(noise, test))(noisy)
    assert torch.allclose(ours, wiener.float(), atol=1e-4)
    assert mse(ours, test.held_out.images) < 0.5 * mse(noisy, test.held_out.images)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_no_other_affine_map_fitted_on_draws_is_better(noise):
    test = bench()
    x, noisy = test.train.images, noise(test.train.images, Rng(7))
    best = mse(AffineDenoiser(moments(noise, test))(noisy), x)
    assert best < mse(noisy, x)
    assert best < mse(x.mean(0), x)
    drawn = AffineDenoiser(estimate_moments(noise, test.train, Rng(0)))(noisy)
    assert best < 1.005 * mse(drawn, x)


def test_a_noise_without_a_closed_form_is_sampled():
    class Halving(Gaussian):
        def forward(self, x, rng):
            return super().forward(x, rng) / 2

    assert pixelwise(Gaussian(0.1, clip=True)) is None
    assert pixelwise(Jitter(1)) is None
    assert pixelwise(Halving(0.1)) is None
    test = bench()
    found = moments(Halving(0.1), test)
    assert torch.allclose(found.noisy_mean, test.pca.mean / 2, atol=4e-3)


def test_the_affine_denoiser_bears_pixels_that_never_vary():
    x = correlated(200)
    x[:, :, 0] = 0
    test = Benchmark(source(x), source(x))
    for noise in (Masking(0.5), Masking(1.0), Jitter(1)):
        restored = AffineDenoiser(moments(noise, test))(x)
        assert torch.isfinite(restored).all()


def test_rows_under_ones_own_noise_are_of_one_draw(tmp_path):
    tested = subject(Gaussian(0.3), cache=Cache(tmp_path))
    rows = denoising.measure(tested)
    assert list(rows) == ["model", "best affine", "noisy input"]
    assert rows["best affine"]["mse"] < rows["noisy input"]["mse"]
    assert rows["noisy input"]["mse"] == pytest.approx(0.09, rel=0.05)
    noisy = denoising.corrupt(tested.bench.held_out.images, tested.model.noise, tested.bench)
    assert rows["model"]["mse"] == pytest.approx(mse(tested.model.reconstruct(noisy), tested.bench.held_out.images))
    assert rows["noisy input"]["mse"] == pytest.approx(mse(noisy, tested.bench.held_out.images))


def test_a_model_without_noise_has_no_table_of_its_own():
    with pytest.raises(Unmeasured, match="run's own noise, and the run has none"):
        denoising.measure(subject())


def test_baselines_are_kept_for_one_noise_with_its_parameters_and_one_seed(tmp_path):
    class Mine(Gaussian):
        factor = 1.0

        def forward(self, x, rng):
            return self.factor * super().forward(x, rng)

    def kept(noise, **others):
        denoising.measure(subject(noise, cache=Cache(tmp_path), **others))
        return len(list(tmp_path.glob("denoising-*.json")))

    assert kept(Gaussian(0.3)) == 1
    assert kept(Gaussian(0.3)) == 1
    assert kept(Gaussian(0.4)) == 2
    assert kept(Gaussian(0.3, clip=True)) == 3
    assert kept(Gaussian(0.3), seed=1) == 4
    assert kept(Mine(0.3)) == 5
    Mine.factor = 0.5  # somebody's own noise, rewritten
    assert kept(Mine(0.3)) == 6


def test_the_matrix_has_every_noise_and_its_baselines(tmp_path):
    tested = subject(cache=Cache(tmp_path))
    rows = denoising.measure_each_noise(tested)
    noises = [name for name in rows["model"] if not name.endswith("_ci95")]
    assert noises == ["none", *denoising.NOISES]
    for name in noises[1:]:
        assert rows["best affine"][name] > rows["noisy input"][name]
    assert "none" not in rows["best affine"]
    assert rows["noisy input"]["gaussian_2"] == pytest.approx(-10 * math.log10(4), abs=0.2)
    x = tested.bench.held_out.images
    assert rows["model"]["none"] == pytest.approx(psnr(mse(tested.model.reconstruct(x), x)))
    assert denoising.measure_each_noise(tested) == rows


def test_the_interval_of_a_psnr_is_that_of_its_error():
    clean, restored = torch.zeros(400, *SHAPE), Rng(0).uniform(400, 1, 1, 1).expand(400, *SHAPE)
    found = decibels(clean, restored, "here")
    errors = restored[:, 0, 0, 0].double().square()
    half = 1.96 * float(errors.std()) / 20
    low, high = psnr(float(errors.mean()) + half), psnr(float(errors.mean()) - half)
    assert low < found["here"] < high
    assert 2 * found["here_ci95"] == pytest.approx(high - low, rel=0.02)
    assert decibels(clean, clean, "here") == {"here": math.inf}

"""How near images come back, against errors and similarities that can be worked out by hand."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn

from aectl.data.datasets import Source
from aectl.data.torchvision_shim import torchvision
from aectl.evaluation import reconstruction
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.context import Benchmark, Subject
from aectl.evaluation.judge import Judge
from aectl.evaluation.reconstruction import fidelity, perceptual, psnr
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Model
from aectl.models.classifier import Classifier
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.rng import Rng

SHAPE = (1, 8, 8)
linear = (partial(DenseEncoder), partial(DenseDecoder))
deep = (partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16]))


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def correlated(n, seed=0, rank=10):
    mixing = Rng(0).normal(rank, 64) * 0.05
    return (0.5 + Rng(seed).fork("z").normal(n, rank) @ mixing).clamp(0, 1).view(n, *SHAPE)


def bench(**others):
    return Benchmark(source(correlated(500)), source(correlated(100, seed=1)), **others)


def autoencoder(code, parts=deep, **others):
    torch.manual_seed(0)
    return Autoencoder(SHAPE, code, *parts, **others).eval().requires_grad_(False)


def judge_of_pixels():
    """Return a judge whose features are the pixels."""
    return Judge("pixels", Classifier(SHAPE, 2, 64, lambda shape, code: nn.Flatten()).requires_grad_(False))


def test_psnr_of_a_known_error():
    assert psnr(0.01) == pytest.approx(20)
    clean = torch.zeros(2, *SHAPE)
    restored = torch.stack([torch.full(SHAPE, 0.1), torch.full(SHAPE, 0.01)])
    row = fidelity(clean, restored)
    assert row["mse"] == pytest.approx((0.01 + 0.0001) / 2)
    assert row["mse_ci95"] == pytest.approx(1.96 * (0.01 - 0.0001) / 2)
    assert row["psnr"] == pytest.approx(10 * math.log10(1 / 0.00505))
    assert row["psnr_image"] == pytest.approx((20 + 40) / 2, rel=1e-5)


def test_only_equal_images_have_an_infinite_psnr():
    x = correlated(5)
    assert psnr(0.0) == math.inf
    assert fidelity(x, x)["psnr"] == math.inf
    assert fidelity(x, x)["psnr_image"] == pytest.approx(100)
    assert math.isnan(psnr(math.nan))
    assert psnr(math.inf) == -math.inf
    # A model that came to nothing must not be the best of its table.
    row = fidelity(x, torch.full_like(x, math.nan))
    assert all(math.isnan(value) for value in row.values())


@pytest.mark.parametrize(
    ("shape", "sigma"), [((1, 28, 28), 1.5), ((3, 17, 30), 1.5), ((1, 8, 8), 0.5), ((2, 5, 9), 0.5)]
)
def test_ssim_is_that_of_torchmetrics(shape, sigma):
    torchvision()  # torchmetrics imports it, and fails where its wheel and torch's do not match
    from torchmetrics.functional.image import structural_similarity_index_measure

    clean = Rng(0).uniform(30, *shape)
    clean[:5] = 0.0
    restored = (clean + 0.3 * Rng(1).normal(30, *shape)).clamp(0, 1)
    expected = structural_similarity_index_measure(restored, clean, sigma=sigma, data_range=1.0)
    assert reconstruction.ssim(clean, restored) == pytest.approx(float(expected), abs=2e-5)


@pytest.mark.parametrize("side", [8, 28])
def test_ssim_is_one_for_equal_images_and_less_for_others(side):
    x = Rng(0).uniform(20, 1, side, side)
    assert fidelity(x, x)["ssim"] == pytest.approx(1, abs=1e-5)
    assert fidelity(x, Rng(1).uniform(20, 1, side, side))["ssim"] < 0.2


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 18)])
def test_ssim_of_flat_images_is_that_of_their_brightness(shape):
    # Nothing varies, so that of the formula (2ab + C₁) / (a² + b² + C₁) alone is left, with C₁ = 0.01².
    a, b = 0.01, 0.03
    clean, restored = (torch.full((1100, *shape), value) for value in (a, b))
    restored[1000:] = a  # more than are compared at a time, and the last ones equal
    of_one = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert fidelity(clean, restored)["ssim"] == pytest.approx((1000 * of_one + 100) / 1100, rel=1e-3)


@pytest.mark.parametrize(("shape", "has"), [((1, 5, 5), True), ((1, 4, 9), False), ((1, 1, 2), False)])
def test_images_too_small_for_its_window_have_no_ssim(shape, has):
    x = Rng(0).uniform(4, *shape)
    assert ("ssim" in fidelity(x, x)) is has


def test_the_perceptual_distance_is_relative_and_of_what_can_be_seen():
    x = 0.2 + 0.6 * Rng(0).uniform(20, *SHAPE)
    judge = judge_of_pixels()
    assert torch.allclose(perceptual(judge, x, 0.9 * x), torch.full((20,), 0.01), rtol=1e-4)
    # What overshoots white or black is seen as white or black.
    white = torch.ones(3, *SHAPE)
    assert torch.equal(perceptual(judge, white, white + 5), torch.zeros(3))
    row = fidelity(x, 0.9 * x, judge)
    assert row["perceptual"] == pytest.approx(0.01, rel=1e-4)
    assert row["perceptual_ci95"] < 1e-5
    assert "perceptual" not in fidelity(x, x)


def test_a_linear_autoencoder_at_its_optimum_is_pca():
    around = bench()
    model = autoencoder(3, linear)
    components = around.pca.components[:, :3].float()
    turned = torch.linalg.qr(Rng(0).normal(3, 3)).Q
    model.encoder.head[0].weight.copy_(turned @ components.T)
    model.encoder.head[0].bias.copy_(-turned @ components.T @ around.pca.mean.float())
    model.decoder.layers[0].weight.copy_(components @ turned.T)
    model.decoder.layers[0].bias.copy_(around.pca.mean)
    rows = reconstruction.measure(Subject(model, around))
    assert list(rows) == ["model", "PCA-3", "mean image"]
    assert rows["model"]["mse"] == pytest.approx(rows["PCA-3"]["mse"], rel=1e-4)
    assert rows["model"]["angle_to_pca_deg"] == pytest.approx(0, abs=0.01)
    assert "angle_to_pca_deg" not in rows["PCA-3"]


def test_baselines_are_the_projection_and_the_mean_of_the_training_images():
    around = bench()
    x, train = around.held_out.images, around.train.images
    rows = reconstruction.measure(Subject(autoencoder(4), around))
    assert rows["mean image"]["mse"] == pytest.approx(float((x - train.mean(0)).square().mean()), rel=1e-5)
    basis = torch.linalg.svd((train - train.mean(0)).flatten(1), full_matrices=False).Vh[:4]
    centred = (x - train.mean(0)).flatten(1)
    left = centred - centred @ basis.T @ basis
    assert rows["PCA-4"]["mse"] == pytest.approx(float(left.square().mean()), rel=1e-4)
    assert "angle_to_pca_deg" not in rows["model"]


def test_a_sparse_code_is_compared_with_as_many_components_as_are_active():
    wide = autoencoder(100, linear)
    # Ten units have a constant that is far from zero, the others one that is zero.
    wide.encoder.head[0].weight.zero_()
    wide.encoder.head[0].bias.zero_()
    wide.encoder.head[0].bias[:10] = 1
    # Of 500 images in which all 64 pixels vary.
    around = Benchmark(source(Rng(0).uniform(500, *SHAPE)), source(Rng(1).uniform(100, *SHAPE)))
    assert list(reconstruction.measure(Subject(wide, around))) == ["model", "PCA-64", "PCA-10", "mean image"]
    wide.encoder.head[0].bias[:60] = 1  # hardly fewer than there are components
    assert list(reconstruction.measure(Subject(wide, around))) == ["model", "PCA-64", "mean image"]
    wide.encoder.head[0].bias[:] = 0
    assert list(reconstruction.measure(Subject(wide, around))) == ["model", "PCA-64", "mean image"]


class Halves(Model):
    """A model that reconstructs and has no code."""

    def reconstruct(self, x):
        return x / 2


def test_without_a_code_there_is_no_pca_of_its_size():
    around = bench()
    rows = reconstruction.measure(Subject(Halves(), around))
    assert list(rows) == ["model", "mean image"]
    assert rows["model"]["mse"] == pytest.approx(float(around.held_out.images.square().mean()) / 4, rel=1e-5)


def test_a_linear_model_that_came_to_nothing_still_has_its_table():
    model = autoencoder(3, linear)
    model.decoder.layers[0].weight.fill_(math.nan)
    row = reconstruction.measure(Subject(model, bench()))["model"]
    assert math.isnan(row["mse"])
    assert "angle_to_pca_deg" not in row


def test_baselines_are_measured_once_for_each_judge(tmp_path):
    first = reconstruction.measure(Subject(Halves(), bench(cache=Cache(tmp_path))))
    (kept,) = tmp_path.glob("reconstruction-*.json")
    kept.write_text(json.dumps({"mse": 7.0}))
    assert reconstruction.measure(Subject(Halves(), bench(cache=Cache(tmp_path)))) == first | {
        "mean image": {"mse": 7.0}
    }
    seen = reconstruction.measure(Subject(Halves(), bench(cache=Cache(tmp_path), judge=judge_of_pixels())))
    assert seen["mean image"]["mse"] == first["mean image"]["mse"]
    assert seen["mean image"]["perceptual"] > 0

"""Numbers about codes, against codes whose numbers are known."""

import math
from functools import partial

import pytest
import torch

from aectl.data.datasets import Source
from aectl.evaluation import codes
from aectl.evaluation.codes import active_latents, code_baselines, hoyer, sparsity
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.models.autoencoder import Autoencoder
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.rng import Rng

SHAPE = (1, 4, 4)
linear = (partial(DenseEncoder), partial(DenseDecoder))


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def subject(model):
    data = Benchmark(source(Rng(0).uniform(200, *SHAPE)), source(Rng(1).uniform(100, *SHAPE)))
    return Subject(model.eval().requires_grad_(False), data)


def autoencoder(code):
    torch.manual_seed(0)
    return Autoencoder(SHAPE, code, *linear)


def test_sparsity_counts_active_and_dead_units():
    found = sparsity(torch.tensor([[0.0, 1.0, 0.0, -1e-4], [0.0, 2.0, -0.5, 0.0]]))
    assert found == {"active_share": 3 / 8, "active_units": 1.5, "dead_units": 2.0, "units": 4.0}


def test_hoyer_is_one_for_a_single_active_unit_and_zero_for_equal_ones():
    assert hoyer(3 * torch.eye(5))["hoyer"] == pytest.approx(1)
    assert hoyer(torch.tensor([[0.7, -0.7, 0.7, 0.7]]))["hoyer"] == pytest.approx(0)


def test_hoyer_of_cases_counted_by_hand():
    # Of n units k are equally strong: (√n - √k) / (√n - 1).
    two_of_four, three_of_four = torch.tensor([[0.0, 2.0, -2.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    expected = [2 - math.sqrt(2), 2 - math.sqrt(3)]
    assert hoyer(two_of_four)["hoyer"] == pytest.approx(expected[0])
    both = hoyer(torch.cat([two_of_four, three_of_four]))
    assert both["hoyer"] == pytest.approx(sum(expected) / 2)
    assert both["hoyer_ci95"] == pytest.approx(1.96 * (expected[0] - expected[1]) / 2)


def test_hoyer_heeds_neither_scale_nor_empty_codes():
    found = Rng(0).normal(50, 7)
    expected = hoyer(found)
    assert hoyer(torch.cat([found, torch.zeros(9, 7)])) == expected
    for scale in (1e-30, 1e30):
        assert hoyer(scale * found)["hoyer"] == pytest.approx(expected["hoyer"])
    assert hoyer(torch.zeros(3, 7)) == {}
    assert hoyer(torch.ones(3, 1)) == {}


def test_a_latent_is_active_where_its_mean_varies_by_more_than_a_hundredth():
    sign = torch.tensor([1.0, -1.0]).repeat(50)
    means = torch.stack([0.101 * sign, 0.099 * sign, 5 + 0 * sign, 3 + sign], 1)
    assert active_latents(means) == 2


def test_units_that_a_vaes_encoder_ignores_are_not_active():
    torch.manual_seed(0)
    model = VAE(SHAPE, 5, *linear)
    mu, logvar = model.encoder.head[0].weight.detach().split(5)
    mu.normal_(generator=torch.Generator().manual_seed(0))
    mu[[1, 4]] = 0
    # What the encoder says of the variances is no matter.
    logvar.normal_(generator=torch.Generator().manual_seed(1))
    row = codes.measure(subject(model))["model"]
    assert row["active_latents"] == 3
    assert row["units"] == 5


def test_rows_are_the_models_and_pcas_of_the_same_size():
    tested = subject(autoencoder(3))
    rows = codes.measure(tested)
    assert list(rows) == ["model", "PCA-3"]
    assert "active_latents" not in rows["model"]
    assert rows["PCA-3"]["units"] == 3
    found = tested.bench.pca.encode(tested.bench.held_out.images, 3)
    assert rows["PCA-3"] == sparsity(found) | hoyer(found)
    assert rows["model"] == sparsity(tested.codes) | hoyer(tested.codes)


def test_there_are_no_more_components_than_pixels():
    tested = subject(autoencoder(40))
    found = {name: encode(tested.bench.held_out) for name, encode in code_baselines(tested).items()}
    assert {name: code.shape for name, code in found.items()} == {"PCA-16": (100, 16), "raw pixels": (100, 16)}
    assert torch.equal(found["raw pixels"], tested.bench.held_out.images.flatten(1))
    assert list(codes.measure(tested)) == ["model", "PCA-16"]


def test_codes_that_are_not_numbers_have_no_table():
    model = autoencoder(3).requires_grad_(False)
    model.encoder.head[0].bias[1] = math.inf
    with pytest.raises(Unmeasured, match="codes are NaN"):
        codes.measure(subject(model))

"""Likelihoods against integrals that can be done, and every number told for what it is."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from aectl.data.datasets import Source
from aectl.evaluation import likelihood
from aectl.evaluation.context import Benchmark, Subject
from aectl.evaluation.likelihood import ppca
from aectl.models.base import Model, Score
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.rng import Rng

SHAPE = (1, 4, 4)
dense = (partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16]))
linear = (partial(DenseEncoder), partial(DenseDecoder))


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def grey(n, seed=0):
    mixing = Rng(0).normal(3, 16) * 0.1
    images = 0.5 + Rng(seed).fork("z").normal(n, 3) @ mixing + 0.05 * Rng(seed).fork("e").normal(n, 16)
    return images.clamp(0, 1).view(n, *SHAPE)


def subject(model, images=None, **others):
    data = Benchmark(source(grey(500)), source(grey(60, seed=1) if images is None else images))
    return Subject(model.eval().requires_grad_(False), data, **others)


def vae(code=2, parts=dense, **others):
    torch.manual_seed(0)
    return VAE(SHAPE, code, *parts, **others)


def test_the_bound_comes_near_an_integral_over_a_grid_and_stays_below():
    x = Rng(2).uniform(60, *SHAPE).round()
    model = vae(code=1)
    rows = likelihood.measure(subject(model, x, nll_samples=5000))
    z = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        given = Bernoulli(logits=model.decoder(z).flatten(1)[:, None]).log_prob(x.flatten(1)).double().sum(2)
    joint = given + Normal(0.0, 1.0).log_prob(z.double())
    exact = -float((joint.logsumexp(0) + math.log(16 / 4000)).mean())
    assert rows["model"]["nll"] == pytest.approx(exact, abs=0.005)
    assert rows["model"]["kind"] == "bound"
    assert rows["model"]["binarisation"] == "fixed"
    # With one sample the bound is loose, and on average below.
    assert rows["model, ELBO"]["nll"] > exact + 0.005
    assert rows["model, ELBO"]["samples"] == 1


def test_a_linear_gaussian_vae_is_measured_as_the_normal_that_it_is():
    model = vae(parts=linear, likelihood="gaussian", std=0.5)
    tested = subject(model, nll_samples=5000)
    rows = likelihood.measure(tested)
    weight, bias = model.decoder.layers[0].weight, model.decoder.layers[0].bias
    marginal = MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(16))
    exact = -float(marginal.log_prob(tested.bench.held_out.images.flatten(1)).mean())
    assert rows["model"]["nll"] == pytest.approx(exact, abs=0.02)
    assert list(rows) == ["model", "model, ELBO", "independent normal", "probabilistic PCA-2"]
    assert {row["binarisation"] for row in rows.values()} == {"none"}


def test_probabilistic_pca_is_scikit_learns():
    from sklearn.decomposition import PCA as Reference

    data = subject(vae()).bench
    x = data.held_out.images
    for code in (0, 1, 3):
        ours = ppca(x, data.pca, code)
        if code:
            expected = Reference(code, svd_solver="full").fit(data.train.images.flatten(1).double())
            # scikit-learn divides by n - 1.
            assert float(ours.mean()) == pytest.approx(expected.score(x.flatten(1).double()), rel=2e-3)
        else:
            std = data.pca.variances.mean().sqrt()
            assert torch.allclose(ours, Normal(data.pca.mean, std).log_prob(x.flatten(1)).sum(1))


def test_there_is_no_density_where_nothing_varies():
    flat = Benchmark(source(torch.full((20, *SHAPE), 0.5)), source(grey(5)))
    assert ppca(flat.held_out.images, flat.pca, 0) is None
    assert ppca(flat.held_out.images, subject(vae()).bench.pca, 16) is None
    # And no probability of binary pixels is put in the place of a density of grey ones.
    rows = likelihood.measure(Subject(vae(likelihood="gaussian").eval(), flat, nll_samples=2))
    assert list(rows) == ["model", "model, ELBO"]


def test_the_independent_bernoulli_is_the_mean_over_many_binary_draws():
    tested = subject(vae(), nll_samples=10)
    row = likelihood.measure(tested)["independent Bernoulli"]
    p = (tested.bench.train.images.flatten(1).sum(0) + 1) / 502
    x = tested.bench.held_out.images.flatten(1).expand(2000, -1, -1)
    drawn = Bernoulli(p).log_prob(Rng(0).bernoulli(x)).sum(2)
    assert row["nll"] == pytest.approx(-float(drawn.mean()), abs=4 * float(drawn.std()) / 120_000**0.5)
    assert (row["kind"], row["binarisation"]) == ("exact", "dynamic")


def test_pixels_always_black_in_training_do_not_make_it_infinite():
    train = grey(50)
    train[..., 0] = 0
    tested = Subject(vae().eval(), Benchmark(source(train), source(grey(20, seed=1))), nll_samples=2)
    assert math.isfinite(likelihood.measure(tested)["independent Bernoulli"]["nll"])


def test_a_cross_entropy_of_grey_pixels_is_called_no_likelihood_and_compared_with_another():
    rows = likelihood.measure(subject(vae(binarise=False), nll_samples=10))
    assert list(rows) == ["model", "independent Bernoulli"]
    assert {row["kind"] for row in rows.values()} == {"no likelihood"}
    assert {row["binarisation"] for row in rows.values()} == {"none"}


def test_a_bound_of_pixels_that_are_binary_needs_no_draw():
    rows = likelihood.measure(subject(vae(binarise=False), grey(20).round(), nll_samples=10))
    assert (rows["model"]["kind"], rows["model"]["binarisation"]) == ("bound", "fixed")


class Uniform(Model):
    """The density of all images that is one everywhere."""

    def log_prob(self, x, *, rng, samples=None):
        return Score(torch.zeros(len(x)), "exact")


def test_an_exact_model_has_neither_samples_nor_a_bound():
    rows = likelihood.measure(subject(Uniform()))
    assert rows["model"] == {"nll": 0, "nll_ci95": 0, "kind": "exact", "binarisation": "none", "images": 60}
    assert list(rows) == ["model", "independent normal"]


def test_as_many_images_as_asked_the_same_each_time():
    data = subject(vae()).bench
    few, all_of_them = likelihood.choose_images(data, 10), likelihood.choose_images(data, 1000)
    assert len(few) == 10
    assert torch.equal(few, likelihood.choose_images(data, 10))
    assert torch.equal(all_of_them, data.held_out.images)
    assert likelihood.measure(subject(vae(), nll_images=10, nll_samples=5))["model"]["images"] == 10

"""The VAE's terms agree with torch.distributions and with an integral that can be done."""

from functools import partial

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.rng import Rng

SHAPE = (1, 8, 8)
dense = (partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16]))


def test_kl_agrees_with_torch_distributions(batch):
    model = VAE(SHAPE, 3, *dense, binarise=False)
    mu, logvar = model.posterior(batch.x)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert torch.allclose(model.terms(batch.x, Rng(0))["kl"], expected, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_likelihoods_agree_with_torch_distributions(batch, likelihood):
    model = VAE(SHAPE, 3, *dense, likelihood=likelihood, std=0.3)
    x, pixels = batch.x.round(), model.decoder(torch.zeros(32, 3))
    p = Bernoulli(logits=pixels) if likelihood == "bernoulli" else Normal(pixels, 0.3)
    assert torch.allclose(model.nll(pixels, x), -Independent(p, 3).log_prob(x), rtol=1e-5)


def test_the_loss_is_the_negative_elbo_with_the_same_beta_in_training_and_validation(batch):
    model = VAE(SHAPE, 3, *dense, beta=4.0)
    metrics = model.validate(batch, Rng(1))
    (loss,) = model.losses(batch, None, Rng(1))
    assert torch.allclose(metrics["loss"], loss.value)
    assert torch.allclose(loss.value, metrics["nll"] + 4 * metrics["kl"])
    assert torch.allclose(metrics["negative_elbo"], metrics["nll"] + metrics["kl"])


def test_binarisation_draws_anew(batch):
    model = VAE(SHAPE, 3, *dense)
    rng = Rng(0)
    first, second = model.observe(batch.x, rng), model.observe(batch.x, rng)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
    draws = torch.stack([model.observe(batch.x, rng) for _ in range(2000)]).mean(0)
    assert float((draws - batch.x).abs().max()) < 0.06


def test_importance_sampling_finds_the_likelihood_of_a_model_that_can_be_integrated():
    torch.manual_seed(0)
    model = VAE((1, 2, 2), 1, partial(DenseEncoder), partial(DenseDecoder), likelihood="gaussian", std=0.5).eval()
    x = torch.rand(4, 1, 2, 2)
    # A linear decoder and a Gaussian likelihood make p(x) = N(b, W Wᵀ + σ² I).
    weight, bias = model.decoder.layers[0].weight, model.decoder.layers[0].bias
    covariance = weight @ weight.T + 0.25 * torch.eye(4)
    exact = torch.distributions.MultivariateNormal(bias, covariance).log_prob(x.flatten(1))
    with torch.no_grad():
        few = torch.stack([model.log_prob(x, rng=Rng(i), samples=1).value for i in range(300)]).mean(0)
        many = model.log_prob(x, rng=Rng(0), samples=20_000)
    assert many.kind == "bound"
    assert torch.allclose(many.value, exact, atol=0.05)
    assert (few < many.value + 0.02).all()


def test_the_weight_of_the_kl_term_rises_to_beta_in_training_alone(batch):
    model = VAE(SHAPE, 3, *dense, beta=3.0, warm_up=4)
    before = model.validate(batch, Rng(0))
    terms = model.terms(batch.x, Rng(0))
    for step in range(6):
        (loss,) = model.losses(batch, None, Rng(0))
        assert torch.allclose(loss.value, terms["nll"] + 3 * min(step / 4, 1) * terms["kl"])
    after = model.validate(batch, Rng(0))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.allclose(after["loss"], terms["nll"] + 3 * terms["kl"])


def test_checkpoints_without_a_warm_up_have_no_count_of_steps():
    assert "steps" not in VAE(SHAPE, 3, *dense).state_dict()
    assert "steps" in VAE(SHAPE, 3, *dense, warm_up=1).state_dict()


def test_free_bits_are_a_floor_of_each_units_mean_kl_in_the_loss_alone(batch):
    model = VAE(SHAPE, 3, *dense, binarise=False, free_bits=0.5)
    with torch.no_grad():
        # Units with KL ½ m², m = 2, 0, 0, for every image.
        bias = torch.tensor([2.0, 0, 0, 0, 0, 0])
        model.encoder.head[0].weight.zero_()
        model.encoder.head[0].bias.copy_(bias)
    (loss,) = model.losses(batch, None, Rng(0))
    assert torch.allclose(loss.metrics["kl"], torch.tensor(2.0))
    assert torch.allclose(loss.metrics["kl_free"], torch.tensor(2.0 + 0.5 + 0.5))
    assert torch.allclose(loss.value, loss.metrics["nll"] + 3)
    metrics = model.validate(batch, Rng(0))
    assert torch.allclose(metrics["loss"], metrics["nll"] + 2)
    # A unit below the floor is not pulled to the prior.
    (slope,) = torch.autograd.grad(loss.metrics["kl_free"], model.encoder.head[0].bias)
    assert torch.allclose(slope, torch.tensor([2.0, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize("std", ["learned", "per_pixel"])
def test_a_learned_std_becomes_the_root_mean_square_of_the_residuals(std):
    model = VAE(SHAPE, 3, *dense, likelihood="gaussian", std=std)
    spread = torch.linspace(0.02, 0.2, 64).view(SHAPE) if std == "per_pixel" else torch.tensor(0.07)
    residuals = spread * Rng(0).normal(100, *SHAPE)
    rms = residuals.square().mean(0 if std == "per_pixel" else None).sqrt()
    pixels = torch.full((100, *SHAPE), 0.5)
    optimizer = torch.optim.Adam([model.raw_log_std], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        model.nll(pixels, pixels + residuals).mean().backward()
        optimizer.step()
    assert torch.allclose(model.log_std().exp(), rms, rtol=1e-3)
    expected = -Independent(Normal(pixels, rms), 3).log_prob(pixels + residuals)
    assert torch.allclose(model.nll(pixels, pixels + residuals), expected, rtol=1e-3)


def test_a_learned_std_of_pixels_that_never_change_stays_above_its_bound():
    model = VAE(SHAPE, 3, *dense, likelihood="gaussian", std="per_pixel")
    pixels = torch.zeros(4, *SHAPE)
    optimizer = torch.optim.SGD([model.raw_log_std], lr=5.0)
    for _ in range(200):
        optimizer.zero_grad()
        model.nll(pixels, pixels).mean().backward()
        optimizer.step()
    assert model.log_std().detach().flatten() == pytest.approx(torch.full((64,), -6.0), abs=0.01)
    assert (model.log_std() >= -6).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood"),
        ({"beta": -1}, "beta"),
        ({"std": 0}, "std"),
        ({"code": 0}, "code"),
        ({"std": "fitted"}, "std must be a finite number > 0, learned or per_pixel, not fitted"),
        ({"warm_up": -1}, "warm_up"),
        ({"free_bits": -1}, "free_bits"),
        ({"free_bits": float("nan")}, "free_bits"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(SHAPE, **{"code": 3, "encoder": dense[0], "decoder": dense[1], **arguments})

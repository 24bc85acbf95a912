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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"likelihood": "poisson"}, "likelihood"), ({"beta": -1}, "beta"), ({"std": 0}, "std"), ({"code": 0}, "code")],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(SHAPE, **{"code": 3, "encoder": dense[0], "decoder": dense[1], **arguments})

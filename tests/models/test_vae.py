"""The VAE's terms agree with torch.distributions and with an integral that can be done."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from aectl.data.noise import Gaussian
from aectl.models.base import Batch, Stage
from aectl.models.networks import ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder
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


def test_the_likelihood_of_a_conditional_model_is_summed_over_the_classes():
    torch.manual_seed(0)
    linear = partial(DenseEncoder), partial(DenseDecoder)
    model = VAE((1, 2, 2), 1, *linear, likelihood="gaussian", std=0.5, conditional=True, classes=3).eval()
    model.shares.copy_(torch.tensor([0.5, 0.0, 0.5]))
    x = torch.rand(4, 1, 2, 2)
    # A linear decoder and a Gaussian likelihood make p(x|y) = N(b + V_y, W Wᵀ + σ² I).
    weight, bias = model.decoder.layers[0].weight, model.decoder.layers[0].bias
    covariance = weight[:, :1] @ weight[:, :1].T + 0.25 * torch.eye(4)
    means = (bias[:, None] + weight[:, [1, 3]]).T[:, None]
    each = torch.distributions.MultivariateNormal(means, covariance).log_prob(x.flatten(1))
    exact = each.logsumexp(0) - math.log(2)
    with torch.no_grad():
        few = torch.stack([model.log_prob(x, rng=Rng(i), samples=1).value for i in range(300)]).mean(0)
        many = model.log_prob(x, rng=Rng(0), samples=20_000)
    assert torch.allclose(many.value, exact, atol=0.05)
    assert (few < many.value + 0.02).all()


CONV = partial(ConvEncoder, channels=[4, 6], pool=False), partial(ConvDecoder, channels=[6, 4])


@pytest.mark.parametrize("parts", [dense, CONV])
def test_a_conditional_model_samples_and_recognises_the_class(parts):
    torch.manual_seed(0)
    settings = {
        "likelihood": "gaussian",
        "std": 0.3,
        "beta": 4.0,
        "conditional": True,
        "classes": 4,
        "noise": Gaussian(0.05),
    }
    model = VAE(SHAPE, 3, *parts, **settings)
    # Images as grey as their class says.
    y = torch.arange(128) % 4
    x = ((0.1 + 0.25 * y)[:, None, None, None] + 0.02 * Rng(3).normal(128, *SHAPE)).clamp(0, 1)
    batch, rng = Batch(x, y, torch.arange(128)), Rng(0)
    model.prepare([batch])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        for loss in model.losses(batch, Stage(), rng):
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
    model.eval().requires_grad_(False)
    grey = model.sample(128, rng=Rng(1), y=y).flatten(1).mean(1)
    assert torch.allclose(grey, 0.1 + 0.25 * y, atol=0.1)
    assert torch.equal(model.infer_classes(x), y)
    assert torch.equal(model.encode(x), model.posterior(x, y)[0])
    assert torch.equal(model.reconstruct(x), model.decode(model.encode(x, y), y))
    # Validation takes missing labels for what they look like.
    some = batch._replace(y=torch.where(y == 2, -1, y))
    assert model.validate(some, Rng(2)) == model.validate(batch, Rng(2))
    assert float(model.validate(some, Rng(2))["loss"]) < float(model.validate(batch._replace(y=3 - y), Rng(2))["loss"])


def test_a_conditional_model_needs_labels():
    model = VAE(SHAPE, 3, *dense, conditional=True, classes=4)
    assert [stage.labelled for stage in model.stages()] == [True]
    assert [stage.labelled for stage in VAE(SHAPE, 3, *dense).stages()] == [False]
    model.prepare([Batch(torch.zeros(3, *SHAPE), torch.tensor([0, 2, 0]), torch.arange(3))])
    with pytest.raises(ValueError, match="no training images of that class"):
        model.sample(2, rng=Rng(0), y=torch.tensor([0, 1]))
    assert set(model.draw_classes(100, None, Rng(0)).tolist()) == {0, 2}


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
        ({"conditional": True}, "conditional=true needs a dataset with classes"),
        ({"free_bits": float("nan")}, "free_bits"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(SHAPE, **{"code": 3, "encoder": dense[0], "decoder": dense[1], **arguments})

"""The energy-based model against densities, ratios and integrals that are known in closed form."""

import math
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import aectl as package
from aectl.data.noise import Gaussian
from aectl.data.toy import MODES, curve, toy
from aectl.evaluation.likelihood import ppca
from aectl.models.base import Batch, Encodes, Energy, Normalises, Samples, Scores, Stage, Walks
from aectl.models.ebm import EBM
from aectl.models.networks import DenseEncoder
from aectl.rng import Rng
from aectl.runs.run import find_run

PLANE = (1, 1, 2)
QUICK = ("dataset=digits", "device=cpu", "device.threads=1", "batch_size=256")
network = partial(DenseEncoder, widths=[16])


class Quadratic(nn.Module):
    """f(u) = c + a·u - uᵀ B u / 2, under which p(u) ∝ N(u; 0, I) exp(f(u)) is normal, precision I + B."""

    def __init__(self, shape=None, code=1, flat=False):
        super().__init__()
        k = math.prod(shape)
        shear = Rng(1).normal(k, k) / k**0.5
        self.linear = nn.Parameter(torch.zeros(k) if flat else 0.7 * Rng(0).normal(k))
        self.matrix = nn.Parameter(torch.zeros(k, k) if flat else 2 * shear @ shear.T)
        self.constant = 0.0 if flat else -0.3

    def forward(self, u):
        return (self.constant + u @ self.linear - (u @ self.matrix * u).sum(1) / 2)[:, None]

    def law(self, share=1.0, temperature=1.0):
        """Return mean and covariance of p ∝ exp((share f - ‖u‖²/2) / T²)."""
        covariance = torch.linalg.inv(torch.eye(len(self.linear)) + share * self.matrix.detach())
        return covariance @ (share * self.linear.detach()), temperature**2 * covariance

    def log_partition(self):
        """Return log ∫ N(u; 0, I) exp(f(u)) du."""
        mean, covariance = self.law()
        return self.constant + 0.5 * float(covariance.logdet() + mean @ torch.linalg.solve(covariance, mean))


class TwoRidges(nn.Module):
    """log p / N(0, I) of two narrow normal distributions at u = (± 1.5, 0), of standard deviation 0.1."""

    def __init__(self, shape=None, code=1):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, u):
        modes = torch.tensor([[-1.5, 0.0], [1.5, 0.0]])
        return ((-torch.cdist(u, modes).square() / 0.02).logsumexp(1) + u.square().sum(1) / 2 + self.offset)[:, None]


def model_of(network, shape=PLANE, **settings):
    torch.manual_seed(0)
    return EBM(shape, network, **settings)


def images_of(n=4000, shape=(1, 2, 3), seed=0):
    """Images of correlated normal pixels about one half, with one direction that hardly counts beside the others."""
    rng = Rng(seed)
    mix = 0.1 * Rng(77).normal(6, 6) * torch.tensor([2.0, 1.5, 1.0, 0.3, 0.3, 0.3])[:, None]
    return 0.5 + (rng.normal(n, 6) @ mix).view(n, *shape)


def batch_of(x):
    return Batch(x, torch.full((len(x),), -1), torch.arange(len(x)))


def trained(model, source, epochs, lr=0.004, size=256):
    """Train in place, the rate falling to 0; returns the model in evaluation mode."""
    model.prepare([batch_of(source.pixels())])
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=lr), Rng(0)
    total = epochs * (len(source) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 * (1 + math.cos(math.pi * i / total)))
    for epoch in range(epochs):
        for part in Rng(epoch).permutation(len(source)).split(size)[: len(source) // size]:
            for loss in model.losses(source.batch(part), Stage(), rng):
                optimizer.zero_grad()
                loss.value.backward()
                optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


@cache
def trained_ring():
    """The energy of eight normal distributions on a ring after a short training, with their spread and fresh points."""
    data = toy("gaussians", points=12_000, spread=0.04, valid=0, test=2000)
    model = model_of(partial(DenseEncoder, widths=[64, 64, 64]), noise_ratio=5)
    return trained(model, data.split("train"), epochs=25), 0.04, data.split("test").pixels()


@pytest.fixture
def ring():
    return trained_ring()


def log_density_of_ring(x, spread):
    """Return the mixture's log density [N] at points [N, 1, 1, 2]."""
    distances = torch.cdist(x.flatten(1), curve("gaussians", torch.arange(MODES) / MODES)).square()
    return (-distances / (2 * spread**2)).logsumexp(1) - math.log(MODES * 2 * math.pi * spread**2)


@pytest.mark.slow
def test_the_density_ratio_of_a_known_mixture_is_recovered_with_its_constant(ring):
    model, spread, x = ring
    u = model.whiten(x)
    known = log_density_of_ring(x, spread) - model.log_noise(x, u)
    error = model.log_ratio(u) - known
    # The ratio itself spreads over nats; with f = 0 the error would be its mean, 1.4.
    assert float(known.mean()) > 1.2
    assert float(error.abs().mean()) < 0.15
    assert abs(float(error.mean())) < 0.06


def test_the_learnt_density_integrates_to_one_and_chains_find_its_integral(ring):
    model = ring[0]
    steps = torch.linspace(-0.5, 1.5, 401)
    plane = torch.cartesian_prod(steps, steps).view(-1, *PLANE)
    by_squares = float((-model.energy(plane)).exp().sum()) * (2 / 400) ** 2
    assert by_squares == pytest.approx(1, abs=0.05)
    by_chains, learnt = model.log_partition(rng=Rng(0))
    assert (by_chains.kind, by_chains.of, learnt.kind, learnt.value) == ("AIS", "grey pixels", "NCE", 0)
    assert 0 < by_chains.ci95 < 0.1
    assert abs(by_chains.value - math.log(by_squares)) < 2 * by_chains.ci95


def test_samples_lie_in_all_modes_as_the_data_do(ring):
    model, spread, _ = ring
    centres = curve("gaussians", torch.arange(MODES) / MODES)
    distance, mode = torch.cdist(model.sample(2000, rng=Rng(0)).flatten(1), centres).min(1)
    shares = mode.bincount(minlength=MODES) / 2000
    assert float(shares.min()) > 0.09
    assert float(shares.max()) < 0.16
    assert float((distance < 4 * spread).float().mean()) > 0.98
    assert float(distance.square().mean() / 2) ** 0.5 == pytest.approx(spread, rel=0.15)


@torch.no_grad()
def test_the_loss_is_noise_contrastive_estimations():
    model = model_of(Quadratic, noise_ratio=3)
    x = images_of(50, (*PLANE[:2], 6))[..., :2]
    found = model.terms(x, Rng(5))
    data, noise = model.log_ratio(x.flatten(1)), model.log_ratio(Rng(5).normal(150, 2))
    # p / (p + 3 q) is the chance that a point is an image, where three draws of q come with each.
    is_data, is_noise = data.exp() / (data.exp() + 3), 3 / (noise.exp() + 3)
    assert float(found["loss"]) == pytest.approx(float(-is_data.log().mean() - 3 * is_noise.log().mean()), rel=1e-5)
    assert float(found["accuracy_data"]) == pytest.approx(float((is_data > 0.5).float().mean()))
    assert float(found["accuracy_noise"]) == pytest.approx(float((is_noise >= 0.5).float().mean()))
    assert float(found["log_ratio"]) == pytest.approx(float(data.mean()), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("components", [None, 2, 4])
def test_the_noise_is_probabilistic_pcas_normal_distribution(components):
    from types import SimpleNamespace

    x = images_of()
    model = model_of(partial(Quadratic, flat=True), x.shape[1:], components=components)
    model.prepare(map(batch_of, x.split(1500)))
    flat = x.flatten(1).double()
    if components is None:
        expected = MultivariateNormal(flat.mean(0), flat.T.cov(correction=0)).log_prob(flat)
    else:
        values, vectors = torch.linalg.eigh(flat.T.cov(correction=0))
        pca = SimpleNamespace(mean=flat.mean(0), variances=values.flip(0), components=vectors.flip(1))
        expected = ppca(x, pca, components)
    assert torch.allclose(-model.energy(x).double(), expected, atol=2e-3)
    u = model.whiten(x)
    assert torch.allclose(u.mean(0), torch.zeros(u.shape[1]), atol=1e-4)
    assert torch.allclose(u.T.cov(correction=0), torch.eye(u.shape[1]), atol=1e-3)
    if components is None:
        assert torch.allclose(model.unwhiten(u), x, atol=1e-5)


@torch.no_grad()
def test_the_score_is_the_energy_and_says_that_it_is_an_estimate():
    model, x = model_of(Quadratic), images_of()[..., :1, :2]
    score = model.log_prob(x, rng=Rng(0))
    assert torch.equal(score.value, -model.energy(x))
    assert (score.kind, score.of) == ("estimate", "grey pixels")


@pytest.mark.parametrize(("share", "temperature"), [(1.0, 1.0), (0.4, 1.0), (1.0, 0.5), (0.7, 1.6)])
def test_a_step_leaves_a_known_normal_distribution_as_it_is(share, temperature):
    # Steps so large that without Metropolis' rule the variances would be wrong by far.
    model = model_of(Quadratic, (1, 1, 3), step_size=3.0)
    mean, covariance = model.network.law(share, temperature)
    n, rng = 40_000, Rng(0)
    start = mean + rng.normal(n, 3) @ torch.linalg.cholesky(covariance).T
    state = model.chain_state(start)
    for _ in range(12):
        state = model.step_chain(state, rng, share, temperature)
    assert float((state.u != start).all(1).float().mean()) > 0.95
    sd = covariance.diagonal().sqrt()
    assert ((state.u.mean(0) - mean) / sd).abs().max() < 0.025
    found = (state.u.T.cov() - covariance) / torch.outer(sd, sd)
    assert found.abs().max() < 0.04


def test_chains_that_begin_elsewhere_come_to_the_distribution():
    model = model_of(Quadratic, (1, 1, 3))
    mean, covariance = model.network.law()
    rng, state = Rng(0), model.chain_state(3 * torch.ones(5000, 3))
    for _ in range(400):
        state = model.step_chain(state, rng)
    assert torch.allclose(state.u.mean(0), mean, atol=0.05)
    assert torch.allclose(state.u.T.cov(), covariance, atol=0.05)


def test_chains_change_between_modes_that_no_small_step_joins():
    model = model_of(TwoRidges)
    rng, state = Rng(0), model.chain_state(torch.tensor([[1.5, 0.0]]).expand(500, 2))
    for _ in range(1500):
        state = model.step_chain(state, rng)
    assert float((state.u[:, 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    near = (state.u.abs() - torch.tensor([1.5, 0.0])).norm(dim=1)
    assert float(near.max()) < 0.6


def test_annealed_importance_sampling_finds_a_known_integral():
    model = model_of(Quadratic, (1, 1, 4))
    found = model.log_partition(rng=Rng(0))[0]
    assert abs(found.value - model.network.log_partition()) < 2 * found.ci95
    assert found.ci95 < 0.03


def test_the_weights_of_a_few_temperatures_are_right_in_the_mean():
    model = model_of(Quadratic)
    weights = model.anneal(40_000, 3, Rng(0))[1].double().exp()
    error = 4 * float(weights.std()) / 200
    assert error < 0.03 * float(weights.mean())
    assert float(weights.mean()) == pytest.approx(math.exp(model.network.log_partition()), abs=error)


@torch.no_grad()
def test_walks_have_the_variances_of_all_pixels_and_samples_lie_in_the_plane():
    x = images_of()
    model = model_of(partial(Quadratic, flat=True), x.shape[1:], components=2, sample_steps=20)
    model.prepare([batch_of(x)])
    rng = Rng(0)
    states = model.start(6000, rng=rng)
    assert states.shape == (6000, *x.shape[1:])
    inside = model.basis @ model.spread.square().diag() @ model.basis.T
    beyond = model.rest.square() * (torch.eye(6) - model.basis @ model.basis.T)
    assert torch.allclose(states.flatten(1).T.cov(), 4 * inside + beyond, atol=0.02)
    for _ in range(60):
        states = model.walk(states, rng)
    assert torch.allclose(states.flatten(1).T.cov(), inside + beyond, atol=0.005)
    centred = model.sample(500, rng=rng).flatten(1) - model.mean
    in_range = ((centred + model.mean > 0) & (centred + model.mean < 1)).all(1)
    assert in_range.sum() > 100
    assert torch.allclose(centred[in_range], centred[in_range] @ model.basis @ model.basis.T, atol=1e-5)


@torch.no_grad()
def test_temperature_scales_the_spread_of_samples_and_zero_climbs_to_the_top():
    model = model_of(Quadratic, (1, 1, 3), sample_steps=120)
    model.mean.fill_(0.5)
    model.spread.fill_(0.02)  # so that nothing is cut
    mean, covariance = model.network.law()
    for temperature in (1.0, 0.5):
        u = model.whiten(model.sample(4000, rng=Rng(0), temperature=temperature))
        assert torch.allclose(u.T.cov(), temperature**2 * covariance, atol=0.06)
    still = model.whiten(model.sample(20, rng=Rng(0), temperature=0))
    assert torch.allclose(still, mean.expand(20, 3), atol=0.02)


def test_it_does_what_an_energy_can_and_encodes_nothing():
    model = model_of(network)
    for ability in (Energy, Scores, Normalises, Walks, Samples):
        assert isinstance(model, ability)
    assert not isinstance(model, Encodes)
    x = model.sample(7, rng=Rng(0))
    assert x.shape == (7, *PLANE)
    assert torch.equal(x, model.sample(7, rng=Rng(0)))
    assert 0 <= x.min() <= x.max() <= 1
    assert torch.equal(model.observe(x, Rng(0)), x)
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_noise_corrupts_the_images_and_the_distribution_they_are_told_from():
    x = images_of(20_000)
    model = model_of(network, x.shape[1:], components=None, noise=Gaussian(0.2))
    model.prepare([batch_of(x)])
    noisy = x.flatten(1).T.cov() + 0.04 * torch.eye(6)
    assert torch.allclose(model.basis @ model.spread.square().diag() @ model.basis.T, noisy, atol=0.004)
    clean = model_of(network, x.shape[1:], components=None)
    clean.load_state_dict(model.state_dict())
    assert float(model.terms(x, Rng(0))["loss"]) != float(clean.terms(x, Rng(0))["loss"])


def test_images_that_do_not_vary_are_refused_unless_noise_makes_them():
    x = images_of().clone()
    x[..., 0, 0] = 0.25
    for components in (None, 5):  # of the last one or the only one left the density has no bound
        with pytest.raises(ValueError, match=rf"vary in only 5 directions, so with {components or 6} their density"):
            model_of(network, x.shape[1:], components=components).prepare([batch_of(x)])
    model_of(network, x.shape[1:], components=4).prepare([batch_of(x)])
    model_of(network, x.shape[1:], components=None, noise=Gaussian(0.1)).prepare([batch_of(x)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_ratio": 0}, "noise_ratio must be at least 1, not 0"),
        ({"sample_steps": 0}, "sample_steps must be at least 1"),
        ({"components": -1}, "components must be at least 1, not -1"),
        ({"step_size": 0}, "step_size must be a finite number > 0, not 0"),
        ({"step_size": math.nan}, "step_size"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        model_of(network, **settings)


def test_a_resumed_run_is_the_one_that_was_not_interrupted(aectl):
    settings = ("model=ebm", "schedule=constant", "model.network.widths=[16]", *QUICK)
    aectl("train", *settings, "epochs=2")
    whole = find_run("latest").absolute()
    aectl("train", *settings, "epochs=1")
    code, out, err = aectl("train", "resume=latest", "epochs=2")
    assert code == 0, out + err
    assert find_run("latest").absolute() != whole
    resumed, straight = (package.load(run, "last").state_dict() for run in ("latest", whole))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)

"""The restricted Boltzmann machine against sums over all its states, and its gradient against the statistics."""

import pytest
import torch

import aectl as package
from aectl.data.datasets import digits
from aectl.evaluation.context import apply
from aectl.models.base import Batch, Decodes, Encodes, Normalises, Reconstructs, Samples, Scores, Walks
from aectl.models.partition import enumerate_states
from aectl.models.rbm import RBM
from aectl.rng import Rng
from aectl.runs.run import find_run

SHAPE = (1, 3, 3)
QUICK = ("dataset=digits", "device=cpu", "device.threads=1", "batch_size=256")


def machine(shape=SHAPE, hidden=5, scale=1.0, **others):
    """A machine with large random weights, biases and offsets."""
    torch.manual_seed(0)
    model, rng = RBM(shape, hidden, **others), Rng(0)
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(scale * rng.normal(*part.shape))
        if model.is_centred:
            model.visible_offset.copy_(rng.uniform(len(model.visible_offset)))
            model.hidden_offset.copy_(rng.uniform(hidden))
    return model


def images(n=40, seed=1):
    return Batch(Rng(seed).uniform(n, *SHAPE), torch.arange(n), torch.arange(n))


def all_images():
    return enumerate_states(9, torch.zeros(())).view(-1, *SHAPE)


def step(model, batch, rng, lr=0.1):
    """One step of plain gradient descent; returns the loss."""
    (loss,) = list(descend(model, batch, rng, lr))
    return loss


def descend(model, batch, rng, lr):
    for loss in model.losses(batch, None, rng):
        model.zero_grad()
        loss.value.backward()
        with torch.no_grad():
            for part in model.parameters():
                part -= lr * part.grad
        yield loss


@pytest.mark.parametrize("centring", [0.0, 0.3])
@pytest.mark.parametrize("persistent", [0, 7])
def test_the_gradient_is_the_statistics_of_contrastive_divergence(centring, persistent):
    model, batch = machine(centring=centring, persistent=persistent, steps=3), images()
    mu, lam = model.visible_offset.clone(), model.hidden_offset.clone()
    assert bool(mu.any()) == bool(lam.any()) == (centring > 0)
    rng = Rng(5)
    v = rng.bernoulli(batch.x).flatten(1)
    v_k = model.chains.clone() if persistent else v
    with torch.no_grad():
        for _ in range(3):
            h = rng.bernoulli(((v_k - mu) @ model.weight.T + model.hidden_bias).sigmoid())
            v_k = rng.bernoulli(((h - lam) @ model.weight + model.visible_bias).sigmoid())
        means = [(pixels, ((pixels - mu) @ model.weight.T + model.hidden_bias).sigmoid()) for pixels in (v, v_k)]
        (w, b, c), (w_k, b_k, c_k) = [
            ((h - lam).T @ (pixels - mu) / len(pixels), (pixels - mu).mean(0), (h - lam).mean(0)) for pixels, h in means
        ]
    next(iter(model.losses(batch, None, Rng(5)))).value.backward()
    for part, data, of_model in ((model.weight, w, w_k), (model.visible_bias, b, b_k), (model.hidden_bias, c, c_k)):
        torch.testing.assert_close(part.grad, of_model - data, atol=1e-5, rtol=1e-4)


def test_the_gradient_with_long_chains_is_that_of_the_likelihood():
    model, v = machine(persistent=20_000, steps=50, scale=0.5), images().x.round().double().flatten(1)
    next(iter(model.losses(images()._replace(x=images().x.round()), None, Rng(0)))).value.backward()
    parts = model.weight, model.visible_bias, model.hidden_bias
    weight, b, c = (part.detach().double().requires_grad_() for part in parts)

    def minus_energy(pixels):
        seen = (pixels - model.visible_offset.double()) @ weight.T
        return pixels @ b - seen @ model.hidden_offset.double() + torch.log1p((c + seen).exp()).sum(1)

    nll = minus_energy(enumerate_states(9, v)).logsumexp(0) - minus_energy(v).mean()
    for part, wanted in zip(parts, torch.autograd.grad(nll, (weight, b, c)), strict=True):
        torch.testing.assert_close(part.grad.double(), wanted, atol=0.02, rtol=0)


def test_persistent_chains_go_on_where_they_were():
    model, batch = machine(persistent=6), images()
    assert model.chains.unique().tolist() == [0, 1]
    before = model.chains.clone()
    rng = Rng(2)
    model.observe(batch.x, rng)
    expected = model.gibbs(before, 1, rng)
    step(model, batch, Rng(2))
    assert torch.equal(model.chains, expected)
    assert "chains" in model.state_dict()


def test_weight_decay_adds_its_share_of_the_weights():
    gradients = []
    for d in (0.0, 0.3):
        model = machine(weight_decay=d)
        next(iter(model.losses(images(), None, Rng(0)))).value.backward()
        gradients.append([part.grad for part in model.parameters()])
    for name, without, with_decay in zip(dict(model.named_parameters()), *gradients, strict=True):
        added = 0.3 * model.weight if name.endswith("weight") else torch.zeros(())
        torch.testing.assert_close(with_decay, without + added)


@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_probabilities_of_all_images_sum_to_one(centring):
    score = machine(centring=centring).log_prob(all_images(), rng=Rng(0))
    assert float(score.value.double().exp().sum()) == pytest.approx(1, abs=1e-4)
    assert (score.kind, score.of) == ("exact", "binary pixels")


def test_offsets_that_follow_leave_the_distribution_as_it_is():
    model = machine(centring=0.3)
    before, offset = model.log_prob(all_images(), rng=Rng(0)).value, model.hidden_offset.clone()
    hidden = model.encode(all_images())
    model.update_offsets(torch.full((5,), 0.9))
    torch.testing.assert_close(model.hidden_offset, offset + 0.3 * (0.9 - offset))
    torch.testing.assert_close(model.log_prob(all_images(), rng=Rng(0)).value, before, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.encode(all_images()), hidden)


def test_a_centred_machine_is_an_uncentred_one_with_other_biases():
    centred, plain = machine(centring=0.3), machine(centring=0.0)
    with torch.no_grad():
        plain.weight.copy_(centred.weight)
        for part, bias in zip((plain.visible_bias, plain.hidden_bias), centred.biases(), strict=True):
            part.copy_(bias)
    scores = [model.log_prob(all_images(), rng=Rng(0)).value for model in (centred, plain)]
    torch.testing.assert_close(*scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(centred.reconstruct(all_images()), plain.reconstruct(all_images()))


def test_offsets_follow_in_training_and_only_where_there_are_any():
    for centring in (0.3, 0.0):
        model = machine(centring=centring)
        before = model.hidden_offset.clone()
        seen = model.encode(model.observe(images().x, Rng(0))).mean(0).detach()
        step(model, images(), Rng(0))
        torch.testing.assert_close(model.hidden_offset, before + centring * (seen - before))


def frequencies(x):
    """The share of each of the 512 images."""
    codes = (x.flatten(1).long() << torch.arange(9)).sum(1)
    return codes.bincount(minlength=512).double() / len(x)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_chains_come_to_each_image_as_often_as_its_probability_says(temperature):
    model, n = machine(scale=0.7), 20_000
    v = model.gibbs(model.start(n, rng=Rng(0)), 40, Rng(1), temperature)
    # p(v) to a power sums over h first, p(v, h) to a power afterwards: a machine with the parameters shrunk.
    with torch.no_grad():
        for part in model.parameters():
            part /= temperature
    p = model.log_prob(all_images(), rng=Rng(0)).value.double().exp()
    chi_square = float((n * (frequencies(v) - p).square() / p).sum())
    assert chi_square < 511 + 4 * (2 * 511) ** 0.5


def test_walks_are_single_steps_of_the_same_chain():
    model = machine()
    x = model.start(8, rng=Rng(0))
    twice = model.walk(model.walk(x, rng := Rng(1)), rng)
    assert torch.equal(twice.flatten(1), model.gibbs(x, 2, Rng(1)))
    assert twice.shape == (8, *SHAPE)


def test_chains_start_from_black_to_white():
    intensity = RBM((1, 20, 20), 3).start(500, rng=Rng(0)).flatten(1).mean(1)
    assert float(intensity.std()) == pytest.approx(12**-0.5, abs=0.02)
    assert float(intensity.mean()) == pytest.approx(0.5, abs=0.05)


@torch.no_grad()
def test_samples_have_the_mean_of_the_distribution_and_at_no_temperature_one_value():
    model = machine(scale=0.7, sample_steps=50)
    p = model.log_prob(all_images(), rng=Rng(0)).value.exp()
    mean = (p[:, None] * all_images().flatten(1)).sum(0)
    drawn = model.sample(20_000, rng=Rng(1)).flatten(1)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    assert 0 < float(drawn.min()) < float(drawn.max()) < 1
    cold = model.sample(50, rng=Rng(1), temperature=0.0)
    assert torch.equal(cold, cold.round())


def test_the_pseudo_likelihood_is_that_of_each_pixel_given_the_others():
    model = machine()
    x = images(n=6).x.round()
    log_p = model.log_prob(all_images(), rng=Rng(0)).value.view(*[2] * 9)  # the last pixel is the first axis
    terms = 0.0
    for image in x.flatten(1).long().flip(1):
        for i in range(9):
            both = [log_p[tuple(torch.cat([image[:i], torch.tensor([k]), image[i + 1 :]]))] for k in (0, 1)]
            terms += torch.stack(both).logsumexp(0) - both[int(image[i])]
    many = x.flatten(1).repeat(2000, 1)
    found = model.pseudo_nll(many, model.inputs(many), Rng(0), 10)
    assert float(found) == pytest.approx(float(terms) / 6, rel=0.02)


@pytest.mark.parametrize(("binarise", "centring"), [("draw", 0.1), ("threshold", 0.1), ("draw", 0.0)])
def test_preparation_meets_the_mean_of_the_training_images(binarise, centring):
    model, batches = RBM(SHAPE, 4, binarise=binarise, centring=centring), [images(30), images(10, seed=2)]
    model.prepare(batches)
    x = torch.cat([batch.x for batch in batches]).flatten(1)
    mean = (x if binarise == "draw" else (x >= 0.5).float()).mean(0)
    torch.testing.assert_close(model.mean, mean)
    torch.testing.assert_close(model.decode(model.hidden_offset[None]).flatten(), mean)
    torch.testing.assert_close(model.visible_offset, mean * (centring > 0))


def test_grey_pixels_are_drawn_anew_or_cut_at_a_half():
    drawn, cut = RBM(SHAPE, 4), RBM(SHAPE, 4, binarise="threshold")
    x, rng = images().x, Rng(0)
    first, second = drawn.observe(x, rng), drawn.observe(x, rng)
    assert first.unique().tolist() == [0, 1]
    assert not torch.equal(first, second)
    assert torch.equal(cut.observe(x, rng), (x >= 0.5).float())
    # What a run's noise does, it does to grey pixels.
    model = RBM(SHAPE, 4, noise=lambda x, rng: 0 * x)
    model.chains.zero_()
    energy = step(model, images(), Rng(0)).metrics["energy"]
    torch.testing.assert_close(energy, RBM(SHAPE, 4).energy(torch.zeros(1, *SHAPE))[0], atol=0.1, rtol=0)


@pytest.fixture(scope="module")
def trained():
    """A machine of ten hidden units, trained on 8×8 digits."""
    torch.manual_seed(0)
    data, model = digits().split("train", torch.device("cpu")), RBM((1, 8, 8), 10, temperatures=500)
    model.prepare([data.batch(torch.arange(len(data)))])
    rng = Rng(0)
    for epoch in range(40):
        for positions in Rng(epoch).permutation(len(data)).split(100):
            step(model, data.batch(positions), rng, lr=0.5)
    return model.eval().requires_grad_(False), data


def test_all_ways_of_normalising_a_trained_machine_agree(trained):
    model, data = trained
    exact, forward, backward = model.log_partition(rng=Rng(0))
    assert [one.kind for one in (exact, forward, backward)] == ["exact", "AIS", "reverse AIS"]
    # Not a matter of course: without the weights it is another.
    biases = [torch.nn.functional.softplus(bias).sum() for bias in model.biases()]
    assert abs(exact.value - float(sum(biases))) > 2
    assert forward.value == pytest.approx(exact.value, abs=0.5)
    assert backward.value == pytest.approx(exact.value, abs=0.5)


def test_training_makes_held_out_images_likelier_than_independent_pixels_do(trained):
    model, data = trained
    x = digits().split("test", torch.device("cpu")).pixels()
    ours = float(model.log_prob(x, rng=Rng(0)).value.mean())
    p = model.mean.clamp(1e-3, 1 - 1e-3)
    independent = float((x.flatten(1) * p.log() + (1 - x.flatten(1)) * (1 - p).log()).sum(1).mean())
    assert ours > independent + 3
    restored = apply(model.reconstruct, x)
    assert float((restored - x).square().mean()) < 0.8 * float((model.mean.view(1, 8, 8) - x).square().mean())


def test_the_constant_is_found_once_for_the_same_weights(monkeypatch):
    model, calls = machine(hidden=30, shape=(1, 5, 5), temperatures=5), []
    monkeypatch.setattr("aectl.models.rbm.ais", counted("aectl.models.rbm", "ais", calls))
    x = Rng(0).uniform(3, 1, 5, 5).round()
    first, again = model.log_prob(x, rng=Rng(0)), model.log_prob(x, rng=Rng(1))
    assert (len(calls), first.kind) == (1, "estimate")
    assert torch.equal(first.value, again.value)
    with torch.no_grad():
        model.weight.add_(0.1)
    assert not torch.equal(model.log_prob(x, rng=Rng(0)).value, first.value)
    assert len(calls) == 2


def counted(module, name, calls):
    """A function that notes when it is called."""
    import importlib

    function = getattr(importlib.import_module(module), name)

    def called(*parts, **settings):
        calls.append(name)
        return function(*parts, **settings)

    return called


def test_validation_changes_nothing_and_names_its_objective():
    for persistent in (0, 6):
        model = machine(persistent=persistent)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            metrics = model.eval().validate(images(), Rng(0))
        assert model.objective.removeprefix("val/") in metrics
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_can_what_it_says():
    model = machine()
    for ability in (Encodes, Decodes, Reconstructs, Samples, Scores, Normalises, Walks):
        assert isinstance(model, ability)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"persistent": -1}, "persistent must be at least 0"),
        ({"temperatures": 1}, "temperatures must be at least 2"),
        ({"centring": 1.5}, r"centring must lie in \[0, 1\]"),
        ({"weight_decay": -1.0}, "weight_decay must be a finite number"),
        ({"binarise": "round"}, "binarise must be draw or threshold, not 'round'"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RBM(SHAPE, **{"hidden": 4, **arguments})


def test_resumed_chains_are_those_of_one_go(aectl):
    long = ("model=rbm", "model.hidden=12", "model.sample_steps=2", "schedule=constant", *QUICK)
    aectl("train", *long, "epochs=4")
    whole = find_run("latest").absolute()
    aectl("train", *long, "epochs=2")
    part = find_run("latest").absolute()
    assert part != whole
    code, out, err = aectl("train", f"resume={part}", "epochs=4")
    assert code == 0, out + err
    one, other = (package.load(run, "last").state_dict() for run in (whole, part))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert len(one["chains"]) == 100

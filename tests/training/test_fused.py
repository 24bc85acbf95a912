"""Runs in one program come to what each comes to alone, and what cannot share one is told apart."""

import csv
from functools import partial

import pytest
import torch
from torch import nn

from aectl.config import conf_dir
from aectl.data.noise import Gaussian
from aectl.loading import build_model
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Loss, Model
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.penalty import L1
from aectl.models.vae import VAE
from aectl.training import checkpoint
from aectl.training.device import Device
from aectl.training.finite import NotFinite
from aectl.training.observers import CsvLog
from aectl.training.schedule import Constant, Cosine
from aectl.training.together import Together, groups, why_apart
from aectl.training.trainer import Trainer
from tests.training.together import MODELS, OPTIMIZER, RUNS, source

SHAPE = (1, 8, 8)
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])
APART = {
    **dict.fromkeys(("gan", "gan_conv"), "several losses"),
    **dict.fromkeys(("rbm", "rbm CD", "dbn", "dbm"), "changes after its step"),
    "nade": "autograd.Function",
}
"""Models that cannot share a program, and why."""
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)


def autoencoder(seed=0, std=0.5, weight=0.01, dropout=0.2, code=4):
    torch.manual_seed(seed)
    return Autoencoder(SHAPE, code, encoder, decoder, noise=Gaussian(std), penalty=L1(weight), code_dropout=dropout)


def vae(seed=0, beta=1.0):
    torch.manual_seed(seed)
    return VAE(SHAPE, 3, encoder, decoder, beta=beta)


def trainer(model, folder, data=None, optimizer=ADAM, **settings):
    data = data or source(SHAPE)
    settings = {"epochs": 2, "batch_size": 8, "schedule": Constant(), **settings}
    return Trainer(model, data, data, optimizer, device=Device("cpu", threads=1), folder=folder, **settings)


def weights(one):
    return torch.cat([tensor.flatten().float() for tensor in one.model.state_dict().values()])


def together(trainers, **settings):
    """Train all of them, and return how each ended."""
    driven = Together(trainers, settings.pop("should_stop", lambda: None), **settings)
    return driven, {end.number: end for end in driven.fit()}


def composed(name, seed):
    from hydra import compose, initialize_config_dir

    from aectl.config.schema import check_ranges

    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["dataset=digits", *RUNS[name]])
    check_ranges(config)
    for key in ("pretrain_epochs", "layer_epochs"):
        if key in config.model:
            config.model[key] = 1
    shape = (1, 4, 4) if name == "boltzmann" else SHAPE
    return build_model(config, {"shape": shape, "classes": 10}, seed), source(shape)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", [*MODELS, "conv batch norm", "rbm CD"])
def test_every_model_comes_to_what_it_comes_to_alone(name, tmp_path):
    data = composed(name, 0)[1]
    alone = [trainer(composed(name, s)[0], tmp_path / f"a{s}", data, OPTIMIZER, epochs=1, seed=s) for s in (0, 1)]
    fused = [trainer(composed(name, s)[0], tmp_path / f"f{s}", data, OPTIMIZER, epochs=1, seed=s) for s in (0, 1)]
    for one in alone:
        one.fit()
    driven, ends = together(fused)
    assert [end.error for end in ends.values()] == [None, None]
    assert driven.in_one == (1 if name in APART else 2), driven.why
    assert APART.get(name, "") in driven.why
    for one, other in zip(alone, fused, strict=True):
        assert torch.allclose(weights(one), weights(other), rtol=1e-4, atol=1e-5)
        for key in one.metrics.keys() - {"seconds"}:
            assert other.metrics[key] == pytest.approx(one.metrics[key], rel=1e-3, abs=1e-4), key
    assert not torch.allclose(weights(fused[0]), weights(fused[1]), atol=1e-3)


def test_settings_that_differ_stay_each_runs_own(tmp_path):
    def made(prefix):
        settings = [
            (0.0, 1e-3, 0.1, Constant(), None),
            (0.5, 1e-2, 0.2, Cosine(), 1.0),
            (1.0, 1e-4, 0.3, Cosine(), 1e-3),
        ]
        return [
            trainer(
                autoencoder(seed, std, std / 10, dropout),
                tmp_path / f"{prefix}{seed}",
                optimizer=partial(torch.optim.Adam, lr=rate, fused=True),
                schedule=schedule,
                grad_clip=clip,
                seed=seed,
                observers=(CsvLog(tmp_path / f"{prefix}{seed}.csv"),),
            )
            for seed, (std, rate, dropout, schedule, clip) in enumerate(settings)
        ]

    alone, fused = made("a"), made("f")
    assert groups(fused) == [[0, 1, 2]]
    for one in alone:
        one.fit()
    driven, _ = together(fused)
    assert driven.in_one == 3
    for seed, (one, other) in enumerate(zip(alone, fused, strict=True)):
        assert torch.allclose(weights(one), weights(other), rtol=1e-4, atol=1e-6)
        tables = [list(csv.DictReader((tmp_path / f"{p}{seed}.csv").read_text().splitlines())) for p in "af"]
        assert [row["epoch"] for row in tables[1]] == ["1", "2"]
        for left, right in zip(*tables, strict=True):
            for key in left.keys() - {"seconds", "stage"}:
                assert float(right[key]) == pytest.approx(float(left[key]), rel=1e-4), key


def test_only_what_differs_in_tensors_alone_is_one_group(tmp_path):
    models = [autoencoder(), vae(), autoencoder(1, 1.0), autoencoder(code=5), vae(1, 4.0), autoencoder(dropout=0.0)]
    assert groups([trainer(m, tmp_path) for m in models]) == [[0, 2], [1, 4], [3], [5]]
    assert groups([trainer(vae(), tmp_path, **s) for s in ({}, {"batch_size": 4}, {"epochs": 3})]) == [[0], [1], [2]]


def long_and_small(models, folder):
    trainers = [trainer(model, folder, epochs=2000) for model in models]
    for one in trainers:
        one.device.suit(1e5)
    return trainers


def test_on_a_cpu_only_small_steps_of_long_runs_are_fused(tmp_path):
    assert "several losses" in why_apart(long_and_small([composed("gan", seed)[0] for seed in (0, 1)], tmp_path))
    two = [trainer(vae(seed), tmp_path, epochs=2000) for seed in (0, 1)]
    assert "keeps the CPU busy" in why_apart(two)
    for one in two:
        one.device.suit(1e5)
    assert not why_apart(two)
    assert "no other" in why_apart(two[:1])
    for one in two:
        one.epoch = 1000
    assert "6,000 steps" in why_apart(two)


def test_a_stopped_run_goes_on_alone(tmp_path):
    whole = trainer(vae(1), tmp_path / "whole", seed=1)
    whole.fit()
    fused = [trainer(vae(seed), tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    asked = iter(range(100))
    _, ends = together(fused, should_stop=lambda: "SIGTERM" if next(asked) >= 3 else None)
    assert [end.reason for end in ends.values()] == ["SIGTERM", "SIGTERM"]
    assert [(one.epoch, one.step) for one in fused] == [(1, 1), (1, 1)]
    resumed = trainer(vae(7), tmp_path / "1", seed=1)
    resumed.restore(checkpoint.load(tmp_path / "1" / "last.pt"))
    resumed.fit()
    assert torch.allclose(weights(whole), weights(resumed), rtol=1e-4, atol=1e-6)


def test_a_stopped_group_goes_on_as_one(tmp_path):
    whole = [trainer(vae(seed), tmp_path / "whole", seed=seed) for seed in (0, 1)]
    together(whole)
    stopped = [trainer(vae(seed), tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    asked = iter(range(100))
    together(stopped, should_stop=lambda: "SIGTERM" if next(asked) >= 3 else None)
    resumed = [trainer(vae(seed + 7), tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for seed, one in enumerate(resumed):
        one.restore(checkpoint.load(tmp_path / str(seed) / "last.pt"))
    assert groups(resumed) == [[0, 1]]
    assert together(resumed)[0].in_one == 2
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(weights(one), weights(other))


def test_one_that_fails_or_stalls_leaves_the_others(tmp_path):
    huge = partial(torch.optim.SGD, lr=1e30)
    made = [(ADAM, {}), (huge, {}), (ADAM, {"patience": 1, "objective": "lr"}), (ADAM, {})]
    fused = [
        trainer(vae(seed), tmp_path / str(seed), optimizer=optimizer, epochs=4, seed=seed, **settings)
        for seed, (optimizer, settings) in enumerate(made)
    ]
    _, ends = together(fused)
    assert isinstance(ends[1].error, NotFinite)
    assert [fused[number].epoch for number in (0, 2, 3)] == [4, 2, 4]
    for seed in (0, 3):
        alone = trainer(vae(seed), tmp_path / "alone", epochs=4, seed=seed)
        alone.fit()
        assert torch.allclose(weights(alone), weights(fused[seed]), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_holds_one_run_alone(tmp_path):
    fused = [trainer(vae(seed), tmp_path / str(seed), seed=seed) for seed in range(8)]
    together(fused)
    alone = trainer(vae(), tmp_path / "alone")
    alone.fit()
    sizes = [(tmp_path / name / "best.pt").stat().st_size for name in ("0", "alone")]
    assert sizes[0] == sizes[1]


def test_what_is_logged_for_a_run_is_within_it(tmp_path):
    seen = []

    class Within:
        def __init__(self, number):
            self.number = number

        def __enter__(self):
            seen.append(self.number)

        def __exit__(self, *error):
            seen.append(-1)

    together([trainer(vae(seed), tmp_path / str(seed), epochs=1) for seed in (0, 1)], within=Within)
    assert seen == [0, -1, 1, -1] * 4


class Plain(Model):
    """A layer with something in its way."""

    def __init__(self, kind, bad=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.kind, self.steps, self.epochs = nn.Linear(64, 64), kind, 0, 0
        self.mean = nn.Buffer(torch.zeros(64))
        self.odd = nn.Buffer(torch.tensor([True, False]))
        self.bad = nn.Buffer(torch.tensor(float(bad)))

    def train(self, mode=True):
        if self.kind == "counts epochs" and mode and not self.training:
            self.epochs += 1
        return super().train(mode)

    def losses(self, batch, stage, rng):
        x = (1 + self.epochs) * batch.x.flatten(1)
        if self.kind == "raises" and self.bad:
            raise RuntimeError("the bad one")
        if self.kind == "is silent" and torch._C._functorch.maybe_current_level() is not None:
            raise NotImplementedError
        if self.kind == "counts":
            self.steps += 1
        if self.kind == "forks":
            x = x + rng.fork(0).normal(*x.shape)
        if self.kind == "permutes":
            x = x[rng.permutation(len(x))]
        if self.kind == "decides" and float(x.detach().mean()) > 0:
            x = 2 * x
        if self.kind == "assigns":
            self.mean = x.mean(0)
        if self.kind == "draws elsewhere":
            x = x + torch.randn_like(x)
        yield Loss((self.layer(x) - x).square().sum() / len(x))

    def validate(self, batch, rng):
        return {"loss": (self.layer(batch.x.flatten(1)) - batch.x.flatten(1)).square().sum() / len(batch.x)}


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("counts", "more of the model than tensors"),
        ("forks", "source of random numbers"),
        ("permutes", "permutation"),
        ("decides", "stage 'fit'"),
        ("assigns", "stage 'fit'"),
        ("draws elsewhere", "stage 'fit'"),
        ("is silent", "NotImplementedError"),
    ],
)
def test_what_cannot_be_fused_is_trained_as_it_is_alone(kind, why, tmp_path):
    fused = [trainer(Plain(kind), tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    driven, _ = together(fused)
    assert why in driven.why
    assert driven.in_one == 1
    if kind == "draws elsewhere":
        return
    for seed in (0, 1):
        alone = trainer(Plain(kind), tmp_path / "alone", seed=seed)
        alone.fit()
        assert torch.equal(weights(alone), weights(fused[seed]))


def test_what_changes_between_epochs_is_seen(tmp_path):
    fused = [trainer(Plain("counts epochs"), tmp_path / str(seed), epochs=4, seed=seed) for seed in (0, 1)]
    driven, _ = together(fused)
    assert driven.in_one == 2 and "between epochs" in driven.why
    for seed in (0, 1):
        alone = trainer(Plain("counts epochs"), tmp_path / "alone", epochs=4, seed=seed)
        alone.fit()
        assert torch.allclose(weights(alone), weights(fused[seed]), rtol=1e-4, atol=1e-6)


def test_a_run_that_raises_leaves_the_others(tmp_path):
    fused = [trainer(Plain("raises", bad=seed == 1), tmp_path / str(seed), seed=seed) for seed in (0, 1, 2)]
    assert groups(fused) == [[0, 1, 2]]
    _, ends = together(fused)
    assert [str(ends[number].error) for number in (0, 1, 2)] == ["None", "the bad one", "None"]
    assert [one.epoch for one in fused] == [2, 0, 2]


def test_a_run_that_is_not_finite_from_the_first_step_on_does_not_keep_the_others_apart(tmp_path):
    fused = [trainer(autoencoder(seed, std=3e38 if seed == 1 else 0.1), tmp_path / str(seed)) for seed in (0, 1, 2)]
    driven, ends = together(fused)
    assert driven.in_one == 3 and not driven.why
    assert [type(ends[number].error) for number in (0, 1, 2)] == [type(None), NotFinite, type(None)]


def test_tied_weights_are_in_a_checkpoint_once(tmp_path):
    def made(seed):
        torch.manual_seed(seed)
        return Autoencoder(SHAPE, 4, encoder, decoder, tied=True)

    fused = [trainer(made(seed), tmp_path / str(seed)) for seed in (0, 1)]
    assert together(fused)[0].in_one == 2
    alone = trainer(made(0), tmp_path / "alone")
    alone.fit()
    sizes = [(tmp_path / name / "best.pt").stat().st_size for name in ("0", "alone")]
    assert sizes[0] <= sizes[1]


def test_what_has_left_a_stack_does_not_keep_it(tmp_path):
    fused = [trainer(vae(seed), tmp_path / str(seed)) for seed in range(3)]
    together(fused)
    for one in fused:
        assert all(p.untyped_storage().nbytes() == p.nbytes for p in one.model.parameters())


def test_an_error_of_the_program_ends_all_runs_and_is_told(tmp_path, monkeypatch):
    from aectl.training import fused as module

    def broken(self, indices):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module.Fused, "step", broken)
    trainers = [trainer(vae(seed), tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    _, ends = together(trainers)
    assert [str(end.error) for end in ends.values()] == ["out of memory"] * 2

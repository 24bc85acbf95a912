"""A compiled step comes to what a plain one comes to, and a step that cannot be compiled is a plain one."""

import logging
import shutil
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from aectl.config import conf_dir
from aectl.config.schema import check_ranges
from aectl.data.noise import Gaussian
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Loss, Model
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.penalty import L1
from aectl.models.vae import VAE
from aectl.runs.loading import build_model
from aectl.training import checkpoint, compiled
from aectl.training.device import Device
from aectl.training.schedule import Cosine
from aectl.training.trainer import Trainer
from tests.training.tape import taped
from tests.training.together import RUNS, source

SHAPE = (1, 8, 8)
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])


def autoencoder():
    torch.manual_seed(0)
    return Autoencoder(SHAPE, 4, encoder, decoder, noise=Gaussian(0.5), penalty=L1(0.01), code_dropout=0.2)


def vae(seed=0):
    torch.manual_seed(seed)
    return VAE(SHAPE, 3, encoder, decoder)


def weights(one):
    return torch.cat([tensor.flatten().float() for tensor in one.model.state_dict().values()])


def composed(name, seed):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["dataset=digits", *RUNS[name]])
    check_ranges(config)
    for key in ("pretrain_epochs", "layer_epochs"):
        if key in config.model:
            config.model[key] = 1
    shape = (1, 4, 4) if name == "boltzmann" else SHAPE
    return build_model(config, {"shape": shape, "classes": 10}, seed), source(shape)


class Plain(Model):
    """A layer with something in its way."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.kind, self.steps, self.epochs = nn.Linear(64, 64), kind, 0, 0
        self.mean = nn.Buffer(torch.zeros(64))

    def train(self, mode=True):
        if self.kind == "counts epochs" and mode and not self.training:
            self.epochs += 1
        return super().train(mode)

    def losses(self, batch, stage, rng):
        x = (1 + self.epochs) * batch.x.flatten(1)
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


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let torch run what it would compile; one test below compiles."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")


def trainer(model, folder, compile=True, **settings):
    data = source(SHAPE)
    device = Device("cpu", threads=1, compile=compile)
    settings = {"epochs": 2, "batch_size": 8, "schedule": Cosine(), **settings}
    return Trainer(model, data, data, ADAM, device=device, folder=folder, **settings)


@pytest.mark.parametrize("name", ["dae", "vae", "iwae", "made", "stacked_dae", "conv batch norm", "boltzmann"])
def test_compiled_steps_come_to_what_plain_steps_come_to(name, tmp_path):
    model, data = composed(name, 0)
    other = composed(name, 0)[0]
    found = []
    for one, compile in ((model, False), (other, True)):
        device = Device("cpu", threads=1, compile=compile)
        limits = {"epochs": 1, "batch_size": 8, "schedule": Cosine(), "grad_clip": 1.0}
        found.append(Trainer(one, data, data, ADAM, device=device, folder=tmp_path / str(compile), **limits))
        found[-1].fit()
    assert found[1].engine.program is not None
    if name != "conv batch norm":
        assert torch.allclose(weights(found[0]), weights(found[1]), rtol=1e-3, atol=1e-5)
    for key in found[0].metrics.keys() - {"seconds"}:
        assert found[1].metrics[key] == pytest.approx(found[0].metrics[key], rel=1e-3, abs=1e-4), key


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_inductor_compiles_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    one, plain = trainer(autoencoder(), tmp_path / "a"), trainer(autoencoder(), tmp_path / "b", compile=False)
    one.fit()
    plain.fit()
    assert one.engine.program is not None
    assert torch.allclose(weights(plain), weights(one), rtol=1e-3, atol=1e-5)


def test_stopped_and_resumed_it_is_as_if_nothing_had_happened(tmp_path):
    whole, cut = trainer(vae(), tmp_path / "whole"), trainer(vae(), tmp_path / "cut")
    whole.fit()
    asked = iter(range(100))
    cut.fit(lambda: "SIGTERM" if next(asked) >= 4 else None)
    resumed = trainer(vae(7), tmp_path / "cut")
    resumed.restore(checkpoint.load(tmp_path / "cut" / "last.pt"))
    resumed.fit()
    assert resumed.engine.program is not None
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: composed("gan", 0)[0], "several losses"),
        (lambda: composed("rbm", 0)[0], "changes after its loss is yielded"),
        (lambda: Plain("counts"), "more than the model's tensors"),
        (lambda: Plain("forks"), "forks its random numbers"),
        (lambda: Plain("permutes"), "permutation"),
        (lambda: Plain("decides"), "value out of a tracing tensor"),
        (lambda: Plain("assigns"), "more than the model's tensors"),
        (lambda: Plain("draws elsewhere"), "differs from an eager step"),
    ],
)
def test_what_cannot_be_compiled_trains_as_ever_and_says_why(model, why, tmp_path, caplog):
    one = trainer(model(), tmp_path / "a")
    with caplog.at_level(logging.WARNING, "aectl"):
        one.fit()
    assert why in caplog.text and one.engine.program is None and one.epoch == 2
    if "differs" not in why:
        plain = trainer(model(), tmp_path / "b", compile=False)
        plain.fit()
        assert torch.equal(weights(plain), weights(one))


def test_a_model_that_changes_between_epochs_is_seen(tmp_path, caplog):
    one, plain = (trainer(Plain("counts epochs"), tmp_path / str(c), c, epochs=4) for c in (True, False))
    with caplog.at_level(logging.WARNING, "aectl"):
        one.fit()
    plain.fit()
    assert "changes more than tensors between epochs" in caplog.text
    assert torch.allclose(weights(plain), weights(one), rtol=1e-4, atol=1e-6)


def test_a_compiled_step_is_recorded(tmp_path, caplog):
    plain = trainer(vae(), tmp_path / "plain", compile=False)
    with taped() as tapes:
        data, device = source(SHAPE), Device("cpu", threads=1, graph=True, compile=True)
        limits = {"epochs": 2, "batch_size": 8, "schedule": Cosine()}
        one = Trainer(vae(), data, data, ADAM, device=device, folder=tmp_path / "recorded", **limits)
        with caplog.at_level(logging.WARNING, "aectl"):
            one.fit()
    plain.fit()
    assert not caplog.records
    assert one.engine.program is not None and tapes.replays == 2 + one.epochs * one.steps_per_epoch
    assert torch.allclose(weights(plain), weights(one), rtol=1e-3, atol=1e-5)


def test_a_recorded_model_that_changes_between_epochs_is_seen_too(tmp_path, caplog):
    with taped():
        data, device = source(SHAPE), Device("cpu", threads=1, graph=True)
        limits = {"epochs": 4, "batch_size": 8, "schedule": Cosine()}
        one = Trainer(Plain("counts epochs"), data, data, ADAM, device=device, folder=tmp_path / "a", **limits)
        with caplog.at_level(logging.WARNING, "aectl"):
            one.fit()
    plain = trainer(Plain("counts epochs"), tmp_path / "b", compile=False, epochs=4)
    plain.fit()
    assert "changes more than tensors between epochs" in caplog.text
    assert torch.allclose(weights(plain), weights(one), rtol=1e-4, atol=1e-6)

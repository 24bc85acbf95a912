"""Numbers that are not finite, in a loss, a gradient, a weight, validation or the images: found, named, survived."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from aectl.config import build, conf_dir
from aectl.config.schema import check_ranges
from aectl.data.datasets import Source
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Loss
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.runs.loading import build_model
from aectl.training import checkpoint
from aectl.training.device import Device
from aectl.training.nonfinite import NotFinite
from aectl.training.schedule import Constant
from aectl.training.trainer import Trainer

MODELS = sorted(path.stem for path in Path(conf_dir(), "model").glob("*.yaml") if path.stem != "custom")
SOME = ["undercomplete", "gan", "rbm", "stacked_ae"]
"""One optimizer, two of them, an energy with hand-made statistics, several stages."""
NAN, INF = float("nan"), float("inf")
IMAGES, BATCH = 36, 12
STEPS = IMAGES // BATCH
"""Of an epoch."""


class Spoilt:
    """Puts a number into a loss, a gradient or a weight at one step, which it counts in a buffer."""

    kind, value, name = "", NAN, ""

    def spoil(self, kind, at, value=NAN, name=""):
        self.register_buffer("taken", torch.zeros(()))
        self.kind, self.at, self.value, self.name = kind, at, value, name

    def losses(self, batch, stage, rng):
        self.taken += 1
        is_now = int(self.taken) == self.at + 1
        for loss in super().losses(batch, stage, rng):
            if is_now and self.kind == "loss" and loss.group == self.name:
                yield Loss(loss.value * self.value, loss.group, loss.metrics)
            elif is_now and self.kind == "gradient":
                spoilt = dict(self.named_parameters())[self.name]
                hook = spoilt.register_hook(lambda gradient: torch.full_like(gradient, self.value))
                yield loss
                hook.remove()
            elif is_now and self.kind == "weight":
                yield loss
                with torch.no_grad():
                    dict(self.named_parameters())[self.name].view(-1)[-1] = self.value
            else:
                yield loss


def spoilt(model, *how, **named):
    """Return a model of one's own class that is spoilt besides."""
    model.__class__ = type("Spoilt", (Spoilt, type(model)), {})
    model.spoil(*how, **named)
    return model


def images(name, n, seed=0):
    side = 4 if name == "boltzmann" else 8
    pixels = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return Source(pixels, torch.arange(n) % 10, torch.arange(n), scale=1.0, classes=10)


def make(name, *words, **settings):
    """Return a trainer of a model of conf/ on a few images, in a folder."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["dataset=digits", f"model={name}", *words])
    check_ranges(config)
    source = images(name, IMAGES)
    model = build_model(config, {"shape": source.shape, "classes": 10})
    model.prepare([source.batch(torch.arange(IMAGES))])
    return trainer_of(model, images=name, optimizer=build(config.optimizer, "optimizer"), **settings)


def trainer_of(model, folder, images=None, epochs=3, source=images, **settings):
    defaults = {"schedule": Constant(), "batch_size": BATCH, "seed": 1, "device": Device("cpu", threads=1)}
    defaults |= {"optimizer": partial(torch.optim.Adam, lr=1e-3)}
    held_out = source(images, 20, 1)
    return Trainer(model, source(images, IMAGES), held_out, folder=folder, epochs=epochs, **{**defaults, **settings})


def dense(**settings):
    torch.manual_seed(0)
    encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])
    return Autoencoder((1, 8, 8), 4, encoder, decoder, **settings)


FIRST = next(name for name, _ in dense().named_parameters())


def places(trainer):
    """Yield some first and last steps of all stages: from 0 over the run, how they are called, and what is trained."""
    for number, (stage, length) in enumerate(trainer.plan):
        first = sum(before for _, before in trainer.plan[:number])
        names = {id(p): name for name, p in trainer.model.named_parameters()}
        groups = {g: [names[id(p)] for p in group.params] for g, group in trainer.model.groups(stage).items()}
        for epoch, step in ((first, 0), (first, STEPS - 1), (first + length - 1, 1)):
            yield epoch, epoch * STEPS + step, f"step {step + 1} of epoch {epoch + 1} ({stage.name})", groups


def check_folder(folder, epoch):
    """Assert that the checkpoints are of a finished epoch, or of one before, and finite."""
    names = sorted(path.name for path in folder.glob("*"))
    assert names == (["before.pt"] * (epoch > 1) + ["best.pt", "last.pt"] if epoch else [])
    for name in names:
        state = checkpoint.load(folder / name)
        assert state["epoch"] == epoch if name == "last.pt" else state["epoch"] <= epoch
        tensors = [*state["model"].values()]
        for optimizer in state.get("optimizers", {}).values():
            tensors += [value for own in optimizer["state"].values() for value in own.values()]
        assert all(torch.as_tensor(tensor).isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("model", MODELS)
def test_a_gradient_is_found_and_named_by_its_weight(model, tmp_path, torture, tally):
    if not torture and model not in SOME:
        pytest.skip("only with --all")
    short = ["model.pretrain_epochs=1"] if model.startswith("stacked") else []
    begun = make(model, *short, folder=tmp_path / "none", epochs=2)
    for number, (epoch, at, place, groups) in enumerate(places(begun)):
        for names in groups.values():
            if not torture and number not in (1, 5):
                continue
            chosen = names if torture else names[-1:]
            for name in chosen:
                trainer = make(model, *short, folder=tmp_path / f"{at}-{name}", epochs=2)
                if not trainer.model.get_parameter(name).requires_grad:
                    continue
                spoilt(trainer.model, "gradient", at, NAN if number % 2 else INF, name)
                said = f"the gradient of {name} is not finite at {place}, though loss"
                with pytest.raises(NotFinite, match=r".*") as raised:
                    trainer.fit()
                assert str(raised.value).startswith(said), (str(raised.value), said)
                check_folder(trainer.folder, epoch)
                tally("gradients that were not finite: found and named")


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("at", [0, STEPS - 1, STEPS + 1])
def test_a_loss_is_found_and_named_with_its_step(at, value, tmp_path, tally):
    for group in ("discriminator", "generator"):
        trainer = make("gan", folder=tmp_path / group)
        spoilt(trainer.model, "loss", at, value, group)
        place = f"step {at % STEPS + 1} of epoch {at // STEPS + 1} "
        with pytest.raises(NotFinite, match=f"^loss_{group} is not finite at {place}"):
            trainer.fit()
        check_folder(trainer.folder, at // STEPS)
        tally("losses that were not finite: found and named")


class Torn(nn.Module):
    """A penalty that is infinite from one step on, which it counts in a buffer."""

    def __init__(self, at):
        super().__init__()
        self.at = at
        self.register_buffer("taken", torch.zeros(()))

    def forward(self, h):
        self.taken += self.training
        return torch.where(self.taken > self.at, INF, 0.25)


def test_the_term_is_told_by_the_values_of_all(tmp_path):
    trainer = trainer_of(dense(penalty=Torn(4)), tmp_path)
    with pytest.raises(
        NotFinite, match=r"^loss is not finite at step 2 of epoch 2 \(fit\): recon\w+ \d\S+, penalty inf"
    ):
        trainer.fit()


class Root(Autoencoder):
    """Adds √|u|, of a weight that is 0 at first and matters to nothing else: its gradient there is not a number."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.unused = nn.Parameter(torch.zeros(3))

    def losses(self, batch, stage, rng):
        for loss in super().losses(batch, stage, rng):
            yield Loss(loss.value + 0 * self.unused.square().sum().sqrt(), metrics=loss.metrics)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("batch", [BATCH, IMAGES])
def test_a_gradient_that_no_loss_ever_shows(batch, clip, tmp_path):
    model = dense()
    model.__class__ = Root
    model.unused = nn.Parameter(torch.zeros(3))
    trainer = trainer_of(model, tmp_path, batch_size=batch, grad_clip=clip)
    with pytest.raises(NotFinite, match=r"^the gradient of unused is not finite at step 1 of epoch 1 .*loss is \d"):
        trainer.fit()
    check_folder(tmp_path, 0)


class Bounded(Autoencoder):
    """Its loss is bounded, whatever the weights are."""

    def losses(self, batch, stage, rng):
        yield Loss(next(iter(self.parameters())).tanh().sum())

    def validate(self, batch, rng):
        return {"loss": torch.zeros(())}


def test_weights_grow_beyond_all_bounds_under_a_loss_that_does_not(tmp_path):
    model = dense()
    model.__class__ = Bounded
    trainer = trainer_of(model, tmp_path, optimizer=partial(torch.optim.SGD, lr=3e38, momentum=0.9))
    with pytest.raises(
        NotFinite, match=r"\.weight is not finite after step 2 of epoch 1 .*; a lower optimizer.lr= may help$"
    ):
        trainer.fit()
    check_folder(tmp_path, 0)


def test_a_weight_that_the_model_itself_sets(tmp_path):
    name = FIRST
    trainer = trainer_of(spoilt(dense(), "weight", STEPS * 2 - 1, INF, name), tmp_path)
    with pytest.raises(NotFinite, match=f"^{name} is not finite after step {STEPS} of epoch 2"):
        trainer.fit()
    check_folder(tmp_path, 1)


@pytest.mark.parametrize("size", [1e21, 1e30])
def test_a_gradient_whose_square_overflows_would_stop_a_weight_for_ever(size, tmp_path):
    name = FIRST
    trainer = trainer_of(spoilt(dense(), "gradient", STEPS + 2, size, name), tmp_path)
    with pytest.raises(NotFinite, match=rf"{name} is not finite (after|at) step 3 of epoch 2"):
        trainer.fit()
    check_folder(tmp_path, 1)


def test_a_buffer_that_is_infinite_by_the_models_will_is_none_of_it(tmp_path):
    model = dense()
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    trainer_of(model, tmp_path, epochs=1).fit()
    assert (tmp_path / "last.pt").is_file()


class Blind(Autoencoder):
    """Says something else than a number of held-out images."""

    said = NAN

    def validate(self, batch, rng):
        found = super().validate(batch, rng)
        later = self.decoder.training is False and bool(self.told > 0)
        return {**found, self.which: found[self.which] * self.said} if later else found

    def losses(self, batch, stage, rng):
        yield from super().losses(batch, stage, rng)
        self.told.copy_(torch.ones(()))


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize(("which", "objective"), [("loss", None), ("mse", "val/mse"), ("loss", "val/mse")])
def test_validation_alone_is_not_finite(which, objective, value, tmp_path):
    model = dense()
    model.__class__, model.said, model.which = Blind, value, which
    model.register_buffer("told", torch.zeros(()))
    trainer = trainer_of(model, tmp_path, objective=objective)
    with pytest.raises(NotFinite, match=f"^val/{which} is {value} after epoch 1"):
        trainer.fit()
    check_folder(tmp_path, 0)


def test_a_run_that_failed_goes_on_from_its_last_checkpoint_as_if_nothing_had_been(tmp_path):
    whole = trainer_of(dense(), tmp_path / "whole")
    whole.fit()
    failed = trainer_of(spoilt(dense(), "gradient", STEPS + 1, name=FIRST), tmp_path / "failed")
    with pytest.raises(NotFinite):
        failed.fit()
    healed = trainer_of(dense(), tmp_path / "failed")
    state = checkpoint.load(tmp_path / "failed" / "last.pt")
    del state["model"]["taken"]
    healed.restore(state)
    healed.fit()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, healed.model.state_dict()[name])


QUICK = ("dataset=digits", "epochs=2", "device=cpu", "device.threads=1", "hydra.run.dir=run")


def test_the_command_says_it_in_a_line_or_two(aectl):
    code, _, err = aectl("train", "model=linear", "optimizer=sgd", "optimizer.lr=1e30", *QUICK)
    record = json.loads(Path("run/run.json").read_text())
    assert (code != 0, record["status"]) == (True, "failed")
    assert "is not finite at step 2 of epoch 1 (fit)" in record["error"]
    assert record["error"] in err
    assert len(err.strip().splitlines()) <= 2
    assert not list(Path("run").glob("checkpoints/*.pt"))


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_pixels_that_are_no_numbers_are_refused(value, aectl):
    pixels = np.full((40, 4, 4), 0.5, np.float32)
    pixels[17, 2, 1] = value
    np.save("own.npy", pixels)
    code, _, err = aectl("train", "model=linear", "dataset=arrays", "dataset.path=own.npy", "epochs=1", "device=cpu")
    assert code != 0
    assert "must lie in [0, 1]" in err
    assert not list(Path("outputs").glob("*"))

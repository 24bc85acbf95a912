"""The trainer steps what a model yields, resumes to the bit, keeps the best and stops where it is told."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from aectl.data.noise import Gaussian
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Group, Loss, Model, Stage
from aectl.models.gan import GAN
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.training import checkpoint
from aectl.training.nonfinite import NotFinite
from aectl.training.observers import CsvLog
from aectl.training.schedule import Constant, Cosine
from aectl.training.trainer import Observer

SHAPE = (1, 8, 8)
encoder, decoder = partial(DenseEncoder, widths=[16]), partial(DenseDecoder, widths=[16])


class Stacked(Model):
    """Two greedy stages and one over all of it, as a stacked autoencoder has."""

    def __init__(self):
        super().__init__()
        self.down, self.up = (
            nn.ModuleList([nn.Linear(64, 8), nn.Linear(8, 4)]),
            nn.ModuleList([nn.Linear(8, 64), nn.Linear(4, 8)]),
        )

    def stages(self):
        yield Stage("layer0", 2)
        yield Stage("layer1", 1)
        yield Stage("finetune")

    def groups(self, stage):
        if stage.name == "finetune":
            return {"model": Group(self.parameters())}
        k = int(stage.name[-1])
        return {"model": Group([*self.down[k].parameters(), *self.up[k].parameters()])}

    def losses(self, batch, stage, rng):
        x = batch.x.flatten(1)
        if stage.name == "layer1":
            x = self.down[0](x).detach()
        if stage.name == "finetune":
            error = self.up[0](self.up[1](self.down[1](self.down[0](x)))) - x
        else:
            k = int(stage.name[-1])
            error = self.up[k](self.down[k](x)) - x
        yield Loss(error.square().sum() / len(x))

    def validate(self, batch, rng):
        x = batch.x.flatten(1)
        return {"loss": (self.up[0](self.down[0](x)) - x).square().sum() / len(x)}


MODELS = {
    "dae": lambda: Autoencoder(SHAPE, 4, encoder, decoder, noise=Gaussian(), code_dropout=0.5),
    "vae": lambda: VAE(SHAPE, 3, encoder, decoder),
    "gan": lambda: GAN(SHAPE, 3, partial(decoder, norm="batch"), encoder),
    "lazy gan": lambda: GAN(SHAPE, 3, decoder, encoder, loss="relativistic", r1=1, r2=1, penalty_every=3),
    "stacked": Stacked,
}


def seeded(name):
    torch.manual_seed(0)
    return MODELS[name]()


def weights_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def stop_after(steps):
    count = itertools.count()
    return lambda: "told" if next(count) >= steps else None


@pytest.mark.parametrize("steps", [1, 3, 5, 6, 8, 9, 10])
@pytest.mark.parametrize("name", MODELS)
def test_a_run_stopped_at_any_step_and_resumed_is_bit_identical(make_trainer, tmp_path, name, steps):
    whole = make_trainer(seeded(name), "whole", epochs=4, observers=[CsvLog(tmp_path / "whole.csv")])
    assert whole.fit() is None
    first = make_trainer(seeded(name), "parts", epochs=4, observers=[CsvLog(tmp_path / "parts.csv")])
    assert first.fit(stop_after(steps)) == "told"
    second = make_trainer(seeded(name), "parts", epochs=4, observers=[CsvLog(tmp_path / "parts.csv")])
    second.restore(checkpoint.load(tmp_path / "parts/last.pt"))
    assert second.fit() is None
    assert weights_equal(whole.model, second.model)
    assert (second.best_epoch, second.best_value) == (whole.best_epoch, whole.best_value)
    assert timeless(tmp_path / "whole.csv") == timeless(tmp_path / "parts.csv")
    for which in ("best", "last"):
        a, b = (checkpoint.load(tmp_path / f"{folder}/{which}.pt") for folder in ("whole", "parts"))
        assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])


def timeless(path):
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    keep = [i for i, name in enumerate(header) if name != "seconds"]
    return [[row[i] for i in keep] for row in [header, *rows]]


def test_two_epochs_extended_to_four_equal_four(make_trainer, tmp_path):
    whole = make_trainer(seeded("dae"), "whole", epochs=4)
    whole.fit()
    make_trainer(seeded("dae"), "short", epochs=2).fit()
    extended = make_trainer(seeded("dae"), "short", epochs=4)
    extended.restore(checkpoint.load(tmp_path / "short/last.pt"))
    extended.fit()
    assert weights_equal(whole.model, extended.model)
    assert not extended.schedule_changes(2)


@pytest.mark.parametrize("schedule", [Cosine(), Constant(warmup=0.5)])
def test_extending_a_schedule_that_knows_the_end_is_noticed(make_trainer, tmp_path, schedule):
    make_trainer(seeded("dae"), epochs=2, schedule=schedule).fit()
    extended = make_trainer(seeded("dae"), epochs=4, schedule=schedule)
    extended.restore(checkpoint.load(tmp_path / "checkpoints/last.pt"))
    assert extended.schedule_changes(2)


def test_only_the_stages_own_parameters_move(make_trainer):
    model = seeded("stacked")
    moved = {}

    class Watch(Observer):
        def started(self, trainer):
            self.before = {n: v.clone() for n, v in trainer.model.state_dict().items()}

        def epoch_ended(self, trainer, epoch):
            now = trainer.model.state_dict()
            names = {n.rsplit(".", 1)[0] for n in now if not torch.equal(now[n], self.before[n])}
            moved.setdefault(epoch.stage, set()).update(names)
            self.started(trainer)

    make_trainer(model, observers=[Watch()]).fit()
    assert moved == {
        "layer0": {"down.0", "up.0"},
        "layer1": {"down.1", "up.1"},
        "finetune": {"down.0", "up.0", "down.1", "up.1"},
    }


def test_the_best_of_the_last_stage_is_kept_even_if_an_earlier_stage_looked_better(make_trainer):
    class Worse(Stacked):
        calls = 0

        def validate(self, batch, rng):
            self.calls += 1
            return {"loss": torch.tensor(float(self.calls))}

    trainer = make_trainer(Worse(), epochs=2)
    trainer.fit()
    assert trainer.best_epoch == 4


def test_validation_and_observers_do_not_disturb_training(make_trainer):
    class Nosy(Observer):
        def epoch_ended(self, trainer, epoch):
            trainer.model.validate(trainer.valid_source.batch(torch.arange(8)), trainer.held_out)

    plain, watched = make_trainer(seeded("dae")), make_trainer(seeded("dae"), observers=[Nosy()])
    plain.fit()
    watched.fit()
    assert weights_equal(plain.model, watched.model)


@pytest.mark.parametrize("event", ["started", "stepped", "epoch_ended", "finished"])
def test_an_observer_that_only_watches_ends_no_run(event, make_trainer, caplog):
    def fail(*_):
        raise RuntimeError("no more ink")

    def watch(fatal):
        return type("Watch", (Observer,), {event: fail, "fatal": fatal})()

    plain, watched = make_trainer(seeded("dae")), make_trainer(seeded("dae"), observers=[watch(()), watch((OSError,))])
    plain.fit()
    watched.fit()
    assert weights_equal(plain.model, watched.model)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Watch failed, training continues: RuntimeError: no more ink"
    ] * 2
    for fatal in (Observer.fatal, (RuntimeError,)):
        with pytest.raises(RuntimeError, match="no more ink"):
            make_trainer(seeded("dae"), observers=[watch(fatal)]).fit()


def test_what_is_promised_of_a_run_ends_it_where_it_cannot_be_written(make_trainer, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for what in ("aectl.training.metrics_csv.write_atomically", "aectl.training.trainer.checkpoint.save"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(what, full)
            make_trainer(seeded("dae"), observers=[CsvLog(tmp_path / f"{what}.csv")]).fit()


def test_validation_draws_the_same_noise_at_every_epoch(make_trainer):
    trainer = make_trainer(seeded("dae"), optimizer=partial(torch.optim.SGD, lr=0.0), epochs=3)
    seen = []

    class Note(Observer):
        def epoch_ended(self, trainer, epoch):
            seen.append((epoch.metrics["val/loss"], epoch.metrics["train/loss"]))

    trainer.observers = [Note()]
    trainer.fit()
    validation, training = zip(*seen, strict=True)
    assert len(set(validation)) == 1
    assert len(set(training)) == 3


def test_early_stopping_waits_patience_epochs(make_trainer):
    trainer = make_trainer(seeded("dae"), optimizer=partial(torch.optim.SGD, lr=0.0), epochs=50, patience=3)
    trainer.fit()
    assert (trainer.epoch, trainer.best_epoch) == (4, 1)


class Explodes(Autoencoder):
    at = 4

    def losses(self, batch, stage, rng):
        (loss,) = super().losses(batch, stage, rng)
        self.at -= 1
        bad = loss.value * float("nan")
        yield loss if self.at > 0 else Loss(bad, metrics={"reconstruction": bad})


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_good_checkpoint(make_trainer, tmp_path):
    trainer = make_trainer(Explodes(SHAPE, 4, encoder, decoder), epochs=3)
    with pytest.raises(NotFinite, match="loss is not finite at step 1 of epoch 2"):
        trainer.fit()
    state = checkpoint.load(tmp_path / "checkpoints/last.pt")
    assert state["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_no_checkpoint_is_overwritten_by_an_interruption_after_a_bad_step(make_trainer, tmp_path):
    trainer = make_trainer(Explodes(SHAPE, 4, encoder, decoder), epochs=3)
    with pytest.raises(NotFinite):
        trainer.fit(stop_after(5))
    assert checkpoint.load(tmp_path / "checkpoints/last.pt")["epoch"] == 1


def test_an_unknown_objective_names_those_there_are(make_trainer):
    with pytest.raises(ValueError, match=r"no metric called 'val/accuracy'; choose from .*val/mse"):
        make_trainer(seeded("dae"), objective="val/accuracy").fit()


def test_without_validation_images_the_objective_is_taken_in_training(make_trainer):
    trainer = make_trainer(seeded("dae"), valid=0)
    trainer.fit()
    assert trainer.objective == "train/loss"
    assert trainer.best_epoch > 0


def test_a_batch_larger_than_the_data_is_refused(make_trainer):
    with pytest.raises(ValueError, match="batch_size must be at most the 96 training images, not 97"):
        make_trainer(seeded("dae"), batch_size=97)


def test_gradients_are_clipped_and_their_norm_logged(make_trainer):
    trainer = make_trainer(seeded("dae"), grad_clip=1e-3)
    trainer.fit()
    assert trainer.metrics["train/gradient_norm"] == pytest.approx(1e-3, rel=1e-3)


def test_overrides_of_a_group_replace_the_runs_settings(make_trainer):
    class Slow(Autoencoder):
        def groups(self, stage):
            return {"model": Group(self.parameters(), {"lr": 1e-5})}

    trainer = make_trainer(Slow(SHAPE, 4, encoder, decoder))
    trainer.fit()
    assert trainer.metrics["lr"] == pytest.approx(1e-5)


class Labelled(Stacked):
    """Its last stage sees labelled images alone."""

    def stages(self):
        yield Stage("layer0", 1)
        yield Stage("finetune", labelled=True)

    def losses(self, batch, stage, rng):
        self.seen = getattr(self, "seen", [])
        self.seen.append((stage.name, batch.y.tolist()))
        yield from super().losses(batch, stage, rng)


def test_a_labelled_stage_sees_only_images_with_a_label(make_trainer):
    model = Labelled()
    trainer = make_trainer(model, labels=20)
    labels = trainer.train_source.labels
    trainer.fit()
    fine = [y for name, y in model.seen if name == "finetune"]
    # All 20 labelled images make one batch, although batches of 32 were asked for.
    assert [sorted(y) for y in fine] == [sorted(labels[:20].tolist())] * 2
    assert sum(len(y) for name, y in model.seen if name == "layer0") == 96


def test_a_labelled_stage_without_labels_is_an_error_before_any_training(make_trainer):
    with pytest.raises(ValueError, match="stage 'finetune' needs training images with labels"):
        make_trainer(Labelled(), labels=0)


def test_a_loss_that_does_not_depend_on_the_weights_is_refused(make_trainer):
    elsewhere = nn.Parameter(torch.ones(()))
    for loss in (lambda x: x.sum(), lambda x: x.sum() * elsewhere):
        model = Stacked()
        model.losses = lambda batch, stage, rng, loss=loss: iter([Loss(loss(batch.x))])
        with pytest.raises(ValueError, match="model: loss does not depend on the weights that it trains"):
            make_trainer(model).fit()

"""A model that ends no better than a cheap baseline is warned of once; the closing lines show both numbers."""

from functools import partial
from types import SimpleNamespace

import pytest

from aectl.commands.train_summary import compare_with_baselines, format_metric, summarise_training
from aectl.data.datasets import digits
from aectl.evaluation.likelihood import bernoulli
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Loss, Model
from aectl.models.classifier import Classifier
from aectl.models.coupled import Coupled
from aectl.models.made import MADE
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.rbm import RBM
from aectl.models.stacked import AutoencoderLayer, Stacked
from aectl.models.vae import VAE
from aectl.rng import Rng
from aectl.runs.run import Run
from aectl.training.alarms import Alarms
from aectl.training.baselines import compute_baselines, reconstruction_mse
from aectl.training.trainer import Epoch

SHAPE = (1, 8, 8)
DATA = digits(valid=150, test=360)
TRAIN, VALID = DATA.split("train"), DATA.split("valid")
encoder, decoder = partial(DenseEncoder, widths=[8]), partial(DenseDecoder, widths=[8])
MODELS = {
    "autoencoder": lambda: Autoencoder(SHAPE, 4, encoder, decoder),
    "vae": lambda: VAE(SHAPE, 4, encoder, decoder),
    "gaussian vae": lambda: VAE(SHAPE, 4, encoder, decoder, likelihood="gaussian"),
    "made": lambda: MADE(SHAPE, [8]),
    "rbm": lambda: RBM(SHAPE, 8),
    "classifier": lambda: Classifier(SHAPE, 10, 4, encoder),
    "coupled": lambda: Coupled(SHAPE, 10, 4, encoder, decoder),
    "uncoupled": lambda: Coupled(SHAPE, 10, 4, encoder, decoder, weight=0),
    "stacked": lambda: Stacked(SHAPE, 10, [8], partial(AutoencoderLayer, tied=True)),
    "perceptron": lambda: Stacked(SHAPE, 10, [8], partial(AutoencoderLayer, tied=True), pretrain_epochs=0),
}
MEAN_IMAGE, INDEPENDENT, FREQUENT = "the mean image", "independent pixels", "the most frequent class"


def trainer(model, **values):
    return SimpleNamespace(
        model=model, train_source=TRAIN, valid_source=VALID, held_out=Rng(0), has_stalled=lambda: False, **values
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("autoencoder", [("val/mse", MEAN_IMAGE)]),
        ("vae", [("val/mse", MEAN_IMAGE), ("val/negative_elbo", INDEPENDENT)]),
        ("gaussian vae", [("val/mse", MEAN_IMAGE)]),
        ("made", [("val/loss", INDEPENDENT)]),
        ("rbm", [("val/mse", MEAN_IMAGE), ("val/pseudo_nll", INDEPENDENT)]),
        ("classifier", [("val/error", FREQUENT)]),
        ("coupled", [("val/mse", MEAN_IMAGE), ("val/error", FREQUENT)]),
        ("uncoupled", [("val/error", FREQUENT)]),
        ("stacked", [("val/mse", MEAN_IMAGE), ("val/error", FREQUENT)]),
        ("perceptron", [("val/error", FREQUENT)]),
    ],
)
def test_baselines_are_of_what_a_model_can_and_learns(name, expected):
    assert [(one.metric, one.name) for one in compute_baselines(trainer(MODELS[name]()))] == expected


def test_baselines_have_the_values_of_an_evaluation():
    x, seen = VALID.pixels(), TRAIN.pixels()
    found = {one.name: one.value for name in ("vae", "coupled") for one in compute_baselines(trainer(MODELS[name]()))}
    assert found[MEAN_IMAGE] == pytest.approx(float((x - seen.mean(0)).square().mean()), rel=1e-5)
    exact = -bernoulli(x, seen.double().flatten(1).mean(0), len(seen)).mean()
    assert found[INDEPENDENT] == pytest.approx(float(exact), rel=1e-4)
    assert found[FREQUENT] == pytest.approx(float((VALID.labels != TRAIN.labels.mode().values).float().mean()))


class Own(Model):
    """A model of one's own that reconstructs, and has no metric of it."""

    def reconstruct(self, x):
        return 0.9 * x

    def losses(self, batch, stage, rng):
        yield Loss(batch.x.mean())

    def validate(self, batch, rng):
        return {"loss": batch.x.mean()}


def test_the_error_of_a_model_without_a_metric_of_it_is_measured():
    assert reconstruction_mse(trainer(Own())) == pytest.approx(float((0.1 * VALID.pixels()).square().mean()), rel=1e-5)


GOOD, BAD, HARDLY = 0.02, 0.08, 0.0715
COLLAPSE = {"val/kl": 0.01}


@pytest.mark.parametrize(
    ("steps", "is_end", "metrics", "heard"),
    [
        (40, False, {"val/mse": BAD}, []),
        (40, True, {"val/mse": BAD}, ["no_better_than_mean_image"]),
        (40, True, {"val/mse": HARDLY}, ["no_better_than_mean_image"]),
        (40, True, {"val/mse": GOOD}, []),
        # One warning, with what to do: the collapse is of a run too short.
        (40, True, {"val/mse": BAD, **COLLAPSE}, ["no_better_than_mean_image"]),
        (40, True, {"val/mse": GOOD, **COLLAPSE}, ["collapse"]),
        (40, True, {"val/mse": GOOD, "val/negative_elbo": 40.0}, ["no_better_than_independent_pixels"]),
        (40, True, {"val/mse": float("nan")}, []),
        (2000, False, {"val/mse": BAD, **COLLAPSE}, ["collapse"]),
        (2000, False, {"val/mse": BAD}, []),
        (2000, True, {"val/mse": BAD, **COLLAPSE}, ["collapse"]),
        (2000, True, {"val/mse": BAD}, ["no_better_than_mean_image"]),
    ],
)
def test_at_its_end_a_run_is_judged_however_short_it_was(steps, is_end, metrics, heard, caplog):
    told = {}
    observer = Alarms({}, told.update)
    run = trainer(MODELS["vae"](), epoch=1, steps_per_epoch=steps)
    observer.epoch_ended(run, Epoch(1, 1 if is_end else 2, "fit", {"val/negative_elbo": 20.0, **metrics}, True))
    assert list(told) == heard
    assert len(caplog.messages) == len(heard)
    if heard and steps < 1000:
        assert caplog.messages[0].endswith("; train longer (epochs= or steps=)")


def test_a_resumed_run_that_has_learnt_takes_its_warning_back():
    told = []
    observer = Alarms({"no_better_than_mean_image": {"epoch": 1}, "other": {"epoch": 2}}, told.append)
    run = trainer(MODELS["autoencoder"](), epoch=9, steps_per_epoch=40)
    observer.epoch_ended(run, Epoch(9, 9, "fit", {"val/mse": GOOD}, True))
    assert told == [{"other": {"epoch": 2}}]


def test_the_best_epoch_is_judged_not_the_last():
    told = []
    observer = Alarms({}, told.append)
    run = trainer(MODELS["autoencoder"](), epoch=1, steps_per_epoch=40)
    observer.epoch_ended(run, Epoch(1, 2, "fit", {"val/mse": GOOD}, True))
    observer.epoch_ended(run, Epoch(2, 2, "fit", {"val/mse": BAD}, False))
    assert told == []


@pytest.mark.parametrize(
    ("name", "row", "lines"),
    [
        ("autoencoder", {"val/mse": "0.007187"}, ["val/mse 0.007187 per pixel; the mean image 0.07187 (+10.0 dB)"]),
        ("autoencoder", {"val/mse": "0.07188"}, ["val/mse 0.07188 per pixel; the mean image 0.07187 (0.0 dB)"]),
        ("made", {"val/loss": "20.25"}, ["val/loss 20.25 nats; independent pixels 26.91 nats"]),
        ("classifier", {"val/error": "0.05"}, ["val/error 5.00 %; the most frequent class 92.67 %"]),
        ("autoencoder", {}, []),
    ],
)
def test_closing_lines_have_units_and_baselines_and_fit_the_screen(name, row, lines):
    found = compare_with_baselines(trainer(MODELS[name]()), row)
    assert [line.strip() for line in found] == lines
    assert all(len(line) <= 80 for line in found)


def test_one_epoch_is_singular(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,stage,seconds\n1,fit,2.0\n")
    device = SimpleNamespace(torch="cpu", precision="fp32", threads=1)
    facts = {"device": device, "objective": "val/loss", "best_value": 1.5, "best_epoch": 1}
    for epoch, told in ((1, ", 1 epoch in 2 s"), (2, ", 2 epochs in 2 s")):
        run = trainer(MODELS["autoencoder"](), epoch=epoch, **facts)
        assert summarise_training(run, Run(tmp_path))[0].endswith(told)


def test_losses_have_the_unit_of_their_model():
    units = {name: format_metric(trainer(make()), "val/loss", 1.5) for name, make in MODELS.items()}
    assert units["autoencoder"] == "1.500 squared error per image"
    assert units["vae"] == units["made"] == units["classifier"] == "1.500 nats"
    bce = Autoencoder(SHAPE, 4, encoder, decoder, loss="bce", output="sigmoid")
    assert format_metric(trainer(bce), "val/loss", 1.5) == "1.500 nats per image"
    assert format_metric(trainer(bce), "val/kl", 1.5) == "1.500 nats"
    assert format_metric(trainer(bce), "val/dead", 0.5) == "0.5000"

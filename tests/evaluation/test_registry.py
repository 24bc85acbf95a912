"""Tables follow what a model can do, and what is missing is told."""

import json
from functools import partial

import pytest
import torch

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian
from aectl.evaluation.context import Benchmark, Subject
from aectl.evaluation.registry import EVALUATIONS, report
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Model
from aectl.models.classifier import Classifier
from aectl.models.gan import GAN
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.rng import Rng

SHAPE, CLASSES = (1, 8, 8), 3
encoder, decoder = partial(DenseEncoder, widths=[8]), partial(DenseDecoder, widths=[8])


def source(n, seed, bright=0.0, labels=True):
    known = torch.arange(n) % CLASSES if labels else torch.full((n,), -1)
    images = 0.5 * Rng(seed).uniform(n, *SHAPE) + bright
    return Source(images, known, torch.arange(n), scale=1.0, classes=CLASSES if labels else 0)


def subject(build, labels=True, **others):
    torch.manual_seed(0)
    model = build().eval().requires_grad_(False)
    others.setdefault("outliers", {"bright": source(40, 2, bright=0.5)})
    data = Benchmark(source(240, 0, labels=labels), source(120, 1, labels=labels), judge="no judge of these", **others)
    return Subject(model, data, nll_images=20, nll_samples=3)


class Knows(Model):
    """A model with an energy alone, or with nothing."""


class Bright(Knows):
    """Images have the energy that they are bright with."""

    def energy(self, x):
        return x.flatten(1).sum(1)


CODES = {"codes", "probes", "clusters"}
IMAGES = {"reconstruction", "noises"}
SAMPLES = {"samples", "classes"}
MODELS = {
    "autoencoder": (lambda: Autoencoder(SHAPE, 3, encoder, decoder), CODES | IMAGES | {"anomalies"}, {"denoising"}),
    "denoiser": (
        lambda: Autoencoder(SHAPE, 3, encoder, decoder, noise=Gaussian(0.3)),
        CODES | IMAGES | {"anomalies", "denoising"},
        set(),
    ),
    "vae": (
        lambda: VAE(SHAPE, 2, encoder, decoder),
        CODES | IMAGES | SAMPLES | {"anomalies", "likelihood"},
        {"denoising", "distances"},
    ),
    "gan": (lambda: GAN(SHAPE, 3, decoder, encoder), SAMPLES, {"distances"}),
    "classifier": (lambda: Classifier(SHAPE, CLASSES, 4, encoder), CODES | {"classification"}, set()),
    "energy": (Bright, {"anomalies"}, set()),
    "nothing": (Knows, set(), set()),
}


@pytest.mark.parametrize("name", MODELS)
def test_tables_follow_the_abilities(name):
    build, tables, missing = MODELS[name]
    found = report(subject(build))
    assert set(found.tables) == tables
    assert set(found.missing) == missing
    for rows in found.tables.values():
        assert next(iter(rows)).startswith("model")
        # Only what a file of numbers can hold, and nothing that is left behind by accident.
        assert json.loads(json.dumps(rows)) == rows
        assert all(isinstance(value, (float, int, str)) for row in rows.values() for value in row.values())


def test_what_is_missing_says_why():
    model = MODELS["vae"][0]
    found = report(subject(model, labels=False, outliers={}))
    assert found.missing == {
        "denoising": "it is under the run's own noise, and the run has none",
        "probes": "the images have no labels",
        "clusters": "the images have no labels",
        "anomalies": "there are no outliers to compare with",
        "distances": "no judge of these",
        "classes": "the images have no labels",
    }
    assert set(found.tables) == {"reconstruction", "noises", "codes", "likelihood", "samples"}


def test_only_what_was_asked_for_is_measured_and_told():
    told = []
    found = report(subject(MODELS["vae"][0]), ["likelihood", "codes", "classification"], told.append)
    assert told == list(found.tables) == ["codes", "likelihood"]
    assert not found.missing
    told.clear()
    report(subject(MODELS["gan"][0]), told=told.append)
    assert told == ["samples", "distances", "classes"]


def test_every_table_has_a_name_and_a_title_of_its_own():
    assert len({one.name for one in EVALUATIONS}) == len({one.title for one in EVALUATIONS}) == len(EVALUATIONS)


def test_the_same_model_has_the_same_numbers_again():
    model = MODELS["vae"][0]
    first = report(subject(model))
    assert report(subject(model)) == first
    other = report(subject(model, seed=1))
    assert other.tables["samples"]["model"] != first.tables["samples"]["model"]
    assert other.tables["reconstruction"] == first.tables["reconstruction"]

"""The classifier, and the corruption that it is trained under."""

from functools import partial

import pytest
import torch

from aectl.data.datasets import Source
from aectl.data.noise import Jitter
from aectl.models.base import Batch, Classifies, Encodes
from aectl.models.classifier import Classifier, error
from aectl.models.networks import ConvEncoder, DenseEncoder
from aectl.rng import Rng
from aectl.training.validation import validate


def classifier(**settings):
    torch.manual_seed(0)
    return Classifier((1, 8, 8), 3, 8, partial(ConvEncoder, channels=(4,), code_activation="tanh"), **settings)


def test_it_encodes_and_classifies():
    model = classifier()
    x = Rng(0).uniform(7, 1, 8, 8)
    assert isinstance(model, Encodes)
    assert isinstance(model, Classifies)
    assert model.encode(x).shape == (7, 8)
    assert model.classify(x).shape == (7, 3)


def test_it_learns_two_plain_classes():
    model = classifier()
    y = torch.arange(60) % 2
    x = 0.5 * Rng(1).uniform(2, 1, 8, 8)[y] + 0.1 * Rng(2).uniform(60, 1, 8, 8)
    batch = Batch(x, y, torch.arange(60))
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(100):
        for loss in model.losses(batch, next(model.stages()), Rng(0)):
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
    assert float(model.validate(batch, Rng(0))["error"].value) == 0


def test_images_without_a_label_do_not_count():
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [5.0, 0.0]])
    assert float(error(logits, torch.tensor([0, 1, -1, -1]))) == 0.5
    assert float(error(logits, torch.full((4,), -1))) == 0


@pytest.mark.parametrize(("settings", "message"), [({"smoothing": 1.0}, "smoothing must lie in"), ({}, "at least 2")])
def test_what_it_refuses(settings, message):
    classes = 3 if settings else 1
    with pytest.raises(ValueError, match=message):
        Classifier((1, 8, 8), classes, 5, partial(ConvEncoder, channels=(4,)), **settings)


def test_jitter_shifts_whole_images_and_brings_in_black():
    x = torch.zeros(200, 1, 6, 6)
    x[:, 0, 3, 3] = 1
    moved = Jitter(shift=2)(x, Rng(0))
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 6 - 3, places % 6 - 3
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(200))
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [-2, -1, 0, 1, 2]
    assert Jitter(shift=3)(torch.ones(50, 1, 6, 6), Rng(0)).mean() < 0.8


def test_jitter_mirrors_and_leaves_alone_what_it_is_told_to():
    x = Rng(0).uniform(20, 3, 4, 6)
    assert torch.equal(Jitter(shift=0)(x, Rng(1)), x)
    assert torch.equal(Jitter(shift=0, p=1.0)(x, Rng(1)), x.flip(-1))
    assert torch.equal(Jitter(1, 0.5)(x, Rng(1)), Jitter(1, 0.5)(x, Rng(1)))
    with pytest.raises(ValueError, match="shift must be at least 0"):
        Jitter(shift=-1)


def test_the_error_is_that_of_labelled_images_and_there_is_none_without():
    """Batches of 500 with 1, 0 and 3 labels: each label counts once."""
    model = Classifier((1, 2, 2), 2, 2, partial(DenseEncoder, widths=[]))
    images = torch.zeros(1200, 1, 2, 2, dtype=torch.uint8)
    labels = torch.full((1200,), -1)
    guess = int(model.classify(torch.zeros(1, 1, 2, 2)).argmax())
    labels[[3, 1001, 1002, 1003]] = torch.tensor([guess, guess, 1 - guess, 1 - guess])
    source = Source(images, labels, torch.arange(1200), scale=1 / 255, classes=2)
    assert validate(model, source, Rng(0))["error"] == 0.5
    assert validate(model, source.take(torch.arange(500, 1000)), Rng(0)) == {}

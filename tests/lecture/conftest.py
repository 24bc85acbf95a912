"""Every run of the lecture in small: one epoch, on images of 8×8 pixels."""

import logging
import re
import sys

import numpy as np
import pytest

from aectl import cli
from lecture import generative, gradients, runs
from lecture.lab import Lab


def small(name, clothing):
    """Return a run's recipe with small data and one epoch."""
    kept = [word for word in runs.RUNS[name] if not word.startswith(("dataset=", "epochs=", "batch_size="))]
    if "experiment=toy" in kept:
        return (*kept, "epochs=1", "batch_size=64", "dataset.points=300", "dataset.valid=0.2", "dataset.test=0.2")
    data = (f"dataset=arrays dataset.path={clothing}" if "fashion" in name else "dataset=digits").split()
    return (*kept, *data, "epochs=1", "batch_size=64", "dataset.test=100", "dataset.valid=50")


def trained(words):
    """Type `aectl train` and these words, in this process."""
    handlers = list(logging.getLogger().handlers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aectl", "train", *words])
        cli.main()
    for handler in set(logging.getLogger().handlers) - set(handlers):
        logging.getLogger().removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory, own_cache):
    """The lecture's runs by their names; of those that differ in one number, the first stands for all."""
    root = tmp_path_factory.mktemp("lecture")
    labels = np.arange(400) % 10
    images = np.random.default_rng(0).random((400, 8, 8)) * (labels / 10)[:, None, None]
    np.savez(root / "clothing.npz", x=images.astype("f4"), y=labels)
    first = {}
    for name in runs.RUNS:
        family = re.sub(r"-\d+$", "", name)
        if family in first:
            (root / name).symlink_to(first[family])
            continue
        first[family] = root / name
        trained((*small(name, root / "clothing.npz"), *runs.ON_ONE_THREAD, f"hydra.run.dir={root / name}"))
    return Lab(root)


@pytest.fixture(scope="session")
def drawn(lab):
    """Return a function that draws a slide, once; the numbers that it returns may be changed."""
    figures = {}

    def draw(slide):
        if slide.name not in figures:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(gradients, "STEPS", gradients.MEASURED_EVERY)
                patch.setattr(generative, "COUNTED", 60)
                figures[slide.name] = slide.draw(lab)
        figure, numbers = figures[slide.name]
        return figure, dict(numbers)

    return draw

"""Every run of the lecture in small: one epoch, on images of 8×8 pixels."""

import contextlib
import re

import numpy as np
import pytest
from filelock import FileLock

from lecture import generative, gradients, runs
from lecture.lab import Lab


def small(name, clothing):
    """Return a run's recipe with small data and one epoch."""
    kept = [word for word in runs.RUNS[name] if not word.startswith(("dataset=", "epochs=", "batch_size="))]
    if "experiment=toy" in kept:
        return (*kept, "epochs=1", "batch_size=64", "dataset.points=300", "dataset.valid=0.2", "dataset.test=0.2")
    data = (f"dataset=arrays dataset.path={clothing}" if "fashion" in name else "dataset=digits").split()
    return (*kept, *data, "epochs=1", "batch_size=64", "dataset.test=100", "dataset.valid=50")


@pytest.fixture(scope="session")
def lab(session_folder, train_once):
    """The lecture's runs by their names; of those that differ in one number, the first stands for all."""
    root = session_folder / "runs" / "lecture"
    with FileLock(session_folder / "lecture.lock"):
        if not root.exists():
            root.mkdir(parents=True)
            labels = np.arange(400) % 10
            images = np.random.default_rng(0).random((400, 8, 8)) * (labels / 10)[:, None, None]
            np.savez(root / "clothing.npz", x=images.astype("f4"), y=labels)
    first = {}
    for name in runs.RUNS:
        of_family = first.setdefault(re.sub(r"-\d+$", "", name), name)
        train_once(f"lecture/{of_family}", *small(of_family, root / "clothing.npz"), *runs.ON_ONE_THREAD)
        if name != of_family:
            with contextlib.suppress(FileExistsError):
                (root / name).symlink_to(root / of_family)
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

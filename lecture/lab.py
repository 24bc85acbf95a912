"""What the figures are made from: trained runs, and the images that they are measured on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from aectl.config import build
from aectl.evaluation.anomaly import errors
from aectl.evaluation.context import Benchmark, Subject
from aectl.runs.loading import load
from aectl.runs.run import Run

Numbers = dict[str, float]
Drawn = tuple[Figure, Numbers]
"""A figure, and the numbers that were measured for it, by name."""


class Lab:
    """The runs of the lecture in a folder, each with the data set that it was trained on; everything is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.subject = cache(self.open)
        self.benchmark = cache(self.read)

    @property
    def digits(self) -> Benchmark:
        """The images that most runs are of."""
        return self.bench("deep-2")

    @property
    def clothing(self) -> Benchmark:
        """The images that the others are of."""
        return self.bench("fashion-2")

    def config(self, run: str) -> DictConfig:
        """Return the config that a run was trained by."""
        return Run(self.root / run).config()

    def open(self, run: str) -> Subject:
        """Return a run's model with its best weights, frozen, and what it is measured on."""
        return Subject(load(self.root / run), self.bench(run))

    def bench(self, run: str) -> Benchmark:
        """Return the images that a run is measured on; runs of one data set share them."""
        return self.benchmark(OmegaConf.to_yaml(self.config(run).dataset))

    def read(self, dataset: str) -> Benchmark:
        """Return the training and test images of a data set, whose config comes as YAML."""
        found = build(OmegaConf.create(dataset), "dataset")
        return Benchmark(found.split("train"), found.split("test"))


def squared_error(subject: Subject) -> float:
    """Return a run's mean squared error per pixel on its test images."""
    return float(errors(subject.bench.held_out.pixels(), subject.reconstructed).mean())

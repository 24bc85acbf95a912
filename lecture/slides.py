"""The figures of the lecture, in its order: what draws each of them, and the runs that it is drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lecture import clusters, denoising, far, generative, gradients, overcomplete, runs, undercomplete
from lecture.lab import Drawn, Lab


@dataclass(frozen=True)
class Slide:
    """A figure by the name of its file, drawn from runs by their names in `runs.RUNS`."""

    name: str
    draw: Callable[[Lab], Drawn]
    runs: tuple[str, ...]


def family(name: str, members: tuple[object, ...]) -> tuple[str, ...]:
    """Return the names of runs that differ in one value."""
    return tuple(f"{name}-{member}" for member in members)


FEW = family("deep", runs.FASHION_CODES)
SLIDES = (
    Slide("reconstructions", undercomplete.reconstructions, (*FEW, *family("fashion", runs.FASHION_CODES))),
    Slide("plane", undercomplete.plane, ("deep-2",)),
    Slide("error_curve", undercomplete.error_curve, (*family("linear", runs.CODES), *family("deep", runs.CODES))),
    Slide("one_unit", undercomplete.one_unit, ("one-unit",)),
    Slide("copying", overcomplete.copying, tuple(overcomplete.KINDS)),
    Slide("codes", overcomplete.codes, tuple(overcomplete.KINDS)),
    Slide("strips", denoising.strips, ("dae-gaussian", "dae-masking")),
    Slide("filters", denoising.filters, family("vincent", runs.MASKED)),
    Slide("manifold", far.manifold, family("toy", runs.TOYS)),
    Slide("other_images", far.other_images, tuple(far.DETECTORS)),
    Slide("clusters", clusters.clusters, tuple(clusters.SPACES)),
    Slide("planes", generative.planes, ("deep-2", "vae-2")),
    Slide("vae_plane", generative.vae_plane, ("deep-2", "vae-2")),
    Slide("training", generative.training, ("gan-minimax", "gan", "gan-relativistic")),
    Slide("gradients", gradients.gradients, ("gan-1", "gan")),
)

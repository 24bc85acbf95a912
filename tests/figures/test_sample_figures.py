"""Each kind of picture has its figure, for images and for points of the plane."""

from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian
from aectl.figures import image_grids, planar_report, sample_figures
from aectl.figures.style import save
from aectl.models.autoencoder import Autoencoder
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.rng import Rng
from aectl.sampling import KINDS, Request
from aectl.sampling.kind import Layout

parts = partial(DenseEncoder, widths=[8]), partial(DenseDecoder, widths=[8])
IMAGE, POINT = (1, 8, 8), (1, 1, 2)


def source(shape, n=60):
    return Source(Rng(0).uniform(n, *shape), torch.arange(n) % 3, torch.arange(n), scale=1.0, classes=3)


def made(kind, shape):
    """Return what a small model that can make this kind of picture makes."""
    torch.manual_seed(0)
    if kind == "training":
        return {"x": Rng(1).uniform(5, *shape), "images": Rng(2).uniform(3, 1, 5, *shape), "epochs": torch.arange(3)}
    build = {"chain": lambda: Autoencoder(shape, 2, *parts, noise=Gaussian(0.1))}
    model = build.get(kind, lambda: VAE(shape, 2, *parts))().eval().requires_grad_(False)
    data = source(shape)
    return KINDS[kind].make(model, Request(16, Rng(0), 1.0, data, train=data))


def is_drawn(path):
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    return min(pixels.shape) > 100 and pixels.std() > 5


def test_every_layout_has_a_figure_and_points_have_all_but_the_strip():
    assert set(sample_figures.LAYOUTS) == set(get_args(Layout))
    assert set(planar_report.LAYOUTS) == set(get_args(Layout)) - {"strip"}


def test_a_kind_without_a_layout_is_shown_by_the_shape_of_its_images():
    for images, width in ((Rng(0).uniform(9, *IMAGE), 3), (Rng(0).uniform(2, 5, *IMAGE), 5)):
        (axes,) = sample_figures.figure(None, {"images": images}, source(IMAGE), "a title").axes
        assert axes.images[0].get_array().shape[1] == 9 * width - 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_for_images_and_for_points(tmp_path, kind):
    for shape in (IMAGE, POINT):
        layout = KINDS[kind].layout
        figure = sample_figures.figure(layout, made(kind, shape), source(shape), "a title")
        assert is_drawn(save(figure, tmp_path / f"{kind}.png"))
        words = " ".join(text.get_text() for text in [*figure.texts, figure._suptitle] if text)
        assert "a title" in words
        # Points are drawn in the square that they lie in, images as pixels.
        assert any(axes.images for axes in figure.axes) is (shape == IMAGE or layout == "strip")


def test_a_grid_has_as_many_rows_as_columns():
    drawn = Rng(0).uniform(16, *IMAGE)
    (axes,) = sample_figures.grid({"images": drawn}, "a title").axes
    assert np.allclose(axes.images[0].get_array(), image_grids.mosaic(drawn.view(4, 4, *IMAGE)))
    (axes,) = sample_figures.grid({"images": drawn[:11]}, "a title").axes
    height, width = axes.images[0].get_array().shape[:2]
    assert (height, width) == (3 * 9 - 1, 4 * 9 - 1)


def test_of_many_images_a_grid_shows_the_first_and_says_so():
    drawn = Rng(0).uniform(sample_figures.MOST + 1, 1, 2, 2)
    figure = sample_figures.grid({"images": drawn}, "a title")
    (axes,) = figure.axes
    assert np.allclose(axes.images[0].get_array(), image_grids.mosaic(drawn[:400].view(20, 20, 1, 2, 2)))
    assert "the first 400 of 401" in figure.texts[0].get_text().replace("\n", " ")


def test_reconstructions_stand_below_what_they_are_of_and_are_not_too_many():
    arrays = {"x_hat": Rng(0).uniform(30, *IMAGE), "x": Rng(1).uniform(30, *IMAGE), "noisy": Rng(2).uniform(30, *IMAGE)}
    (axes,) = sample_figures.reconstruction(arrays, "a title").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["input", "noisy", "reconstruction"]
    expected = torch.stack([arrays[key][: sample_figures.SHOWN] for key in ("x", "noisy", "x_hat")])
    assert np.allclose(axes.images[0].get_array(), image_grids.mosaic(expected))
    (axes,) = sample_figures.reconstruction({key: arrays[key] for key in ("x", "x_hat")}, "a title").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["input", "reconstruction"]

"""Figures of planar data show each point where it lies, and where the model moves it."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver
from PIL import Image

from aectl.data.datasets import Source
from aectl.figures import examples, planar_fields, style
from aectl.figures.style import save
from aectl.models.base import Model
from aectl.rng import Rng


class Moves(Model):
    """A model that moves points by a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def reconstruct(self, x):
        return self.function(x)


def source(n=300, shape=(1, 1, 2)):
    return Source(Rng(0).uniform(n, *shape), torch.arange(n) % 3, torch.arange(n), scale=1.0, classes=3)


def half_way(x):
    """Return points half way to (½, ¼)."""
    return x + 0.5 * (torch.tensor([0.5, 0.25]) - x)


def is_drawn(path):
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    return min(pixels.shape) > 100 and pixels.std() > 5


def scattered(axes):
    return [np.asarray(dots.get_offsets()) for dots in axes.collections if isinstance(dots, PathCollection)]


def test_two_values_are_a_point_and_more_are_not():
    assert examples.is_planar((1, 1, 2))
    assert examples.is_planar((1, 2, 1))
    assert not examples.is_planar((1, 2, 2))
    assert not examples.is_planar((1, 1, 1))


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1)])
def test_the_lattice_covers_the_square_row_by_row(shape):
    grid = planar_fields.make_grid(source(shape=shape), 3)
    assert grid.shape == (9, *shape)
    steps = (0.0, 0.5, 1.0)
    assert grid.view(9, 2).tolist() == [[x, y] for y in steps for x in steps]


def test_displacements_lead_from_a_point_to_where_it_is_moved():
    points = Rng(0).uniform(5, 1, 1, 2)
    found = planar_fields.displacements(Moves(half_way), points)
    assert torch.allclose(found, 0.5 * (torch.tensor([[0.5, 0.25]]) - points.view(5, 2)))


def test_arrows_point_where_the_model_moves_and_long_ones_are_cut():
    figure = planar_fields.vector_field(Moves(half_way), source(), "title")
    left, right = figure.axes[:2]
    (arrows,) = (one for one in left.collections if isinstance(one, Quiver))
    start = np.stack([arrows.X, arrows.Y], 1)
    true = 0.5 * (np.array([0.5, 0.25]) - start)
    lengths = np.hypot(*true.T)
    assert np.allclose(arrows.get_array(), lengths, atol=1e-6)
    shown = np.stack([arrows.U, arrows.V], 1)
    assert np.allclose(np.hypot(*shown.T), np.minimum(lengths, 1 / 24), atol=1e-6)
    assert np.allclose(shown * lengths[:, None], true * np.hypot(*shown.T)[:, None], atol=1e-6)
    assert 0 < (lengths < 1 / 24).mean() < 1
    assert (arrows.angles, arrows.scale_units, arrows.scale) == ("xy", "xy", 1)
    (data,) = scattered(left)
    assert np.allclose(data, source().images.view(-1, 2))
    assert len(scattered(right)) == 1


def test_shades_are_lightest_where_nothing_is_moved():
    figure = planar_fields.vector_field(Moves(half_way), source(3), "title")
    pixels = np.asarray(planar_fields.render_figure(figure, 60).permute(1, 2, 0))
    axes = figure.axes[1]

    def colour(x, y):
        column, row = axes.transData.transform((x, y))
        return pixels[int(pixels.shape[0] - row), int(column)]

    # Blue shades are the darker the less red there is in them.
    still, near, far = colour(0.5, 0.26), colour(0.5, 0.6), colour(0.02, 0.97)
    assert still[0] > near[0] + 0.1
    assert near[0] > far[0] + 0.1


@pytest.mark.parametrize(
    "function", [half_way, lambda x: x, lambda x: torch.full_like(x, 0.5), lambda x: x * math.nan], ids=range(4)
)
def test_fields_are_drawn_also_of_models_that_do_nothing_or_give_nothing(function):
    figure = planar_fields.vector_field(Moves(function), source(), "a title")
    pixels = planar_fields.render_figure(figure, 60)
    for axes in figure.axes[:2]:
        left, low, right, high = (int(edge) for edge in axes.get_window_extent().extents)
        inside = pixels[:, pixels.shape[1] - high : pixels.shape[1] - low, left:right]
        assert float(inside.std(dim=(1, 2)).min()) > 0.01


def test_points_stand_side_by_side_in_the_colours_of_their_classes(tmp_path):
    data, labels = source().pixels(), source().labels.clone()
    labels[5] = -1
    figure = planar_fields.points({"input": data, "moved": half_way(data)}, "a title", labels)
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["input", "moved"]
    assert [(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes] == [((0, 1), (0, 1))] * 2
    assert [len(scattered(axes)) for axes in figure.axes] == [1, 2]
    behind, before = scattered(second)
    assert np.allclose(behind, data.view(-1, 2))
    assert np.allclose(before, half_way(data).view(-1, 2))
    colours = first.collections[0].get_facecolors()[:, :3]
    expected = [style.BLUE if label < 0 else style.CLASSES[label] for label in labels.tolist()]
    assert np.allclose(colours, [to_rgb(colour) for colour in expected])
    assert is_drawn(save(figure, tmp_path / "points.png"))


def test_points_without_classes_or_with_more_than_there_are_colours(tmp_path):
    data = source().pixels()
    plain = planar_fields.points({"data": data}, "a title")
    assert np.allclose(plain.axes[0].collections[0].get_facecolors()[:, :3], to_rgb(style.BLUE))
    many = planar_fields.points({"data": data}, "a title", torch.arange(300))
    assert is_drawn(save(many, tmp_path / "points.png"))


def test_of_many_points_some_are_shown_from_all_along():
    assert planar_fields.spaced_indices(3).tolist() == [0, 1, 2]
    chosen = planar_fields.spaced_indices(10_000)
    assert len(chosen) == planar_fields.MAX_POINTS
    assert (chosen[0], chosen[-1]) == (0, 9999)
    assert set(np.diff(chosen)) == {5, 6}
    figure = planar_fields.points({"data": source(5000).pixels()}, "a title")
    assert len(scattered(figure.axes[0])[0]) == planar_fields.MAX_POINTS


def test_paths_go_from_point_to_point_with_their_ends_marked(tmp_path):
    ways = Rng(1).uniform(4, 7, 1, 1, 2)
    figure = planar_fields.paths(ways, source(), "a title")
    (axes,) = figure.axes
    lines = [np.stack(line.get_data(), 1) for line in axes.lines]
    assert [len(line) for line in lines] == [7, 2] * 4
    for way, line, ends in zip(ways.view(4, 7, 2), lines[::2], lines[1::2], strict=True):
        assert np.allclose(line, way)
        assert np.allclose(ends, way[[0, -1]])
    assert len({line.get_color() for line in axes.lines}) == 4
    assert is_drawn(save(figure, tmp_path / "paths.png"))


def test_a_mesh_has_a_line_for_each_row_and_for_each_column(tmp_path):
    steps = torch.linspace(0, 1, 5)
    net = torch.cartesian_prod(steps[:4], steps).view(4, 5, 1, 1, 2)
    figure = planar_fields.mesh(net, source(), "a title")
    (axes,) = figure.axes
    lines = [np.stack(line.get_data(), 1) for line in axes.lines]
    assert [len(line) for line in lines] == [5] * 4 + [4] * 5
    assert all(np.ptp(line[:, 0]) == 0 for line in lines[:4])
    assert all(np.ptp(line[:, 1]) == 0 for line in lines[4:])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["along the first coordinate", "along the second coordinate"]
    assert [line.get_color() for line in axes.lines] == [style.BLUE] * 4 + [style.ORANGE] * 5
    assert is_drawn(save(figure, tmp_path / "mesh.png"))


def test_a_figure_as_an_image_is_what_is_saved(tmp_path):
    figure, same = (planar_fields.points({"data": source(20).pixels()}, "a title") for _ in range(2))
    image = planar_fields.render_figure(figure, style.DPI)
    saved = np.asarray(Image.open(save(same, tmp_path / "points.png")).convert("RGB"))
    assert image.dtype == torch.float32
    assert image.shape == (3, *saved.shape[:2])
    assert 0 <= image.min() < image.max() <= 1
    assert (image.permute(1, 2, 0) - torch.from_numpy(saved / 255.0)).abs().mean() < 0.002
    half = planar_fields.render_figure(figure, style.DPI / 2)
    assert [round(2 * side / other) for side, other in zip(half.shape[1:], image.shape[1:], strict=True)] == [1, 1]


def test_figures_are_no_concern_of_pyplots():
    planar_fields.points({"data": source(20).pixels()}, "a title")
    assert not matplotlib._pylab_helpers.Gcf.get_all_fig_managers()

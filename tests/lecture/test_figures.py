"""Every figure is drawn from small runs, with something on it and nothing cut off."""

import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lecture import denoising, overcomplete, undercomplete
from lecture.__main__ import shrink
from lecture.slides import SLIDES

pytestmark = pytest.mark.slow


def cut_off(figure):
    """Return the texts of a figure that reach beyond its page."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox.padded(1)
    # Ticks outside the axes' limits have labels too, which are not drawn.
    ticks = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in axis.get_ticklabels(which="both")
    }
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text not in ticks]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [words for words, box in boxes if not (page.contains(*box.min) and page.contains(*box.max))]


@pytest.mark.parametrize("slide", SLIDES, ids=lambda slide: slide.name)
def test_a_figure_is_drawn_and_measured(slide, drawn, tmp_path):
    figure, numbers = drawn(slide)
    assert cut_off(figure) == []
    assert numbers and all(math.isfinite(value) for value in numbers.values())
    path = tmp_path / "figure.png"
    figure.savefig(path, dpi=60)
    shrink(path)
    grey = np.asarray(Image.open(path).convert("L")) / 255
    ink = grey < 0.9
    assert ink.mean() > 0.02
    # Its four quarters have something on them, and it reaches to the margin.
    height, width = (side // 2 for side in ink.shape)
    assert all(ink[a : a + height, b : b + width].any() for a in (0, height) for b in (0, width))
    assert not (grey[:10] < 0.9).any() and (grey[12] < 1).any()


def test_all_axes_with_numbers_are_named(drawn):
    for slide in SLIDES:
        for axes in drawn(slide)[0].axes:
            pictures = bool(axes.images)
            bar = axes.get_label() == "<colorbar>"
            assert pictures or bar or axes.get_xlabel(), slide.name


def test_pca_errors_are_those_of_its_reconstructions(lab):
    pca, x = lab.digits.pca, lab.digits.held_out.pixels()
    found = undercomplete.pca_errors(pca, x)
    for code in (0, 1, 7, 30):
        assert found[code] == pytest.approx(float((pca.reconstruct(x, code) - x).square().mean()), rel=1e-4)


def test_shuffled_images_keep_their_grey_levels_and_nothing_else(lab):
    x = lab.digits.held_out.pixels()
    mixed = overcomplete.shuffled(x)
    assert mixed.flatten(1).sort().values.equal(x.flatten(1).sort().values)
    assert not mixed.equal(x)


def test_effective_pixels_counts_equal_weights():
    weights = torch.zeros(2, 10)
    weights[0, :4], weights[1, 3] = -0.5, 2.0
    assert denoising.effective_pixels(weights).tolist() == pytest.approx([4.0, 1.0])


def test_a_text_beyond_the_page_is_noticed():
    figure = Figure(figsize=(3, 2), layout="constrained")
    figure.subplots().set_title("a title that is far too long for so narrow a page", loc="left")
    assert cut_off(figure) == ["a title that is far too long for so narrow a page"]

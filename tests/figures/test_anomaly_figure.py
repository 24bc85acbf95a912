"""The figure of two kinds' errors tells the shares of both and how well they are told apart."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from aectl.figures.anomaly import anomaly_figure
from aectl.figures.style import save
from aectl.rng import Rng

known, other = 0.01 + 0.02 * Rng(0).uniform(200), 0.02 + 0.03 * Rng(1).uniform(50)


def shares(axes):
    """Return the heights of the bars of each of both kinds."""
    return [np.array([bar.get_height() for bar in bars]) for bars in axes.containers]


def test_the_area_is_that_of_outliers_with_the_larger_errors(tmp_path):
    figure = anomaly_figure(known, other, "shoes")
    left, right = figure.axes
    truth = np.r_[np.zeros(200), np.ones(50)]
    area = roc_auc_score(truth, torch.cat([known, other]))
    assert right.get_title(loc="left") == f"ROC, area {area:.4f}"
    assert area > 0.8
    x, y = (np.asarray(values) for values in right.lines[0].get_data())
    assert np.trapezoid(y, x) == pytest.approx(area)
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["the run's own kind (200)", "shoes (50)"]
    assert np.asarray(Image.open(save(figure, tmp_path / "anomaly.png")).convert("L")).std() > 5


def test_bars_are_shares_of_each_kind_so_that_unlike_numbers_compare():
    left, _ = anomaly_figure(known, other, "shoes").axes
    inside, outside = shares(left)
    assert (inside.sum(), outside.sum()) == (pytest.approx(100), pytest.approx(100))
    assert left.get_xscale() == "log"
    edges = np.array([bar.get_x() for bar in left.containers[0]])
    assert np.allclose(np.diff(np.log(edges)), np.log(edges[1] / edges[0]))
    # No outlier is below 0.02, and no ordinary image above 0.03.
    assert outside[edges < 0.019].sum() == 0
    assert inside[edges > 0.03].sum() == 0


def test_errors_of_zero_have_an_axis_that_has_a_zero():
    left, _ = anomaly_figure(torch.cat([torch.zeros(3), known]), other, "shoes").axes
    assert left.get_xscale() == "linear"
    assert shares(left)[0].sum() == pytest.approx(100)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_errors_that_are_all_alike_are_drawn_and_tell_nothing(tmp_path, value):
    figure = anomaly_figure(torch.full((5,), value), torch.full((7,), value), "shoes")
    assert figure.axes[1].get_title(loc="left") == "ROC, area 0.5000"
    assert [heights.max() for heights in shares(figure.axes[0])] == [pytest.approx(100)] * 2
    assert np.asarray(Image.open(save(figure, tmp_path / "anomaly.png")).convert("L")).std() > 5

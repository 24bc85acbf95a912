"""What TensorBoard finds of an evaluation, read back with its own reader."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from aectl.rng import Rng
from aectl.tensorboard import evaluation
from aectl.tensorboard.evaluation import rank_scores


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def picture(path, colour):
    Image.new("RGB", (7, 5), colour).save(path)
    return path


def test_numbers_and_pictures_are_found_at_the_epoch_that_was_evaluated(tmp_path):
    paths = {
        "eval/samples": picture(tmp_path / "a.png", (200, 30, 0)),
        "eval/codes": picture(tmp_path / "b.png", "red"),
    }
    evaluation.write_evaluation(
        tmp_path, 7, {"eval/reconstruction/mse": 0.25, "eval/probes/linear_10": 91.5}, paths, {}
    )
    events = read(tmp_path)
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {"eval/reconstruction/mse": [(7, 0.25)], "eval/probes/linear_10": [(7, 91.5)]}
    assert set(events.Tags()["images"]) == {"eval/samples", "eval/codes"}
    (shown,) = events.Images("eval/samples")
    pixels = np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))
    assert shown.step == 7
    assert pixels.shape == (5, 7, 3)
    assert pixels[2, 3].tolist() == [200, 30, 0]


def test_pictures_that_are_grey_or_see_through_are_shown_too(tmp_path):
    Image.new("L", (4, 3), 90).save(tmp_path / "grey.png")
    Image.new("RGBA", (4, 3), (1, 2, 3, 255)).save(tmp_path / "clear.png")
    evaluation.write_evaluation(tmp_path, 1, {}, {"grey": tmp_path / "grey.png", "clear": tmp_path / "clear.png"}, {})
    events = read(tmp_path)
    for tag, colour in (("grey", [90, 90, 90]), ("clear", [1, 2, 3])):
        (shown,) = events.Images(tag)
        assert np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))[0, 0].tolist() == colour


@pytest.mark.parametrize("scale", [1.0, 1e-6, -1e4])
def test_precision_and_recall_are_those_of_every_threshold_whatever_the_scale(tmp_path, scale):
    inliers, outliers = scale * Rng(0).normal(300), scale * (Rng(1).normal(100) + 1)
    evaluation.write_evaluation(tmp_path, 3, {}, {}, {"excluded classes": (inliers, outliers)})
    events = read(tmp_path)
    tag = "eval/anomalies/excluded classes"
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "pr_curves"
    (event,) = events.Tensors(tag)
    assert event.step == 3
    true_positive, false_positive, _, false_negative, precision, recall = tensor_util.make_ndarray(event.tensor_proto)
    scores = torch.cat([inliers, outliers]).numpy()
    truth = np.r_[np.zeros(300), np.ones(100)]
    order = scores.argsort()
    for threshold in range(0, 126, 5):
        # What lies above a share of all scores is called strange; the larger is always the stranger.
        found = np.zeros(400)
        found[order[np.ceil(threshold / 126 * 399).astype(int) :]] = 1
        assert true_positive[threshold] == (found * truth).sum()
        assert false_positive[threshold] == (found * (1 - truth)).sum()
        assert false_negative[threshold] == ((1 - found) * truth).sum()
        assert precision[threshold] == pytest.approx(precision_score(truth, found), abs=1e-6)
        assert recall[threshold] == pytest.approx(recall_score(truth, found), abs=1e-6)


def test_ranks_are_shares_equal_for_equal_scores():
    assert rank_scores(torch.tensor([5.0, -1.0, 70.0, 5.0, 5.0])).tolist() == [0.75, 0.0, 1.0, 0.75, 0.75]
    assert rank_scores(torch.zeros(4)).tolist() == [1, 1, 1, 1]
    assert rank_scores(torch.tensor([3.0])).tolist() == [0]
    assert rank_scores(torch.tensor([0.0, float("inf")])).tolist() == [0, 1]


def test_an_evaluation_takes_the_place_of_the_one_before_and_of_nothing_else(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("val/loss", 1.0, 1)
        writer.add_scalar("val/loss", 0.5, 2)
    evaluation.write_evaluation(
        tmp_path, 1, {"eval/old": 1.0, "eval/mse": 3.0}, {}, {"shoes": (torch.zeros(3), torch.ones(2))}
    )
    evaluation.write_evaluation(tmp_path, 2, {"eval/mse": 2.0}, {}, {})
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(1, 1.0), (2, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("eval/mse")] == [(2, 2.0)]
    assert set(events.Tags()["scalars"]) == {"val/loss", "eval/mse"}
    assert not events.Tags()["tensors"]

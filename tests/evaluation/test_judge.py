"""The shipped judges are what they say."""

import pytest
import torch

from aectl.data.datasets import Source
from aectl.evaluation import judge as module
from aectl.evaluation.context import Benchmark, Unmeasured
from aectl.evaluation.judge import DIGESTS, FOLDER, load_judge, read_header
from aectl.rng import Rng


def images(n=20, seed=0, classes=3):
    labels = torch.arange(n) % classes
    return Source(Rng(seed).uniform(n, 1, 8, 8), labels, torch.arange(n), scale=1.0, classes=classes)


@pytest.mark.parametrize(("dataset", "least"), [("mnist", 99.4), ("fashion_mnist", 93.0)])
def test_every_judge_is_small_good_and_tells_its_recipe(dataset, least):
    told = read_header(dataset)
    assert (FOLDER / f"{dataset}.safetensors").stat().st_size < 2_000_000
    assert told["dataset"] == dataset
    assert told["test"]["classification"]["accuracy"] >= least
    assert told["command"].startswith("aectl train experiment=judge")
    assert told["config"]["model"]["_target_"] == "aectl.models.classifier.Classifier"


def test_a_judge_sees_features_and_classes():
    judge = load_judge("mnist")
    assert judge.name == f"mnist-{DIGESTS['mnist'][:8]}"
    x = Rng(0).uniform(7, 1, 28, 28)
    features, classes = judge.see(x)
    assert features.shape == (7, 128)
    assert torch.equal(features, judge.features(x))
    # From the features or from the images.
    assert torch.equal(classes, judge.model.classify(x).argmax(1))
    assert not judge.model.training


def test_a_judge_that_was_changed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mnist.safetensors").write_bytes((FOLDER / "mnist.safetensors").read_bytes() + b" ")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="is not the judge that belongs to this version"):
        load_judge("mnist")


def test_where_there_is_no_judge_one_is_told_why():
    reason = load_judge("digits")
    assert "no judge for the data set 'digits'" in reason
    with pytest.raises(Unmeasured, match="digits"):
        Benchmark(images(), images(), judge=reason).judged()

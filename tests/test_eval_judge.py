"""`judge=RUN`: the classifier of a run compares samples, if it fits the images and was not trained on them."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aectl.commands.eval_judge import check_fit, check_unseen, log_accuracy
from aectl.config import ConfigError
from aectl.data.datasets import digits
from aectl.evaluation.context import Benchmark
from aectl.evaluation.judge import Judge
from aectl.metric import Metric
from aectl.models.base import Model
from aectl.runs.metrics_json import best_rows

WORDS = ("device=cpu", "device.threads=1")
TABLES = "only=[reconstruction,distances,classes]"


class Sees(Model):
    """Encodes an image as its pixels and classifies it by the mean of each of ten parts."""

    def encode(self, x):
        return x.flatten(1)

    def classify(self, x):
        return torch.stack([part.mean(1) for part in x.flatten(1).tensor_split(10, dim=1)], 1)


class Encodes(Model):
    """Encodes only."""

    encode = Sees.encode


class Blind(Sees):
    """A classifier whose logits are NaN."""

    def classify(self, x):
        return super().classify(x) * torch.nan


class Constant(Sees):
    """Finds the commonest class of the test images, and no other one."""

    def classify(self, x):
        return torch.eye(10)[4].expand(len(x), -1)


@pytest.fixture
def judge(train_once):
    """Return the folder of a small judge of digits."""
    words = ("experiment=judge", "dataset=digits", "epochs=6", "batch_size=64", "model.encoder.channels=[8,16]")
    return train_once("judge", *words, "model.code=16", *WORDS)


def opened(model=None, dataset=None):
    """Return what a check needs of a loaded run."""
    data = dataset or digits()
    return SimpleNamespace(
        run=SimpleNamespace(folder=Path("some/run")),
        model=model or Sees(),
        dataset=data,
        shape=data.shape,
        classes=data.classes,
        config=SimpleNamespace(dataset={"exclude": data.exclude}),
    )


def test_a_judge_of_ones_own(aectl, trained, judge):
    run = trained("vae")
    code, out, err = aectl("eval", f"run={run}", f"judge={judge}", TABLES, *WORDS)
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("judge ")]
    tables = json.loads((run / "metrics.json").read_text())["test"]
    rows = tables["distances"]
    name = rows["model"]["judge"]
    assert line.startswith(f"judge {name}: ")
    assert line.endswith("of 360 test images classified correctly")
    assert float(line.split(": ")[1].split(" %")[0]) > 30
    assert {row["judge"] for row in rows.values()} == {name}
    assert name.startswith(f"{judge.name}-")
    assert f"perceptual_{name.rpartition('-')[2]}" in tables["reconstruction"]["model"]
    assert "perceptual" not in tables["reconstruction"]["model"]
    assert f"model, by {name}" in tables["classes"]
    assert (run / "figures/samples_by_realism.png").is_file()
    page = (run / "report.html").read_text()
    assert "most and least real" in page
    assert f"judge={judge}" in page

    # The stored tables are those of this judge, and of no other one.
    _, out, _ = aectl("eval", f"run={run}", f"judge={judge}", TABLES, *WORDS)
    assert out.startswith("evaluated ")
    assert name in out
    _, out, _ = aectl("eval", f"run={run}", TABLES, "figures=false", *WORDS)
    assert not out.startswith("evaluated ")
    assert "no table of distances: there is no judge for the data set 'digits'" in out


def test_numbers_of_two_judges_are_not_compared():
    rows = {"model": {"frechet": 2.0, "judge": "one"}, "a baseline": {"frechet": 1.0, "judge": "two"}}
    metrics = (Metric("frechet", better="lower"), Metric("judge"))
    assert best_rows(rows, "frechet", metrics) == set()
    assert best_rows({name: row | {"judge": "one"} for name, row in rows.items()}, "frechet", metrics) == {"a baseline"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "judge={vae}",
            "judge: the model of {vae} does not classify; a judge is trained by aectl train experiment=judge",
        ),
        ("judge=latest", "judge: the model of {vae} does not classify"),
        ("judge=nowhere", "judge: 'nowhere' is not a run: the folder does not exist"),
        ("judge=vea", "judge: 'vea' is not a run: the folder does not exist; did you mean 'vae'?"),
        ("classifier={vae}", "no key 'classifier'; did you mean judge="),
    ],
)
def test_a_run_that_cannot_be_a_judge_is_refused_in_a_line(aectl, trained, words, message):
    vae = trained("vae", to="outputs/digits/vae/vae")
    code, _, err = aectl("eval", f"run={vae}", words.format(vae=vae), *WORDS)
    assert code == 2
    assert f"aectl: {message.format(vae=vae)}" in err
    assert "Traceback" not in err


def test_a_strangers_judge_is_trusted_no_more_than_a_strangers_run(aectl, trained, judge, tmp_path):
    run, other = trained("vae"), tmp_path / "other"
    (other / ".hydra").mkdir(parents=True)
    for part in ("run.json", "checkpoints"):
        (other / part).symlink_to(judge / part)
    config = (judge / ".hydra/config.yaml").read_text()
    (other / ".hydra/config.yaml").write_text(config.replace("aectl.models.classifier.Classifier", "os.system"))
    messages = [aectl("eval", f"run={run}", f"{key}={other}", *WORDS)[2] for key in ("run", "judge")]
    for message in messages:
        assert "outside" in message
        assert "Traceback" not in message
    assert "judge: " in messages[1]


@pytest.mark.parametrize(
    ("judge", "run", "message"),
    [
        (opened(Encodes()), opened(), "the model of some/run does not classify"),
        (
            opened(dataset=replace(digits(), shape=(1, 9, 9))),
            opened(),
            r"are \(1, 9, 9\) \(C, H, W\), those of this run \(1, 8",
        ),
        (
            opened(dataset=replace(digits(), classes=7)),
            opened(),
            "trained on 7 classes, the images of this run have 10",
        ),
        (opened(dataset=digits(exclude=[3])), opened(), "trained without the class 3 of this run"),
        (opened(Blind()), opened(), "Blind.classify returned .* NaN"),
    ],
)
def test_a_judge_fits_the_images(judge, run, message):
    with pytest.raises(ValueError, match=message):
        check_fit(judge, run, run.dataset.split("test"))
    check_fit(opened(), run, run.dataset.split("test"))


def test_a_judge_that_was_trained_on_held_out_images_is_refused(caplog):
    run, held_out = opened(), digits().split("test")
    check_unseen(opened(), run, held_out, "test")
    # All of its training images are those of the run.
    check_unseen(opened(), run, run.dataset.split("train"), "train")
    with pytest.raises(ConfigError, match="some/run was trained on 100 of the test images"):
        check_unseen(opened(dataset=digits(test=250)), run, held_out, "test")
    unread = opened()
    unread.dataset = SimpleNamespace(split=lambda which: (_ for _ in ()).throw(FileNotFoundError("own.npz is gone")))
    check_unseen(unread, run, held_out, "test")
    assert "cannot be checked: own.npz is gone" in caplog.text


def test_a_judge_of_other_classes_has_a_warning(caplog):
    data = digits()
    bench = Benchmark(data.split("train"), data.split("test"), judge=Judge("constant-0", Constant()))
    log_accuracy(bench, bench.judged(), "test")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "are its classes those of the run?" in record.getMessage()

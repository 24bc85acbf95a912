"""Every model on a GPU: trained by the command, its steps one by one and recorded, resumed, evaluated and sampled."""

import csv
import math

import pytest
import torch

from aectl.runs.run import Run, find_run
from tests.test_commands import MODELS, SMALL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that CUDA can use")

QUICK = ("dataset=digits", "batch_size=64", "device=cuda")
CLOSE = {"rel": 2e-3, "abs": 2e-3}
"""Of the losses of two ways to run the same steps, whose sums a GPU may take in another order."""


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def trained(aectl, name, *words):
    code, out, err = aectl("train", *QUICK, *words, f"hydra.run.dir={name}")
    assert code == 0, out + err
    return find_run(name), out


@pytest.mark.parametrize("model", MODELS)
def test_recorded_steps_come_to_what_plain_ones_come_to(aectl, model):
    words = (f"model={model}", *SMALL.get(model, ()), "epochs=2")
    plain, _ = trained(aectl, "plain", *words)
    graph, said = trained(aectl, "graph", *words, "device.graph=true")
    assert "falling back to" not in said
    for ours, theirs in zip(rows(graph), rows(plain), strict=True):
        for name, value in theirs.items():
            if name.endswith("gradient_norm") or not value.replace(".", "").replace("-", "").isdigit():
                continue
            assert math.isclose(float(ours[name]), float(value), rel_tol=CLOSE["rel"], abs_tol=CLOSE["abs"]), name


@pytest.mark.parametrize("graph", ["false", "true"])
@pytest.mark.parametrize("model", MODELS)
def test_a_resumed_run_equals_one_go(aectl, model, graph):
    words = (f"model={model}", *SMALL.get(model, ()), f"device.graph={graph}", "device.deterministic=true")
    words = (*words, "schedule=constant")
    whole, _ = trained(aectl, "whole", *words, "epochs=2")
    first, _ = trained(aectl, "parts", *words, "epochs=2", "max_time=0.001")
    code, out, err = aectl("train", "resume=parts", "max_time=1h")
    assert code == 0, out + err
    one, other = (torch.load(Run(run).checkpoint_path("last"), weights_only=True) for run in (whole, first))
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_evaluated_and_sampled(aectl, model):
    trained(aectl, "run", f"model={model}", *SMALL.get(model, ()), "epochs=1")
    code, out, err = aectl("eval", "run=run", "device=cuda", "nll_samples=10", "nll_images=10")
    assert code == 0, out + err
    code, out, err = aectl("sample", "run=run", "device=cuda", "n=9")
    assert code == 0, out + err


@pytest.mark.parametrize("precision", ["bf16", "tf32", "auto"])
@pytest.mark.parametrize("model", ["vae", "conv", "gan", "rbm"])
def test_precisions(aectl, model, precision):
    run, _ = trained(aectl, "run", f"model={model}", "epochs=1", f"device.precision={precision}", "device.graph=true")
    assert all(math.isfinite(float(row["train/gradient_norm"])) for row in rows(run))

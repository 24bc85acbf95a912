"""Models of one's own that are wrong: what they gave is named, and no epoch that was trained is lost."""

import csv
import json

import pytest

MODEL = """
import torch
from torch import nn
from aectl.models import Loss, Model
from aectl.models.base import Group, Mean, Stage


class Mine(Model):
    def __init__(self, shape):
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.Tanh())
        self.decoder = nn.Sequential(nn.Linear(8, pixels), nn.Sigmoid(), nn.Unflatten(1, shape))
        self.calls = 0

    def encode(self, x):
        return self.encoder(x)

    def reconstruct(self, x):
        return self.decoder(self.encoder(x))

    def loss(self, batch):
        return (self.decoder(self.encoder(batch.x)) - batch.x).square().sum() / len(batch.x)

    def losses(self, batch, stage, rng):
        yield Loss(self.loss(batch))

    def validate(self, batch, rng):
        return {"loss": self.loss(batch)}

"""
SMALL = ("dataset=digits", "device=cpu", "device.threads=1", "batch_size=256", "epochs=2")


@pytest.fixture
def train(aectl, tmp_path):
    """Return a function that trains Mine with more lines in its class; it returns what the command did and the run."""

    def train(*lines):
        (tmp_path / "mine.py").write_text(MODEL + "".join(f"    {line}\n" for line in lines))
        run = tmp_path / "run"
        words = ("train", "model=custom", "model._target_=mine.Mine", *SMALL, f"hydra.run.dir={run}")
        return *aectl(*words), run

    return train


def body(method, *lines):
    """Return the lines of a method of Mine."""
    return f"def {method}:", *(f"    {line}" for line in lines)


def losses(*lines):
    return body("losses(self, batch, stage, rng)", "v = self.loss(batch)", *lines)


def validate(*lines):
    return body("validate(self, batch, rng)", "v = self.loss(batch)", *lines)


WRONG = {
    "Mine.metrics has 'x', not an aectl.models.Metric": ("metrics = ('x',)",),
    "a loss is None": losses("yield Loss(None)"),
    "a loss is str 'abc'": losses("yield Loss('abc')"),
    "a loss is float 0.5": losses("yield Loss(0.5)"),
    "a loss is a tensor of float32 [2]": losses("yield Loss(torch.stack([v, v]))"),
    "a loss is a tensor of float32 [0]": losses("yield Loss(v[None][:0])"),
    "a loss is a tensor of complex64 []": losses("yield Loss(v.to(torch.complex64))"),
    "losses yields a tensor of float32 []": losses("yield v"),
    "losses yields tuple": losses("yield (v, 'model', None)"),
    "losses yields no loss": losses("return", "yield"),
    "no group called 'nope', there are: model": losses("yield Loss(v, 'nope')"),
    "the metrics of a loss are list": losses("yield Loss(v, 'model', [1])"),
    "a is str 'b', not a tensor": losses("yield Loss(v, 'model', {'a': 'b'})"),
    "a is a tensor of float32 [3]": losses("yield Loss(v, 'model', {'a': torch.ones(3)})"),
    "are loss, b at step 2, but were loss, a at the first step of the epoch": losses(
        "self.calls += 1", "yield Loss(v, 'model', {'ab'[self.calls % 2 == 0]: v.detach()})"
    ),
    "validate returned None": validate("return None"),
    "validate returned a tensor of float32 []": validate("return v"),
    "validate returned str 'abc'": validate("return 'abc'"),
    "loss is str 'abc'": validate("return {'loss': 'abc'}"),
    "loss is None": validate("return {'loss': None}"),
    "loss is tuple": validate("return {'loss': (v, 3)}"),
    "loss is a tensor of float32 [3]": validate("return {'loss': torch.ones(3)}"),
    "the name of a metric is 3": validate("return {'loss': v, 3: v}"),
    "loss is a mean over None": validate("return {'loss': Mean(v, None)}"),
    "loss is a mean over int -1": validate("return {'loss': Mean(v, -1)}"),
    "loss is a mean over a tensor of int64 []": validate("return {'loss': Mean(v, torch.tensor(3))}"),
    "stages yields no stage": body("stages(self)", "return", "yield"),
    "stages yields str 'fit'": body("stages(self)", "yield 'fit'"),
    "stage 'a' has epochs=-1": body("stages(self)", "yield Stage('a', -1)"),
    "stage 'a' has epochs=1.5": body("stages(self)", "yield Stage('a', 1.5)"),
    "a stage's name is 3": body("stages(self)", "yield Stage(3)"),
    "groups returned None": body("groups(self, stage)", "return None"),
    "groups returned dict {}": body("groups(self, stage)", "return {}"),
    "groups returned list": body("groups(self, stage)", "return {'model': [*self.parameters()]}"),
    "the params of 'model' are": body("groups(self, stage)", "return {'model': Group(self)}"),
    "has params that are not nn.Parameter": body("groups(self, stage)", "return {'model': Group('abc')}"),
    "no optimizer for the group 'model': Invalid learning rate: -1": body(
        "groups(self, stage)", "return {'model': Group(self.parameters(), {'lr': -1})}"
    ),
    "Mine.objective is 3": ("objective = 3",),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_training_is_given_is_named(said, train, tally):
    code, out, err, run = train(*WRONG[said])
    assert code == 2 and len(err.strip().splitlines()) <= 2, out + err
    assert "model: " in err and said in " ".join(err.split()), err
    # What is refused in the first epoch has a record that says so, or no folder at all.
    record = run / "run.json"
    assert not record.exists() or json.loads(record.read_text())["status"] == "failed"
    tally("wrong models of the user named")


@pytest.mark.parametrize(
    "lines",
    [
        body("alarms(self, metrics)", "return 1 / 0"),
        body("alarms(self, metrics)", "return None"),
        body("alarms(self, metrics)", "return ['a']"),
        body("alarms(self, metrics)", "raise RuntimeError('one\\ntwo\\nthree')"),
        ("learns_to_reconstruct = False", *body("alarms(self, metrics)", "return {'a': object()}")),
        ("learns_to_reconstruct = False", *body("alarms(self, metrics)", "return {3: 'a\\n b'}")),
    ],
)
def test_alarms_that_fail_cost_no_epoch(lines, train, tally):
    code, out, err, run = train(*lines)
    assert code == 0, out + err
    assert "two" not in out
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert (run / "checkpoints/last.pt").is_file()
    tally("wrong models trained to the end")


def test_alarms_cannot_change_what_is_recorded(train):
    code, out, err, run = train(*body("alarms(self, metrics)", "metrics.clear()", "return {'a': 'b\\n c'}"))
    assert code == 0, out + err
    assert "val/loss" in json.loads((run / "metrics.json").read_text())["train"]


@pytest.mark.parametrize(
    "lines",
    [
        body("reconstruct(self, x)", "return 1 / 0"),
        body("reconstruct(self, x)", "return None"),
        body("reconstruct(self, x)", "return x[:3]"),
        body("encode(self, x)", "return 1 / 0"),
        body("encode(self, x)", "return 'abc'"),
        body("sample(self, n, *, rng, y=None, temperature=1.0)", "return 1 / 0"),
        body("sample(self, n, *, rng, y=None, temperature=1.0)", "return torch.rand(3)"),
        ("nll_metric = ['val/loss']",),
        ("learns_to_reconstruct = torch.ones(2)",),
        ("loss_unit = ['nats']",),
        ("code = 'eight'",),
        validate("return {'loss': v, 'mse': -v}"),
        validate("return {'loss': v, 'mse': v + torch.inf}"),
    ],
)
def test_what_is_wrong_beside_training_does_not_end_it(lines, train, tally):
    """Pictures, alarms and the last lines are of less worth than the weights."""
    code, out, err, run = train(*lines)
    assert code == 0, out + err
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    with (run / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    tally("wrong models trained to the end")


@pytest.mark.parametrize("lines", [validate("raise SystemExit"), losses("yield Loss(v)", "raise SystemExit(0)")])
def test_a_model_that_ends_the_process_is_no_success(lines, train):
    code, out, err, run = train(*lines)
    assert code == 2 and "the code of the model or the data set called exit()" in " ".join(err.split())
    assert not (run / "run.json").exists() or json.loads((run / "run.json").read_text())["status"] == "failed"

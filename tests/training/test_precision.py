"""In which precision steps are computed, where that is decided, and that nothing of it is left behind."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from aectl import parallel
from aectl.config import conf_dir
from aectl.config.schema import check_ranges
from aectl.models.base import Batch, Loss, Model, Stage
from aectl.models.nade import NADE
from aectl.rng import Rng
from aectl.runs.loading import build_model
from aectl.training import precision
from aectl.training.device import Device
from aectl.training.engine import Engine
from aectl.training.step_cost import count_dense_weights
from tests.typed import record

CPU = torch.device("cpu")
NAMES = sorted(path.stem for path in Path(conf_dir(), "model").glob("*.yaml") if path.stem != "custom")
QUICK = ("model=undercomplete", "dataset=digits", "epochs=1", "device=cpu", "device.threads=1", "batch_size=256")


@pytest.fixture
def machine(monkeypatch):
    """Return a function that lets this machine have AMX, AVX512-BF16, or neither."""

    def have(*names):
        monkeypatch.setattr(precision, "cpu_supports", lambda *asked: bool(set(asked) & set(names)))
        monkeypatch.setattr(precision, "rounds_matmuls", lambda: bool(names))

    return have


def only_run():
    (folder,) = Path("outputs").glob("*/*/*")
    return folder


class Watched(Model):
    """A layer, and what was set while its loss and its gradient were computed."""

    def __init__(self, width=6):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.seen = []

    def losses(self, batch, stage, rng):
        self.look()
        h = self.layer(batch.x)
        h.register_hook(lambda gradient: self.look())
        yield Loss(h.float().square().sum())

    def look(self):
        self.seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))


def step(model, device, rows=3):
    x = Rng(0).normal(rows, model.layer.in_features)
    engine = Engine(model, Stage(), partial(torch.optim.SGD, lr=0.1), device)
    scalars = engine.step(Batch(x, torch.zeros(rows, dtype=torch.int64), torch.arange(rows)), Rng(0))
    assert all(value.dtype == torch.float32 for value in scalars.values())
    return model.layer.weight.grad


@pytest.mark.parametrize(
    ("has", "name", "forward", "backward"),
    [
        ((precision.AMX, precision.AVX512), "bf16", ("medium", False), ("medium", False)),
        ((precision.AVX512,), "bf16", ("medium", False), ("medium", False)),
        ((), "bf16", ("highest", True), ("highest", False)),
        ((precision.AMX,), "fp32", ("highest", False), ("highest", False)),
        ((precision.AMX,), "auto", ("highest", False), ("highest", False)),
    ],
)
def test_bf16_rounds_products_where_the_cpu_has_it_and_is_autocast_elsewhere(machine, has, name, forward, backward):
    machine(*has)
    model = Watched()
    step(model, Device("cpu", name))
    assert model.seen == [forward, backward]
    assert torch.get_float32_matmul_precision() == "highest"
    assert model.layer.weight.dtype == model.layer.weight.grad.dtype == torch.float32


def test_a_failed_step_leaves_no_precision_behind(machine):
    machine(precision.AMX)
    model = Watched()
    model.layer = nn.Linear(5, 6)
    model.layer.in_features = 6
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        step(model, Device("cpu", "bf16"))
    assert model.seen == [("medium", False)]
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_cpu_that_rounds_nothing_when_asked_to_gets_autocast(monkeypatch):
    monkeypatch.setattr(precision, "cpu_supports", lambda *asked: True)
    monkeypatch.setattr(precision, "MATMUL_PRECISIONS", {"bf16": "highest"})
    precision.rounds_matmuls.cache_clear()
    try:
        assert not precision.uses_rounded_matmul("bf16", torch.device("cpu"))
    finally:
        precision.rounds_matmuls.cache_clear()


@pytest.mark.skipif(not precision.cpu_supports(precision.AMX, precision.AVX512), reason="this CPU multiplies no bf16")
def test_gradients_are_those_of_fp32_to_eight_bits():
    gradients = {}
    for name in ("fp32", "bf16"):
        torch.manual_seed(0)
        gradients[name] = step(Watched(64), Device("cpu", name), rows=64).clone()
    error = (gradients["bf16"] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    assert 1e-4 < error < 2**-7


@pytest.mark.parametrize(
    ("has", "images", "weights", "taken"),
    [
        ((precision.AMX,), 128, 12_000_000, "bf16"),
        ((precision.AMX, precision.AVX512), precision.MIN_IMAGES, precision.MIN_WEIGHTS, "bf16"),
        ((precision.AMX,), 32, 12_000_000, "fp32"),
        ((precision.AMX,), 512, 4_000_000, "fp32"),
        ((precision.AVX512,), 128, 12_000_000, "fp32"),
        ((), 128, 12_000_000, "fp32"),
    ],
)
def test_auto_takes_bf16_only_where_it_was_measured_to_pay(machine, has, images, weights, taken):
    machine(*has)
    device = Device("cpu", "auto")
    device.choose_precision(images, weights)
    assert device.describe()["precision"] == device.precision == taken


@pytest.mark.parametrize("told", ["fp32", "bf16"])
def test_what_is_told_stays(machine, told):
    machine(precision.AMX)
    device = Device("cpu", told)
    device.choose_precision(1, 1)
    device.choose_precision(1000, 10**9)
    assert device.precision == told


def test_a_model_of_fp32_alone_gets_it_whatever_is_told(machine):
    machine(precision.AMX)
    device = Device("cpu", "bf16")
    device.choose_precision(1000, 10**9, NADE.fp32_only)
    assert device.precision == "fp32"


def test_processes_that_train_together_take_what_the_first_one_takes(machine, monkeypatch):
    machine()
    told = []
    monkeypatch.setattr(
        parallel, "broadcast_numbers", lambda numbers: told.append(numbers) or dict.fromkeys(numbers, 1.0)
    )
    device = Device("cpu", "auto")
    device.choose_precision(128, 12_000_000)
    assert {"pays": 0.0} in told
    assert device.precision == "bf16"


def test_where_torch_cannot_tell_there_is_no_bf16(monkeypatch):
    for name in (precision.AMX, precision.AVX512):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not precision.cpu_supports(precision.AMX, precision.AVX512)
    monkeypatch.setattr(torch.cpu, precision.AMX, lambda: True, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision.cpu_supports(precision.AMX, precision.AVX512)
    assert not precision.cpu_supports(precision.AVX512)


def test_tf32_is_of_cuda_alone():
    with pytest.raises(ValueError, match="precision tf32 needs CUDA, and the device is cpu; choose fp32, bf16 or auto"):
        Device("cpu", "tf32")
    precision.check_precision("tf32", torch.device("cuda"))
    with precision.round_matmul_factors("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_cuda_device_is_never_given_bf16_unasked(machine):
    machine(precision.AMX)
    assert not precision.is_bf16_faster(1000, 10**9, torch.device("cuda"))
    assert precision.is_bf16_faster(1000, 10**9, CPU)


@pytest.mark.parametrize("name", NAMES)
def test_no_model_is_so_wide_by_itself(name):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", [f"model={name}"])
    check_ranges(config)
    shape = (1, 4, 4) if name == "boltzmann" else (1, 28, 28)
    assert count_dense_weights(build_model(config, {"shape": shape, "classes": 10})) < precision.MIN_WEIGHTS


def test_a_run_tells_the_precision_that_it_found_and_keeps_it(aectl, machine, monkeypatch):
    monkeypatch.setattr(precision, "MIN_WEIGHTS", 1)
    machine(precision.AMX)
    code, out, err = aectl("train", "device.precision=auto", *QUICK)
    assert code == 0, out + err
    assert "precision bf16" in out
    assert record(only_run())["device"]["precision"] == "bf16"
    machine()
    assert aectl("train", "resume=latest", "epochs=2")[0] == 0
    assert record(only_run())["device"]["precision"] == "bf16"
    assert torch.get_float32_matmul_precision() == "highest"


def test_runs_of_the_usual_width_are_in_fp32_and_say_nothing_of_it(aectl, machine):
    machine(precision.AMX)
    code, out, err = aectl("train", "device.precision=auto", *QUICK)
    assert code == 0, out + err
    assert "precision" not in out
    assert record(only_run())["device"]["precision"] == "fp32"

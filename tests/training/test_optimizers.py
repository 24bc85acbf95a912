"""torch's optimizers without its compiler: the same steps, and no import."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from aectl.config import build, conf_dir
from aectl.config.schema import check_ranges
from aectl.training.optimizers import bypass_compiler, load_state, make_step

OPTIONS = sorted(path.stem for path in Path(conf_dir(), "optimizer").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_bare_step_is_a_step(option):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["dataset=digits", f"optimizer={option}"])
    check_ranges(config)
    make = build(config.optimizer, "optimizer")
    found = []
    for bare in (False, True):
        weights = [torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(shape)) for shape in ((6,), (2, 3))]
        optimizer = make(weights)
        step = make_step(optimizer) if bare else optimizer.step
        for number in range(4):
            for weight in weights:
                weight.grad = torch.cos(weight.detach() * (number + 1))
            step()
        assert all(weight.requires_grad and weight.is_leaf for weight in weights)
        found.append(torch.cat([weight.detach().flatten() for weight in weights]))
    assert torch.equal(*found)


def test_an_optimizer_of_ones_own_is_stepped_as_it_is():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            self.stepped = True

    own = Own([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    make_step(own)()
    assert own.stepped


def test_a_count_that_comes_back_on_a_gpu_goes_where_the_optimizer_has_its_own():
    class Far(torch.Tensor):
        """A count on another device."""

        def to(self, device):
            assert device == torch.device("cpu")
            return torch.tensor(7.0)

    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))])
    state = optimizer.state_dict()
    state["state"][0]["step"] = torch.tensor(7.0).as_subclass(Far)
    load_state(optimizer, state)
    (own,) = optimizer.state.values()
    assert type(own["step"]) is torch.Tensor
    assert float(own["step"]) == 7


@pytest.mark.slow
def test_training_imports_neither_the_compiler_nor_matplotlib_nor_torchvision(tmp_path):
    words = ["train", "dataset=digits", "model=dae", "noise=gaussian", "epochs=1", "device=cpu", "hydra.run.dir=run"]
    heavy = ("torch._dynamo", "torchvision", "matplotlib")
    script = f"import sys; from aectl.cli import main as cli; sys.argv = ['aectl', *{words}]; cli.main()"
    script += f"; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_where_torch_has_no_such_wrappers_nothing_happens(monkeypatch):
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda self: None)
    bypass_compiler()

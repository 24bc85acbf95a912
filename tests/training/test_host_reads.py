"""No step of any model makes the host wait for a GPU, which would hold it up, and none need be run by Python twice."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from aectl.config import build, conf_dir
from aectl.config.schema import check_ranges
from aectl.data.datasets import Source
from aectl.rng import Rng
from aectl.runs.loading import build_model
from aectl.training.cuda_graph import CudaGraphEngine
from aectl.training.device import Device
from aectl.training.engine import Engine
from aectl.training.meter import Meter
from tests.small import SMALL
from tests.training.tape import HostRead, NoHostReads, taped

MODELS = sorted(path.stem for path in Path(conf_dir(), "model").glob("*.yaml") if path.stem != "custom")
NOISES = sorted(path.stem for path in Path(conf_dir(), "noise").glob("*.yaml") if path.stem != "none")
VARIANTS = [
    ["model=undercomplete", "penalty=kl", "model.encoder.code_activation=sigmoid"],
    ["model=undercomplete", "penalty=l1", "model.code_dropout=0.5"],
    ["model=conv", "model.encoder.norm=batch", "model.decoder.norm=batch"],
    ["model=gan", "model.loss=wgan_gp", "model.discriminator_steps=2", "model.gradient_norms=true"],
    [*("model=gan", "model.loss=relativistic", "model.r1=1", "model.r2=1", "model.discriminator.minibatch_std=true")],
    [*("model=gan_conv", "model.discriminator.norm=spectral")],
    ["model=iwae", "model.warm_up=10"],
    ["model=made", "model.masks=4", "model.orderings=several"],
    ["model=rbm", "model.persistent=0", "model.weight_decay=0.1"],
    ["model=boltzmann", "model.hidden=2"],
    *(["model=undercomplete", f"noise={noise}"] for noise in NOISES),
]
WORDS = [[f"model={name}"] for name in MODELS] + VARIANTS


def example(words):
    """Return the config of a model, the model, and images for it, a few without a label."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        small = SMALL.get(words[0].removeprefix("model="), ())
        config = compose("train", ["dataset=digits", *small, *words])
    check_ranges(config)
    side = 4 if "model=boltzmann" in words else 8
    images = torch.rand(96, 1, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(96) % 10
    labels[7:9] = -1
    source = Source(images, labels, torch.arange(96), scale=1.0, classes=10)
    model = build_model(config, {"shape": source.shape, "classes": 10})
    model.prepare([source.batch(torch.arange(96))])
    return config, model.train(), source


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_steps_read_nothing_back(words):
    config, model, source = example(words)
    meter, rng, indices = Meter(), Rng(0), torch.arange(12)
    for stage in model.stages():
        # Fused, as the default is: the other ways count their steps on the host.
        engine = Engine(model, stage, build(config.optimizer, "optimizer"), Device("cpu", threads=1), grad_clip=1.0)
        meter.reset()
        for _ in range(2):
            engine.scale_rates(0.5)
            with NoHostReads():
                meter.add(engine.step_on(source, indices, rng))
                engine.gradient_norm()


@pytest.mark.slow
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_steps_are_recorded(words, caplog):
    config, model, source = example(words)
    rng = Rng(0)
    with taped() as tapes:
        for number, stage in enumerate(model.stages(), 1):
            optimizer = build(config.optimizer, "optimizer")
            engine = CudaGraphEngine(model, stage, optimizer, Device("cpu", threads=1, graph=True))
            # The engine itself compares it with two plain steps, and says what it finds.
            engine.step_on(source, torch.arange(12), rng)
            assert not caplog.records
            assert tapes.replays == 3 * number


@pytest.mark.parametrize(
    "read",
    [
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: int(x.argmax()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor(1.0),
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put((x > 0,), x[:1]),
        lambda x: x.unique(),
        lambda x: [1.0 for one in x if one > 0],
    ],
)
def test_reads_are_found(read):
    x = torch.linspace(-1, 1, 5)
    read(x)
    with pytest.raises(HostRead), NoHostReads():
        read(x)

"""A few steps of every model: python together.py OUT, as one process or, with torchrun's variables, as one of several.

Writes the weights that each model comes to into the file OUT.
"""

import os
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir

from aectl.config import conf_dir
from aectl.config.schema import check_ranges
from aectl.data.datasets import Source
from aectl.runs.loading import build_model
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.trainer import Trainer
from tests.small import SMALL

# A step of Adam is as large for a tiny gradient as for a great one, and rounding would decide its sign.
OPTIMIZER = partial(torch.optim.SGD, lr=0.1)
SLOWER = {
    "vae std": partial(torch.optim.SGD, lr=1e-4),
    "gan_conv wgan_gp": partial(torch.optim.SGD, lr=0.01),
}
"""Optimizers of runs that diverge, or in which rounding grows, at the usual rate."""
VARIANTS = {
    "undercomplete KL": ["model=undercomplete", "penalty=kl", "model.encoder.code_activation=sigmoid"],
    "coupled few labels": ["model=coupled"],
    "conv batch norm": ["model=conv", "model.encoder.norm=batch", "model.decoder.norm=batch"],
    # At this rate a penalty of weight 10 diverges: weights grow to 12 in two steps, and rounding with them.
    "gan_conv wgan_gp": [
        *("model=gan_conv", "model.loss=wgan_gp", "model.discriminator.norm=batch", "model.gradient_penalty=1"),
    ],
    "gan conditional": ["model=gan", "model.conditional=true", "model.gradient_norms=true"],
    "gan relativistic": ["model=gan", "model.loss=relativistic", "model.r1=1", "model.r2=1", "model.penalty_every=2"],
    "gan minibatch_std": ["model=gan", "model.r1=1", "model.r2=1", "model.discriminator.minibatch_std=true"],
    "gan_conv spectral": [
        *("model=gan_conv", "model.discriminator.norm=spectral", "model.discriminator.minibatch_std=true"),
    ],
    "rbm CD": ["model=rbm", "model.persistent=0", "noise=jitter"],
    "iwae 5": ["model=iwae", "model.samples=5"],
    "vae free bits": ["model=vae", "model.free_bits=0.05", "model.warm_up=2"],
    "vae conditional": ["model=vae", "model.conditional=true"],
    "vae std": ["model=vae", "model.likelihood=gaussian", "model.std=per_pixel"],
    "made sets": ["model=made", "model.masks=4"],
}
MODELS = sorted(path.stem for path in Path(conf_dir(), "model").glob("*.yaml") if path.stem != "custom")
RUNS = {
    name: [*words, *SMALL.get(words[0].partition("=")[2], ())]
    for name, words in {**{name: [f"model={name}"] for name in MODELS}, **VARIANTS}.items()
}


def source(shape):
    count = 24
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Source(images, torch.arange(count) % 10, torch.arange(count), scale=1 / 255, classes=10)


def weights(name, folder):
    """Return what a model comes to in an epoch of three steps for each of its stages."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["dataset=digits", *RUNS[name]])
    check_ranges(config)
    shape = (1, 4, 4) if name == "boltzmann" else (1, 8, 8)
    for key in ("pretrain_epochs", "layer_epochs"):
        if key in config.model:
            config.model[key] = 1
    data = source(shape)
    if name == "coupled few labels":
        # One of the processes sees labels, the other none.
        data.labels[:] = torch.where(torch.arange(24) % 5 == 0, data.labels, -1)
    model = build_model(config, {"shape": shape, "classes": 10})
    trainer = Trainer(
        *(model, data, source(shape), SLOWER.get(name, OPTIMIZER)),
        schedule=Constant(),
        device=Device("cpu", threads=1),
        folder=Path(folder),
        epochs=1,
        # Each process has a group of MinibatchStd.
        batch_size=8,
    )
    trainer.fit()
    logged = {key: value for key, value in trainer.metrics.items() if key != "seconds"}
    return {"weights": model.state_dict(), "metrics": logged}


def main(out):
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        dist.init_process_group("gloo")
    with TemporaryDirectory() as folder:
        found = {name: weights(name, folder) for name in RUNS}
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save(found, out)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

"""aectl sample: pictures that a trained model makes, as PNG grids and .npz arrays in the run's samples/ folder."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path

import numpy as np
import torch
from hydra.utils import get_class
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from aectl.config import ConfigError, conf_dir
from aectl.config.schema import check_ranges
from aectl.figures import images
from aectl.figures.style import save
from aectl.loading import Opened, open_run
from aectl.rng import Rng
from aectl.sampling import KINDS, Kind, Request

log = logging.getLogger("aectl")


def run(config: DictConfig) -> None:
    """Make the pictures of the asked kind, or of every kind that the model can."""
    check_ranges(config)
    if config.kind != "all" and config.kind not in KINDS:
        near = difflib.get_close_matches(config.kind, KINDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose from all, {', '.join(KINDS)}"
        raise ConfigError(f"kind: no pictures called '{config.kind}', {hint}")
    opened = open_run(config)
    name = opened.run.record.get("choices", {}).get("model", "custom")
    if config.kind != "all" and not KINDS[config.kind].can(opened.model):
        raise ConfigError(refusal(name, KINDS[config.kind]))
    source = opened.dataset.split("test", opened.device.torch)
    if not len(source):
        raise ConfigError("this run's dataset has no test images to start from")
    request = Request(config.n, Rng(config.seed, opened.device.torch), config.temperature, source)
    folder = opened.run.folder / "samples"
    folder.mkdir(exist_ok=True)
    for kind, how in KINDS.items():
        if config.kind in ("all", kind) and how.can(opened.model):
            make(kind, how, opened, request, folder, name)


@torch.no_grad()
def make(kind: str, how: Kind, opened: Opened, request: Request, folder: Path, name: str) -> None:
    """Make the pictures of one kind and write them as <kind>.png and <kind>.npz."""
    arrays = how.make(opened.model, request)
    np.savez_compressed(folder / f"{kind}.npz", **{key: value.cpu().numpy() for key, value in arrays.items()})
    save(picture(kind, arrays, f"{name}, epoch {opened.state['epoch']}"), folder / f"{kind}.png")
    log.info("%s", folder / f"{kind}.png")


def picture(kind: str, arrays: dict[str, Tensor], title: str) -> Figure:
    """Return the figure of one kind of pictures."""
    arrays = {key: value.cpu() for key, value in arrays.items()}
    if kind == "reconstruction":
        shown = {key: value[:20] for key, value in arrays.items()}
        return images.reconstructions(shown["x"], shown.get("noisy"), shown["x_hat"], f"Reconstructions: {title}")
    if kind == "interpolation":
        return images.interpolations(arrays["images"], f"Interpolations: {title}")
    if kind == "manifold":
        return images.manifold_grid(**arrays, title=f"The plane of codes: {title}")
    return images.image_grid(arrays["images"], round(len(arrays["images"]) ** 0.5), f"Samples: {title}")


def refusal(name: str, kind: Kind) -> str:
    """Return why the model cannot, with the models of conf/ that can."""
    able = [option for option, target in shipped_models().items() if kind.can(target)]
    return f"model '{name}' cannot {kind.verb}: {kind.lacks}. Models that can: {', '.join(able)}"


def shipped_models() -> dict[str, type]:
    """Return the class behind each option of the group `model` that names one."""
    found = {}
    for path in sorted(Path(conf_dir(), "model").glob("*.yaml")):
        config = OmegaConf.load(path)
        node = config.get("model", config)
        if not OmegaConf.is_missing(node, "_target_"):
            found[path.stem] = get_class(node._target_)
    return found

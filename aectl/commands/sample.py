"""aectl sample: write images made by a trained model as PNG grids and .npz arrays to the run's samples/ folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from aectl.commands.eval_provenance import open_densities
from aectl.config import ConfigError, conf_dir
from aectl.config.did_you_mean import suggest_nearest
from aectl.config.schema import SampleConfig, check_ranges
from aectl.data.datasets import Source, make_empty_source
from aectl.evaluation.ability_checks import CHECKED_IMAGES, check_abilities
from aectl.figures.animation import write_animation
from aectl.figures.examples import is_planar
from aectl.figures.sample_figures import figure
from aectl.figures.style import default_style, save
from aectl.models.base import Model
from aectl.rng import Rng
from aectl.runs.loading import LoadedRun, explain_missing_data, open_run
from aectl.sampling import KINDS, Impossible, Kind, Request
from aectl.sampling.draws import is_conditional
from aectl.system.atomic_write import remove_abandoned, write_atomically
from aectl.system.memory_check import check_images

log = logging.getLogger("aectl")


def run(config: DictConfig) -> None:
    """Write the pictures of one kind, or of every kind that the model can make."""
    check_ranges(config)
    check_kind(config.kind)
    opened = open_run(config)
    name = opened.run.record.get("choices", {}).get("model", "custom")
    kinds = choose_kinds(config.kind, opened.model, name)
    check_label(config.label, opened, name)
    if config.kind == "all" and (line := describe_left_out(kinds)):
        log.info("%s", line)
    warn_of_idle_keys(config, kinds, opened.model)
    check_images("n", config.n, opened.shape, opened.device.torch)
    request = build_request(config, opened, kinds)
    # Without data, grey images are enough to check what the methods return.
    grey = torch.full((2, *opened.shape), 0.5, device=opened.device.torch)
    check_abilities(
        opened.model, request.source.first(CHECKED_IMAGES).x if len(request.source) else grey, opened.classes
    )
    made, reasons = 0, []
    folder = opened.run.folder / "samples"
    folder.mkdir(exist_ok=True)
    remove_abandoned(folder)
    for kind in kinds:
        try:
            write_pictures(KINDS[kind], opened, request, folder, name)
            made += 1
        except Impossible as reason:
            if config.kind != "all":
                raise ConfigError(f"kind={kind}: {reason}") from None
            reasons.append(str(reason))
            log.warning("no pictures of kind %s: %s", kind, reason)
    if not made:
        raise ConfigError(f"no pictures could be made: {reasons[0]}")


def check_kind(kind: str) -> None:
    """Raise ConfigError if `kind` is unknown."""
    if kind != "all" and kind not in KINDS:
        raise ConfigError(
            f"kind: no pictures called '{kind}'" + suggest_nearest(kind, KINDS, f"choose from all, {', '.join(KINDS)}")
        )


def choose_kinds(kind: str, model: Model, name: str) -> list[str]:
    """Return the kinds to make; raises ConfigError if the model cannot make `kind`, or any kind for `all`."""
    if kind == "all":
        found = [kind for kind, how in KINDS.items() if how.can(model)]
        if not found:
            raise ConfigError(f"model '{name}' makes no pictures: it neither samples, reconstructs nor decodes codes")
        return found
    if not KINDS[kind].can(model):
        verb = KINDS[kind].verb or f"make pictures of kind {kind}"
        raise ConfigError(explain_refusal(name, model, verb, KINDS[kind].lacks, KINDS[kind].can))
    return [kind]


def describe_left_out(kinds: Sequence[str]) -> str:
    """Return a line with the kinds missing in `kinds` and the reasons; empty if none is missing."""
    reasons = "; ".join(f"{kind}: {how.lacks}" for kind, how in KINDS.items() if kind not in kinds)
    return reasons and f"left out: {reasons}"


def check_label(label: int | None, opened: LoadedRun, name: str) -> None:
    """Raise ConfigError if `label` is not a class of the data, or the model is not conditional."""
    if label is None:
        return
    if not is_conditional(opened.model):
        lacks = "it was not trained with classes (model.conditional=true)"
        raise ConfigError(explain_refusal(name, opened.model, "sample a class", lacks, is_conditional))
    classes = opened.classes
    if label >= classes:
        raise ConfigError(f"label must be one of the {classes} classes, counted from 0, not {label}")


def warn_of_idle_keys(config: DictConfig, kinds: Sequence[str], model: Model) -> None:
    """Warn of settings that do not affect any of the kinds."""
    heeded = {key for kind in kinds for key in KINDS[kind].uses(model)}
    of_request = {one.name for one in fields(Request)} - {"n"}
    defaults = {one.name: one.default for one in fields(SampleConfig) if one.name in of_request}
    for key in defaults:
        if key not in heeded and config[key] != defaults[key]:
            log.warning("%s=%s has no effect on these pictures: %s", key, config[key], ", ".join(kinds))


def build_request(config: DictConfig, opened: LoadedRun, kinds: Sequence[str]) -> Request:
    """Build the request for the kinds, with the images that they need if these can be read."""
    device = opened.device.torch
    needed = {which for kind in kinds for which in KINDS[kind].needs(opened.model)}
    if is_planar(opened.shape):
        # Planar pictures show the test points in the background.
        needed.add("test")
    found, why_none = images_of(opened, needed)
    source = found.get("test")
    return Request(
        config.n,
        Rng(config.seed, device),
        config.temperature,
        make_empty_source(opened.shape, opened.classes).to(device) if source is None else source,
        label=config.label,
        path=config.path,
        density=config.density,
        components=config.components,
        steps=config.steps,
        burn_in=config.burn_in,
        thinning=config.thinning,
        train=found.get("train"),
        densities=open_densities(opened.run, config),
        folder=opened.run.folder,
        **({"why_none": why_none} if why_none else {}),
    )


def images_of(opened: LoadedRun, needed: Iterable[str]) -> tuple[dict[str, Source], str]:
    """Return the needed splits by name, or the reason why they cannot be read; raises ChangedData."""
    try:
        return {which: opened.dataset.split(which, opened.device.torch) for which in needed}, ""
    except (ValueError, OSError) as error:
        return {}, f"the run's data cannot be read: {explain_missing_data(error)}"


@torch.no_grad()
@default_style()
def write_pictures(kind: Kind, opened: LoadedRun, request: Request, folder: Path, name: str) -> None:
    """Write the pictures of one kind as <kind>.png and <kind>.npz, and as a GIF if they are animated."""
    arrays = {key: value.cpu() for key, value in kind.make(opened.model, request).items()}
    # Not compressed: grey pixels hardly shrink, and compression takes longer than sampling.
    plain: dict[str, Any] = {key: value.numpy() for key, value in arrays.items()}
    with write_atomically(folder / f"{kind.name}.npz", sync=False) as file:
        np.savez(file, **plain)
    log.info("%s", folder / f"{kind.name}.npz")
    moves = "epochs" in arrays
    state = name if moves else f"{name}, epoch {opened.state['epoch']}"
    title = f"{kind.title_for(opened.model, request)}\n{state}"
    log.info("%s", save(figure(kind.layout, arrays, request.source, title), folder / f"{kind.name}.png"))
    if moves:
        log.info("%s", write_animation(arrays, name, folder / f"{kind.name}.gif"))


def explain_refusal(name: str, model: Model, verb: str, lacks: str, can: Callable[[type], bool]) -> str:
    """Return why the model cannot, and which models in conf/ can unless a setting of this one is enough."""
    able = [] if can(type(model)) else [option for option, target in shipped_models().items() if can(target)]
    others = f". Models that can: {', '.join(able)}" if able else ""
    return f"model '{name}' cannot {verb}: {lacks}{others}"


def shipped_models() -> dict[str, type]:
    """Return the class of each option in conf/model."""
    names = {path.stem: find_class_name(path) for path in sorted(Path(conf_dir(), "model").glob("*.yaml"))}
    return {option: get_class(name) for option, name in names.items() if name is not None}


def find_class_name(path: Path) -> str | None:
    """Return the `_target_` of an option or of the option it extends; None if neither has one."""
    config = cast("DictConfig", OmegaConf.load(path))
    node = config.get("model", config)
    if "_target_" in node:
        return node._target_
    bases = [one for one in config.get("defaults", []) if isinstance(one, str) and one != "_self_"]
    return next(filter(None, (find_class_name(path.with_stem(base)) for base in bases)), None)

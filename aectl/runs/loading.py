"""Build a model from a config, and load the trained model and the data of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from aectl.config import ConfigError, accepts, build, check_has_target, check_signature, check_trusted
from aectl.config.data_paths import check_paths, find_data_paths
from aectl.config.recipe import with_recipe
from aectl.config.untrusted_files import check_links
from aectl.data import digests, downloads
from aectl.data.datasets import Dataset
from aectl.data.downloads import DataError
from aectl.models.base import Model
from aectl.runs.run import Run, find_run
from aectl.system.machine import NotEnoughMemory
from aectl.system.memory_check import MemoryLimit
from aectl.system.terminal import display_path
from aectl.training import checkpoint
from aectl.training.checkpoint import CheckpointError
from aectl.training.device import Device

log = logging.getLogger("aectl")

PARTS = ("noise", "penalty")
"""Config groups that are passed to a model whose constructor has a parameter of that name."""


def build_device(config: DictConfig) -> Device:
    """Build the device and apply its threads and algorithms to this process."""
    device: Device = build(config.device, "device")
    device.apply()
    return device


def build_model(config: DictConfig, facts: dict[str, Any], seed: int = 0) -> Model:
    """Build the model of a config for images of `facts['shape']`, with weights initialised from `seed`.

    Raises ConfigError if the config is invalid, or has a part that the model does not use.
    """
    config = with_recipe(config, facts["shape"])
    supplied = {"shape": tuple(facts["shape"]), "classes": facts["classes"]}
    for part in PARTS:
        component = build(config.get(part), part)
        if component is not None and not accepts(config.model, part):
            name = str(config.model._target_).rpartition(".")[2]
            raise ConfigError(f"{part}: the model {name} does not use it; set {part}=none")
        supplied[part] = component
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with MemoryLimit("model"):
            model = build(config.model, "model", **supplied)
    if not isinstance(model, Model):
        raise ConfigError(f"model: {config.model._target_} is not an aectl.models.Model")
    return model


def load(run: str | Path, checkpoint: str = "best", device: str = "cpu", trust: str | Iterable[str] = ()) -> Model:
    """Return the trained model of a run, in evaluation mode and with frozen weights.

    `run` is a run folder or 'latest', `checkpoint` is 'best' or 'last'. The model's methods take and return
    images [N, C, H, W], pixels in [0, 1]. A run whose config names modules outside aectl and torch is refused unless
    `trust` names them. Raises ConfigError or CheckpointError, both ValueErrors.
    """
    folder = find_run(str(run))
    model, _ = load_run(Run(folder), checkpoint, device, [trust] if isinstance(trust, str) else list(trust))
    return model


def dataset(run: str | Path, trust: str | Iterable[str] = (), changed: bool = False) -> Dataset:
    """Return the data set that a run was trained on, with the same splits; its files are read again.

    `run` and `trust` are as in `load`. `dataset(run).split("test")` has `pixels()`, images [N, C, H, W] in [0, 1], and
    `labels`, classes [N], -1 for unlabelled images. Raises ConfigError if the data have changed since training and
    `changed` is false, and DataError if files are missing; both are ValueErrors.
    """
    found = Run(find_run(str(run)))
    built = build_dataset(found, [trust] if isinstance(trust, str) else list(trust))
    if not changed:
        check_data(found, built, "changed=True")
    return built


def build_dataset(run: Run, trust: list[str]) -> Dataset:
    """Build the data set of a run from its files as they are now; `check_data` compares them with those of training."""
    config = run.config(trust)
    check_trusted(config, trust)
    check_has_target(config, ["dataset"])
    return build_stored_dataset(run, config, trust)


def build_stored_dataset(run: Run, config: DictConfig, trust: list[str]) -> Dataset:
    """Build the data set of a stored config; raises DataError if it reads paths that this user has not typed."""
    try:
        check_paths(find_data_paths(config.dataset, trust), run.folder, run.record.get("own_paths"), trust)
    except ConfigError as error:
        # Treated as missing data: commands that need no data still work.
        raise DataError(str(error)) from None
    dataset: Dataset = build(drop_incomplete_root(config.dataset), "dataset")
    return dataset


def check_run_data(run: Run, trust: list[str]) -> None:
    """Raise ChangedData if a run's data can be read and have changed since training."""
    if "train_digest" not in (run.record.get("data") or {}):
        return
    try:
        check_data(run, build_dataset(run, trust))
    except (ValueError, OSError) as error:
        log.debug("%s", explain_missing_data(error))


class ChangedData(ConfigError):
    """The data have changed since the run was trained."""


def check_data(run: Run, dataset: Dataset, how: str = "data=changed") -> None:
    """Raise ChangedData if a data set differs from the run's record; `how` is the setting that allows the change.

    Runs of earlier versions without digests are not checked.
    """
    then = run.record.get("data") or {}
    if "train_digest" in then:
        check_data_description(run, digests.describe_splits(dataset), how)


def check_data_description(run: Run, now: Mapping[str, Any], how: str = "data=changed") -> None:
    """Raise ChangedData if the description `now` of the data differs from the one in the run's record."""
    if what := digests.describe_differences(run.record.get("data") or {}, now):
        raise ChangedData(
            f"the data of {display_path(run.folder)} have changed since it was trained: {what}\n"
            f"  {how} uses them as they are now"
        )


def load_run(run: Run, name: str, device: torch.device | str, trust: list[str]) -> tuple[Model, dict[str, Any]]:
    """Return a run's model as `load` does, and its checkpoint."""
    config = run.config(trust)
    check_trusted(config, trust)
    check_has_target(config, ["model", "dataset"])
    state = read_checkpoint(run, name, device)
    check_size(config, state, run.checkpoint_path(name))
    model = build_model(config, state)
    set_weights(model, state["model"], run.checkpoint_path(name))
    return model.to(device).eval().requires_grad_(False), state


def read_checkpoint(run: Run, name: str, device: torch.device | str) -> dict[str, Any]:
    """Return a checkpoint of a run; the error for a damaged one names the other checkpoint if it exists."""
    try:
        state = checkpoint.load(run.checkpoint_path(name), device)
        checkpoint.check_contents(state, run.checkpoint_path(name))
        return state
    except CheckpointError as error:
        other = "last" if name == "best" else "best"
        hint = f"\n  try the other one: checkpoint={other}" if run.checkpoint_path(other).is_file() else ""
        raise CheckpointError(f"{error}{hint}") from error


@dataclass(frozen=True)
class LoadedRun:
    """A loaded run: folder, config, trained model, checkpoint and device.

    Its data are read on first access, so that commands that need no data work without them.
    """

    run: Run
    config: DictConfig
    model: Model
    state: dict[str, Any]
    device: Device
    may_change: bool = False
    trust: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the model's images."""
        channels, height, width = self.state["shape"]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes, 0 for unlabelled data."""
        return self.state["classes"]

    @cached_property
    def dataset(self) -> Dataset:
        """The run's data set; raises ConfigError if the shape of its images differs, and ChangedData."""
        with MemoryLimit("dataset"):
            dataset = build_stored_dataset(self.run, self.config, list(self.trust))
        if tuple(dataset.shape) != self.shape:
            raise ConfigError(f"dataset: images are {tuple(dataset.shape)} now, the run was trained on {self.shape}")
        if not self.may_change:
            check_data(self.run, dataset)
        return dataset

    @property
    def dataset_name(self) -> str:
        """The name of the data set from the record; reads no data."""
        record = self.run.record
        return (record.get("data") or {}).get("name") or str((record.get("choices") or {}).get("dataset"))


def explain_missing_data(error: Exception) -> str:
    """Return in one line why data cannot be read; re-raises ChangedData and other errors."""
    cause = error if isinstance(error, (DataError, OSError)) else error.__cause__
    if isinstance(error, ChangedData) or not isinstance(cause, (DataError, OSError)):
        raise error
    return str(error).splitlines()[0].removeprefix("dataset: ")


def check_single_process(config: DictConfig) -> None:
    """Raise ConfigError if the device is invalid, or has several processes, which only training uses."""
    check_signature(config.device, "device")
    if (config.device.get("count") or 1) > 1:
        raise ConfigError(f"device.count={config.device.count} is for aectl train")


def open_run(config: DictConfig) -> LoadedRun:
    """Load the run that a command's config names on its device; warns if the run is not finished."""
    run = Run(find_run(config.run))
    check_single_process(config)
    device = build_device(config)
    opened = open_checkpoint(run, config.checkpoint, device, trusted_modules(config), config.data == "changed")
    if (status := run.record.get("status")) != "done":
        log.warning("this run is not finished (%s): using the weights after epoch %d", status, opened.state["epoch"])
    return opened


def open_checkpoint(run: Run, name: str, device: Device, trust: list[str], may_change: bool = False) -> LoadedRun:
    """Load a checkpoint of a run, which may be a stranger's; `may_change` allows data that differ from its record's."""
    check_links(run.folder)
    model, state = load_run(run, name, device.torch, trust)
    return LoadedRun(run, run.config(trust), model, state, device, may_change, tuple(trust))


def trusted_modules(config: DictConfig) -> list[str]:
    """Return the modules and paths in the config's `trust`."""
    return [config.trust] if isinstance(config.trust, str) else list(config.trust or [])


def drop_incomplete_root(node: Any) -> Any:
    """Return the config of a stored run's data set; a `root` without all its files is removed.

    A stored config may name a folder to read, but not one to write: missing files are read from the user's data folder,
    and downloaded there.
    """
    if not isinstance(node, (dict, DictConfig)):
        return node
    root, kind = node.get("root"), str(node.get("_target_")).rpartition(".")[2]
    names = [name for name in (kind, node.get("of"), node.get("name")) if name in downloads.COLLECTIONS]
    if not root or not names or Path(root).expanduser().absolute() == downloads.data_folder():
        return node
    if all(downloads.is_complete(name, root) for name in names):
        return node
    log.info("%s lacks the files of %s: using %s instead", root, names[0], downloads.data_folder())
    return OmegaConf.merge(node, {"root": None})


def check_size(config: DictConfig, state: dict[str, Any], source: Path) -> None:
    """Raise CheckpointError if config and checkpoint differ in the weights' shapes, before memory is allocated."""
    try:
        with torch.device("meta"):
            model = build_model(config, state)
    except (ConfigError, NotEnoughMemory, CheckpointError):
        raise
    except Exception:
        # Its constructor reads values of tensors, which the meta device does not have.
        return
    check_weights(model, state["model"], source)


def set_weights(model: Model, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Load weights into a model; raises CheckpointError if names or shapes differ."""
    check_weights(model, weights, source)
    model.load_state_dict(weights)


def check_weights(model: Model, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Raise CheckpointError unless the weights have the names and shapes of the model's own."""
    own = model.state_dict()
    odd = [key for key in {**own, **weights} if key not in own or key not in weights]
    odd += [key for key in own if key in weights and own[key].shape != weights[key].shape]
    if odd:
        raise CheckpointError(f"{source} does not fit this model; the first weight that differs is {odd[0]}")

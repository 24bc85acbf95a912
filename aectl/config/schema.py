"""Schemas of the commands' configs, and checks of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from aectl.config.did_you_mean import did_you_mean, find_nearest, suggest_nearest
from aectl.config.folder_names import check_run_name, make_new_folder, make_slug, own_hydra_folder, scratch_folder
from aectl.config.instantiate import ConfigError, list_options, to_plain


def setting(default: Any, meaning: str) -> Any:
    """Declare a top-level key with its default and the line that `--help` prints for it."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": meaning})
    return field(default=default, metadata={"help": meaning})


DENSITIES = ("gaussian", "mixture")
"""Names in the registry of `aectl.densities`, repeated here because its modules import torch."""
DENSITY_MEANINGS = "gaussian, or mixture (of Gaussians)"
COMPONENTS_MEANING = "Gaussians of a mixture; null: one for each 200 training images, at most 50"

# setting() calls dataclasses.field(), so instances share no mutable default.
# ruff: noqa: RUF009


@dataclass
class TrainConfig:
    """Keys of `aectl train`."""

    model: Any = setting(None, "the model to train")
    dataset: Any = setting(None, "the training and held-out images")
    noise: Any = setting(None, "how the model's input is corrupted")
    penalty: Any = setting(None, "a term added to the loss to shape the code")
    optimizer: Any = setting(None, "how weights are updated; optimizer.lr is the learning rate")
    schedule: Any = setting(None, "how the learning rate changes over the run")
    device: Any = setting(None, "where to compute, precision and threads")
    recipe: Any = setting(
        {
            "epochs": 20,
            "batch_size": 128,
            "steps": 4000,
            "model_epochs": {},
            "model_steps": {},
            "model_codes": {},
            "model_widths": {},
        },
        "the model's epochs and batch size for keys that are null below; a small data set gets smaller batches, and "
        "more epochs for at least recipe.steps",
    )
    epochs: int | None = setting(None, "passes over the training images; null: recipe.epochs, more if images are few")
    steps: int | None = setting(None, "length in steps instead, rounded up to whole epochs; null: see epochs")
    batch_size: int | None = setting(None, "images per step; null: recipe.batch_size, fewer if images are few")
    seed: int = setting(0, "seed of all random numbers; the same seed repeats the run")
    objective: str | None = setting(None, "metric to minimise, such as val/mse; null: the model's own")
    patience: int | None = setting(None, "stop after this many epochs without a better objective; null: never")
    grad_clip: float | None = setting(None, "largest norm of a gradient; null: no limit")
    max_time: str | None = setting(None, "stop after this time, resumable: 90 (seconds), 10m, 1h30m; null: no limit")
    init_from: str | None = setting(None, "a run whose weights a new run starts from")
    resume: str | None = setting(None, "a run to resume, or latest")
    data: str = setting("same", "if a run's data have changed since training: same refuses them, changed uses them")
    trust: Any = setting([], "modules outside aectl and torch, and paths of data, that a stored run may use")
    name: str | None = setting(
        None, "name of the run's folder, which run= and resume= accept; null: the time of its start"
    )
    tags: dict[str, str] = setting({}, "notes to find the run by: tags.why=baseline")
    reference: Any = setting({}, "published numbers that eval compares the run with; experiment= sets them")


@dataclass
class EvalConfig:
    """Keys of `aectl eval`."""

    run: str | None = setting(
        None,
        "a run's folder or latest; several: A,B, a sweep, outputs or a glob; other folders are searched 4 levels deep; "
        "null: list them",
    )
    checkpoint: str = setting("best", "which weights: best or last")
    split: str = setting("test", "which images: test, valid or train")
    only: Any = setting([], "tables to compute, by their names in metrics.json: only=[codes,probes]; []: all")
    sampler: Any = setting(
        [],
        "densities of codes to sample from, as a model without a prior needs; fitted to the codes of training images "
        f"and kept beside the run: {DENSITY_MEANINGS}; []: none",
    )
    components: int | None = setting(None, COMPONENTS_MEANING)
    nll_samples: int = setting(1000, "samples per image for the bound on log p(x); more make it tighter")
    nll_images: int = setting(1000, "images for log p(x)")
    outliers: str | None = setting(
        "auto", "data set of out-of-distribution images: auto (the counterpart of the run's) or none"
    )
    judge: str | None = setting(
        None,
        "a run of aectl train experiment=judge, or of another classifier, whose features compare samples and images; "
        "null: the classifier that comes with aectl for the data set, if any",
    )
    quick: bool = setting(False, "evaluate fewer images and samples; stored separately from full evaluations")
    again: bool = setting(False, "evaluate again, instead of printing stored tables")
    yes: bool = setting(False, "evaluate more than twenty runs without asking")
    images: str | None = setting(None, "apply the model to your images instead: a folder, an image, a .npy or a .npz")
    invert: bool = setting(False, "with images=: invert them, from black on white to white on black")
    export: str | None = setting(None, "write encoder and decoder instead: safetensors, onnx or torch")
    seed: int = setting(0, "seed of all random numbers")
    figures: bool = setting(True, "also draw figures and write the page report.html")
    device: Any = setting(None, "where to compute, precision and threads")
    data: str = setting("same", "if a run's data have changed since training: same refuses them, changed uses them")
    trust: Any = setting([], "modules outside aectl and torch, and paths of data, that the run may use")


@dataclass
class SampleConfig:
    """Keys of `aectl sample`."""

    run: str | None = setting(None, "the run: its folder, or latest")
    checkpoint: str = setting("best", "which weights: best or last")
    kind: str = setting("all", "what to make: all that the model can, or {kinds}")
    n: int = setting(64, "how many images")
    seed: int = setting(0, "seed of all random numbers")
    temperature: float = setting(1.0, "spread of sampled codes; below 1 more typical images, above 1 more varied ones")
    label: int | None = setting(None, "the class to sample, for a model trained with model.conditional=true; null: any")
    path: str = setting("auto", "interpolations: linear, spherical, or auto: spherical only between samples of a prior")
    density: str = setting(
        "mixture", f"density fitted to the codes of training images and kept beside the run: {DENSITY_MEANINGS}"
    )
    components: int | None = setting(None, COMPONENTS_MEANING)
    steps: int = setting(100, "steps of a chain")
    burn_in: int = setting(0, "steps of a chain before its first picture")
    thinning: int | None = setting(None, "steps of a chain between pictures; null: spread evenly over steps")
    device: Any = setting(None, "where to compute, precision and threads")
    data: str = setting("same", "if a run's data have changed since training: same refuses them, changed uses them")
    trust: Any = setting([], "modules outside aectl and torch, and paths of data, that the run may use")


SCHEMAS = {"train": TrainConfig, "eval": EvalConfig, "sample": SampleConfig}
MINIMUM = {
    "epochs": 1,
    "batch_size": 1,
    "n": 1,
    "patience": 1,
    "nll_samples": 1,
    "nll_images": 2,
    "seed": 0,
    "temperature": 0,
    "label": 0,
    "components": 1,
    "steps": 1,
    "burn_in": 0,
    "thinning": 1,
}
MAXIMUM = {"nll_samples": 1_000_000, "components": 10_000, **dict.fromkeys(("steps", "burn_in", "thinning"), 1_000_000)}
"""Limits of work that takes hours and cannot be resumed. A mixture has at most as many Gaussians as codes."""
CHOICES = {
    "checkpoint": ("best", "last"),
    "data": ("same", "changed"),
    "split": ("test", "valid", "train"),
    "path": ("auto", "linear", "spherical"),
    "density": DENSITIES,
}
LIST_CHOICES = {"sampler": DENSITIES}
"""Choices of keys that hold one or several of them."""
NODE_KEYS = {
    **dict.fromkeys(
        ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device"), "an option of its group"
    ),
    "reference": "a mapping",
}
NAME_KEYS = {
    "trust": "a module's name, a path, or a list of them",
    "only": "a table's name or a list of them",
    "sampler": "a density's name or a list of them",
}
"""Keys with values of several types that no constructor checks."""
MAX_INTEGER = 2**63
"""Whole numbers must be smaller, in PyTorch and in files."""
TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class UnknownKey(ConfigError):
    """A top-level key that the command does not have, typed with a `+`."""

    def __init__(self, key: str, value: Any, known: Sequence[str]) -> None:
        super().__init__(f"no key '{key}'" + suggest_nearest(key, known, f"the keys are {', '.join(known)}"))
        self.key, self.value = key, "" if value is None else str(value)


def check_ranges(config: DictConfig) -> None:
    """Raise ConfigError for the first unknown or missing key or value out of range."""
    check_keys(config)
    plain = to_plain(config)
    for path, value in iterate_numbers(plain):
        if not math.isfinite(value):
            raise ConfigError(f"{path} must be a finite number, not {value}")
        if abs(value) >= MAX_INTEGER and isinstance(value, int):
            raise ConfigError(f"{path} must be less than 2**63, not {value}")
    check_nodes(plain)
    for key, least in MINIMUM.items():
        if (value := config.get(key)) is not None and value < least:
            raise ConfigError(f"{key} must be at least {least}, not {value}")
    if "recipe" in config:
        check_recipe(config)
        epochs, steps = config.epochs, config.steps
        if epochs is not None and steps is not None:
            raise ConfigError(f"epochs={epochs} and steps={steps} both set the length: make one of them null")
    # In training, steps may be many: a run can be resumed.
    most_of = {
        key: most for key, most in MAXIMUM.items() if key in config and not (key == "steps" and "epochs" in config)
    }
    for key, most in most_of.items():
        if (value := config.get(key)) is not None and value > most:
            raise ConfigError(f"{key} must be at most {most:,}, not {value:,}")
    if (value := config.get("grad_clip")) is not None and value <= 0:
        raise ConfigError(f"grad_clip must be greater than 0, not {value}")
    check_learning_rate(plain.get("optimizer"))
    check_array_keys(plain.get("dataset"))
    for key, choices in CHOICES.items():
        if key in config and config[key] not in choices:
            # In other programs, `data` selects the data set.
            near = find_nearest(config[key], list_options()["dataset"]) if key == "data" else []
            meant = did_you_mean([f"dataset={name}" for name in near])
            raise ConfigError(f"{key} must be one of {', '.join(choices)}, not '{config[key]}'{meant}")
    for key, choices in LIST_CHOICES.items():
        for name in list_names(config.get(key)):
            if name not in choices:
                known = f"choose from {', '.join(choices)}"
                raise ConfigError(f"{key}: there is no '{name}'" + suggest_nearest(name, choices, known))
    check_run_name(config.get("name"), "")
    if config.get("max_time") is not None:
        parse_seconds(config.max_time)
    if config.get("init_from") == "":
        raise ConfigError("init_from is empty: type a run's folder, or latest")
    # Without a run, `aectl eval` lists all runs; `aectl sample` needs one.
    if "kind" in config and not config.run:
        raise ConfigError("run is missing: type run=latest, or run=<folder of the run>")


def list_names(value: Any) -> list[str]:
    """Return the names in the value of a key such as `only`: a list of names, or one or several in a text."""
    return str(value).split(",") if isinstance(value, str) else list(value or [])


def check_learning_rate(optimizer: Any) -> None:
    """Raise ConfigError if the learning rate of one of torch's optimizers is not a number or is negative."""
    if not isinstance(optimizer, dict) or not str(optimizer.get("_target_")).startswith("torch.optim."):
        return
    rate = optimizer.get("lr")
    if rate in (None, "???"):
        return
    if not isinstance(rate, (int, float)) or isinstance(rate, bool):
        raise ConfigError(f"optimizer.lr={rate!r}: it must be a number")
    if rate < 0:
        raise ConfigError(f"optimizer.lr must be at least 0, not {rate}")


def check_array_keys(dataset: Any) -> None:
    """Raise ConfigError if `dataset.keys`, which names the arrays of an .npz, is not a mapping."""
    if isinstance(dataset, dict) and dataset.get("_target_") == "aectl.data.datasets.arrays":
        keys = dataset.get("keys")
        if keys is not None and not isinstance(keys, dict):
            example = "'dataset.keys={images: a, labels: b}'"
            raise ConfigError(f"dataset.keys must say which array is what, as in {example}, not {keys!r}")


def check_recipe(config: DictConfig) -> dict[str, Any]:
    """Return the recipe with defaults filled in; raises ConfigError for invalid keys or values."""
    recipe = to_plain(config.recipe)
    default = TrainConfig().recipe
    if not isinstance(recipe, dict) or any(key not in default for key in recipe):
        raise ConfigError(f"recipe must be a mapping with the keys {', '.join(default)}, not {recipe!r}")
    recipe = {**default, **{key: value for key, value in recipe.items() if value is not None}}
    for key in ("model_epochs", "model_steps", "model_codes", "model_widths"):
        if not isinstance(recipe[key], dict):
            raise ConfigError(f"recipe.{key} must be a mapping, not {recipe[key]!r}")
    for path, value in iterate_leaves(recipe, "recipe"):
        if path.startswith("recipe.model_widths."):
            if not isinstance(value, list) or any(type(width) is not int or width < 1 for width in value):
                raise ConfigError(f"{path} must be a list of whole numbers of at least 1, not {value!r}")
        elif type(value) is not int or value < 1:
            raise ConfigError(f"{path} must be a whole number of at least 1, not {value!r}")
    return recipe


def iterate_leaves(plain: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their dotted paths."""
    for key, value in plain.items():
        full = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict):
            yield from iterate_leaves(value, full)
        else:
            yield full, value


def check_nodes(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError if a key in `NODE_KEYS` or `NAME_KEYS` has a value of a wrong type."""
    for key, what in NODE_KEYS.items():
        if not (plain.get(key) is None or isinstance(plain[key], dict)):
            raise ConfigError(f"{key} must be {what}, not {plain[key]!r}")
    for key, what in NAME_KEYS.items():
        value = plain.get(key)
        listed = value if isinstance(value, list) else [value or ""]
        if not all(isinstance(one, str) for one in listed):
            raise ConfigError(f"{key} must be {what}, not {value!r}")


def check_keys(config: DictConfig) -> None:
    """Raise ConfigError if a top-level key is unknown (`+modl=x`) or missing (`~epochs`)."""
    schema = OmegaConf.get_type(config)
    if schema not in SCHEMAS.values():
        return
    known = [one.name for one in fields(cast("type[Any]", schema))]
    for key in map(str, config):
        if key not in known:
            raise UnknownKey(key, config[key], known)
    for key in known:
        if key not in config:
            raise ConfigError(f"{key} is missing from the config")


def iterate_numbers(plain: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers in a plain config with their dotted paths."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from iterate_numbers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            yield from iterate_numbers(value, f"{path}[{index}]")
    elif isinstance(plain, (int, float)):
        yield path, plain


def parse_seconds(text: str) -> float:
    """Return the seconds in a time such as 90, 10m, 2h or 1h30m; raises ConfigError if it is invalid or zero."""
    text = str(text).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    total = sum(float(number) * TIME_UNITS[unit or "s"] for number, unit in parts)
    # A single number without a unit is in seconds; in 1h30 the unit is ambiguous.
    bare = any(not unit for _, unit in parts) and len(parts) > 1
    if "".join(number + unit for number, unit in parts) != text or bare or not total:
        raise ConfigError(f"max_time must be a time such as 90 (seconds), 10m, 2h or 1h30m, not '{text}'")
    return total


def register_schemas() -> None:
    """Register the schemas with Hydra and the resolvers with OmegaConf."""
    for command, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{command}_schema", node=schema)
    OmegaConf.register_new_resolver("aectl.slug", make_slug, replace=True)
    OmegaConf.register_new_resolver("aectl.name", check_run_name, replace=True)
    OmegaConf.register_new_resolver("aectl.scratch", scratch_folder, replace=True)
    OmegaConf.register_new_resolver("aectl.aside", own_hydra_folder, replace=True)
    OmegaConf.register_new_resolver("aectl.fresh", make_new_folder, use_cache=True, replace=True)


# On import, because a launcher's worker process needs them when it unpickles the config.
register_schemas()

"""The judge of an evaluation: the one shipped for the data set, or the classifier of the run that `judge=` names."""

from __future__ import annotations

import logging

import torch
from omegaconf import DictConfig

from aectl.commands.eval_provenance import find_judge, judge_name
from aectl.config import ConfigError
from aectl.data.datasets import Source
from aectl.evaluation.ability_checks import CHECKED_IMAGES, check_abilities
from aectl.evaluation.context import Benchmark
from aectl.evaluation.evaluation import lack_of
from aectl.evaluation.judge import Judge, load_judge
from aectl.models.base import AbilityError, Classifies, Encodes
from aectl.runs.loading import LoadedRun, explain_missing_data, open_checkpoint, trusted_modules
from aectl.system.terminal import display_path

log = logging.getLogger("aectl")


def choose_judge(config: DictConfig, opened: LoadedRun, held_out: Source) -> Judge | str:
    """Return the judge that compares the samples of a run with `held_out`, or the reason why there is none.

    Raises ConfigError for a run that cannot be its judge: it lacks an ability, has images of another shape or other
    classes, or was trained on held-out images.
    """
    if config.judge is None:
        return load_judge(opened.dataset.name, opened.device.torch)
    run = find_judge(config)
    try:
        judge = open_checkpoint(run, "best", opened.device, trusted_modules(config), opened.may_change)
        check_fit(judge, opened, held_out)
    except (ConfigError, AbilityError) as error:
        raise ConfigError(f"judge: {error}") from error
    check_unseen(judge, opened, held_out, config.split)
    return Judge(judge_name(config), judge.model, is_shipped=False)


def check_fit(judge: LoadedRun, opened: LoadedRun, held_out: Source) -> None:
    """Raise ConfigError unless a run's model classifies and encodes images of the shape and classes of another run."""
    place, dataset = display_path(judge.run.folder), opened.dataset
    for ability in (Classifies, Encodes):
        if not isinstance(judge.model, ability):
            raise ConfigError(
                f"the model of {place} {lack_of(ability)}; a judge is trained by aectl train experiment=judge"
            )
    if judge.shape != tuple(dataset.shape):
        raise ConfigError(
            f"the images of {place} are {judge.shape} (C, H, W), those of this run {tuple(dataset.shape)}"
        )
    if judge.classes != dataset.classes:
        raise ConfigError(
            f"{place} was trained on {judge.classes} classes, the images of this run have {dataset.classes}"
        )
    if missing := sorted({*judge.config.dataset.get("exclude", ())} - {*dataset.exclude}):
        raise ConfigError(f"{place} was trained without the class {missing[0]} of this run")
    check_abilities(judge.model, held_out.first(CHECKED_IMAGES).x, judge.classes)


def check_unseen(judge: LoadedRun, opened: LoadedRun, held_out: Source, split: str) -> None:
    """Raise ConfigError if a judge was trained on held-out images, other than those that the run was trained on too.

    Equal images are found if both runs store them in the same way. Logs a warning if the judge's data cannot be read.
    """
    try:
        seen = judge.dataset.split("train")
    except (ValueError, OSError) as error:
        log.warning(
            "judge: whether it was trained on %s images cannot be checked: %s", split, explain_missing_data(error)
        )
        return
    trained, own, held = (
        {*map(tuple, source.image_hashes().tolist())} for source in (seen, opened.dataset.split("train"), held_out)
    )
    if leaked := len((trained - own) & held):
        raise ConfigError(
            f"judge: {display_path(judge.run.folder)} was trained on {leaked:,} of the {split} images; "
            "train it with the settings of the run's dataset"
        )


def log_accuracy(bench: Benchmark, judge: Judge, split: str) -> None:
    """Log how many held-out images a judge classifies correctly; a warning if it is no better than a constant."""
    labels = bench.held_out.labels
    known = labels >= 0
    if not known.any():
        return
    right = 100 * float((bench.seen.classes == labels)[known].float().mean())
    commonest = 100 * float(torch.bincount(labels[known]).max()) / int(known.sum())
    note = (
        ""
        if right > commonest
        else f", and the commonest class has {commonest:.1f} %: are its classes those of the run?"
    )
    log.log(
        logging.WARNING if note else logging.INFO,
        "judge %s: %.1f %% of %s %s images classified correctly%s",
        *(judge.name, right, f"{int(known.sum()):,}", split, note),
    )

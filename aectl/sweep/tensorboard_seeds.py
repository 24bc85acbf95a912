"""Writes means over the seeds of a sweep to TensorBoard's HParams page: a row for each setting, next to its runs."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aectl.config import ConfigError
from aectl.config.folder_names import make_slug
from aectl.leaderboard.significance import t_interval
from aectl.runs.run import Run
from aectl.sweep.results import Job, objective_name, objectives_over_seeds

FOLDER = "seeds"
"""Subfolder of the sweep for the event files."""


def write_seed_means(folder: Path, jobs: Sequence[Job], varied: Sequence[str]) -> None:
    """Write mean, standard deviation and t interval of the objective for each setting with several seeds."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    groups = [(settings, values) for settings, values in objectives_over_seeds(jobs, varied) if len(values) > 1]
    if "seed" not in varied or not groups:
        return
    # Imported here because it imports torch, which a sweep without seeds does not need.
    from torch.utils.tensorboard import SummaryWriter

    from aectl.tensorboard.evaluation import utf8_path
    from aectl.tensorboard.training import OBJECTIVE, make_session_summaries

    for settings, values in groups:
        low, high = t_interval(values) or (values[0], values[0])
        numbers = {"mean": statistics.fmean(values), "std": statistics.stdev(values), "low": low, "high": high}
        name = make_slug(f"{key}={value}" for key, value in settings.items()) or "all"
        # TensorBoard treats a setting as text unless all runs have it as a number.
        swept = {key: parse_number(value) for key, value in settings.items()}
        begins, ends = make_session_summaries({**read_common_settings(jobs, settings), **swept, "seeds": len(values)})
        with SummaryWriter(utf8_path(folder / FOLDER / name)) as writer:
            writer.file_writer.add_summary(begins)
            writer.add_scalar(f"{OBJECTIVE}/{objective_name(jobs)}", numbers["mean"], 0)
            for what, value in numbers.items():
                writer.add_scalar(f"seeds/{what}", value, 0)
            writer.file_writer.add_summary(ends)


def read_common_settings(jobs: Sequence[Job], settings: Mapping[str, str]) -> dict[str, float | str]:
    """Return the options of all groups and the code size of the first job with these settings."""
    job = next(job for job in jobs if all(job.setting(key) == value for key, value in settings.items()))
    options = {group: str(option) for group, option in (job.record.get("choices") or {}).items()}
    try:
        code = OmegaConf.select(Run(job.folder).config(), "model.code")
    except (ConfigError, OmegaConfBaseException):
        code = None
    return {**options, **({"model.code": code} if isinstance(code, int) else {})}


def parse_number(value: str) -> float | str:
    """Return a setting as a float, or unchanged if it is not a number."""
    try:
        return float(value)
    except ValueError:
        return value

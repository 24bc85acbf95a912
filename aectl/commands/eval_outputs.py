"""Write the figures of an evaluation to figures/ and TensorBoard, and the page report.html."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from aectl.evaluation import anomaly
from aectl.evaluation.context import Subject, Unmeasured
from aectl.evaluation.precision_recall import realism
from aectl.figures.anomaly import anomaly_figure
from aectl.figures.image_grids import ranked_samples
from aectl.figures.model_figures import draw
from aectl.figures.style import default_style, save
from aectl.html_report import render
from aectl.runs.loading import LoadedRun
from aectl.runs.metrics_json import find_model_row, is_number, metrics_of_table, origin_note
from aectl.runs.run import find_run
from aectl.system import atomic_write
from aectl.system.terminal import display_path
from aectl.tensorboard import evaluation
from aectl.training.metrics_csv import METRICS_CSV

REALISM = "samples_by_realism.png"


def page_name(config: DictConfig) -> str:
    """Return the file name of the page; a quick evaluation has a separate page."""
    return "report_quick.html" if config.quick else "report.html"


@default_style()
def write_outputs(
    opened: LoadedRun, subject: Subject, section: dict[str, Any], config: DictConfig, made: Sequence[str]
) -> None:
    """Draw the figures, log figures and metrics to TensorBoard, and write the page.

    `made` are the tables of this evaluation. The section may also hold tables of earlier ones.
    """
    run = opened.run
    folder = run.folder / "figures"
    for place in (run.folder, folder):
        atomic_write.remove_abandoned(place)
    # A run stopped in its first epoch has no curves yet.
    curves = run.folder / METRICS_CSV if opened.state["epoch"] else None
    paths = draw(opened.model, subject.bench.held_out, folder, seed=config.seed, metrics_csv=curves)
    current = {name for name in section["titles"] if not origin_note(section, name)}
    found = anomaly_scores(subject) if "anomalies" in section and "anomalies" in made else {}
    for name, (inliers, outliers) in found.items():
        paths.append(save(anomaly_figure(inliers, outliers, name), folder / f"anomalies_{name.replace(' ', '_')}.png"))
    if not found and "anomalies" in current:
        # The table and its figures are from an earlier evaluation, and still valid.
        paths += sorted(folder.glob("anomalies_*.png"))
    if "distances" in section and "distances" in made:
        paths.append(save(realism_figure(subject), folder / REALISM))
    elif "distances" in current and (folder / REALISM).is_file():
        paths.append(folder / REALISM)
    pr_curves = None if "anomalies" in current and "anomalies" not in made else found
    scalars = {
        f"eval/{table}/{measure}": value
        for table in section["titles"]
        if table in current
        for measure, value in find_model_row(section[table]).items()
        if is_number(value)
    }
    metrics = {f"eval/{table}/{one.name}": one for table in current for one in metrics_of_table(section, table)}
    if not config.quick:
        evaluation.write_evaluation(
            run.folder,
            opened.state["epoch"],
            scalars,
            {f"eval/{p.stem}": p for p in paths},
            pr_curves,
            descriptions={tag: metric.summary for tag, metric in metrics.items()},
        )
    choices = run.record.get("choices", {})
    render.write_page(
        run.folder / page_name(config),
        title=f"{choices.get('model')} on {choices.get('dataset')}",
        name=run.folder.absolute().name,
        commands=[quote_command(run.record.get("command") or ""), eval_command(run.folder, config)],
        config_yaml=OmegaConf.to_yaml(opened.config, resolve=True),
        record=run.record,
        section=section,
        figures=paths,
    )


def realism_figure(subject: Subject) -> Figure:
    """Return the figure of the samples that are the most and the least real by the judge, next to random ones."""
    drawn = next(iter(subject.drawn.values()))
    scores = realism(drawn.seen.features, subject.bench.seen.features)
    judge = subject.bench.judged().name
    title = f"{len(scores):,} samples by their realism (Kynkäänniemi et al. 2019) in the features of the judge {judge}"
    return ranked_samples(drawn.images, scores, title)


def quote_command(stored: str) -> str:
    """Return the command in a run's record with each word quoted for a shell; empty unless it is `aectl train`."""
    try:
        words = shlex.split(stored)
    except ValueError:
        return ""
    return shlex.join(words) if words[:2] == ["aectl", "train"] else ""


def eval_command(folder: Path, config: DictConfig) -> str:
    """Return the shell command that repeats this evaluation with all tables."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else [f"split={config.split}"]
    kept = [word for word in typed if word.lstrip("+~").partition("=")[0] not in ("run", "judge", "only", "again")]
    judge = [f"judge={display_path(find_run(config.judge))}"] if config.judge else []
    return shlex.join(["aectl", "eval", f"run={display_path(folder)}", *judge, *kept])


def anomaly_scores(subject: Subject) -> dict[str, Any]:
    """Return the scores of inliers and outliers by the outliers' name; empty if the model has no anomaly score."""
    try:
        return anomaly.scores(subject)
    except Unmeasured:
        return {}

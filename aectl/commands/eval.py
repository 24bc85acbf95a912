"""aectl eval: how good trained runs are, beside their baselines, on images they were not trained on."""

from __future__ import annotations

from omegaconf import DictConfig

from aectl.config.schema import check_ranges
from aectl.runs import listing


def run(config: DictConfig) -> None:
    """Evaluate the run that the config names, or several; without one, list the runs there are."""
    check_ranges(config)
    if config.run is None:
        return listing.print_runs()
    # Imported here: a list of runs need not wait for torch.
    from aectl.commands import eval_data, eval_export, eval_run

    # Before anything is read or fetched.
    eval_run.chosen_tables(config)
    eval_data.check_outliers(config.outliers)
    eval_export.check_export_format(config.export)
    if config.images:
        return eval_export.evaluate_images(config)
    if config.export:
        return eval_export.export_parts(config)
    folders = listing.find_runs(config.run)
    return eval_run.evaluate_one(config, folders[0]) if len(folders) == 1 else eval_run.compare_runs(config, folders)

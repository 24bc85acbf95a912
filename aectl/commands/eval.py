"""aectl eval: evaluate trained runs on held-out images, next to baselines."""

from __future__ import annotations

from omegaconf import DictConfig

from aectl.config.schema import check_ranges, list_names
from aectl.runs import listing


def run(config: DictConfig) -> None:
    """Evaluate the runs that `run` names; without `run`, list all runs."""
    check_ranges(config)
    config.sampler = list(dict.fromkeys(list_names(config.sampler)))
    if config.run is None:
        return listing.print_runs()
    # Imported here, because listing runs does not need torch.
    from aectl.commands import eval_data, eval_export, eval_run
    from aectl.runs.loading import check_single_process

    # Invalid values are refused before data are read or downloaded.
    check_single_process(config)
    eval_run.chosen_tables(config)
    eval_data.check_outliers(config.outliers)
    eval_export.check_export_format(config.export)
    if config.images:
        return eval_export.evaluate_images(config)
    if config.export:
        return eval_export.export_parts(config)
    folders = listing.find_runs(config.run)
    return (
        eval_run.evaluate_and_print(config, folders[0]) if len(folders) == 1 else eval_run.compare_runs(config, folders)
    )

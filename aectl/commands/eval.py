"""aectl eval: how good trained runs are, beside their baselines, on images they were not trained on."""

from __future__ import annotations

from omegaconf import DictConfig

from aectl import listing
from aectl.config.schema import check_ranges


def run(config: DictConfig) -> None:
    """Evaluate the run that the config names, or several; without one, list the runs there are."""
    check_ranges(config)
    if config.run is None:
        return listing.show()
    # Imported here: a list of runs need not wait for torch.
    from aectl.commands import benchmark, evaluation, take_out

    # Before anything is read or fetched.
    evaluation.chosen_tables(config)
    benchmark.check_outliers(config.outliers)
    take_out.check_format(config.export)
    if config.images:
        return take_out.evaluate_images(config)
    if config.export:
        return take_out.export_parts(config)
    folders = listing.find_all(config.run)
    return evaluation.single(config, folders[0]) if len(folders) == 1 else evaluation.compare(config, folders)

"""Pictures of a study: how the best value fell, and which settings it hangs on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna


def draw(study: optuna.Study, folder: Path) -> None:
    """Write history.png and, of two or more finished trials and settings, importances.png."""
    import matplotlib

    matplotlib.use("Agg")
    import optuna
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawings

    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    pictures = {"history": drawings.plot_optimization_history, "importances": drawings.plot_param_importances}
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        if len(done) < 2 or (name == "importances" and len({trial.value for trial in done}) < 2):
            continue
        with warnings.catch_warnings():
            # Optuna calls its matplotlib pictures experimental.
            warnings.simplefilter("ignore")
            axes = picture(study)
        axes.figure.set_size_inches(8, 5)
        axes.figure.tight_layout()
        axes.figure.savefig(folder / f"{name}.png", dpi=120)
        pyplot.close(axes.figure)

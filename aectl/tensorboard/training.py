"""TensorBoard: curves, pictures, codes and settings of a run, written into its own folder.

    tensorboard --logdir outputs

The horizontal axis is the epoch. Each start of a run adds one event file, and a resume tells TensorBoard to forget
what the run had written beyond its checkpoint, so that curves have neither gap nor repeat.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from aectl.data.thumbnails import shrink
from aectl.metric import find_metric
from aectl.models.base import Batch, Encodes, Model
from aectl.system.atomic_write import naming
from aectl.system.terminal import reason_of
from aectl.tensorboard.evaluation import CURVES, SUFFIX, log_folder
from aectl.tensorboard.summaries import add_scalar
from aectl.training.trainer import Epoch, Observer
from aectl.training.validation import BATCH_SIZE, batches

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

CODES = 1000
"""Images whose codes make the histogram and the projector."""
BINS = 60
THUMBNAIL = 64
"""Pixels of the longer side of an image in the projector, whose sheet has a thousand of them."""
HEADLINE = {"model": "Model", "model.code": "Model code", "seed": "Seed"}
"""Settings that come first on the HParams page, and what they are called there.

The page sorts settings by whether they differ between runs, then by name, and shows five. Capitals sort before the
names of all other settings, which begin with small letters.
"""
OBJECTIVE = "Objective"
"""A run writes the metric that it minimises once more, as `Objective/val/loss`: the first metric on that page."""
DECIMALS = 5
"""Of the projector's codes, which are text: more digits only make its file larger."""


class TensorBoard(Observer):
    """Writes scalars, pictures and code histograms at every epoch, and codes for the projector at the end.

    `pictures` gives images [C, H, W] in [0, 1] by name. `hparams` are the run's settings by dotted name, for the
    HParams page and as text. A run that has not come to its end, because it failed or is to be resumed, has the
    status UNKNOWN there; one that has, SUCCESS.
    """

    # A full disk or missing permission: curves without a gap are promised.
    fatal = (OSError,)

    def __init__(
        self,
        folder: Path,
        hparams: Mapping[str, bool | int | float | str],
        pictures: Callable[[Model], dict[str, Tensor]],
    ) -> None:
        self.folder, self.pictures = folder, pictures
        # TensorBoard takes texts in UTF-8 alone, and a path may be something else.
        self.hparams = {key: in_utf_8(value) if isinstance(value, str) else value for key, value in hparams.items()}
        self.writer: SummaryWriter | None = None
        self.written = 0
        self.usual_hook = threading.excepthook
        self.left_out: set[str] = set()

    def started(self, trainer: Trainer) -> None:
        # Imported here: what never trains need not pay for it.
        from torch.utils.tensorboard import SummaryWriter

        resumed = trainer.epoch > 0 or trainer.step > 0
        # A run that was killed before its first checkpoint begins anew, beside what it has written already.
        purge = wait_for_a_later_second(self.folder) or resumed
        threading.excepthook = self.hush
        with naming(self.folder):
            self.writer = SummaryWriter(log_folder(self.folder), purge_step=trainer.epoch + 1 if purge else None)
            self.written = trainer.epoch
            self.writer.add_text("config", as_yaml(self.hparams), trainer.epoch)
            if not resumed:
                cast("Any", self.writer.file_writer).add_summary(sessions(self.hparams, trainer.model)[0])
            self.writer.flush()

    def hush(self, error: threading.ExceptHookArgs) -> None:
        """Say nothing of an error in a writer's thread, which flush() raises again where the run hears of it."""
        if not type(error.thread).__module__.startswith("tensorboard."):
            self.usual_hook(error)

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        with naming(self.folder):
            self.write(trainer, epoch)

    def write(self, trainer: Trainer, epoch: Epoch) -> None:
        """Write all of an epoch; it is in the file afterwards."""
        writer = cast("SummaryWriter", self.writer)
        for name, value in epoch.metrics.items():
            if name == "seconds":
                writer.add_scalar("time/seconds", value, epoch.number)
            else:
                description = find_metric(trainer.metric_descriptions, name.partition("/")[2]).summary
                add_scalar(writer, name, value, epoch.number, description)
        # The best so far: the page shows the last value, and the sweep's table the best one.
        writer.add_scalar(f"{OBJECTIVE}/{trainer.objective}", trainer.best_value, epoch.number)
        if epoch.number == 1:
            writer.add_custom_scalars({"training": charts(epoch.metrics)})
        self.attempt("pictures", lambda: self.add_pictures(self.pictures(trainer.model), epoch.number))
        self.attempt("codes", lambda: self.add_histogram(codes_of(trainer), epoch.number))
        # On disk before the checkpoint that counts this epoch: a crash leaves too much, never too little.
        writer.flush()
        self.written = epoch.number

    def finished(self, trainer: Trainer) -> None:
        try:
            with naming(self.folder):
                self.close(trainer)
        finally:
            self.writer = None
            threading.excepthook = self.usual_hook

    def close(self, trainer: Trainer) -> None:
        """Write what stands at the end of a run that has come to it, and end the file, if there is one."""
        if self.writer is None:
            return
        try:
            if self.is_complete(trainer):
                self.attempt("codes", lambda: self.add_projector(codes_of(trainer), shown(trainer), trainer.epoch))
                cast("Any", self.writer.file_writer).add_summary(sessions(self.hparams, trainer.model)[1])
                # A full disk is told here: what goes wrong in its thread, close() keeps to itself.
                self.writer.flush()
        finally:
            self.writer.close()

    def is_complete(self, trainer: Trainer) -> bool:
        """Return whether all epochs are behind the run, or it has stalled, and no error is on its way out."""
        at_end = trainer.epoch >= trainer.epochs or trainer.has_stalled()
        return at_end and self.written == trainer.epoch and sys.exc_info()[0] is None

    def add_pictures(self, pictures: Mapping[str, Tensor], epoch: int) -> None:
        """Write images [C, H, W] by name."""
        for name, image in pictures.items():
            cast("SummaryWriter", self.writer).add_image(name, image, epoch)

    def add_histogram(self, codes: Tensor | None, epoch: int) -> None:
        """Write the histogram of all numbers in `codes` [N, code]; codes that are not finite have none."""
        if codes is None:
            return
        low, high = float(codes.min()), float(codes.max())
        if not torch.isfinite(codes).all():
            return
        if low == high:
            low, high = low - 0.5, high + 0.5
        # Counted here: the writer's own way sorts the numbers, a hundred times slower for a wide code.
        counts = torch.histc(codes, BINS, low, high)
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)[1:]
        total, squares = float(codes.double().sum()), float(codes.double().square().sum())
        cast("SummaryWriter", self.writer).add_histogram_raw(
            "codes", low, high, codes.numel(), total, squares, edges.tolist(), counts.tolist(), epoch
        )

    def attempt(self, what: str, add: Callable[[], None]) -> None:
        """Add pictures or codes; that they cannot be is one warning, since a picture never ends a run."""
        try:
            add()
        except Exception as error:
            # A model of one's own may raise anything, and what it returns may not be an image or not fit in memory.
            if what not in self.left_out:
                self.left_out.add(what)
                reason = reason_of(error)
                log.warning("TensorBoard gets no %s of this model: %s: %s", what, type(error).__name__, reason)

    def add_projector(self, codes: Tensor | None, batches: list[Batch], epoch: int) -> None:
        """Write codes [N, code], classes and thumbnails for the projector."""
        if codes is None:
            return
        codes = codes.double().round(decimals=DECIMALS)
        # The projector shows nothing at all of codes that have fewer than three numbers.
        codes = functional.pad(codes, (0, max(0, 3 - codes.shape[1])))
        labels = [str(label) if label >= 0 else "none" for batch in batches for label in batch.y.tolist()]
        x = torch.cat([shrink(batch.x, THUMBNAIL).cpu() for batch in batches])
        # The sheet of thumbnails must be made of squares.
        side = max(x.shape[2:])
        x = functional.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]))
        cast("SummaryWriter", self.writer).add_embedding(codes, labels, x, epoch, tag="codes")


def wait_for_a_later_second(folder: Path) -> bool:
    """Return whether a run has event files already; then a file that is made now comes behind them.

    TensorBoard reads the files in the order of their names, which have the second and the process: of a run that is
    killed and resumed within a second the order would be chance. A clock that was set back is not waited for.
    """
    names = [path.name for path in folder.glob("events.out.tfevents.*") if not path.name.endswith((SUFFIX, CURVES))]
    stamps = [int(name.split(".")[3]) for name in names if name.split(".")[3].isdecimal()]
    now = time.time()
    if stamps and int(now) <= max(stamps) < now + 1:
        time.sleep(max(stamps) + 1 - now)
    return bool(names)


def shown(trainer: Trainer) -> list[Batch]:
    """Return the images to show: the first held-out ones, or training images where none are held out."""
    source = trainer.valid_source if len(trainer.valid_source) else trainer.train_source
    return list(islice(batches(source), CODES // BATCH_SIZE))


def codes_of(trainer: Trainer) -> Tensor | None:
    """Return the codes [N, code] of the images to show, None of a model without codes."""
    return encode(trainer.model, shown(trainer)) if isinstance(trainer.model, Encodes) else None


def encode(model: Encodes, batches: list[Batch]) -> Tensor:
    """Return the codes [N, code] of images, on the CPU; leaves the model as it was."""
    module = cast("Model", model)
    was_training = module.training
    module.eval()
    with torch.no_grad():
        codes = torch.cat([model.encode(batch.x).flatten(1).float() for batch in batches]).cpu()
    module.train(was_training)
    return codes


def charts(metrics: Mapping[str, float]) -> dict[str, list[Any]]:
    """Return a layout for the custom scalars: all losses on one chart, and each other metric's curves on one.

    Equal charts of several runs become one there, but only within the first category that TensorBoard meets: hence a
    single category for all models.
    """
    tags: dict[str, list[str]] = {"loss": ["train/loss", "val/loss"]}
    for tag in metrics:
        part, _, name = tag.partition("/")
        # Tags are patterns for the beginning of a name: those above are for loss_generator and the like as well.
        if part in ("train", "val") and not name.startswith("loss"):
            tags.setdefault(name, []).append(f"{re.escape(tag)}$")
    return {title: ["Multiline", found] for title, found in tags.items()}


def in_utf_8(text: str) -> str:
    r"""Return a text with `\udcff` in place of a byte that is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def sessions(hparams: Mapping[str, bool | int | float | str], model: Model | None = None) -> tuple[Any, ...]:
    """Return the summaries with which a run begins and ends on the HParams page; `model` gives the size of its code.

    The third that TensorBoard's `add_hparams` writes, of the experiment, would fix the columns to one model's; without
    it they are all settings and metrics of all runs.
    """
    from torch.utils.tensorboard.summary import hparams as summaries

    code = getattr(model, "code", None)
    # A custom model may call something else its code.
    settings = {**hparams, **({"model.code": code} if isinstance(code, int) else {})}
    # It takes bools for numbers, which the page would filter by a range.
    plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
    return summaries({HEADLINE.get(name, name): plain[name] for name in plain if not is_implied(name, plain)}, {})[1:]


def is_implied(name: str, hparams: Mapping[str, Any]) -> bool:
    """Return whether a setting is the class of an option, whose name is a setting too."""
    return name.endswith("._target_") and str(hparams[name]).startswith("aectl.")


def as_yaml(hparams: Mapping[str, bool | int | float | str]) -> str:
    """Return settings as a Markdown block of YAML, one line each, by the names that the command line takes."""
    lines = [f"{name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in hparams.items()]
    return "\n".join(["```yaml", *lines, "```"])

"""The TensorBoard observer: curves, pictures, codes and settings of a run, written into its folder.

    tensorboard --logdir outputs

The horizontal axis is the epoch. Each start of a run adds one event file. A resume makes TensorBoard drop what the run
wrote after its checkpoint, so that curves have no gaps and no repeats.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from aectl.data.datasets import Source
from aectl.data.encoding import encode_source
from aectl.data.thumbnails import shrink
from aectl.figures.examples import evaluation_mode
from aectl.metric import find_metric
from aectl.models.base import Batch, Encodes, Model
from aectl.system.atomic_write import name_path_in_errors
from aectl.system.terminal import first_line_of
from aectl.tensorboard.evaluation import CURVES_SUFFIX, SCALARS_SUFFIX, utf8_path
from aectl.tensorboard.summaries import add_scalar
from aectl.training.trainer import Epoch, Observer
from aectl.training.validation import BATCH_SIZE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

CODES = 1000
"""Images whose codes the histogram and the projector show."""
BINS = 60
THUMBNAIL_SIDE = 64
"""Longer side in pixels of an image in the projector, which puts a thousand of them into one file."""
HEADLINE = {"model": "Model", "model.code": "Model code", "seed": "Seed"}
"""Settings that come first on the HParams page, with their names there.

The page shows five settings, sorted by whether they differ between runs and then by name. Names with a capital come
before all others, which begin with small letters.
"""
OBJECTIVE = "Objective"
"""Prefix of a copy of the objective, e.g. `Objective/val/loss`, which comes first among the metrics of that page."""
DECIMALS = 5
"""Decimals of the codes in the projector's text file; more would only make it larger."""


class TensorBoard(Observer):
    """Writes scalars, pictures and code histograms after every epoch, and codes for the projector at the end.

    `pictures` returns images [C, H, W] in [0, 1] by name. `hparams` has the run's settings by dotted name, for the
    HParams page and the text page. The status of a run is SUCCESS if it is complete, and UNKNOWN if it failed or can be
    resumed.
    """

    # A full disk or a missing permission would leave gaps in the curves.
    fatal = (OSError,)

    def __init__(
        self,
        folder: Path,
        hparams: Mapping[str, bool | int | float | str],
        pictures: Callable[[Model], dict[str, Tensor]],
    ) -> None:
        self.folder, self.pictures = folder, pictures
        # TensorBoard requires UTF-8, and a path may contain other bytes.
        self.hparams = {key: to_utf8(value) if isinstance(value, str) else value for key, value in hparams.items()}
        self.writer: SummaryWriter | None = None
        self.written = 0
        self.usual_hook = threading.excepthook
        self.left_out: set[str] = set()

    def started(self, trainer: Trainer) -> None:
        # Imported here, so that other commands start faster.
        from torch.utils.tensorboard import SummaryWriter

        resumed = trainer.epoch > 0 or trainer.step > 0
        # A run that was killed before its first checkpoint starts again, and must drop what it wrote.
        purge = wait_for_next_second(self.folder) or resumed
        threading.excepthook = self.ignore_writer_errors
        with name_path_in_errors(self.folder):
            self.writer = SummaryWriter(utf8_path(self.folder), purge_step=trainer.epoch + 1 if purge else None)
            self.written = trainer.epoch
            self.writer.add_text("config", format_yaml(self.hparams), trainer.epoch)
            if not resumed:
                cast("Any", self.writer.file_writer).add_summary(make_session_summaries(self.hparams, trainer.model)[0])
            self.writer.flush()

    def ignore_writer_errors(self, error: threading.ExceptHookArgs) -> None:
        """Ignore an error in a thread of the writer; `flush` raises it again in the main thread."""
        if not type(error.thread).__module__.startswith("tensorboard."):
            self.usual_hook(error)

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        with name_path_in_errors(self.folder):
            self.write(trainer, epoch)

    def write(self, trainer: Trainer, epoch: Epoch) -> None:
        """Write everything of an epoch, and flush the file."""
        writer = cast("SummaryWriter", self.writer)
        for name, value in epoch.metrics.items():
            if name == "seconds":
                writer.add_scalar("time/seconds", value, epoch.number)
            else:
                description = find_metric(trainer.metric_descriptions, name.partition("/")[2]).summary
                add_scalar(writer, name, value, epoch.number, description)
        # The best value so far, since the page shows the last value and a sweep's table the best one.
        writer.add_scalar(f"{OBJECTIVE}/{trainer.objective}", trainer.best_value, epoch.number)
        if epoch.number == 1:
            writer.add_custom_scalars({"training": make_chart_layout(epoch.metrics)})
        self.attempt("pictures", lambda: self.add_pictures(self.pictures(trainer.model), epoch.number))
        self.attempt("codes", lambda: self.add_histogram(encode_selected_images(trainer), epoch.number))
        # Flushed before the checkpoint of this epoch is written, so that a crash never loses data of a saved epoch.
        writer.flush()
        self.written = epoch.number

    def finished(self, trainer: Trainer) -> None:
        try:
            with name_path_in_errors(self.folder):
                self.close(trainer)
        finally:
            self.writer = None
            threading.excepthook = self.usual_hook

    def close(self, trainer: Trainer) -> None:
        """Write the codes and the final status of a complete run, and close the file."""
        if self.writer is None:
            return
        try:
            if self.is_complete(trainer):
                self.attempt("codes", lambda: self.add_projector(trainer))
                cast("Any", self.writer.file_writer).add_summary(make_session_summaries(self.hparams, trainer.model)[1])
                # Raises if the disk is full; close() ignores errors of the writer's thread.
                self.writer.flush()
        finally:
            self.writer.close()

    def is_complete(self, trainer: Trainer) -> bool:
        """Return whether training reached its last epoch or stalled, and no exception is being raised."""
        at_end = trainer.epoch >= trainer.epochs or trainer.has_stalled()
        return at_end and self.written == trainer.epoch and sys.exc_info()[0] is None

    def add_pictures(self, pictures: Mapping[str, Tensor], epoch: int) -> None:
        """Write images [C, H, W] by name."""
        for name, image in pictures.items():
            cast("SummaryWriter", self.writer).add_image(name, image, epoch)

    def add_histogram(self, codes: Tensor | None, epoch: int) -> None:
        """Write the histogram of all entries of `codes` [N, code], unless some are NaN or infinite."""
        if codes is None:
            return
        low, high = float(codes.min()), float(codes.max())
        if not torch.isfinite(codes).all():
            return
        if low == high:
            low, high = low - 0.5, high + 0.5
        # `SummaryWriter.add_histogram` sorts the entries, which is a hundred times slower for a wide code.
        counts = torch.histc(codes, BINS, low, high)
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)[1:]
        total, squares = float(codes.double().sum()), float(codes.double().square().sum())
        cast("SummaryWriter", self.writer).add_histogram_raw(
            "codes", low, high, codes.numel(), total, squares, edges.tolist(), counts.tolist(), epoch
        )

    def attempt(self, what: str, add: Callable[[], None]) -> None:
        """Call `add`; a failure is logged once as a warning and does not end the run."""
        try:
            add()
        except Exception as error:
            # A custom model may raise anything, or return something that is not an image or does not fit in memory.
            if what not in self.left_out:
                self.left_out.add(what)
                reason = first_line_of(error)
                log.warning("TensorBoard shows no %s of this model: %s: %s", what, type(error).__name__, reason)

    def add_projector(self, trainer: Trainer) -> None:
        """Write the codes, classes and thumbnails of the selected images for the projector."""
        codes = encode_selected_images(trainer)
        if codes is not None:
            self.add_embedding(codes, load_selected_images(trainer), trainer.epoch)

    def add_embedding(self, codes: Tensor, batches: list[Batch], epoch: int) -> None:
        """Write codes [N, code] with the classes and thumbnails of their images."""
        codes = codes.double().round(decimals=DECIMALS)
        # The projector shows nothing if codes have fewer than three dimensions.
        codes = functional.pad(codes, (0, max(0, 3 - codes.shape[1])))
        labels = [str(label) if label >= 0 else "none" for batch in batches for label in batch.y.tolist()]
        x = torch.cat([shrink(batch.x, THUMBNAIL_SIDE).cpu() for batch in batches])
        # The projector requires square thumbnails.
        side = max(x.shape[2:])
        x = functional.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]))
        cast("SummaryWriter", self.writer).add_embedding(codes, labels, x, epoch, tag="codes")


def wait_for_next_second(folder: Path) -> bool:
    """Return whether a run has event files; if so, wait until a new file is named after them.

    TensorBoard reads event files in the order of their names, which contain the second and the process. Without the
    wait, a run that is killed and resumed within one second could be read in the wrong order. A clock that was set back
    by more than a second is not waited for.
    """
    names = [
        path.name
        for path in folder.glob("events.out.tfevents.*")
        if not path.name.endswith((SCALARS_SUFFIX, CURVES_SUFFIX))
    ]
    stamps = [int(name.split(".")[3]) for name in names if name.split(".")[3].isdecimal()]
    now = time.time()
    if stamps and int(now) <= max(stamps) < now + 1:
        time.sleep(max(stamps) + 1 - now)
    return bool(names)


def select_images(trainer: Trainer) -> tuple[Source, Tensor]:
    """Return a source and the positions of its first images: held-out ones, or training images if there are none."""
    source = trainer.valid_source if len(trainer.valid_source) else trainer.train_source
    return source, source.positions(CODES)


def encode_selected_images(trainer: Trainer) -> Tensor | None:
    """Return the codes [N, code] of the selected images on the CPU, None for a model without codes."""
    model = trainer.model
    if not isinstance(model, Encodes):
        return None
    source, positions = select_images(trainer)
    with evaluation_mode(model):
        return encode_source(model, source, BATCH_SIZE, positions).cpu()


def load_selected_images(trainer: Trainer) -> list[Batch]:
    """Return the selected images and their labels in batches."""
    source, positions = select_images(trainer)
    return [source.batch(part) for part in positions.split(BATCH_SIZE)]


def make_chart_layout(metrics: Mapping[str, float]) -> dict[str, list[Any]]:
    """Return the layout of the custom scalars page: a chart of all losses, and one for each other metric.

    TensorBoard merges equal charts of several runs, but only in the first category it reads, so all models use the same
    category.
    """
    tags: dict[str, list[str]] = {"loss": ["train/loss", "val/loss"]}
    for tag in metrics:
        part, _, name = tag.partition("/")
        # Tags are patterns that match prefixes, so that those above include loss_generator.
        if part in ("train", "val") and not name.startswith("loss"):
            tags.setdefault(name, []).append(f"{re.escape(tag)}$")
    return {title: ["Multiline", found] for title, found in tags.items()}


def to_utf8(text: str) -> str:
    r"""Replace each byte that is not UTF-8 by an escape such as `\udcff`."""
    return text.encode(errors="backslashreplace").decode()


def make_session_summaries(
    hparams: Mapping[str, bool | int | float | str], model: Model | None = None
) -> tuple[Any, ...]:
    """Return the summaries that start and end a run on the HParams page; `model` adds the size of its code.

    TensorBoard's `add_hparams` also writes a summary of the experiment, which would limit the page to the columns of
    one model. Without it, the page shows all settings and metrics of all runs.
    """
    from torch.utils.tensorboard.summary import hparams as summaries

    code = getattr(model, "code", None)
    # The attribute `code` of a custom model may be anything.
    settings = {**hparams, **({"model.code": code} if isinstance(code, int) else {})}
    # TensorBoard treats bools as numbers, which the page filters by a range.
    plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
    return summaries({HEADLINE.get(name, name): plain[name] for name in plain if not is_implied(name, plain)}, {})[1:]


def is_implied(name: str, hparams: Mapping[str, Any]) -> bool:
    """Return whether a setting is the `_target_` of an option, whose name is listed too."""
    return name.endswith("._target_") and str(hparams[name]).startswith("aectl.")


def format_yaml(hparams: Mapping[str, bool | int | float | str]) -> str:
    """Return settings as a Markdown block of YAML, one line for each command-line key."""
    lines = [f"{name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in hparams.items()]
    return "\n".join(["```yaml", *lines, "```"])

"""`python -m lecture`, which is `make figures`: train the runs that are missing, draw the figures, write the texts."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from PIL import Image, ImageOps

from aectl.figures import style
from aectl.training.device import Device
from lecture import documents, runs
from lecture.lab import Lab, Numbers
from lecture.slides import SLIDES

DOCS = Path("docs")
MARGIN = 12
"""Pixels of white around a figure."""


def main(root: Path = runs.FOLDER, docs: Path = DOCS) -> None:
    """Make everything from the runs in `root`, and write it into `docs`; says what is done and how long it took."""
    since = time.monotonic()
    runs.train(root)
    total = sum(runs.trained_seconds(root / name) for name in runs.RUNS) / 60
    print(f"epochs of all {len(runs.RUNS)} runs: {total:.1f} min of one thread, {runs.AT_A_TIME} at a time")
    numbers = draw(Lab(root), docs / documents.IMAGES)
    for path in documents.write(docs, numbers):
        print(path)
    print(f"{(time.monotonic() - since) / 60:.1f} min in all")


def draw(lab: Lab, folder: Path) -> dict[str, Numbers]:
    """Draw every figure into `folder`; return the numbers that were measured, by figure."""
    # Sums depend on how many threads share them: with one, the numbers are the same on every machine of a kind.
    Device("cpu", threads=1).apply()
    numbers = {}
    for slide in SLIDES:
        since = time.monotonic()
        figure, numbers[slide.name] = slide.draw(lab)
        path = style.save(figure, folder / f"{slide.name}.png")
        shrink(path)
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB, {time.monotonic() - since:.0f} s")
    return numbers


def shrink(path: Path) -> None:
    """Cut the margins of a PNG file, and leave it 256 colours, enough for grey images and a few colours."""
    with Image.open(path) as image:
        page = image.convert("RGB")
    drawn = page.crop(ImageOps.invert(page).getbbox())
    small = ImageOps.expand(drawn, MARGIN, "white").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    # As Ctrl-C does, so that the runs that are being trained are stopped, and can go on.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main()
    except runs.TrainingFailed as error:
        sys.exit(f"{error}")

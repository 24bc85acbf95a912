"""make growth: how time and memory of training grow with the data, the model and the batch.

python -m tests.benchmarks.growth

Writes docs/growth.json, docs/images/growth.png and a section of docs/BENCHMARKS.md.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aectl.data.datasets import mnist
from tests.benchmarks.__main__ import NAMES, PAGE, machine
from tests.benchmarks.growth_figure import draw

NUMBERS, PICTURE = Path("docs/growth.json"), Path("docs/images/growth.png")
BEGIN, END = "<!-- growth: begin -->", "<!-- growth: end -->"
WIDTH, BATCH = 400, 128
HEADINGS = (
    "what grows",
    "",
    "µs an image, smallest … largest",
    "MiB, smallest … largest",
    "exponents of time and of memory",
    "fitted over",
)
Point = dict[str, float]
"""`seconds` an image, and `memory` in MiB beyond the imports'."""


@dataclass(frozen=True)
class Axis:
    """What grows: its name with its unit, its sizes, the span fitted, who is measured, and how at a size."""

    name: str
    sizes: tuple[int, ...]
    fitted: tuple[int, int]
    contenders: tuple[str, ...]
    measure: Callable[[str, int], Point]


def steps(contender: str, width: int, batch: int, images: str = "mnist") -> Point:
    """Return what some steps come to in a process of their own."""
    return told("some_steps", contender, str(width), str(batch), images)


def told(module: str, *words: str) -> Point:
    """Return what a module of this folder prints in the end."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{module}", *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def by_images(contender: str, size: int) -> Point:
    """Measure with so many images: MNIST's over and over, in a file that is deleted afterwards."""
    whole = mnist(valid=0).split("train").images.numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        found = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(size, *whole.shape[1:]))
        for start in range(0, size, len(whole)):
            found[start : start + len(whole)] = whole[: size - start]
        # Or the system would write it to the disk while steps are timed.
        found.flush()
        del found
        return steps(contender, WIDTH, BATCH, str(path))


def by_width(contender: str, size: int) -> Point:
    """Measure with hidden layers so wide."""
    return steps(contender, size, BATCH)


def by_batch(contender: str, size: int) -> Point:
    """Measure with batches so large."""
    return steps(contender, WIDTH, size)


MILLIONS = (60_000, 200_000, 600_000, 2_000_000, 6_000_000)
BOTH = ("aectl", "tutorial")
AXES = {
    "images": Axis("images in the data set", MILLIONS, (MILLIONS[0], MILLIONS[-1]), ("aectl",), by_images),
    "width": Axis("units of the hidden layers", (64, 128, 256, 512, 1024, 2048, 4096), (512, 4096), BOTH, by_width),
    "batch": Axis("images in a batch", (16, 32, 64, 128, 256, 512, 1024, 2048), (16, 256), BOTH, by_batch),
}


def main(*names: str) -> int:
    """Measure the axes of these names, or all; write numbers, figure and section, which keep the others'."""
    kept = json.loads(NUMBERS.read_text())["axes"] if names and NUMBERS.is_file() else {}
    for name in names or AXES:
        kept[name] = measured(AXES[name])
    axes = {name: kept[name] for name in AXES if name in kept}
    NUMBERS.write_text(json.dumps({"machine": machine(), "axes": axes}, indent=1) + "\n")
    draw({AXES[name].name: found for name, found in axes.items()}, PICTURE)
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    table = "\n".join(page(axes))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    print(table)
    return 0


def measured(axis: Axis) -> dict[str, dict[str, Point]]:
    """Return the points of each contender, by size: all of one size, then the next."""
    found: dict[str, dict[str, Point]] = {contender: {} for contender in axis.contenders}
    for size in axis.sizes:
        for contender, points in found.items():
            points[str(size)] = axis.measure(contender, size)
            print(axis.name, size, contender, points[str(size)], flush=True)
    return found


def exponent(points: dict[str, Point], measure: str, span: tuple[int, int]) -> float:
    """Return the slope of log measure over log size, by least squares, over the sizes of a span."""
    inside = [
        (math.log(int(size)), math.log(p[measure])) for size, p in points.items() if span[0] <= int(size) <= span[1]
    ]
    x, y = np.asarray(inside).T
    return float(np.polyfit(x, y, 1)[0])


def page(axes: dict[str, dict[str, dict[str, Point]]]) -> Iterator[str]:
    """Yield the lines of the section: the machine, and a row for each axis and contender."""
    yield machine() + "."
    yield ""
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|{'---|' * len(HEADINGS)}"
    for key, found in axes.items():
        axis = AXES[key]
        for name, points in found.items():
            first, last = points[str(axis.sizes[0])], points[str(axis.sizes[-1])]
            slopes = [exponent(points, measure, axis.fitted) for measure in ("seconds", "memory")]
            cells = [
                f"{axis.name}, {axis.sizes[0]:,} … {axis.sizes[-1]:,}",
                NAMES.get(name, name),
                f"{1e6 * first['seconds']:.1f} … {1e6 * last['seconds']:.1f}",
                f"{first['memory']:.0f} … {last['memory']:.0f}",
                " and ".join(f"{slope:.2f}" for slope in slopes),
                f"{axis.fitted[0]:,} … {axis.fitted[1]:,}",
            ]
            yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

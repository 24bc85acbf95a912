"""make bench: the same networks trained by aectl and by others, in turn, and docs/BENCHMARKS.md written of it.

python -m tests.benchmarks PYTHON      # PYTHON has torch, torchvision, pythae and lightning
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch

from aectl.data import downloads
from aectl.system.machine import count_usable_cores
from tests.benchmarks import bound, ours, step
from tests.benchmarks.agreement import LEVEL, apart

REPEATS, EPOCHS, IMAGES, BATCH = 3, 3, 60_000, 128
"""Each contender has its turn so many times, each with another seed; of its epochs the first, in which memory is
fetched, does not count."""
PAGE, NUMBERS = Path("docs/BENCHMARKS.md"), Path("docs/benchmarks.json")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PEERS = {
    "vae": ("compiled", "tutorial", "lightning", "pythae"),
    "dense": ("compiled", "tutorial"),
    "conv": ("tutorial",),
}
OURS = {"aectl": (), "compiled": ("device.compile=true",)}
"""Contenders that are aectl, and what is typed for them."""
TITLES = {
    "vae": "VAE 784-400-20, batch 128",
    "dense": "autoencoder 784-1000-500-250-30, batch 128",
    "conv": "`model=conv`, batch 128",
}
WIDTHS = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
LAYERS = {
    "vae": ((784, 400), (400, 40), (20, 400), (400, 784)),
    "dense": tuple(pairwise(WIDTHS)),
}
HEADINGS = (
    "s an epoch (least … most)",
    "images/s",
    "aectl is faster by",
    "of the matmul bound",
    "loss ± sd",
    "start-up, s",
    "peak, MiB",
)
NAMES = {
    "aectl": "aectl",
    "compiled": "aectl, `device.compile=true`",
    "tutorial": "tutorial loop",
    "lightning": "Lightning",
    "pythae": "pythae",
}


def main(python: str, *names: str) -> int:
    """Measure the networks of these names, or all, and write page and numbers, which keep the others'.

    Returns the process's exit code, 1 where losses differ.
    """
    torch.set_num_threads(count_usable_cores())
    folder = downloads.data_folder()
    kept = json.loads(NUMBERS.read_text())["networks"] if names else {}
    kept |= {network: compare(network, python, str(folder)) for network in names or PEERS}
    found = {network: kept[network] for network in PEERS if network in kept}
    NUMBERS.write_text(json.dumps({"machine": machine(), "networks": found}, indent=1) + "\n")
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    table = "\n".join(page(found))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
    print(table)
    return 1 if any(unequal(one) for one in found.values()) else 0


def compare(network: str, python: str, folder: str) -> dict[str, Any]:
    """Return what each contender came to, by name, and the bound of the products in seconds an epoch."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in ("aectl", *PEERS[network])}
    bounds = []
    for seed in range(REPEATS):
        if network in LAYERS:
            bounds.append(bound.seconds_of_step(LAYERS[network], BATCH) * (IMAGES // BATCH))
        for name, done in turns.items():
            if name in OURS:
                done.append(ours.train(network, EPOCHS, (f"seed={seed}", *OURS[name])))
            else:
                done.append(peer(python, name, network, folder, seed))
            print(network, name, [round(seconds, 2) for seconds in done[-1]["seconds"]], done[-1]["loss"], flush=True)
    contenders = {name: summary(done) for name, done in turns.items()}
    parts = {"step": step.measure(network)} if network in LAYERS else {}
    return {"bound": median(bounds) if bounds else None, "contenders": contenders, **parts}


def peer(python: str, name: str, network: str, folder: str, seed: int) -> dict[str, Any]:
    """Return what a peer came to."""
    script = Path(__file__).with_name("peers.py")
    command = [python, "-W", "ignore", str(script), name, network, folder, str(EPOCHS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the turns, the shortest and longest epoch, and the losses of all seeds."""
    seconds = [second for turn in turns for second in turn["seconds"][1:]]
    others = {key: median(turn[key] for turn in turns) for key in ("startup", "memory")}
    losses = [turn["loss"] for turn in turns]
    return {"seconds": median(seconds), "least": min(seconds), "most": max(seconds), "losses": losses, **others}


def unequal(one: dict[str, Any]) -> list[str]:
    """Return a sentence on each contender whose loss is not aectl's, beyond what other seeds explain."""
    found = apart({NAMES[name]: row["losses"] for name, row in one["contenders"].items()})
    return [
        f"The loss of {name} is {difference:+.2f} beside aectl's, where chance explains {reach:.2f} in {LEVEL:.0%}."
        for name, difference, reach in found
    ]


def page(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page: the machine, and a table for each network."""
    yield machine() + "."
    for network, one in found.items():
        yield f"\n### {TITLES[network]}\n"
        yield f"| | {' | '.join(HEADINGS)} |"
        yield f"|---|{'---|' * len(HEADINGS)}"
        own = one["contenders"]["aectl"]["seconds"]
        for name, row in one["contenders"].items():
            share = f"{one['bound'] / row['seconds']:.0%}" if one["bound"] else ""
            cells = [
                NAMES[name],
                f"{row['seconds']:.2f} ({row['least']:.2f} … {row['most']:.2f})",
                f"{IMAGES / row['seconds']:,.0f}",
                f"{row['seconds'] / own:.1f}×",
                share,
                f"{fmean(row['losses']):.2f} ± {stdev(row['losses']):.2f}",
                f"{row['startup']:.1f}",
                f"{row['memory']:.0f}",
            ]
            yield f"| {' | '.join(cells)} |"
        yield "\n" + (" ".join(unequal(one)) or "The losses agree within what other seeds make of them.")
        yield from step.table(one["step"]) if "step" in one else ()


def machine() -> str:
    """Return what was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{count_usable_cores()} cores of {model}, torch {torch.__version__}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

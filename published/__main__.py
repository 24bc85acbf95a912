"""make published: train and evaluate the experiments that have published numbers, and write docs/RESULTS.md's table.

    python -m published                      # all that a 2-core machine can: the short ones, and those that are short
    python -m published burda_vae_1l_k1      # or those that are named, such as a full one on a GPU

What is in outputs/published/ already is not trained again, and what was begun there goes on. What the runs came to is
kept in docs/published.json: rows of runs that are not there any more stay in the table.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from published import results, table
from published.experiments import Experiment, experiments, folder_of, is_full
from published.figures import draw_few_labels

FOLDER, CONFIGS = Path("outputs/published"), Path("conf/experiment")
PAGE, NUMBERS = Path("docs/RESULTS.md"), Path("docs/published.json")
PICTURE = Path("docs/images/few_labels.png")
AT_A_TIME = 2
"""Experiments beside each other, each on one thread."""


def main(names: list[str]) -> int:
    """Run the named experiments, or all short ones; returns the process's exit code."""
    known = experiments(CONFIGS)
    if unknown := [name for name in names if name not in known]:
        print(f"no experiment with published numbers is called '{unknown[0]}'; there are {', '.join(known)}")
        return 2
    chosen = names or [name for name in known if not is_full(name, known)]
    runs = [(name, variant) for name in chosen for variant in known[name].variants()]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        went_well = list(pool.map(lambda one: run(*one, known[one[0]]), runs))
    failed = [results.title(*one) for one, good in zip(runs, went_well, strict=True) if not good]
    results.write(NUMBERS, {**results.read(NUMBERS), **results.gathered(known, FOLDER)})
    table.write(PAGE, table.rows(known, results.read(NUMBERS)))
    draw_few_labels(results.read(NUMBERS), PICTURE)
    print(f"wrote {PAGE}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def run(name: str, variant: tuple[str, ...], one: Experiment) -> bool:
    """Train a run of an experiment unless it is done, and evaluate it; returns whether both went well."""
    folder, began = folder_of(name, variant, FOLDER), time.monotonic()
    where = f"'{folder}'"
    if results.status(folder) != "done":
        words = [f"resume={where}"]
        if not (folder / "checkpoints" / "last.pt").is_file():
            # Cut short before its first checkpoint, it has nothing to go on from.
            shutil.rmtree(folder, ignore_errors=True)
            words = [f"experiment={name}", *variant, f"hydra.run.dir={where}"]
        if not aectl(folder, "train", *words, "device.threads=1"):
            return False
    good = aectl(folder, "eval", f"run={where}", *one.evaluation, "device.threads=1")
    print(f"{results.title(name, variant):60} {(time.monotonic() - began) / 60:5.1f} min", flush=True)
    return good


def aectl(folder: Path, *words: str) -> bool:
    """Run an `aectl` command, its output in a file beside the run's folder; returns whether it ended well."""
    log = folder.with_name(f"{folder.name}.{words[0]}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        command = (sys.executable, "-m", "aectl", *words)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        print(f"aectl {' '.join(words)} failed:\n{log.read_text()[-1500:].strip()}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Jobs by the bundle: a process that takes a bundle may train its jobs together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from aectl.run import Run
from aectl.sweep.places import Places, Watcher
from aectl.sweep.plan import Planned

NUMBERS = ("seed=", "optimizer.", "noise.", "penalty.")
"""Overrides of which most change numbers and no shapes; only for a good guess at which jobs belong together."""


@dataclass(frozen=True)
class Bundle:
    """Some jobs that one process carries out, as if they were one."""

    jobs: tuple[Planned, ...]

    @property
    def number(self) -> int:
        """The number of the first job."""
        return self.jobs[0].number

    @property
    def status(self) -> str:
        """How some run of them stands; the empty text if none has begun."""
        return next((job.status for job in self.jobs if job.status), "")

    def fail(self, error: str) -> None:
        """Leave a record of why the jobs failed; where some have one, the others were not to begin."""
        if not self.status:
            for job in self.jobs:
                job.fail(error)


class Each(Watcher[Bundle]):
    """Tells another watcher of each job in a bundle."""

    def __init__(self, watcher: Watcher[Planned]) -> None:
        self.watcher = watcher

    def started(self, job: Bundle) -> None:
        for one in job.jobs:
            self.watcher.started(one)

    def ended(self, job: Bundle, error: str) -> None:
        for one in job.jobs:
            self.watcher.ended(one, error_of(one, error))

    def tick(self) -> None:
        self.watcher.tick()


class Bundles:
    """Carries out jobs in bundles, one for each place, or more if they would have more than `most` jobs."""

    def __init__(
        self, places: int, most: int, task: Callable[[Bundle], str], watcher: Watcher[Planned], fail_fast: bool = False
    ) -> None:
        self.places, self.most = places, most
        self.inner = Places(places, task, Each(watcher), fail_fast)

    def carry_out(self, jobs: Iterable[Planned]) -> None:
        """Run the jobs; raises KeyboardInterrupt if told to stop."""
        self.inner.carry_out(bundles(list(jobs), self.places, self.most))


def bundles(jobs: Sequence[Planned], places: int, most: int) -> list[Bundle]:
    """Return the jobs in so many bundles of about the same size, those side by side that are likely to be alike."""
    ordered = sorted(jobs, key=lambda job: ([kind(job)], job.number))
    number = max(min(places, len(jobs)), -(-len(jobs) // most))
    cuts = [round(position * len(ordered) / number) for position in range(number + 1)] if number else [0]
    return [Bundle(tuple(ordered[first:last])) for first, last in pairwise(cuts)]


def kind(job: Planned) -> list[str]:
    """Return the overrides that are likely to decide on a job's shapes."""
    return [word for word in job.overrides if not word.lstrip("+~").startswith(NUMBERS)]


def error_of(job: Planned, error: str) -> str:
    """Return why a job of a bundle has failed, or nothing; `error` is the bundle's."""
    if job.status in ("done", "interrupted"):
        return ""
    own = str(Run(job.folder).record.get("error") or "") if job.status == "failed" else ""
    return own or error or "it has not begun"

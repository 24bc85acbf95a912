"""Several jobs of a sweep in one process: those that can share a program train together, the others in turn."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from aectl.commands.prepare import Images, check, open_images
from aectl.commands.train import Begun, Interrupted, begin, beginning, conclude, processes_of
from aectl.config import ConfigError
from aectl.run import Run
from aectl.training.interruption import Interruption
from aectl.training.together import Together, groups, why_apart


class Fleet:
    """Runs that are made ready one after the other, by what Hydra calls with their configs, to be trained in a while.

    Those with the same data set have it in memory once.
    """

    def __init__(self) -> None:
        self.begun: list[Begun] = []
        self.voices: list[Voice] = []
        self.images = cache(
            lambda dataset, device: open_images(OmegaConf.create({"dataset": OmegaConf.create(dataset)}), device)
        )

    def take(self, config: DictConfig) -> None:
        """Make a run ready; raises what `train` would."""
        run = Run(Path(HydraConfig.get().runtime.output_dir))
        with beginning(run):
            check(config)
            if processes_of(config) > 1:
                raise ConfigError("device.count is for runs by themselves, and these are fused; take sweep=local")
        self.begun.append(begin(config, run, self.shared))
        self.voices.append(Voice())

    def shared(self, config: DictConfig, device: torch.device) -> Images:
        """Return the images of a config, read once."""
        return self.images(json.dumps(OmegaConf.to_container(config.dataset, resolve=True)), device)

    def give_up(self) -> None:
        """Leave nothing behind of what was made ready."""
        for one in self.begun:
            one.give_up()

    def train(self, fail_fast: bool = False) -> None:
        """Train all runs; each leaves its record, whatever becomes of it; told to stop, they do and none begins."""
        stopped = False
        for numbers, why in self.groups():
            if stopped:
                for number in numbers:
                    self.begun[number].give_up()
            else:
                stopped = self.train_together(numbers, why, fail_fast)

    def groups(self) -> Iterator[tuple[list[int], str]]:
        """Yield the numbers of runs that train side by side; of those that had better not, one by one, also why."""
        for limit in dict.fromkeys(one.max_seconds for one in self.begun):
            limited = [number for number, one in enumerate(self.begun) if one.max_seconds == limit]
            for alike in groups([self.begun[number].trainer for number in limited]):
                numbers = [limited[position] for position in alike]
                why = why_apart([self.begun[number].trainer for number in numbers])
                yield from [([number], why) for number in numbers] if why else [(numbers, "")]

    def train_together(self, numbers: Sequence[int], why: str, fail_fast: bool) -> bool:
        """Train some runs side by side; returns whether they were told to stop by a signal."""
        runs, voices = [self.begun[number] for number in numbers], [self.voices[number] for number in numbers]
        # Making the other runs ready has set the process to what these wanted.
        runs[0].trainer.device.apply()
        for one, voice in zip(runs, voices, strict=True):
            with voice.heard():
                one.start()
        with Interruption(runs[0].max_seconds) as interruption:
            together = Together([one.trainer for one in runs], lambda: interruption.reason, lambda n: voices[n].heard())
            for number, reason, error in together.fit():
                with voices[number].heard():
                    close(runs[number], reason, error)
                with contextlib.suppress(OSError):
                    runs[number].run.update(fused={"runs": together.in_one, "why": why or together.why or None})
                if error and fail_fast:
                    signal.raise_signal(signal.SIGTERM)
        return interruption.signal is not None


def close(begun: Begun, reason: str | None, error: Exception | None) -> None:
    """Write how a run has ended; what goes wrong with that is its end too."""
    try:
        with begun.ending():
            if error is not None:
                raise error
        conclude(begun.trainer, begun.run, reason)
    except Interrupted:
        pass
    except Exception as wrong:
        # The other runs go on, even if this one's end cannot be written.
        with contextlib.suppress(OSError):
            begun.run.end("failed", error=str(wrong) or type(wrong).__name__)
        logging.getLogger("aectl.traceback").error("aectl train failed", exc_info=wrong)


class Voice:
    """The log of the run that Hydra has just begun: where its lines go, while others have theirs."""

    NAMES = ("", "aectl.traceback")

    def __init__(self) -> None:
        self.handlers = {name: list(logging.getLogger(name).handlers) for name in self.NAMES}

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within, what is logged is this run's."""
        before = {name: list(logging.getLogger(name).handlers) for name in self.NAMES}
        put(self.handlers)
        try:
            yield
        finally:
            put(before)


def put(handlers: Mapping[str, list[logging.Handler]]) -> None:
    """Let loggers, by their names, have these handlers."""
    for name, own in handlers.items():
        logging.getLogger(name).handlers[:] = own

"""What a process does that trains together with another one, and is told by it what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from aectl.commands.train_setup import prepare
from aectl.config.schema import seconds
from aectl.parallel.process_group import follow
from aectl.runs.run import Run
from aectl.training.stop_signals import Interruption


def run() -> None:
    """Train the leader's run beside it; whatever goes wrong here, the leader hears of."""
    with follow() as words:
        told = json.loads(words)
        config = OmegaConf.create(told["config"])
        # As for the leader, one's own modules come last, and not with what is stored unless they are trusted.
        if told["imports_here"] and (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        trainer = prepare(config, Run(Path(told["folder"]))).trainer
        with Interruption(seconds(config.max_time) if config.max_time else None) as interruption:
            trainer.fit(lambda: interruption.reason)

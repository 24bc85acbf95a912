"""Follower process of a multi-process run: it trains with the leader and writes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from aectl.commands.train_resume import has_progress, resume_trainer
from aectl.commands.train_setup import build_data_and_model, build_optimizer, build_trainer
from aectl.config import build
from aectl.config.schema import parse_seconds
from aectl.parallel.process_group import follow
from aectl.runs.loading import build_device
from aectl.runs.run import Run
from aectl.training.stop_signals import Interruption


def run() -> None:
    """Train the leader's run, built in the leader's order since both meet on the way; the leader reports errors."""
    with follow() as words:
        message = json.loads(words)
        config, led = OmegaConf.create(message["config"]), Run(Path(message["folder"]))
        # As in the leader, the user's modules come last, and are importable with a stored config only if trusted.
        if message["imports_here"] and (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        is_resumed = has_progress(config, led)
        device = build_device(config)
        optimizer, schedule = build_optimizer(config), build(config.schedule, "schedule")
        data, model, _ = build_data_and_model(config, led, device, is_resumed=is_resumed)
        trainer = build_trainer(config, data, model, optimizer, schedule, device, led.folder / "checkpoints")
        if is_resumed:
            resume_trainer(trainer, led, config)
        with Interruption(parse_seconds(config.max_time) if config.max_time else None) as interruption:
            trainer.fit(lambda: interruption.reason)

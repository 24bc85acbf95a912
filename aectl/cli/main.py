"""aectl <command> [key=value ...]: the first word chooses a command, Hydra reads the rest."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from aectl.system.machine import is_follower, started_together
from aectl.system.standard_streams import lenient_streams
from aectl.system.terminal import brief, wrap_prose

if TYPE_CHECKING:
    from omegaconf import DictConfig

    Function = Callable[["DictConfig"], float | None]

COMMANDS = ("train", "eval", "sample")
HELP = ("-h", "--help", "help")

USUAL, RARELY = gc.get_threshold(), 100_000
"""After how many new objects Python looks for garbage; until a command begins nearly all that is made is kept."""


class EndedWithin(ValueError):
    """Code that a command calls has ended the process as if all were done."""


def main() -> None:
    """Do what sys.argv asks; what goes wrong is said in a line or two and ends in SystemExit."""
    arguments = sys.argv[1:]
    # Hydra prints and exits by itself otherwise, before anyone could say it better.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A log line that cannot be written, to a full disk say, is no reason for a traceback.
    logging.raiseExceptions = False
    gc.set_threshold(RARELY)
    # Figures are drawn into files; a backend named for notebooks or windows may not even be there.
    backend = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"
    # A single run's lines are in its train.log, too.
    is_logged = arguments[:1] == ["train"] and not any(word.startswith("-") for word in arguments)
    with lenient_streams(output_is_kept=is_logged):
        try:
            dispatch(arguments)
        except KeyboardInterrupt:
            print("aectl: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            report(error)
        finally:
            gc.set_threshold(*USUAL)
            os.environ.pop("MPLBACKEND")
            if backend is not None:
                os.environ["MPLBACKEND"] = backend


def dispatch(arguments: Sequence[str]) -> None:
    """Answer what needs no config (help, version, TAB) or run the command that the first word names."""
    if "-sc" in arguments or "--shell-completion" in arguments:
        from aectl.cli.completion import answer

        return answer(arguments)
    if "--version" in arguments[:2]:
        from importlib.metadata import version

        return print("aectl", version("aectl"))
    words = [argument for argument in arguments if argument not in HELP]
    command = words[0] if words else None
    if command is None or len(words) < len(arguments):
        from aectl.cli import help

        return print(help.of_command(command, words[1:]) if command in COMMANDS else help.overview())
    if command not in COMMANDS:
        refuse(unknown_command(arguments))
    from aectl.runs.run import COMMAND

    typed = COMMAND.set(("aectl", *arguments))
    try:
        run_command(command, arguments[1:])
    finally:
        COMMAND.reset(typed)


def unknown_command(arguments: Sequence[str]) -> str:
    """Return the message for a first word that is no command."""
    word = arguments[0]
    if "=" in word or word.startswith("-"):
        return (
            f"the command comes first: {shlex.join(['aectl', 'train', *arguments])}\n  commands: {', '.join(COMMANDS)}"
        )
    from aectl.config.did_you_mean import hint

    return f"no command '{word}'{hint(word, COMMANDS, 'the commands are ' + ', '.join(COMMANDS))}"


def run_command(command: str, arguments: Sequence[str], is_job: bool = False, imports_here: bool = True) -> None:
    """Hand a command's arguments to Hydra, which composes the config and calls the task, once or for each job.

    A sweep's job has the settings of its sweep without its flag. Without `imports_here` the working folder may be a
    stranger's, whose modules are not imported.
    """
    from aectl.cli import resume
    from aectl.cli.hydra_main import (
        admit_new_keys,
        check_name,
        check_output_subdir,
        check_sweep_words,
        check_switches,
        launch,
        name_launchers_keys,
        quote_texts,
        resolve_init_from,
    )
    from aectl.config import ConfigError
    from aectl.config.overrides import IMPORTS_HERE, MULTIRUN, TRUST, split_flags
    from aectl.config.removed import check_removed
    from aectl.system.plot_style import leave_matplotlibrc

    leave_matplotlibrc()
    if is_follower():
        return follow(command, arguments)
    name, typed = command, list(arguments)
    TRUST.set(())
    IMPORTS_HERE.set(imports_here)
    try:
        flags, overrides = split_flags(arguments)
        typed = overrides
        sweep = any(flag in MULTIRUN for flag in flags)
        if sweep and started_together() > 1:
            raise ConfigError("torchrun trains one run at a time; in a sweep, device.count= shares each run's batches")
        if command == "train" and not is_job:
            check_removed(overrides)
            check_sweep_words(flags, overrides)
        if command == "train" and resume.asked(overrides):
            if sweep:
                flags, overrides = resume.sweep(overrides)
            else:
                name, overrides = "resume", resume.prepare(overrides)
        elif command == "train" and sweep:
            overrides = resolve_init_from(overrides)
        if command == "train":
            overrides = name_launchers_keys(overrides)
            check_output_subdir(overrides)
        check_name(overrides)
        check_switches(command, overrides)
        overrides = admit_new_keys(overrides)
        if not sweep:
            overrides = quote_texts(overrides)
        launch(name, [*flags, *overrides], task(command))
    except Exception as error:
        report(error, name, typed)


def follow(command: str, arguments: Sequence[str]) -> None:
    """Train what the process leads that was started together with this one; the errors are told by that one.

    Other commands, and flags that only ask for something, are the leader's alone.
    """
    if command != "train" or any(word.startswith("-") for word in arguments):
        return
    try:
        module = importlib.import_module("aectl.commands.train_follower")
        gc.set_threshold(*USUAL)
        module.run()
    except Exception:
        if os.environ.get("AECTL_DEBUG", "") not in ("", "0"):
            raise
        raise SystemExit(1) from None


def task(command: str) -> Function:
    """Return what Hydra calls with a composed config: the command's `run`, its errors told in a line or two."""

    def run(config: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        from aectl.cli.early_checks import check_early
        from aectl.config.instantiate import uses_own_modules
        from aectl.config.overrides import IMPORTS_HERE

        # A console script's folder is not on the path; last, one's own modules cannot hide installed ones.
        is_typed = command == "train" and not config.get("resume") and IMPORTS_HERE.get()
        if uses_own_modules(config, is_typed) and (folder := HydraConfig.get().runtime.cwd) not in sys.path:
            sys.path.append(folder)
        try:
            check_early(config, command)
            call = importlib.import_module(f"aectl.commands.{command}").run
            gc.set_threshold(*USUAL)
            return call(config)
        except SystemExit as stop:
            # Ours have codes that say what happened; exit() in a model of one's own would pass for success.
            if stop.code in (None, 0):
                said = f"aectl {command} was ended from within: the model or the data call exit()"
                return fail(EndedWithin(said), command)
            raise
        except Exception as error:
            return fail(error, command)

    return run


def fail(error: Exception, command: str) -> NoReturn:
    """End a single run whose command raised, its traceback in train.log; in a sweep let Hydra have the error."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        raise error
    logging.getLogger("aectl.traceback").error("aectl %s failed", command, exc_info=error)
    # A SystemExit, because Hydra would add a line of its own to any Exception.
    report(error, command)


def report(error: Exception, name: str = "train", overrides: Sequence[str] = ()) -> NoReturn:
    """Say what went wrong in a line or two and exit; with AECTL_DEBUG let the traceback through."""
    from aectl.cli.error_messages import explain

    if os.environ.get("AECTL_DEBUG", "") not in ("", "0"):
        raise error
    message, code = explain(error, name, overrides)
    refuse(message, code)


def refuse(message: str, code: int = 2) -> NoReturn:
    """Print a message for the user and exit."""
    print(wrap_prose(f"aectl: {brief(message)}", sys.stderr), file=sys.stderr)
    raise SystemExit(code)

"""The entry point `aectl <command> [key=value ...]`: the first word is a command, Hydra parses the rest."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from aectl.system.machine import is_follower, launched_processes
from aectl.system.standard_streams import lenient_streams
from aectl.system.terminal import shorten_message, wrap_prose

if TYPE_CHECKING:
    from omegaconf import DictConfig

    Function = Callable[["DictConfig"], float | None]

COMMANDS = ("train", "eval", "sample")
HELP = ("-h", "--help", "help")

USUAL, RARELY = gc.get_threshold(), 100_000
"""Thresholds of the garbage collector. Before a command starts, nearly all objects stay alive, so it runs rarely."""


class UnexpectedExit(ValueError):
    """A model or data set has called `exit()` in the middle of a command."""


def main() -> None:
    """Run the command in sys.argv; an error is printed in one or two lines and raises SystemExit."""
    arguments = sys.argv[1:]
    # Otherwise Hydra prints its own message and exits.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A log line that cannot be written, e.g. to a full disk, must not print a traceback.
    logging.raiseExceptions = False
    gc.set_threshold(RARELY)
    # Figures are drawn into files; a backend set for notebooks or windows may not be installed.
    backend = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"
    # The lines of a single run are also in its train.log.
    is_logged = arguments[:1] == ["train"] and not any(word.startswith("-") for word in arguments)
    with lenient_streams(output_is_kept=is_logged):
        try:
            dispatch(arguments)
        except KeyboardInterrupt:
            print("aectl: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            exit_with_error(error)
        finally:
            gc.set_threshold(*USUAL)
            os.environ.pop("MPLBACKEND")
            if backend is not None:
                os.environ["MPLBACKEND"] = backend


def dispatch(arguments: Sequence[str]) -> None:
    """Print help, version or completions, or run the command named by the first word."""
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
        exit_with_message(unknown_command(arguments))
    from aectl.runs.run import COMMAND

    typed = COMMAND.set(("aectl", *arguments))
    try:
        run_command(command, arguments[1:])
    finally:
        COMMAND.reset(typed)


def unknown_command(arguments: Sequence[str]) -> str:
    """Return the error message for a first word that is not a command."""
    word = arguments[0]
    if "=" in word or word.startswith("-"):
        return (
            f"the command comes first: {shlex.join(['aectl', 'train', *arguments])}\n  commands: {', '.join(COMMANDS)}"
        )
    from aectl.config.did_you_mean import suggest_nearest

    return f"no command '{word}'{suggest_nearest(word, COMMANDS, 'the commands are ' + ', '.join(COMMANDS))}"


def run_command(command: str, arguments: Sequence[str], is_job: bool = False, imports_here: bool = True) -> None:
    """Run a command as typed: Hydra composes the config and calls the command, once or for each job of a sweep.

    `is_job` allows settings of sweeps without the flag -m. With `imports_here=False`, modules of the working folder,
    which may be a stranger's, are not imported.
    """
    from aectl.cli import resume
    from aectl.cli.hydra_main import (
        admit_new_keys,
        check_booleans,
        check_name,
        check_output_subdir,
        check_sweep_keys,
        expand_short_keys,
        launch_hydra,
        quote_texts,
        resolve_init_from,
    )
    from aectl.config import ConfigError
    from aectl.config.overrides import IMPORTS_HERE, MULTIRUN, TRUST, split_flags
    from aectl.config.removed import check_removed, replace_renamed
    from aectl.system.matplotlibrc import ignore_matplotlibrc

    ignore_matplotlibrc()
    if is_follower():
        return run_follower(command, arguments)
    name, typed = command, list(arguments)
    TRUST.set(())
    IMPORTS_HERE.set(imports_here)
    try:
        flags, overrides = split_flags(arguments)
        typed = overrides
        sweep = any(flag in MULTIRUN for flag in flags)
        if sweep and launched_processes() > 1:
            raise ConfigError("torchrun trains one run at a time; in a sweep, device.count= shares each run's batches")
        if command == "train" and not is_job:
            check_removed(overrides)
            check_sweep_keys(flags, overrides)
        if command == "train" and resume.is_resume(overrides):
            if sweep:
                flags, overrides = resume.restore_sweep(overrides)
            else:
                name, overrides = "resume", resume.restore_run(overrides)
        elif command == "train" and sweep:
            overrides = resolve_init_from(overrides)
        if command == "train":
            overrides = expand_short_keys(overrides)
            check_output_subdir(overrides)
        if command == "sample":
            overrides = replace_renamed(overrides)
        check_name(overrides)
        check_booleans(command, overrides)
        overrides = admit_new_keys(overrides)
        if not sweep:
            overrides = quote_texts(overrides)
        launch_hydra(name, [*flags, *overrides], make_task(command))
    except Exception as error:
        exit_with_error(error, name, typed)


def run_follower(command: str, arguments: Sequence[str]) -> None:
    """Train in a follower process of a multi-process run; process 0 reports the errors.

    Other commands, and flags that only print something, are left to process 0.
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


def make_task(command: str) -> Function:
    """Return the function that Hydra calls with the composed config: the command's `run`, with its errors handled."""

    def run(config: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig

        from aectl.cli.early_checks import check_early
        from aectl.config.instantiate import uses_own_modules
        from aectl.config.overrides import IMPORTS_HERE

        # A console script does not have the working folder on its path. Last, it cannot shadow installed modules.
        is_typed = command == "train" and not config.get("resume") and IMPORTS_HERE.get()
        if uses_own_modules(config, is_typed) and (folder := HydraConfig.get().runtime.cwd) not in sys.path:
            sys.path.append(folder)
        try:
            check_early(config, command)
            call = importlib.import_module(f"aectl.commands.{command}").run
            gc.set_threshold(*USUAL)
            return call(config)
        except SystemExit as stop:
            # Our own exits have other codes; exit() in the user's model would look like success.
            if stop.code in (None, 0):
                message = "the code of the model or the data set called exit()"
                return exit_with_traceback(UnexpectedExit(message), command)
            raise
        except Exception as error:
            return exit_with_traceback(error, command)

    return run


def exit_with_traceback(error: Exception, command: str) -> NoReturn:
    """Exit with an error message and log the traceback in train.log; in a multirun, raise the error for Hydra."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        raise error
    logging.getLogger("aectl.traceback").error("aectl %s failed", command, exc_info=error)
    # Hydra would add a line to any other exception than SystemExit.
    exit_with_error(error, command)


def exit_with_error(error: Exception, name: str = "train", overrides: Sequence[str] = ()) -> NoReturn:
    """Print what went wrong in one or two lines and exit; with AECTL_DEBUG set, raise the error."""
    from aectl.cli.error_messages import explain

    if os.environ.get("AECTL_DEBUG", "") not in ("", "0"):
        raise error
    message, code = explain(error, name, overrides)
    exit_with_message(message, code)


def exit_with_message(message: str, code: int = 2) -> NoReturn:
    """Print a message to stderr and exit."""
    print(wrap_prose(f"aectl: {shorten_message(message)}", sys.stderr), file=sys.stderr)
    raise SystemExit(code)

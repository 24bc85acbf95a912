"""Turns overrides that give a key several values into Optuna distributions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from aectl.config import ConfigError

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Distribution:
    """The values of a searched key: `suggest` draws one for a trial, `contains` checks one."""

    suggest: Callable[[Trial], Any]
    contains: Callable[[Any], bool]


class SearchSpace:
    """Fixed overrides, and the distribution of each searched key.

    | override | distribution |
    |---|---|
    | `a=4,8`, `a=choice(4,8)` | categorical |
    | `a=interval(0.1,1)` | uniform |
    | `a=int(interval(1,9))` | whole numbers |
    | `a=range(2,9,2)` | whole numbers with a step |
    | `a=tag(log,interval(0.001,0.1))` | uniform on a logarithmic scale |

    Raises ConfigError for any other sweep, and if no key is searched.
    """

    def __init__(self, arguments: Iterable[str], params: Mapping[str, Any]) -> None:
        words = [*(f"{key}={value}" for key, value in params.items()), *arguments]
        parsed = {one.get_key_element(): one for one in OverridesParser.create().parse_overrides(words)}
        self.fixed = [str(one.input_line) for one in parsed.values() if not one.is_sweep_override()]
        self.distributions = {
            key: parse_distribution(key, one) for key, one in parsed.items() if one.is_sweep_override()
        }
        if not self.distributions:
            raise ConfigError(
                "nothing to search for: give a key several values, as in 'optimizer.lr=interval(0.0001,0.01)'"
            )

    def suggest_overrides(self, trial: Trial) -> list[str]:
        """Return the overrides of a trial's job: the fixed ones, and a value for each searched key.

        A resumed trial has its values already. Raises ConfigError if one is not in the space: the study may come from
        someone else, and its values become part of a command.
        """
        return [
            *self.fixed,
            *(f"{key}={format_value(suggest_value(trial, key, one))}" for key, one in self.distributions.items()),
        ]


def suggest_value(trial: Trial, key: str, distribution: Distribution) -> Any:
    """Return a trial's value of a key; raises ConfigError if it has a value outside the distribution."""
    with warnings.catch_warnings():
        # Optuna warns about a value that is refused below.
        warnings.simplefilter("ignore")
        try:
            value = distribution.suggest(trial)
            fits = distribution.contains(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"trial {trial.number} of the study has a value of {key} that is not searched: {error}"
            ) from None
    if not fits:
        raise ConfigError(f"trial {trial.number} of the study has {key}={value}, which is not searched")
    return value


def format_value(value: Any) -> str:
    """Return a value as text for an override; floats have five significant digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def parse_distribution(key: str, override: Override) -> Distribution:
    """Return the distribution that an override describes; raises ConfigError if Optuna cannot draw from it."""
    value: Any = override.value()
    name = key.lstrip("+~")
    if override.is_choice_sweep():
        choices = list(override.sweep_string_iterator())
        return Distribution(lambda trial: trial.suggest_categorical(name, choices), choices.__contains__)
    is_log = "log" in getattr(value, "tags", ())
    if override.is_interval_sweep():
        start, end = value.start, value.end
        if not (start < end and (start > 0 or not is_log)):
            raise ConfigError(
                f"{override.input_line}: the first end must be {'above 0 and ' if is_log else ''}less than the second"
            )
        if isinstance(start, int) and isinstance(end, int):
            return Distribution(
                lambda trial: trial.suggest_int(name, start, end, log=is_log), range(start, end + 1).__contains__
            )
        # Optuna returns the value of a stored trial unchanged, whatever its type.
        return Distribution(
            lambda trial: float(trial.suggest_float(name, start, end, log=is_log)), lambda v: start <= v <= end
        )
    if override.is_range_sweep() and all(isinstance(one, int) for one in (value.start, value.stop, value.step)):
        numbers = range(value.start, value.stop, value.step)
        if not numbers:
            raise ConfigError(f"{override.input_line}: the range is empty")
        ends = (numbers[0], numbers[-1])
        return Distribution(lambda trial: trial.suggest_int(name, *ends, step=value.step), numbers.__contains__)
    raise ConfigError(
        f"cannot search {override.input_line}: use choices, interval(a,b), or range(a,b) of whole numbers"
    )

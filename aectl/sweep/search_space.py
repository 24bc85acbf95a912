"""Where a search looks: the values that overrides leave open, in Hydra's own grammar."""

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
class Open:
    """What a key is searched among: how a value is drawn for a trial, and whether one is among them."""

    draw: Callable[[Trial], Any]
    fits: Callable[[Any], bool]


class Space:
    """What is fixed, as overrides, and what is open, by key.

    `a=4,8` and `a=choice(4,8)` are unordered values, `a=interval(0.1,1)` numbers, `a=int(interval(1,9))` whole ones,
    `a=range(2,9,2)` whole ones at equal steps; `tag(log,interval(0.001,0.1))` looks on a logarithmic scale.

    Raises ConfigError for what is none of these, and if nothing is open.
    """

    def __init__(self, arguments: Iterable[str], params: Mapping[str, Any]) -> None:
        words = [*(f"{key}={value}" for key, value in params.items()), *arguments]
        parsed = {one.get_key_element(): one for one in OverridesParser.create().parse_overrides(words)}
        self.fixed = [str(one.input_line) for one in parsed.values() if not one.is_sweep_override()]
        self.open = {key: open_of(key, one) for key, one in parsed.items() if one.is_sweep_override()}
        if not self.open:
            raise ConfigError("nothing to search for: leave a value open, as in 'optimizer.lr=interval(0.0001,0.01)'")

    def draw(self, trial: Trial) -> list[str]:
        """Return the overrides of a trial's job: what is fixed, and a value for each key that is open.

        A trial that a study holds may have values already. Raises ConfigError for one that is not in the space: the
        study may be a stranger's, and a value is a word of a command.
        """
        return [*self.fixed, *(f"{key}={written(value_of(trial, key, one))}" for key, one in self.open.items())]


def value_of(trial: Trial, key: str, among: Open) -> Any:
    """Return a trial's value of a key; raises ConfigError if it has one that is not searched."""
    with warnings.catch_warnings():
        # Optuna warns of a value that is refused below.
        warnings.simplefilter("ignore")
        try:
            value = among.draw(trial)
            fits = among.fits(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"trial {trial.number} of the study has another {key} than is searched: {error}"
            ) from None
    if not fits:
        raise ConfigError(f"trial {trial.number} of the study has {key}={value}, which is not searched")
    return value


def written(value: Any) -> str:
    """Return a value as one would type it; of a number five digits say enough."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def open_of(key: str, override: Override) -> Open:
    """Return what an override leaves open; raises ConfigError for what Optuna cannot draw from."""
    value: Any = override.value()
    name = key.lstrip("+~")
    if override.is_choice_sweep():
        choices = list(override.sweep_string_iterator())
        return Open(lambda trial: trial.suggest_categorical(name, choices), choices.__contains__)
    is_log = "log" in getattr(value, "tags", ())
    if override.is_interval_sweep():
        start, end = value.start, value.end
        if not (start < end and (start > 0 or not is_log)):
            raise ConfigError(f"{override.input_line}: the ends must rise{', from above 0' if is_log else ''}")
        if isinstance(start, int) and isinstance(end, int):
            return Open(
                lambda trial: trial.suggest_int(name, start, end, log=is_log), range(start, end + 1).__contains__
            )
        # Of a value that was put into a study, Optuna returns what stands there.
        return Open(lambda trial: float(trial.suggest_float(name, start, end, log=is_log)), lambda v: start <= v <= end)
    if override.is_range_sweep() and all(isinstance(one, int) for one in (value.start, value.stop, value.step)):
        numbers = range(value.start, value.stop, value.step)
        if not numbers:
            raise ConfigError(f"{override.input_line}: the range holds no number")
        ends = (numbers[0], numbers[-1])
        return Open(lambda trial: trial.suggest_int(name, *ends, step=value.step), numbers.__contains__)
    raise ConfigError(f"cannot search in {override.input_line}: choices, interval(a,b) and range(a,b) of whole numbers")

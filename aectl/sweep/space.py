"""Where a search looks: the values that overrides leave open, in Hydra's own grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from aectl.config import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

Draw = Callable[["Trial"], Any]


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
        self.open = {key: draw_of(key, one) for key, one in parsed.items() if one.is_sweep_override()}
        if not self.open:
            raise ConfigError("nothing to search for: leave a value open, as in 'optimizer.lr=interval(0.0001,0.01)'")

    def draw(self, trial: Trial) -> list[str]:
        """Return the overrides of a trial's job: what is fixed, and a value for each key that is open."""
        return [*self.fixed, *(f"{key}={written(draw(trial))}" for key, draw in self.open.items())]


def written(value: Any) -> str:
    """Return a value as one would type it; of a number five digits say enough."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def draw_of(key: str, override: Override) -> Draw:
    """Return what draws a value for a key; raises ConfigError for what Optuna cannot draw from."""
    value: Any = override.value()
    name = key.lstrip("+~")
    if override.is_choice_sweep():
        choices = list(override.sweep_string_iterator())
        return lambda trial: trial.suggest_categorical(name, choices)
    is_log = "log" in getattr(value, "tags", ())
    if override.is_interval_sweep():
        if not (value.start < value.end and (value.start > 0 or not is_log)):
            raise ConfigError(f"{override.input_line}: the ends must rise{', from above 0' if is_log else ''}")
        kind = "suggest_int" if all(isinstance(end, int) for end in (value.start, value.end)) else "suggest_float"
        return lambda trial: getattr(trial, kind)(name, value.start, value.end, log=is_log)
    if override.is_range_sweep() and all(isinstance(one, int) for one in (value.start, value.stop, value.step)):
        numbers = range(value.start, value.stop, value.step)
        if not numbers:
            raise ConfigError(f"{override.input_line}: the range holds no number")
        return lambda trial: trial.suggest_int(name, numbers[0], numbers[-1], step=value.step)
    raise ConfigError(f"cannot search in {override.input_line}: choices, interval(a,b) and range(a,b) of whole numbers")

"""How numbers and tables look on a terminal, or in a file that stands in for one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Return where tables are printed; a file has no 80 columns to cut them at."""
    from rich.console import Console

    terminal = Console(highlight=False, markup=False)
    return terminal if terminal.is_terminal else Console(highlight=False, markup=False, width=200)


def significant(value: float, digits: int = 4) -> str:
    """Return a number in `digits` significant digits, without an exponent where it reads well."""
    if value == 0 or not math.isfinite(value) or not 1e-5 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"

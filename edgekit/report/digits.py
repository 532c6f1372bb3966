"""Numbers as people read them: no digit that the interval does not carry. Everything returns text."""

from __future__ import annotations

import math

MOST_DECIMALS = 6


def decimals(low: float, high: float) -> int:
    """How many decimals an interval carries: its half width keeps one digit, two where the first is 1 or 2."""
    half = (high - low) / 2
    if not (math.isfinite(half) and half > 0):
        return _decimals_of(max(abs(low), abs(high)), 3)
    digits, _, exponent = f"{half:.6e}".partition("e")  # as text, so that 0.03 does not begin with a 2
    return min(MOST_DECIMALS, max(0, -int(exponent) + (1 if digits[0] in "12" else 0)))


def figure(value: float, low: float, high: float) -> str:
    """A value with the digits that its interval carries."""
    return f"{value:.{decimals(low, high)}f}"


def interval(low: float, high: float) -> str:
    """`1.24–1.31`, with the digits that it carries."""
    places = decimals(low, high)
    return f"{low:.{places}f}–{high:.{places}f}"


def significant(value: float, digits: int = 3) -> str:
    """A plain decimal number with so many significant digits; whole numbers keep all of theirs."""
    return f"{value:.{_decimals_of(value, digits)}f}"


def _decimals_of(value: float, digits: int) -> int:
    if value == 0 or not math.isfinite(value):
        return 0
    return min(MOST_DECIMALS, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def scientific(value: float | None) -> str:
    """An error or a tolerance; a dash where there is none."""
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def millions(count: float) -> str:
    """A count in millions, or in billions (G) from 10^9 on."""
    return f"{significant(count / 1e9)} G" if count >= 1e9 else f"{significant(count / 1e6)} M"


def size(count: float) -> str:
    """A number of bytes in the unit that suits it; kB is 1000 bytes."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{significant(count)} {unit}"
        count /= 1000
    return f"{significant(count)} GB"


def percent(share: float, places: int = 1) -> str:
    """A share, 0 to 1, in per cent."""
    return f"{share * 100:.{places}f} %"

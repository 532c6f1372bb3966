"""Means over seeds and how far they can be trusted: Student's t-interval, without anything heavy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CERTAIN = 0.95
BISECTIONS = 200


@dataclass(frozen=True)
class Estimate:
    """The mean of `count` figures; `low` and `high` are the 95 % interval of the mean, None for a single figure."""

    mean: float
    low: float | None
    high: float | None
    count: int


def estimate(values: Sequence[float], certain: float = CERTAIN) -> Estimate:
    """Mean and t-interval of at least one figure, which are taken as independent and about normal."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, len(values))
    half = t_quantile((1 + certain) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def t_quantile(share: float, freedom: int) -> float:
    """The value below which `share` (0.5 to below 1) of Student's t with so many degrees of freedom lies."""
    low, high = 0.0, math.pi / 2  # as the angle whose tangent is t over the root of the degrees of freedom
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if low < middle < high:
            low, high = (middle, high) if _within(middle, freedom) < 2 * share - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(angle: float, freedom: int) -> float:
    """The probability of being no further from 0 than this angle. Source: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = (cosine if freedom > 1 else 0.0) if odd else 1.0
    for number in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (number - 1) / number
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total

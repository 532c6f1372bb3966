"""Tolerances derived from the arithmetic, never chosen to fit.

The noise floor of a tensor is what rounding alone does to it: the distance between the float64 truth and a run of the
same module in the lower precision. A correct graph computes the same numbers with other roundings and lands within a
small factor of that floor; docs/decisions/0003 has the measurements behind the factors.
"""

from __future__ import annotations

import math
from typing import Literal

from edgekit.parity.metrics import WEAKEST_CHANNEL, Distance

Precision = Literal["fp32", "fp16"]

UNIT_ROUNDOFF: dict[Precision, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11}

# Floor and distance are two draws of the same noise, and their squared ratio has an F distribution whose degrees of
# freedom are the independent roundings behind them: 28 (fp32) and 50 (fp16) over a whole tensor, but 12 and 25 in the
# one channel that weighs most. Fitted to 200 correct exports, each of these factors is exceeded in less than one
# comparison in 10**8. In half precision, floor and graph round in the same places and agree better than two draws do.
# docs/decisions/0003-tolerances.md has the measurements.
FACTOR: dict[Precision, Distance] = {"fp32": Distance(overall=8.0, channel=8.0), "fp16": Distance(2.0, 4.0)}

# Half precision has eleven bits. A network that amplifies rounding by 2**11 has none of them left: beyond that, neither
# the comparison nor the deployment means anything. A single channel may be that much worse than all of them together
# as small channels are judged against the tensor (metrics.WEAKEST_CHANNEL).
WORST_AMPLIFICATION = Distance(overall=2.0**11, channel=2.0**11 / WEAKEST_CHANNEL)


# A tensor of so few numbers has no more roundings behind it than a channel has: a squeeze-and-excitation block's 96
# scales come from 24 sums.
FEW = 256
# The logarithm of the ratio of two draws of n numbers each deviates by about 1 / sqrt(n); 5.6 of those make more room
# than a factor of 4 below 16 numbers. By the F distribution that is exceeded once in 2 million for 16 numbers, in
# 25,000 for four, in 3,000 for two: two scores may agree to any digit by chance, and no factor is sure of them.
DEVIATIONS = 5.6


def tolerance(floor: Distance, precision: Precision, size: int | None = None) -> Distance:
    """The distance allowed to a tensor whose noise floor is `floor`; never below the unit roundoff's own.

    `size` is how many numbers the tensor holds; None stands for many.
    """
    unit, factor = UNIT_ROUNDOFF[precision], FACTOR[precision]
    if size is not None and 0 < size <= FEW:
        room = math.exp(DEVIATIONS / math.sqrt(size))
        factor = Distance(max(factor.channel, room), max(factor.channel, room))
    return Distance(factor.overall * max(floor.overall, unit), factor.channel * max(floor.channel, unit))


def trust_in_fp32() -> Distance:
    """How far PyTorch in float32 may be from float64 before the network itself is too ill-conditioned to judge."""
    unit = UNIT_ROUNDOFF["fp32"]
    return Distance(unit * WORST_AMPLIFICATION.overall, unit * WORST_AMPLIFICATION.channel)


def excess(found: Distance, allowed: Distance) -> float:
    """How many times the tolerance is used: above 1 is a failure.

    Infinite, too, where the tolerance is: a precision that overflows sets no floor, and anything would pass.
    """
    if not all(map(math.isfinite, (found.overall, found.channel, allowed.overall, allowed.channel))):
        return math.inf
    return max(found.overall / allowed.overall, found.channel / allowed.channel)

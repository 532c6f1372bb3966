"""What samples say: effects of rounds and variants, ratios with intervals, and signs that they say nothing.

A visit is what one round has of one variant: a few runs one after the other, whose median counts. Logarithms of visits
are variant + round + rest, fitted by median polish, so that what slows the machine slows a round, not a variant.
Neighbouring rounds are alike, so intervals come from resampling whole blocks of whole rounds. Everything here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Samples = Sequence[Sequence[float]]  # for every round the seconds of each run

REPLICATES = 1000
POLISH_PASSES = 20
POLISHED = 1e-9
CERTAIN = 95.0  # per cent: what intervals cover unless another share is asked for

# Standard deviation of a logarithm of a ratio from launch to launch, where nothing else is known, and its weight.
USUAL_LAUNCH = 0.005
USUAL_WEIGHT = 4
# And from run to run, as a share of what visits scatter. A machine whose visits scatter by 4 % is one that others use,
# and they favour now one artifact and now another for longer than a run takes, so that nothing in it shows it. Found by
# repeated runs: without it, 84 of 100 intervals held the others' mean, with it 95 (benchmarks/bench_noise.py, grid).
LASTING_SHARE = 0.125

# Two humps: the best cut of the samples in two leaves next to no spread inside the halves, which are far apart, and
# neither half is a handful of outliers. The best cut explains 64 % of a normal distribution's variance, 75 % of a
# uniform one's, so 85 % is neither.
HUMPS_EXPLAIN = 0.85
HUMPS_APART = 0.05
LEAST_HUMP = 0.1
MOST_FOR_HUMPS = 4000


@dataclass(frozen=True)
class Fit:
    """Logarithms of seconds as `variants` (V,) + `rounds` (R,) + `rest` (R, V); the rounds' median is 0."""

    variants: Array
    rounds: Array
    rest: Array


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval, as a share of the value."""
        return (self.high - self.low) / 2 / self.value if self.value else math.inf

    def exp(self) -> Interval:
        """Of a logarithm, the interval of the figure itself."""
        return Interval(math.exp(self.value), math.exp(self.low), math.exp(self.high))


def visits(columns: Sequence[Samples]) -> Array:
    """The logarithm of every visit's median: (rounds, variants). All have the same rounds."""
    return np.array([[math.log(_median(runs)) for runs in samples] for samples in columns], np.float64).T


def _median(runs: Sequence[float]) -> float:
    ordered = sorted(runs)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def polish(logs: Array) -> Fit:
    """Fit (R, V) logarithms by median polish. Source: Tukey 1977, "Exploratory Data Analysis", chapter 11."""
    rest = np.array(logs, np.float64)
    rounds, variants = np.zeros(rest.shape[0]), np.zeros(rest.shape[1])
    for _ in range(POLISH_PASSES):
        by_round = np.median(rest, axis=1)
        rest -= by_round[:, None]
        by_variant = np.median(rest, axis=0)
        rest -= by_variant
        rounds, variants = rounds + by_round, variants + by_variant
        if max(np.abs(by_round).max(), np.abs(by_variant).max()) < POLISHED:
            break
    middle = float(np.median(rounds))
    return Fit(variants + middle, rounds - middle, rest)


def resampled(size: int, seed: int, count: int = REPLICATES) -> NDArray[np.intp]:
    """(count, size) numbers of rounds, drawn in runs of neighbours.

    A run is as long as the cube root of the rounds, begins anywhere, and goes on at the beginning where it meets the
    end. Source: Politis and Romano 1992, "A circular block-resampling procedure for stationary data".
    """
    length = _run_length(size)
    starts = np.random.default_rng(seed).integers(0, size, (count, math.ceil(size / length)))
    picked = (starts[:, :, None] + np.arange(length)) % size
    return np.asarray(picked.reshape(count, -1)[:, :size])


def _run_length(size: int) -> int:
    return max(1, round(math.pow(size, 1 / 3)))


def _levels(table: Array, launches: Sequence[int], seed: int, count: int) -> tuple[Array, Array]:
    """The level of every column of (R, V): (V,), and its replicates (count, V).

    Every launch has a median of its own, and they are averaged by their numbers of rounds: the median of all rounds
    would be that of the launch in the middle. Resampling gives the medians of few rounds too little scatter, as its
    runs of neighbours repeat: the factor puts that right.
    """
    numbers = np.asarray(launches)
    value, drawn = np.zeros(table.shape[1]), np.zeros((count, table.shape[1]))
    for launch in dict.fromkeys(launches):
        part = table[numbers == launch]
        size, weight = len(part), len(part) / len(table)
        median = np.median(part, axis=0)
        scatter = np.median(part[resampled(size, seed + launch, count)], axis=1) - median
        value += weight * median
        drawn += weight * scatter * math.sqrt(size / max(1, size - _run_length(size)))
    return value, value + drawn


def log_ratios(
    logs: Array,
    launches: Sequence[int],
    against: int,
    seed: int,
    count: int = REPLICATES,
    only: Sequence[int] | None = None,
) -> Replicates:
    """The logarithm of every variant's time as a multiple of that of variant `against`, and its replicates.

    Each is the median polish of the two alone, which is the median of their differences: polished all together, the
    effects stop at one of many resting places, and scatter more than resampling can tell. `only` names the variants
    that are wanted; what a launch is worth is learnt from all of them in any case.
    """
    differences = logs - logs[:, [against]]
    columns = list(range(logs.shape[1]) if only is None else only)
    values, drawn = _levels(differences[:, columns], launches, seed, count)
    others = np.delete(differences, against, axis=1)
    error, freedom = _between_launches(others, launches)
    noise = np.random.default_rng([seed, 1]).standard_t(freedom, drawn.shape) * error
    noise[:, [column == against for column in columns]] = 0.0
    return Replicates(values, drawn + noise)


@dataclass(frozen=True)
class Replicates:
    """Estimates (V,), and what they might as well have been (replicates, V); all of them logarithms."""

    values: Array
    drawn: Array

    def interval(self, variant: int, certain: float = CERTAIN) -> Interval:
        """The interval of one variant's estimate."""
        return interval(float(self.values[variant]), self.drawn[:, variant], certain)


def interval(value: float, drawn: Array, certain: float = CERTAIN) -> Interval:
    """The middle `certain` per cent of what was drawn; it always holds the value."""
    tail = (100.0 - certain) / 2
    low, high = (float(edge) for edge in np.percentile(drawn, [tail, 100.0 - tail]))
    return Interval(value, min(low, value), max(high, value))


def _between_launches(differences: Array, launches: Sequence[int]) -> tuple[float, int]:
    """How far launches, and the hour, move the average over them: the standard error, shared by all variants (R, V),
    and its degrees of freedom for Student's t.

    Every process lays out its memory in its own way, and that is worth something which no number of rounds in it takes
    away. What rounds alone scatter is taken off. Few launches of few variants tell little, and may show nothing by
    chance, so what is usual weighs in as much as `USUAL_WEIGHT` observations more. Source of that form: Smyth 2004,
    "Linear models and empirical Bayes methods for assessing differential expression", section 3.
    """
    numbers = np.asarray(launches)
    groups = [differences[numbers == launch] for launch in dict.fromkeys(launches)]
    weights = sum((len(group) / len(differences)) ** 2 for group in groups)
    freedom, extra = (len(groups) - 1) * differences.shape[1], 0.0
    if freedom:
        medians = np.array([np.median(group, axis=0) for group in groups])
        own = np.mean([_variance_of_median(group) for group in groups], axis=0)
        extra = max(0.0, float((medians.var(axis=0, ddof=1) - own).mean()))
    variance = (USUAL_WEIGHT * USUAL_LAUNCH**2 + freedom * extra) / (USUAL_WEIGHT + freedom)
    lasting = LASTING_SHARE * float(np.mean([np.median(_deviation(group)) for group in groups]))
    # What a launch does to the reference, it does to all ratios: for the tails, they are no independent observations.
    return math.hypot(math.sqrt(variance * weights), lasting), USUAL_WEIGHT + len(groups) - 1


def _deviation(group: Array) -> Array:
    """The standard deviation of each column, were it normal: 1.4826 MAD."""
    return np.asarray(1.4826 * np.median(np.abs(group - np.median(group, axis=0)), axis=0))


def _variance_of_median(group: Array) -> Array:
    """Of each column: pi / 2 / n times that of n normal numbers."""
    return np.asarray(math.pi / 2 / len(group) * _deviation(group) ** 2)


def log_level(samples: Samples, launches: Sequence[int], seed: int, count: int = REPLICATES) -> Replicates:
    """The logarithm of the median of visits, as it was on this machine at that time."""
    return Replicates(*_levels(visits([samples]), launches, seed, count))


def percentile(samples: Samples, share: float) -> float:
    """The percentile (0 to 100) of all runs, in seconds."""
    return float(np.percentile(_flat(samples), share))


def mean(samples: Samples) -> float:
    """The mean of all runs, in seconds."""
    return float(_flat(samples).mean())


def _flat(samples: Samples) -> Array:
    return np.array([seconds for runs in samples for seconds in runs], np.float64)


def drift(values: Array) -> Interval:
    """The median of the second half of (R,) logarithms less that of the first, with its interval.

    0 and certain where there are too few to halve.
    """
    half = len(values) // 2
    if half == 0:
        return Interval(0.0, 0.0, 0.0)
    parts = [part[:, None] for part in (values[:half], values[-half:])]
    (first, ours), (second, theirs) = (_levels(part, [0] * half, seed, REPLICATES) for seed, part in enumerate(parts))
    return interval(float(second[0] - first[0]), theirs[:, 0] - ours[:, 0])


def round_spread(rounds: Array) -> float:
    """How much slower the round at the 90th percentile was than the one at the 10th, as a share."""
    low, high = np.percentile(rounds, [10, 90])
    return math.expm1(float(high - low))


def two_humps(values: Array) -> float | None:
    """How far apart two humps of (n,) logarithms are; None where there is one."""
    ordered = np.sort(values)
    if len(ordered) > MOST_FOR_HUMPS:
        ordered = ordered[np.linspace(0, len(ordered) - 1, MOST_FOR_HUMPS).astype(int)]
    size, total = len(ordered), float(ordered.var())
    least = max(2, math.ceil(LEAST_HUMP * size))
    if size < 2 * least or total == 0.0:
        return None
    cuts = np.arange(least, size - least + 1)
    sums = np.cumsum(ordered)
    left, right = sums[cuts - 1] / cuts, (sums[-1] - sums[cuts - 1]) / (size - cuts)
    between = cuts * (size - cuts) / size**2 * (right - left) ** 2
    best = int(np.argmax(between))
    apart = float(np.median(ordered[cuts[best] :]) - np.median(ordered[: cuts[best]]))
    return apart if between[best] / total >= HUMPS_EXPLAIN and apart >= HUMPS_APART else None


def runs_without_rounds(samples: Samples, rounds: Array) -> Array:
    """The logarithm of every single run less the effect of its round: (n,)."""
    parts: list[Any] = [np.log(runs) - effect for runs, effect in zip(samples, rounds, strict=True)]
    return np.asarray(np.concatenate(parts))

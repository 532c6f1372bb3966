"""The best variant inside a budget, and why each other lost.

A measurement is inside the latency budget where the upper end of its percentile's 95 % interval is: what is said to
fit fits again tomorrow. Accuracy is what `edgekit eval` measured, if it was run on the same images for all that fit.
Otherwise it is not made up: variants are then ranked by published figures, where every one that fits has one, or else
by their multiply-accumulates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.bench.record import Result
from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.report import digits
from edgekit.report.gather import Gathered, Measured, Point, gather

if TYPE_CHECKING:
    from edgekit.bench.statistics import Array, Interval

By = Literal["measured-top1", "published-top1", "macs"]

TIMES = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}  # both signs for micro
SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_QUANTITY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([^\s0-9]*)\s*")
REPLICATES = 400


@dataclass(frozen=True)
class Budget:
    """What is allowed. `latency_ms` is milliseconds at `percentile` (0 to 100), `size` in bytes, `accuracy` is top-1
    in per cent, measured or else published, `runtime` the only one that counts.
    """

    latency_ms: float
    percentile: float = 50.0
    size: float | None = None
    accuracy: float | None = None
    runtime: str | None = None


@dataclass(frozen=True)
class Candidate:
    """One artifact under one runtime, held against the budget. `lost` is empty for the one that was picked.

    `latency_ms` and `upper_ms` (the end of its 95 % interval) are milliseconds at the budget's percentile; None where
    there are too few runs to know it. `valid`: whether its measurement can be relied on. `top1` is published,
    `measured` what labelled images showed.
    """

    slug: str
    series: str
    runtime: str
    precision: str
    kind: str
    batch: int
    latency_ms: float | None
    upper_ms: float | None
    bytes: int
    macs: int | None
    top1: float | None
    top1_by: str | None
    valid: bool
    fits: bool
    lost: tuple[str, ...]
    measured: Measured | None = None


@dataclass(frozen=True)
class Pick:
    """The best candidate, or None where none fits; the others in the order of their rank. `by` is what ranked them."""

    best: Candidate | None
    others: tuple[Candidate, ...]
    by: By
    notes: tuple[str, ...]


# --- Words -----------------------------------------------------------------------------------------------------------


def milliseconds(option: str, text: str) -> float:
    """`5ms`, `800us`, `0.01s` in milliseconds. Raises UsageError for anything else."""
    return _quantity(option, text, TIMES, "a time with its unit: 800us, 5ms, 0.01s")


def size(option: str, text: str) -> float:
    """`10MB` (10^7 bytes) or `10MiB` in bytes, capitals or not. Raises UsageError for anything else."""
    return _quantity(option, text, SIZES, "a size with its unit: 900kB, 10MB, 10MiB")


def percent(option: str, text: str) -> float:
    """`70%` as 70.0. Raises UsageError for anything else: 0.7 and 70 could both be meant as a share or as per cent."""
    value = _quantity(option, text, {"%": 1.0}, "per cent with their sign: 70%")
    if value > 100:
        raise UsageError("this is more than everything", where=option, got=text, wanted="at most 100%")
    return value


def share(option: str, text: str) -> float:
    """`99`, `p99` or `99.9` as a percentile above 0 and below 100. Raises UsageError for anything else."""
    found = re.fullmatch(r"[pP]?([0-9]+(?:\.[0-9]+)?)", text.strip())
    value = float(found[1]) if found else math.nan
    if not 0 < value < 100:
        raise UsageError("not a percentile", where=option, got=text, wanted="a number above 0 and below 100, as 99")
    return value


def _quantity(option: str, text: str, units: Mapping[str, float], wanted: str) -> float:
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise UsageError("not a number with a unit", where=option, got=text, wanted=wanted)
    unit = found[2].lower()
    if unit not in units:
        what = "a unit that is not known" if unit else "the unit is missing"
        raise UsageError(what, where=option, got=text, wanted=wanted, hint=did_you_mean(unit, list(units)))
    value = float(found[1]) * units[unit]
    if not (math.isfinite(value) and value > 0):
        raise UsageError("this leaves nothing", where=option, got=text, wanted="a finite number above 0")
    return value


# --- Choice ----------------------------------------------------------------------------------------------------------


def pick(folder: Path, budget: Budget, bench: Path | None = None) -> Pick:
    """The best variant of a folder inside the budget, by its benchmark.

    Raises InputUnusable where there is none, UsageError for a runtime that it has no measurement of.
    """
    gathered = gather(folder, bench)
    if gathered.bench is None or not gathered.points:
        raise InputUnusable(
            "nothing was measured there", where=str(folder), wanted="a bench.json", hint=f"edgekit bench {folder}"
        )
    points = _of_runtime(gathered.points, budget.runtime)
    return choose([_candidate(gathered, point, budget) for point in points], budget, _notes(points))


def _of_runtime(points: Sequence[Point], runtime: str | None) -> list[Point]:
    chosen = [point for point in points if runtime in (None, point.result.contract.runtime)]
    if not chosen and runtime is not None:
        names = list(dict.fromkeys(point.result.contract.runtime for point in points))
        hint = did_you_mean(runtime, names)
        raise UsageError("nothing was measured with that runtime", where="--runtime", got=runtime, hint=hint)
    return chosen


def _notes(points: Sequence[Point]) -> tuple[str, ...]:
    """What one has to know to compare the latencies: they are not all of one kind."""
    contracts = [it.result.contract for it in points]
    kinds = dict.fromkeys((it.clock, it.transfers, it.batch, it.scenario) for it in contracts)
    if len(kinds) < 2:
        return ()
    words = "; ".join(f"{clock} clock, transfers {moved}, batch {batch}, {how}" for clock, moved, batch, how in kinds)
    return (f"not all latencies mean the same ({words}): --runtime picks among those that do",)


def choose(candidates: Sequence[Candidate], budget: Budget, notes: Sequence[str] = ()) -> Pick:
    """Rank those that fit; the others keep their reasons.

    Larger is better in accuracy (or MACs, where an accuracy is missing); then the lower upper latency wins, then the
    smaller file, then the name that comes first.
    """
    fitting = [it for it in candidates if it.fits]
    by = _by(fitting)
    ranked = sorted(fitting, key=lambda it: _rank(it, by))
    unfit = sorted((it for it in candidates if not it.fits), key=_distance)
    losers = [_beaten(it, ranked[0], by) for it in ranked[1:]]
    told = (*notes, _ranking(by, fitting), _latency_note(budget))
    return Pick(ranked[0] if ranked else None, (*losers, *unfit), by, tuple(note for note in told if note))


def _by(fitting: Sequence[Candidate]) -> By:
    """Accuracy on the same images where all have it, then published accuracy where all have that."""
    data = {it.measured.data if it.measured else None for it in fitting}
    if len(data) == 1 and None not in data:
        return "measured-top1"
    return "published-top1" if fitting and all(it.top1 is not None for it in fitting) else "macs"


def _rank(it: Candidate, by: By) -> tuple[float, float, int, str, str]:
    return -(_worth(it, by) or 0.0), _upper(it), it.bytes, it.slug, it.series


def _distance(it: Candidate) -> tuple[bool, int, float, str, str]:
    """What is sure and misses least comes first."""
    return not it.valid, len(it.lost), _upper(it), it.slug, it.series


def _upper(it: Candidate) -> float:
    return math.inf if it.upper_ms is None else it.upper_ms


def _worth(it: Candidate, by: By) -> float | None:
    if by == "measured-top1":
        return it.measured.top1 if it.measured else None
    return it.top1 if by == "published-top1" else it.macs


def _ranking(by: By, fitting: Sequence[Candidate]) -> str:
    if not fitting:
        return ""
    if by == "measured-top1":
        found = fitting[0].measured
        return f"ranked by top-1 as edgekit eval measured it: {found.on if found else ''}"
    if by == "macs":
        return (
            "accuracy was not measured, and not every variant that fits has a published one: ranked by "
            "multiply-accumulates, as more of them mostly mean more accuracy"
        )
    publishers = ", ".join(dict.fromkeys(it.top1_by for it in fitting if it.top1_by))
    return (
        f"accuracy was not measured: ranked by ImageNet top-1 as published by {publishers} for weights of their own, "
        "which these need not be"
    )


def _latency_note(budget: Budget) -> str:
    name = "the median" if budget.percentile == 50 else f"p{budget.percentile:g}"
    return f"latency is {name} at the upper end of its 95 % interval"


def _beaten(it: Candidate, best: Candidate, by: By) -> Candidate:
    """A candidate that fits, with why the best one is preferred."""
    ours, theirs = _worth(it, by), _worth(best, by)
    if ours != theirs:
        reason = _less(ours, theirs, by)
    elif it.upper_ms != best.upper_ms:
        over = _upper(it) - _upper(best)
        reason = f"as {'large' if by == 'macs' else 'accurate'}, but slower by {_ms(over)}"
    elif it.bytes != best.bytes:
        reason = f"as good and as fast, but larger by {digits.size(it.bytes - best.bytes)}"
    else:
        reason = "equal in everything; its name comes later"
    return replace(it, lost=(reason,))


def _less(ours: float | None, theirs: float | None, by: By) -> str:
    if by != "macs":
        how, places = ("as published", 1) if by == "published-top1" else ("as measured", 2)
        return f"less accurate: {ours:.{places}f} % against {theirs:.{places}f} %, {how}"
    shown = digits.millions(ours) if ours is not None else "an unknown number of"
    return f"smaller: {shown} against {digits.millions(theirs or 0)} MACs"


def _candidate(gathered: Gathered, point: Point, budget: Budget) -> Candidate:
    result = point.result
    level = latency(gathered, result, budget.percentile)
    reasons = _reasons(point, budget, level)
    return Candidate(
        result.subject.slug,
        point.series,
        result.contract.runtime,
        result.contract.precision,
        result.subject.kind,
        result.contract.batch,
        level.value if level else None,
        level.high if level else None,
        result.subject.bytes,
        result.subject.macs,
        point.published.top1 if point.published else None,
        point.published.by if point.published else None,
        point.valid,
        not reasons,
        tuple(reasons),
        point.measured,
    )


# --- What speaks against a candidate ----------------------------------------------------------------------------------


def _reasons(point: Point, budget: Budget, level: Interval | None) -> list[str]:
    """Everything that keeps it out of the budget."""
    invalid = [] if point.valid else [f"INVALID measurement: {'; '.join(point.reasons) or 'no reason given'}"]
    slow = _over_latency(level, budget) if level else _too_few(point, budget)
    return [*invalid, *slow, *_over_size(point, budget.size), *_below_accuracy(point, budget.accuracy)]


def _too_few(point: Point, budget: Budget) -> list[str]:
    runs = sum(map(len, point.result.samples))
    wanted = runs_for(budget.percentile)
    return [f"{runs} runs do not tell p{budget.percentile:g}, which takes {wanted}: edgekit bench --min-time"]


def _over_latency(level: Interval, budget: Budget) -> list[str]:
    if level.high <= budget.latency_ms:
        return []
    over = level.high - budget.latency_ms
    return [f"over the latency by {_ms(over)} ({digits.percent(over / budget.latency_ms, 0)})"]


def _over_size(point: Point, most: float | None) -> list[str]:
    count = point.result.subject.bytes
    if most is None or count <= most:
        return []
    return [f"over the size by {digits.size(count - most)}: {digits.size(count)}"]


def _below_accuracy(point: Point, least: float | None) -> list[str]:
    if least is None:
        return []
    if point.measured is not None:
        return _below_measured(point.measured, least)
    if point.published is None:
        return ["its accuracy is not known: not measured, and not published for this form of the network"]
    found = point.published
    if found.top1 >= least:
        return []
    return [f"below the accuracy by {least - found.top1:.1f} points: {found.top1:.1f} %, as published by {found.by}"]


def _below_measured(found: Measured, least: float) -> list[str]:
    if found.top1 >= least:
        return []
    return [f"below the accuracy by {least - found.top1:.2f} points: {found.top1:.2f} % of {found.on}"]


def _ms(value: float) -> str:
    return f"{digits.significant(value)} ms"


# --- Percentiles -----------------------------------------------------------------------------------------------------


def runs_for(percentile: float) -> int:
    """The runs it takes until one is expected beyond the percentile on its rarer side."""
    return math.ceil(round(100 / min(percentile, 100 - percentile), 6))


def latency(gathered: Gathered, result: Result, percentile: float) -> Interval | None:
    """A percentile of all runs in milliseconds, with an interval from resampling whole rounds; None for too few runs.

    The median is the benchmark's own, with its own interval.
    """
    from edgekit.bench import statistics

    if percentile == 50.0:
        return statistics.Interval(result.latency.p50, *result.latency.ci95)
    if sum(map(len, result.samples)) < runs_for(percentile):
        return None
    value = statistics.percentile(result.samples, percentile)
    found = statistics.interval(value, _replicates(result.samples, _launches(gathered, result), percentile))
    return statistics.Interval(found.value * 1e3, found.low * 1e3, found.high * 1e3)


def _replicates(samples: Sequence[Sequence[float]], launches: Sequence[int], percentile: float) -> Array:
    """What the percentile might as well have been: rounds are drawn anew in each launch."""
    import numpy as np

    from edgekit.bench import statistics

    longest = max(map(len, samples))
    table = np.array([[*runs, *[math.nan] * (longest - len(runs))] for runs in samples])
    numbers = np.asarray(launches)
    members = [np.flatnonzero(numbers == launch) for launch in dict.fromkeys(launches)]
    drawn = [own[statistics.resampled(len(own), seed, REPLICATES)] for seed, own in enumerate(members)]
    runs = table[np.concatenate(drawn, axis=1)].reshape(REPLICATES, -1)
    whole = not np.isnan(table).any()  # the other function is slow
    return np.asarray((np.percentile if whole else np.nanpercentile)(runs, percentile, axis=1))


def _launches(gathered: Gathered, result: Result) -> Sequence[int]:
    """Which process measured each round: the reference knows; one for all where there is none of as many rounds."""
    assert gathered.bench is not None
    rounds = len(result.samples)
    for reference in gathered.bench.references:
        if reference.runtime == result.contract.runtime and len(reference.launches) == rounds:
            return reference.launches
    return [0] * rounds

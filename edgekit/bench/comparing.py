"""Two benchmarks against each other, and two results of one: ratios with intervals, never of unlike things.

A ratio of two files is one of ratios to the reference where both have the same one, so that a machine that is slower
today cancels out. A difference counts only where the 99 % interval says so and it is larger than what moving a program
about in memory is worth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from edgekit.bench import scenarios, statistics
from edgekit.bench.record import BenchFile, Contract, Reference, Result
from edgekit.bench.statistics import Interval, Replicates
from edgekit.errors import UsageError

SURE = 99.0  # per cent: what an interval must cover before a difference is called one
# The layout of a process in memory moves a latency by about this much, and a whole run with it.
FLOOR = 0.01
CHANGES = ("slower", "faster", "the same")
Change = Literal["slower", "faster", "the same"]
Basis = Literal["reference", "latency"]


@dataclass(frozen=True)
class Compared:
    """One name in both files: the second's latency as a multiple of the first's. `sure` covers 99 %, `ci95` 95 %.

    `basis`: ratios to the same reference, or milliseconds, which another load on the machine changes as well.
    """

    name: str
    ratio: float
    ci95: tuple[float, float]
    sure: tuple[float, float]
    change: Change
    basis: Basis

    def slower_by(self, share: float) -> bool:
        """Whether the interval supports that it is slower by more than this share."""
        return self.change == "slower" and self.sure[0] > 1 + share


@dataclass(frozen=True)
class Comparison:
    """What both files have, and what only one of them has."""

    shared: tuple[Compared, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare(first: BenchFile, second: BenchFile, across: Collection[str] = ()) -> Comparison:
    """The second against the first. Raises UsageError where machines or contracts differ, naming every field.

    `across` names fields that may differ all the same, for example `versions` or `machine.kernel`.
    """
    ours, theirs = ({result.name: result for result in file.results} for file in (first, second))
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise UsageError(
            "the two files have nothing in common",
            got=f"{_few(ours)} and {_few(theirs)}",
            hint="edgekit bench names a result by its variant, artifact and runtime",
        )
    _refuse_unlike(first, second, [(ours[name], theirs[name]) for name in shared], across)
    one, other = _rounds(first), _rounds(second)
    return Comparison(
        tuple(_compared(name, _side(one, ours[name]), _side(other, theirs[name])) for name in shared),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
    )


def _rounds(file: BenchFile) -> dict[str, Rounds]:
    runtimes = dict.fromkeys(result.contract.runtime for result in file.results)
    return {runtime: Rounds(file, runtime) for runtime in runtimes}


def _side(rounds: Mapping[str, Rounds], result: Result) -> _Side:
    return _Side(rounds[result.contract.runtime], result)


def _few(names: Collection[str]) -> str:
    return ", ".join(list(names)[:3]) + (" ..." if len(names) > 3 else "") if names else "nothing"


def _refuse_unlike(
    first: BenchFile, second: BenchFile, pairs: Sequence[tuple[Result, Result]], across: Collection[str]
) -> None:
    found = dict.fromkeys(_machines_differ(first, second))
    found |= dict.fromkeys(difference for one, other in pairs for difference in _contracts_differ(one, other))
    unlike = [(name, one, other) for name, one, other in found if name not in across]
    if unlike:
        names = list(dict.fromkeys(name for name, _, _ in unlike))
        raise UsageError(
            "the two were not measured alike",
            where=", ".join(names),
            got="; ".join(f"{name}: {one} and {other}" for name, one, other in unlike[:8]),
            wanted="the same machine and the same contract",
            hint=f"measure again, or, if that is the very thing to compare: --across {','.join(names)}",
        )


def _machines_differ(first: BenchFile, second: BenchFile) -> Iterator[tuple[str, str, str]]:
    for name in {**first.machine, **second.machine}:
        one, other = first.machine.get(name, "not known"), second.machine.get(name, "not known")
        if one != other:
            yield f"machine.{name}", one, other


def _contracts_differ(one: Result, other: Result) -> Iterator[tuple[str, str, str]]:
    for slot in fields(Contract):
        ours, theirs = getattr(one.contract, slot.name), getattr(other.contract, slot.name)
        if ours != theirs:
            yield slot.name, str(ours), str(theirs)


class Rounds:
    """What one runtime measured, as one table: the reference first, then the results, all of the same rounds."""

    def __init__(self, file: BenchFile, runtime: str) -> None:
        self.results = [result for result in file.results if result.contract.runtime == runtime]
        self.reference = next((it for it in file.references if it.runtime == runtime), None)
        first = [self.reference.samples] if self.reference else []
        self.names = ([""] if self.reference else []) + [result.name for result in self.results]
        self.logs = statistics.visits([*first, *(result.samples for result in self.results)])
        # Of one process, where nobody says.
        self.launches = self.reference.launches if self.reference else (0,) * len(self.logs)

    def ratio(self, one: Result, other: Result | None, seed: int = 0) -> Replicates:
        """The logarithm of one latency as a multiple of another's; None is the reference's.

        What launches do to the reference, which is small, says nothing of two others.
        """
        first = 0 if other is None or self.reference is None else 1
        names, logs = self.names[first:], self.logs[:, first:]
        column, against = names.index(one.name), names.index(other.name if other else "")
        return statistics.log_ratios(logs, self.launches, against, seed, only=[column])


@dataclass(frozen=True)
class _Side:
    """A result, and the rounds that it is of."""

    rounds: Rounds
    result: Result

    @property
    def reference(self) -> Reference | None:
        """What its ratio is one to; None for the reference itself."""
        return None if self.result.ratio is None else self.rounds.reference

    def to_reference(self, seed: int) -> Replicates:
        """The logarithm of its ratio."""
        return self.rounds.ratio(self.result, None, seed)

    def level(self, seed: int) -> Replicates:
        """The logarithm of its seconds. A scenario's are of one process, and may lie in one row."""
        if self.result.contract.scenario == "rounds":
            return statistics.log_level(self.result.samples, self.rounds.launches, seed)
        blocks = scenarios.in_blocks([seconds for window in self.result.samples for seconds in window])
        return statistics.log_level(blocks, (0,) * len(blocks), seed)


def _compared(name: str, first: _Side, second: _Side) -> Compared:
    basis = _basis(first, second)
    if basis == "reference":
        one, other = first.to_reference(1), second.to_reference(2)
    else:
        one, other = first.level(1), second.level(2)
    value, drawn = float(other.values[0] - one.values[0]), other.drawn[:, 0] - one.drawn[:, 0]
    ci95 = statistics.interval(value, drawn).exp()
    sure = statistics.interval(value, drawn, SURE).exp()
    return Compared(name, ci95.value, (ci95.low, ci95.high), (sure.low, sure.high), change(sure), basis)


def _basis(first: _Side, second: _Side) -> Basis:
    """The reference, where it is the same and runs on the same software: else its own change would hide another's."""
    one, other = first.reference, second.reference
    alike = one is not None and other is not None and one.sha256 == other.sha256
    same_software = first.result.contract.versions == second.result.contract.versions
    return "reference" if alike and same_software else "latency"


def change(sure: Interval) -> Change:
    """What a ratio's interval says."""
    if sure.low > 1.0 and sure.value > 1 + FLOOR:
        return "slower"
    return "faster" if sure.high < 1.0 and sure.value < 1 / (1 + FLOOR) else "the same"


def regressions(comparison: Comparison, share: float) -> list[Compared]:
    """What is slower by more than this share, beyond doubt."""
    return [it for it in comparison.shared if it.slower_by(share)]


def undecided(comparison: Comparison, share: float) -> list[Compared]:
    """What may or may not be slower by this share: the interval holds both."""
    return [it for it in comparison.shared if it.sure[0] <= 1 + share < it.sure[1]]


def widest(comparison: Comparison) -> float:
    """Half the widest 95 % interval, as a share."""
    return float(np.max([(it.ci95[1] - it.ci95[0]) / 2 / it.ratio for it in comparison.shared]))

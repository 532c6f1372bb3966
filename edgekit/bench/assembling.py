"""From the rounds of a runtime to the results that a bench file holds: everything in them is derived from samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from edgekit.bench import checking, statistics, telemetry, verdict
from edgekit.bench.finding import Found
from edgekit.bench.protocol import Course
from edgekit.bench.record import Contract, Latency, Ratio, Reference, Result, Telemetry
from edgekit.bench.runtimes import Settings
from edgekit.bench.statistics import Interval, Replicates, Samples
from edgekit.bench.worker import WARMUP, Loaded
from edgekit.parity.tolerance import Precision

MS = 1e3


@dataclass(frozen=True)
class Assembled:
    """The results of one runtime, what their ratios are ratios to, and how the machine did."""

    results: tuple[Result, ...]
    reference: Reference | None
    machine: Telemetry


def assemble(course: Course, found: Sequence[Found], settings: Settings, batch: int | None, images: bool) -> Assembled:
    """Everything that the course's rounds say."""
    names = course.names()
    if not names or course.reference is None:
        machine = telemetry.summarise([line.reading for line in course.lines], course.load_before, None)
        return Assembled((), None, machine)
    table = _Table(course, names)
    by_name = {f"{it.subject.slug}/{it.subject.kind}/{course.runtime.name}": it for it in found}
    # In the order in which they were found: they were loaded in a random one.
    results = [
        _result(table, name, it, contract_of(course, name, it, settings, batch, images))
        for name, it in by_name.items()
        if name in names
    ]
    return Assembled(tuple(results), table.reference(), table.machine)


class _Table:
    """The samples of one runtime, and what is worked out from all of them together."""

    def __init__(self, course: Course, names: Sequence[str], seed: int = 0) -> None:
        assert course.reference is not None
        self.course, self.names, self.seed = course, names, seed
        self.columns = dict(zip(names, course.columns(), strict=True))
        self.launches = course.launches()
        self.logs = statistics.visits(list(self.columns.values()))
        self.fit = statistics.polish(self.logs)
        self.against = names.index(course.reference[0])
        self.ratios = statistics.log_ratios(self.logs, self.launches, self.against, seed)
        readings = [line.reading for line in course.lines]
        spread = statistics.round_spread(self.fit.rounds)
        machine = telemetry.summarise(readings, course.load_before, spread)
        self.machine = replace(machine, priority=course.priority)

    def reference(self) -> Reference:
        """The samples of what everything is a multiple of."""
        assert self.course.reference is not None
        name, sha256 = self.course.reference
        return Reference(self.course.runtime.name, name, sha256, self.columns[name], tuple(self.launches))

    def ratio(self, name: str) -> Interval | None:
        """To the reference; None for the reference itself."""
        number = self.names.index(name)
        return None if number == self.against else self.ratios.interval(number).exp()


def _result(table: _Table, name: str, found: Found, contract: Contract) -> Result:
    samples, course = table.columns[name], table.course
    level = statistics.log_level(samples, table.launches, table.seed)
    latency, ratio = latency_of(samples, level), table.ratio(name)
    assert course.reference is not None
    parity = tuple(course.parity.get(name, ()))
    loaded = course.loaded[name]
    return Result(
        subject=found.subject,
        contract=contract,
        samples=samples,
        latency=latency,
        ratio=Ratio(course.reference[0], ratio.value, (ratio.low, ratio.high)) if ratio else None,
        throughput_per_s=contract.batch / statistics.mean(samples),
        verdict=verdict.judge(_signs(table, name, ratio or level.interval(0).exp()), table.machine, parity),
        placement=loaded.placement,
        memory=course.memory.get(name),
        parity=parity,
        power_w=table.machine.power_w,
        warmup_s=round(loaded.warmup_s, 4),
        load_s=round(loaded.load_s, 4),
        stages=course.stages.get(name),
    )


def latency_of(samples: Samples, level: Replicates) -> Latency:
    """Milliseconds of all runs; the interval is that of the level, as `statistics.log_level` gives it."""
    p50, p90, p95, p99 = (statistics.percentile(samples, share) * MS for share in (50, 90, 95, 99))
    edge = level.interval(0).exp()
    # The interval is that of the visits' median; the runs' own is another number where visits differ in size.
    low, high = min(edge.low * MS, p50), max(edge.high * MS, p50)
    return Latency(p50, p90, p95, p99, statistics.mean(samples) * MS, (low, high))


def _signs(table: _Table, name: str, shown: Interval) -> verdict.Signs:
    number, samples = table.names.index(name), table.columns[name]
    drift = statistics.drift(table.logs[:, number] - table.fit.rounds)
    runs = statistics.runs_without_rounds(samples, table.fit.rounds)
    return verdict.Signs(
        rounds=len(samples),
        runs=sum(map(len, samples)),
        width=shown.half_width,
        drift=(drift.value, drift.low, drift.high),
        humps=statistics.two_humps(runs),
    )


def contract_of(
    course: Course, name: str, found: Found, settings: Settings, batch: int | None, images: bool
) -> Contract:
    """What a latency of that name means: what was asked for, and what the runtime made of it."""
    loaded: Loaded = course.loaded[name]
    versions = dict(course.runtime.versions())
    return Contract(
        runtime=course.runtime.name,
        clock=course.runtime.clock,
        transfers=loaded.transfers,
        cuda_graph=loaded.cuda_graph,
        spin=loaded.spin,
        threads=loaded.threads,
        batch=found.rows(batch),
        precision=checking.arithmetic(cast(Precision, found.precision), versions),
        warmup=WARMUP,
        inputs="images" if images else "synthetic",
        compiled=settings.compiled,
        versions=versions,
    )

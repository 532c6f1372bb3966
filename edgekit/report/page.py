"""All that the page says, as values: the template only lays it out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields

from edgekit import __version__
from edgekit.bench.record import BenchFile, Contract, Telemetry
from edgekit.report import digits, latency, played, proofs
from edgekit.report.charts import Chart
from edgekit.report.gather import Gathered, word
from edgekit.report.heat import Heat
from edgekit.report.proofs import Details, Facts
from edgekit.report.tables import Row, Table, Value

NEEDS_A_BENCH = "edgekit bench DIR measures it; nothing on this page is a latency"
NEEDS_ROUNDS = "edgekit bench DIR measures it; what scenarios showed is another figure"


@dataclass(frozen=True)
class Tile:
    """One figure at the top of the page; `tone` is good, bad or empty."""

    figure: str
    words: str
    tone: str = ""


@dataclass(frozen=True)
class Page:
    """The whole page, in its order."""

    name: str
    edgekit: str
    created: str
    place: str
    command: str
    tiles: tuple[Tile, ...]
    warnings: tuple[str, ...]
    advice: tuple[str, ...]
    series: tuple[str, ...]
    measured: bool
    heats: tuple[Heat, ...]
    charts: tuple[Chart, ...]
    front: Table | None
    results: Table | None
    played: Table | None
    not_measured: Table
    networks: Table
    details: tuple[Details, ...]
    machine: Facts
    telemetry: Facts
    contracts: Table | None
    references: Table | None
    profiles: Table | None
    makers: tuple[tuple[str, Facts], ...]
    published: tuple[tuple[str, str], ...]


def page(gathered: Gathered) -> Page:
    """The page of what was gathered."""
    bench = gathered.bench
    return Page(
        name=gathered.name,
        edgekit=__version__,
        created=_moment(bench.created) if bench else "",
        place=_place(bench.machine) if bench else "",
        command=bench.command if bench else "",
        tiles=tuple(_tiles(gathered)),
        warnings=tuple(_warnings(gathered)),
        advice=bench.advice if bench else (),
        series=gathered.series,
        measured=bool(gathered.points),
        heats=latency.heats(gathered),
        charts=latency.charts(gathered),
        front=latency.front(gathered),
        results=latency.results(gathered) if gathered.points else None,
        played=played.table(gathered),
        not_measured=not_measured(gathered),
        networks=proofs.networks(gathered),
        details=proofs.details(gathered),
        machine=tuple(bench.machine.items()) if bench else (),
        telemetry=tuple(_telemetry(bench.telemetry)) if bench else (),
        contracts=_contracts(gathered),
        references=_references(bench) if bench else None,
        profiles=proofs.profiles(gathered),
        makers=proofs.makers(gathered),
        published=_publishers(gathered),
    )


def _moment(created: str) -> str:
    """`2026-01-31 09:05 UTC`; what is no time of that form is shown as it stands."""
    found = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)[\d:.]*\+00:00$", created)
    return f"{found[1]} {found[2]} UTC" if found else created


def _place(machine: dict[str, str]) -> str:
    """The machine in a line."""
    cores = f"{machine['cores']} cores" if "cores" in machine else ""
    return ", ".join(it for it in (machine.get("cpu", ""), machine.get("gpu", ""), cores, machine.get("os", "")) if it)


def _tiles(gathered: Gathered) -> Iterator[Tile]:
    variants = gathered.exported
    if variants:
        yield Tile(str(len(variants)), "variant exported" if len(variants) == 1 else "variants exported")
        failed = sum(not it.manifest.passed for it in variants)
        yield Tile("passed" if not failed else f"{failed} failed", "parity and engines", "bad" if failed else "good")
    if not gathered.points:
        yield Tile("not measured", "latency")
        return
    valid = [point for point in gathered.points if point.valid]
    invalid = len(gathered.points) - len(valid)
    yield Tile(f"{len(valid)} of {len(gathered.points)}", "measurements are valid", "bad" if invalid else "good")
    if valid:
        best = min(valid, key=latency.p50)
        subject = best.result.subject
        yield Tile(f"{latency.figure(best.result)} ms", f"fastest valid median: {subject.slug}, {best.series}")


def _warnings(gathered: Gathered) -> Iterator[str]:
    for lost in gathered.unreadable:
        yield f"{lost.slug} cannot be read and is left out. {lost.reason}"
    for it in gathered.exported:
        if it.problems:
            yield f"{it.slug}: its files are not those of its manifest ({'; '.join(it.problems)})."
        failure = it.manifest.parity.first_failure()
        if failure:
            yield f"{it.slug}: parity failed at {failure}."
        for engine in it.manifest.engines:
            if engine.status == "failed":
                yield f"{it.slug}: the engine for profile {engine.profile} failed. {engine.reason or ''}"
    yield from _invalid(gathered)
    if len(latency.groups(gathered)) > 1:
        yield "Not all latencies mean the same (see the contracts): each kind has a Pareto front of its own."


def _invalid(gathered: Gathered) -> Iterator[str]:
    """The reasons against measurements, the most frequent first; a grid mostly shares one."""
    invalid = [point for point in gathered.points if not point.valid]
    reasons = Counter(reason for point in invalid for reason in dict.fromkeys(point.reasons))
    if invalid:
        why = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        yield f"{len(invalid)} of {len(gathered.points)} measurements are INVALID: {why or 'no reason is given'}."


# --- What is not there -----------------------------------------------------------------------------------------------


def not_measured(gathered: Gathered) -> Table:
    """What has no figure, and what it needs to get one. The same need is told once for all variants."""
    heads = (("What", ""), ("Runtime", ""), ("Needs", "to be measured"), ("Variants", "how many it would be"))
    rows = [*_without_figures(gathered.bench), *_always_missing(gathered)]
    return Table("Not measured here", heads, tuple(Row(tuple(map(Value, row))) for row in rows), frozenset({3}))


def _without_figures(bench: BenchFile | None) -> Iterator[tuple[str, str, str, str]]:
    if bench is None:
        return
    for (kind, runtime, needs), count in Counter((it.kind, it.runtime, it.needs) for it in bench.not_measured).items():
        yield f"latency of {kind}", runtime, needs, str(count)


def _always_missing(gathered: Gathered) -> Iterator[tuple[str, str, str, str]]:
    count = str(len(gathered.exported))
    if not gathered.points:
        yield "latency", "every runtime", NEEDS_ROUNDS if gathered.played else NEEDS_A_BENCH, count
    elif missing := {it.slug for it in gathered.exported} - {p.exported.slug for p in gathered.points if p.exported}:
        yield f"latency of {', '.join(sorted(missing))}", "every runtime", "edgekit bench DIR", str(len(missing))
    if without := sum(it.measured("onnx-fp32", "fp32") is None for it in gathered.exported):
        needs = "labelled images: edgekit eval; figures here are published ones, where there are any"
        yield "accuracy", "every runtime", needs, str(without)


# --- Where and how ---------------------------------------------------------------------------------------------------


def _contracts(gathered: Gathered) -> Table | None:
    """Every different contract once; versions are a dictionary, so contracts are told apart by their cells."""
    counts = Counter(_contract(point.series, point.result.contract) for point in gathered.points)
    names = [name for name, _ in _terms(gathered.points[0].result.contract)] if gathered.points else []
    heads = (("Measured", ""), *((name, "") for name in names), ("Results", "measured under it"))
    rows = tuple(Row((*cells, Value(str(count), count))) for cells, count in counts.items())
    return Table("What exactly a latency means", heads, rows, frozenset({len(heads) - 1})) if rows else None


def _contract(series: str, contract: Contract) -> tuple[Value, ...]:
    return Value(series), *(Value(text) for _, text in _terms(contract))


def _terms(contract: Contract) -> list[tuple[str, str]]:
    told = {slot.name: getattr(contract, slot.name) for slot in fields(Contract)}
    told["scenario"] = " ".join(it for it in (contract.scenario, played.terms(contract)) if it)
    words = {name: word(value) for name, value in told.items() if name not in ("versions", "terms")}
    words["versions"] = ", ".join(f"{name} {version}" for name, version in contract.versions.items())
    return [(name.replace("_", " "), text) for name, text in words.items()]


def _references(bench: BenchFile) -> Table | None:
    heads = (
        ("Runtime", ""),
        ("Reference", "what ratios are ratios to"),
        ("Rounds", ""),
        ("Processes", ""),
        ("SHA-256", ""),
    )
    rows = tuple(
        Row(
            (
                Value(it.runtime),
                Value(it.name),
                Value(str(len(it.samples))),
                Value(str(len(set(it.launches)))),
                Value(it.sha256, mark="hash"),
            )
        )
        for it in bench.references
    )
    return Table("References", heads, rows, frozenset({2, 3})) if rows else None


def _telemetry(found: Telemetry) -> Iterator[tuple[str, str]]:
    """What the machine did while it measured; what could not be read is said so."""
    yield "Measured for", f"{found.seconds:.0f} s, {found.rounds} rounds"
    yield "Round spread", _share(found.round_spread)
    yield "Stolen by the host", _share(found.steal)
    yield "Pressure on the processor", _share(found.pressure_cpu)
    yield "Taken by other processes", _share(found.other_load)
    yield "Priority of measuring threads", found.priority or "not stated"
    yield "Load before", "not readable" if found.load_before is None else digits.significant(found.load_before)
    yield "Clock", _span(found.clock_mhz, "MHz")
    yield "Temperature", _span(found.temperature_c, "°C")
    yield "Throttled", "not readable" if found.throttled is None else "yes" if found.throttled else "no"
    yield "Power", "not readable" if found.power_w is None else f"{digits.significant(found.power_w)} W"


def _share(share: float | None) -> str:
    return "not readable" if share is None else digits.percent(share)


def _span(span: tuple[float, float] | None, unit: str) -> str:
    return "not readable" if span is None else f"{span[0]:.0f} to {span[1]:.0f} {unit}"


def _publishers(gathered: Gathered) -> tuple[tuple[str, str], ...]:
    """(who, where) of every published figure that is shown."""
    return tuple({(it.published.by, it.published.source): None for it in gathered.exported if it.published})

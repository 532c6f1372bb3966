"""What scenarios showed: a table of its own, as their latencies are not those of rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgekit.bench.record import Contract, Result
from edgekit.report import digits, latency
from edgekit.report.gather import Gathered, Played
from edgekit.report.tables import Row, Table, Value, number


@dataclass(frozen=True)
class Shown:
    """How one of a result's figures is shown: under which heading, times what, in which form."""

    head: str
    name: str
    form: str
    scale: float = 1.0


SHOWN = (
    Shown("frames", "frames", "{:.0f}"),
    Shown("missed", "missed", "{:.0f}"),
    Shown("idle", "idle", "{:.0%}"),
    Shown("work p50 ms", "work_p50_s", "{:.3g}", 1e3),
    Shown("windows", "windows", "{:.0f}"),
    Shown("tail", "tail_share", "p{:.0f}", 100.0),
    Shown("tail ms", "tail_s", "{:.3g}", 1e3),
    Shown("worst window", "worst_window", "{:.2f} x"),
    Shown("drift", "tail_drift", "{:+.1%}"),
    Shown("LoadGen p90 ms", "p90_s", "{:.3g}", 1e3),
    Shown("LoadGen p99 ms", "p99_s", "{:.3g}", 1e3),
    Shown("LoadGen samples/s", "samples_per_s", "{:.4g}"),
)


def figures(result: Result) -> dict[str, str]:
    """What its scenario judges it by, as text by heading, in the order of `SHOWN`."""
    found = result.figures
    return {it.head: it.form.format(found[it.name] * it.scale) for it in SHOWN if it.name in found}


def terms(contract: Contract) -> str:
    """What a scenario was played by: `rate 30, deadline_s 0.033`."""
    return ", ".join(f"{name} {value:g}" for name, value in contract.terms.items())


HEADS = (
    ("Variant", "the exported network, width and resolution"),
    ("Scenario", "how it was used, and by which figures"),
    ("Runtime", "what ran it, in which precision"),
    ("Median, ms", "of all runs; of paced frames, from when each was there"),
    ("p99, ms", "99 runs in a hundred were faster"),
    ("Images/s", "that came out of it"),
    ("Judged by", "the scenario's own figures"),
    ("Verdict", "whether the measurement can be relied on, and why not"),
    ("Measured", "in UTC, and where, if that is another machine than that of the rest"),
    ("LoadGen's logs", "a folder beside the bench file"),
)


def table(gathered: Gathered) -> Table | None:
    """Every result of every scenario; None where none was played."""
    rows = tuple(Row(tuple(_cells(gathered, it)), target=latency.target(it.point.exported)) for it in gathered.played)
    return Table("Scenarios", HEADS, rows, frozenset({3, 4, 5})).without_empty() if rows else None


def _cells(gathered: Gathered, played: Played) -> Iterator[Value]:
    point, result = played.point, played.point.result
    yield Value(result.subject.slug)
    yield Value(result.contract.scenario, note=terms(result.contract))
    yield Value(f"{result.contract.runtime} {result.contract.precision}")
    yield number(latency.figure(result), result.latency.p50, digits.interval(*result.latency.ci95))
    yield number(latency.at(result, result.latency.p99), result.latency.p99)
    yield number(digits.significant(result.throughput_per_s), result.throughput_per_s)
    yield Value(", ".join(f"{head} {text}" for head, text in figures(result).items()))
    yield Value("VALID", mark="good") if point.valid else Value("INVALID", note="; ".join(point.reasons), mark="bad")
    yield Value(played.file.created.removesuffix("+00:00"), note=_elsewhere(gathered, played))
    yield Value(result.logs or "–")


def _elsewhere(gathered: Gathered, played: Played) -> str:
    if gathered.bench is None or gathered.bench.machine == played.file.machine:
        return ""
    return f"another machine or setup: {played.file.machine.get('cpu', 'not stated')}"

"""Export, parity and latency of the cells, by the functions behind `edgekit export` and `edgekit bench`.

Every finished cell is exported and climbs the ladder with its own weights. Latency hangs on the network, width and
resolution and not on what was learnt, so one seed of each is measured, all of them in the same rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import profile, sources
from edgekit.bench import record, running
from edgekit.bench.finding import Selection, find
from edgekit.bench.protocol import Limits
from edgekit.bench.protocol import Listener as BenchListener
from edgekit.bench.record import BenchFile, Result
from edgekit.errors import EdgekitError
from edgekit.pipeline import Outcome, export_grid
from edgekit.plan import Plan
from edgekit.training import run_folder
from edgekit.training.experiment import folder
from edgekit.training.experiment.request import Cell
from edgekit.variant import Variant


@dataclass(frozen=True)
class Wish:
    """What is to be done with the trained cells: exported with these profiles, and, with `bench`, measured by these
    runtimes (none: every one that runs here), each for so many seconds at most.
    """

    profiles: tuple[str, ...] = ("rtx",)
    engines: bool = True
    bench: bool = False
    runtimes: tuple[str, ...] = ()
    max_time_s: float = 30.0


@dataclass(frozen=True)
class Exported:
    """A cell's export: its folder, whether the ladder passed, and the reason where it did not."""

    cell: str
    dir: str
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Timed:
    """The latency of one network, width and resolution under one runtime: the median in milliseconds on this machine.

    `cell` is the one that was measured. An INVALID figure has reasons, and is not to be relied on.
    """

    cell: str
    model: str
    alpha: float | None
    resolution: int
    kind: str
    runtime: str
    p50_ms: float
    low_ms: float
    high_ms: float
    valid: bool
    reasons: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """What latencies can be compared within."""
        return f"{self.runtime}, {self.kind}"


@dataclass(frozen=True)
class Measured:
    """measured.json: what became of every cell's export, latencies, and what could not be measured and why."""

    exported: tuple[Exported, ...] = ()
    timed: tuple[Timed, ...] = ()
    not_measured: tuple[str, ...] = ()


NOTHING = Measured()
NAME = "measured.json"


def measure(
    out: Path, cells: Sequence[Cell], wish: Wish, hear: Callable[[Cell, Outcome], None], bench: BenchListener
) -> tuple[Measured, tuple[EdgekitError, ...]]:
    """Export the cells, which are finished, and measure them where that is wished; what is there already is kept.

    Returns what was found and what went wrong with it. Raises UsageError for profiles and runtimes that there are not.
    """
    outcomes = {cell: _export(out, cell, wish, hear) for cell in cells}
    exported = tuple(_exported(out, cell, outcome) for cell, outcome in outcomes.items())
    errors = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
    good = {outcome.directory: cell for cell, outcome in outcomes.items() if outcome.error is None}
    timed: tuple[Timed, ...] = ()
    missing: tuple[str, ...] = ()
    if wish.bench and good:
        finished = running.run(_request(out, _one_seed(good), wish), bench)
        timed, missing = tuple(_timed(out, finished.file, good)), _missing(finished.file)
        errors += finished.errors
    found = Measured(exported, timed, missing)
    folder.write_json(out / NAME, found)
    return found, tuple(errors)


def read(out: Path) -> Measured:
    """What was measured there; nothing where nothing was. Raises InputUnusable for a damaged file."""
    return folder.read_json(out / NAME, Measured) if (out / NAME).exists() else NOTHING


def _export(out: Path, cell: Cell, wish: Wish, hear: Callable[[Cell, Outcome], None]) -> Outcome:
    """Each on its own: the cells of one network and seed go by one name, which a plan knows one source for."""
    place = folder.run_of(out, cell)
    source, run = sources.parse_source(str(place)), run_folder.read(place)
    plan = Plan(
        weights=sources.parse_weights("none", source=source),
        sources=(source,),
        profiles=tuple(profile.load(name) for name in wish.profiles),
        engines=wish.engines,
        out=folder.exports_of(out),
    )
    variant = Variant(source.slug, run.alpha, run.resolution)
    (outcome,) = export_grid([variant], plan)
    hear(cell, outcome)
    return outcome


def _exported(out: Path, cell: Cell, outcome: Outcome) -> Exported:
    reason = outcome.error.what if outcome.error else ""
    return Exported(cell.slug, str(outcome.directory.relative_to(out)), outcome.error is None, reason)


def _one_seed(good: dict[Path, Cell]) -> list[Path]:
    """The folders to measure: of each network, width and resolution the first."""
    first: dict[Variant, Path] = {}
    for directory, cell in good.items():
        first.setdefault(cell.variant, directory)
    return list(first.values())


def _request(out: Path, folders: Sequence[Path], wish: Wish) -> running.Request:
    return running.Request(
        found=find(folders, Selection(), out),
        out=out / record.FILE,
        named=wish.runtimes,
        limits=Limits(min_s=min(1.0, wish.max_time_s), max_s=wish.max_time_s),
        command="edgekit experiment --bench",
    )


def _timed(out: Path, file: BenchFile, good: dict[Path, Cell]) -> Iterator[Timed]:
    cells = {directory.resolve(): cell for directory, cell in good.items()}
    for result in file.results:
        yield _timing(cells[(out / result.subject.dir).resolve()], result)


def _timing(cell: Cell, result: Result) -> Timed:
    return Timed(
        cell.slug,
        cell.model,
        cell.alpha,
        cell.resolution,
        result.subject.kind,
        result.contract.runtime,
        result.latency.p50,
        *result.latency.ci95,
        result.verdict.valid,
        result.verdict.reasons,
    )


def _missing(file: BenchFile) -> tuple[str, ...]:
    """What could not be measured, in short: a runtime that is not here is missing for every cell."""
    return tuple(dict.fromkeys(f"{it.runtime}, {it.kind}: needs {it.needs}" for it in file.not_measured))

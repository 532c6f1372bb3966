"""The experiment as one page for a browser, which loads nothing: charts, tables, and what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgekit import __version__
from edgekit.report import digits
from edgekit.report.rendering import shell
from edgekit.training.experiment.charts import Plot, charts
from edgekit.training.experiment.exporting import Exported, Measured, Timed
from edgekit.training.experiment.statistics import Estimate
from edgekit.training.experiment.table import COLUMNS, HEADS, Group, Row, Table, shown
from edgekit.variant import format_alpha, unique

HERE = Path(__file__).parent
NO_LATENCY = "Latency: not measured (edgekit experiment … --bench measures it)"


@dataclass(frozen=True)
class Value:
    """One cell of a table; `sort` is what its column is sorted by, where that is not the text."""

    text: str
    sort: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """One row of a table; `series` numbers its network."""

    cells: tuple[Value, ...]
    series: int | None


@dataclass(frozen=True)
class Grid:
    """A table; the first `words` columns are text, all others figures."""

    caption: str
    heads: tuple[str, ...]
    words: int
    rows: tuple[Shown, ...]


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
    lead: str
    hint: str
    tiles: tuple[Tile, ...]
    series: tuple[str, ...]
    charts: tuple[Plot, ...]
    groups: Grid
    cells: Grid
    measured: Grid
    asked: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


def render(name: str, found: Table, measured: Measured) -> str:
    """The page as text."""
    return _environment().get_template("page.html").render(page=page(name, found, measured), **shell())


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def page(name: str, found: Table, measured: Measured) -> Page:
    """All that the page says."""
    series = unique([it.model for it in found.cells])
    return Page(
        name=name,
        edgekit=__version__,
        lead=f"{found.asked['data']}, recipe {found.asked['recipe']}, {found.asked['epochs']} epochs",
        hint=_hint(found.groups),
        tiles=tuple(_tiles(found)),
        series=tuple(series),
        charts=charts(found.groups, measured.timed, series),
        groups=_groups(found.groups, series),
        cells=_cells(found.cells, series),
        measured=_measured(measured, found.cells, series),
        asked=tuple(found.asked.items()),
        missing=tuple(_missing(found, measured)),
    )


def _hint(groups: Sequence[Group]) -> str:
    several = any(it.val_loss.count > 1 for it in groups)
    seeds = "Whiskers are 95 % t-intervals of the mean over seeds." if several else "One seed each: no intervals."
    return (
        f"{seeds} Figures are those of each run's best epoch by validation accuracy. Point at a mark, or move through "
        "a chart with the arrow keys."
    )


def _tiles(found: Table) -> list[Tile]:
    done = sum(it.status in ("done", "early") for it in found.cells)
    failed = sum(it.status == "failed" for it in found.cells)
    tiles = [Tile(f"{done} of {len(found.cells)}", "cells trained", "good" if done == len(found.cells) else "")]
    tiles += [Tile(str(failed), "cells failed", "bad")] if failed else []
    if found.groups:
        best = max(found.groups, key=lambda it: it.val_accuracy.mean)
        small = min(found.groups, key=lambda it: it.macs)
        for group, words in (
            (best, "best validation accuracy"),
            (small, "validation accuracy of the least computation"),
        ):
            about = f"{words}: {group.name}, {digits.millions(group.macs)} MACs"
            tiles.append(Tile(shown(group.val_accuracy, share=True), about))
    return tiles


def _groups(groups: Sequence[Group], series: Sequence[str]) -> Grid:
    heads = (*HEADS, *(title for title, _ in COLUMNS))
    rows = [Shown((*_shared(it), *_estimates(it)), series.index(it.model)) for it in groups]
    return Grid("Means over seeds, and 95 % t-intervals where there are several", heads, 1, tuple(rows))


def _shared(group: Group) -> tuple[Value, ...]:
    return (
        Value(group.model),
        _alpha(group.alpha),
        Value(str(group.resolution), group.resolution),
        Value(digits.millions(group.params), group.params),
        Value(digits.millions(group.macs), group.macs),
        Value(str(group.val_loss.count), group.val_loss.count),
    )


def _alpha(alpha: float | None) -> Value:
    return Value("–") if alpha is None else Value(format_alpha(alpha), alpha)


def _estimates(group: Group) -> tuple[Value, ...]:
    found: list[tuple[Estimate, bool]] = [(getattr(group, name), "accuracy" in name) for _, name in COLUMNS]
    return tuple(Value(shown(value, share), value.mean) for value, share in found)


CELL_HEADS = (
    "cell",
    "status",
    "epochs",
    "best epoch",
    "train accuracy",
    "validation accuracy",
    "train loss",
    "validation loss",
    "validation accuracy, last epoch",
)


def _cells(rows: Sequence[Row], series: Sequence[str]) -> Grid:
    shown_rows = tuple(Shown(_cell(it), series.index(it.model)) for it in rows)
    return Grid("Every cell, at its best epoch and at its last", CELL_HEADS, 2, shown_rows)


def _cell(row: Row) -> tuple[Value, ...]:
    return (
        Value(row.cell),
        Value(row.status, note=row.reason),
        Value(str(row.epochs), row.epochs),
        Value("–") if row.best_epoch is None else Value(str(row.best_epoch), row.best_epoch),
        _share(row.train_accuracy),
        _share(row.val_accuracy),
        _loss(row.train_loss),
        _loss(row.val_loss),
        _share(row.last_val_accuracy),
    )


def _share(value: float | None) -> Value:
    return Value("–") if value is None else Value(digits.percent(value, 2), value)


def _loss(value: float | None) -> Value:
    return Value("–") if value is None else Value(f"{value:.4f}", value)


def _measured(measured: Measured, rows: Sequence[Row], series: Sequence[str]) -> Grid:
    columns = unique([it.series for it in measured.timed])
    models = {it.cell: series.index(it.model) for it in rows}
    timed = {(it.cell, it.series): it for it in measured.timed}
    shown_rows = tuple(
        Shown(
            (Value(it.cell), _parity(it), *(_latency(timed.get((it.cell, name))) for name in columns)),
            models.get(it.cell),
        )
        for it in measured.exported
    )
    heads = ("cell", "parity", *(f"{name}, ms" for name in columns))
    return Grid(
        "Parity of every cell, and the latency of one seed of each network, width and resolution", heads, 2, shown_rows
    )


def _parity(exported: Exported) -> Value:
    return Value("passed" if exported.passed else "FAILED", note=exported.reason)


def _latency(timed: Timed | None) -> Value:
    if timed is None:
        return Value("–")
    note = digits.interval(timed.low_ms, timed.high_ms) if timed.valid else f"INVALID: {'; '.join(timed.reasons)}"
    return Value(digits.figure(timed.p50_ms, timed.low_ms, timed.high_ms), timed.p50_ms, note)


def _missing(found: Table, measured: Measured) -> list[str]:
    texts = [
        f"{it.cell}: {it.status}{f', {it.reason}' if it.reason else ''}"
        for it in found.cells
        if it.status in ("failed", "unfinished")
    ]
    texts += [] if measured.exported else ["Parity: not checked (edgekit experiment … --export does it)"]
    texts += [] if measured.timed else [NO_LATENCY]
    return [*texts, *measured.not_measured]

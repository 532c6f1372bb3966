"""What came out: a row for each cell, and a group for each network, width and resolution over its seeds.

Nothing in the table depends on when, where and in how many attempts a cell was trained; how long it took is in
`timing.csv`. Torch-free: everything is read from the folders that the runs left.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from edgekit.errors import EdgekitError
from edgekit.report import digits
from edgekit.training import run_folder
from edgekit.training.experiment import folder
from edgekit.training.experiment.request import Cell
from edgekit.training.experiment.statistics import Estimate, estimate
from edgekit.training.run_folder import Run
from edgekit.variant import format_alpha

SCHEMA = 1
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")

Status = Literal["done", "early", "unfinished", "failed"]


@dataclass(frozen=True)
class Row:
    """One cell. Losses and accuracies (0..1) are those of its best epoch, whose weights are kept; `last_` ones of its
    last. The best epoch is chosen by validation accuracy, which is therefore a little flattered; the last one is not.

    `train_accuracy` is over the augmented images as they were learnt from. What is not known is None.
    """

    cell: str
    model: str
    alpha: float | None
    resolution: int
    seed: int
    status: Status
    params: int | None = None
    macs: int | None = None
    epochs: int = 0
    best_epoch: int | None = None
    train_loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    last_train_loss: float | None = None
    last_train_accuracy: float | None = None
    last_val_loss: float | None = None
    last_val_accuracy: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """The finished cells of one network, width and resolution: mean and 95 % t-interval over their seeds."""

    model: str
    alpha: float | None
    resolution: int
    params: int
    macs: int
    train_loss: Estimate
    train_accuracy: Estimate
    val_loss: Estimate
    val_accuracy: Estimate
    last_val_accuracy: Estimate

    @property
    def name(self) -> str:
        """Network, width and resolution, as on disk."""
        return Cell(self.model, self.alpha, self.resolution, 0).variant.slug


@dataclass(frozen=True)
class Table:
    """The whole table; `asked` is what was asked for, as name and text."""

    asked: dict[str, str]
    cells: tuple[Row, ...]
    groups: tuple[Group, ...]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Timing:
    """How long a cell was trained, in seconds over all attempts as far as they were saved, and its pace at the end."""

    cell: str
    seconds: float
    samples_per_s: float | None


def table(out: Path, asked: dict[str, str], cells: Sequence[Cell], errors: Mapping[Cell, EdgekitError]) -> Table:
    """The table of what lies in the folder; `errors` are those of the cells that failed."""
    rows = tuple(row(out, cell, errors.get(cell)) for cell in cells)
    return Table(asked, rows, groups(rows))


def row(out: Path, cell: Cell, error: EdgekitError | None = None) -> Row:
    """What is known of one cell. One that has finished has no error, whatever happened before."""
    run = _run(out, cell)
    head = (cell.slug, cell.model, cell.alpha, cell.resolution, cell.seed)
    if run is None or run.status == "running" or not folder.facts_of(out, cell).is_file():
        return Row(*head, "failed" if error else "unfinished", reason=error.what if error else "")
    facts = folder.read_json(folder.facts_of(out, cell), folder.Facts)
    last, best = run.history[-1], run.best_epoch or run.history[-1]
    return Row(
        *head,
        run.status,
        run.params,
        facts.macs,
        len(run.history),
        best.epoch,
        *(getattr(best, name) for name in FIGURES),
        *(getattr(last, name) for name in FIGURES),
    )


def is_finished(out: Path, cell: Cell) -> bool:
    """Whether the cell's run is over and all that the table needs of it is there."""
    run = _run(out, cell)
    return run is not None and run.status != "running" and folder.facts_of(out, cell).is_file()


def groups(rows: Sequence[Row]) -> tuple[Group, ...]:
    """The finished rows by network, width and resolution, in their order."""
    members: dict[tuple[str, float | None, int], list[Row]] = {}
    for it in rows:
        if it.status in ("done", "early"):
            members.setdefault((it.model, it.alpha, it.resolution), []).append(it)
    return tuple(_group(of) for of in members.values())


def _group(rows: Sequence[Row]) -> Group:
    first = rows[0]
    assert first.params is not None
    assert first.macs is not None
    estimates = {name: estimate([getattr(it, name) for it in rows]) for name in (*FIGURES, "last_val_accuracy")}
    return Group(first.model, first.alpha, first.resolution, first.params, first.macs, **estimates)


def timings(out: Path, cells: Sequence[Cell]) -> tuple[Timing, ...]:
    """How long the cells took that have begun."""
    runs = [(cell, _run(out, cell)) for cell in cells]
    return tuple(
        Timing(cell.slug, run.seconds, run.history[-1].samples_per_s if run.history else None)
        for cell, run in runs
        if run is not None
    )


def _run(out: Path, cell: Cell) -> Run | None:
    place = folder.run_of(out, cell)
    return run_folder.read(place) if run_folder.is_run(place) else None


def to_csv(rows: Sequence[Row] | Sequence[Timing], kind: type[Row] | type[Timing]) -> str:
    """A line for each; numbers in full, so that equal files are equal figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [slot.name for slot in fields(kind)]
    writer.writerow(names)
    writer.writerows([_plain(getattr(it, name)) for name in names] for it in rows)
    return text.getvalue()


def _plain(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


HEADS = ("network", "alpha", "resolution", "params", "MACs", "seeds")
COLUMNS = (
    ("train accuracy", "train_accuracy"),
    ("validation accuracy", "val_accuracy"),
    ("train loss", "train_loss"),
    ("validation loss", "val_loss"),
)


def to_markdown(found: Table) -> str:
    """The groups as GitHub's Markdown, and what has no figures yet below it."""
    rows = [_line([*HEADS, *(title for title, _ in COLUMNS)]), _line(["---"] * (len(HEADS) + len(COLUMNS)))]
    rows += [_line(texts(group)) for group in found.groups]
    missing = [it for it in found.cells if it.status in ("failed", "unfinished")]
    notes = [f"- {it.cell}: {it.status}{f' ({it.reason})' if it.reason else ''}" for it in missing]
    about = "Figures are those of each run's best epoch by validation accuracy" + (
        ": means with 95 % t-intervals over seeds." if any(g.val_loss.count > 1 for g in found.groups) else "."
    )
    return "\n".join([*rows, "", about, *(["", "No figures:", "", *notes] if notes else [])]) + "\n"


def texts(group: Group) -> list[str]:
    """A group as texts, in the order of `HEADS` and `COLUMNS`."""
    return [
        group.model,
        "-" if group.alpha is None else format_alpha(group.alpha),
        str(group.resolution),
        digits.millions(group.params),
        digits.millions(group.macs),
        str(group.val_loss.count),
        *(shown(getattr(group, name), "accuracy" in name) for _, name in COLUMNS),
    ]


def shown(value: Estimate, share: bool) -> str:
    """A figure with its interval, where it has one; shares in per cent."""
    scale, unit = (100.0, " %") if share else (1.0, "")
    places = 2 if share else 4
    text = f"{value.mean * scale:.{places}f}"
    if value.high is not None:
        text += f" ± {(value.high - value.mean) * scale:.{places}f}"
    return text + unit


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"

"""The folder of an experiment: what was asked for, a folder for each cell, and what came out.

experiment.json     this file's `Record`
cells/SLUG/         the training run of one cell
cells/SLUG.json     what is known of the cell besides: its multiply-accumulates and the threads it was given
table.csv           a line for each cell; table.json and table.md have it with means and intervals over seeds
timing.csv          how long each took: no two runs agree on that, so it stands apart
exports/SLUG/       the exported network of each cell, where that was asked for
bench.json          their latencies, where those were asked for
measured.json       parity and latency of each cell
report.html         tables and charts as one page
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from edgekit import __version__, manifest, schema
from edgekit.errors import InputUnusable, UsageError
from edgekit.training import run_folder
from edgekit.training.experiment.request import AXES, Cell, Experiment

NAME = "experiment.json"
MOST_DIFFERENCES = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """experiment.json: the request as name and text, when and by what it was begun, and its cells."""

    created: str
    edgekit: str
    asked: dict[str, str]
    cells: tuple[str, ...]
    schema: Literal[1] = 1


@dataclass(frozen=True)
class Facts:
    """What a cell leaves beside its run: multiply-accumulates of one image, and the threads it was computed with."""

    macs: int
    threads: int


def run_of(out: Path, cell: Cell) -> Path:
    """The folder of a cell's training run."""
    return out / "cells" / cell.slug


def facts_of(out: Path, cell: Cell) -> Path:
    """The file of what is known of a cell besides its run."""
    return out / "cells" / f"{cell.slug}.json"


def exports_of(out: Path) -> Path:
    """Where the exported cells go: a folder as `edgekit export` writes it, for bench, report and pick."""
    return out / "exports"


@contextmanager
def opened(out: Path, experiment: Experiment, *, force: bool) -> Iterator[None]:
    """Hold the folder for this experiment, and this process.

    Raises UsageError where another process works in it and, without `force`, where another experiment lies in it. With
    `force` the folder becomes this experiment's: cells that it shares with the former one are kept.
    """
    asked = experiment.asked()
    with manifest.locked(out):
        former = _former(out)
        if former is not None and former.asked != asked:
            if not force:
                raise _another(out, former.asked, asked)
            if _without_axes(former.asked) != _without_axes(asked):
                _clear(out)
        if former is None or former.asked != asked:
            _write(out, experiment, asked)
        yield


def _clear(out: Path) -> None:
    """Take away what another experiment made of other cells."""
    for name in ("cells", "exports"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("measured.json", "bench.json"):
        (out / name).unlink(missing_ok=True)


def threads_of(out: Path) -> int | None:
    """The threads of the experiment that lies there, so that it can go on with them on any machine; else None."""
    former = _former(out)
    return None if former is None else int(former.asked.get("threads", "1"))


def read(out: Path) -> Record:
    """What was asked for there. Raises InputUnusable where there is no experiment, or a damaged one."""
    return read_json(out / NAME, Record, hint="edgekit experiment writes one")


def read_json(path: Path, kind: type[T], hint: str | None = None) -> T:
    """A file as a `kind`. Raises InputUnusable for one that is not there or does not fit."""
    try:
        return schema.read(kind, json.loads(path.read_bytes()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputUnusable("cannot read the experiment", where=str(path), got=reason, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise InputUnusable("the experiment's file is damaged", where=str(path), got=str(error)) from error


def write_json(path: Path, value: object) -> None:
    """Write a dataclass, whole or not at all. Raises UsageError or MachineLacks where the disk refuses."""
    write_text(path, json.dumps(schema.to_json(value), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises UsageError or MachineLacks where the disk refuses."""
    with manifest.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with run_folder.replacing(path) as file:
        file.write(text.encode())


def _former(out: Path) -> Record | None:
    return read(out) if (out / NAME).exists() else None


def _write(out: Path, experiment: Experiment, asked: dict[str, str]) -> None:
    slugs = tuple(cell.slug for cell in experiment.cells)
    write_json(out / NAME, Record(datetime.now(UTC).isoformat(timespec="seconds"), __version__, asked, slugs))


def _without_axes(asked: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in asked.items() if key not in AXES}


def _another(out: Path, former: dict[str, str], asked: dict[str, str]) -> UsageError:
    keys = [key for key in {**former, **asked} if former.get(key) != asked.get(key)]
    shown = keys[:MOST_DIFFERENCES]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    lost = not set(keys) <= AXES
    return UsageError(
        "another experiment is in this folder",
        where=str(out),
        got="; ".join(f"{key} {former.get(key, 'nothing')}" for key in shown) + more,
        wanted="; ".join(f"{key} {asked.get(key, 'nothing')}" for key in shown) + more,
        hint="give this one another --out; --force takes the folder"
        + (" and trains every cell anew" if lost else " and keeps the cells that are the same"),
    )

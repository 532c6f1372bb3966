"""`edgekit experiment`: networks x widths x resolutions x seeds, trained, compared and drawn."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import parse
from edgekit.cli.output import Json, Output, Quiet, Verbose, error_json, reporting, table
from edgekit.errors import UsageError, did_you_mean
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from edgekit.training.experiment.exporting import Wish
    from edgekit.training.experiment.request import Experiment
    from edgekit.training.experiment.running import Course, Finished, Going, Heard, Place
    from edgekit.training.experiment.scheduling import Ended
    from edgekit.training.recipe import Recipe

PLAIN_LINE_S = 15.0
MOST_RETRIES = 100
MOST_SHOWN = 4  # cells in progress, by name


def experiment(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NETWORK]...",
            help="Reference networks; default: mobilenet_v1, mobilenet_v2 and c_mobilenet_v2.",
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="A folder with a folder of images for each class, digits, fashion-mnist[:DIR], cifar10:DIR."),
    ] = "",
    alpha: Annotated[
        list[str] | None, typer.Option(help="Width multipliers; default: 1, the published recipe's 1,0.75,0.5,0.35.")
    ] = None,
    res: Annotated[
        list[str] | None, typer.Option(help="Resolutions; default: 224, the published recipe's 224,192,160,128,96.")
    ] = None,
    seeds: Annotated[
        list[str] | None, typer.Option(help="Seeds; with two or more the table has intervals; default: 0.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="mobilenet, mobilenet-published (the published experiment), densenet-cifar, transfer.")
    ] = "mobilenet",
    epochs: Annotated[int | None, typer.Option(help="Recipe: times through the data.")] = None,
    batch: Annotated[int | None, typer.Option(help="Recipe: images of a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Recipe: the learning rate.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe: any other figure, KEY=VALUE, as ema=0.999.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the networks.")] = None,
    out: Annotated[Path, typer.Option(help="The experiment's folder.")] = Path("experiment"),
    jobs: Annotated[
        int | None, typer.Option(help="Cells at a time; default: as many as there are cores, or GPUs.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each cell, which its figures hang on; default: its share of cores.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Decoding processes of each cell; default: its threads.")] = None,
    retries: Annotated[int, typer.Option(help="How often a cell whose process dies is tried again.")] = 2,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|auto|local",
            help="Train on a Ray cluster (extra ray). Data and --out have to be on a file system that all of its "
            "machines see by the same path.",
        ),
    ] = None,
    val_share: Annotated[float, typer.Option(help="Share to validate with, of data without a split.")] = 0.1,
    data_seed: Annotated[int, typer.Option(help="Seed of the split of data that have none.")] = 0,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints of a cell.")] = 60.0,
    export: Annotated[bool, typer.Option("--export", help="Export every cell, and prove it.")] = False,
    profile: Annotated[list[str] | None, typer.Option(help="Export profiles (edgekit profiles); default: rtx.")] = None,
    no_engine: Annotated[bool, typer.Option("--no-engine", help="Stop at the ONNX graphs.")] = False,
    bench: Annotated[bool, typer.Option("--bench", help="Export, and measure one seed's latencies.")] = False,
    runtime: Annotated[list[str] | None, typer.Option(help="Runtimes to measure; default: all that run here.")] = None,
    max_time: Annotated[float, typer.Option(help="Seconds to measure at most, for each runtime.")] = 30.0,
    force: Annotated[
        bool, typer.Option("--force", help="Take the folder from another experiment; shared cells are kept.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train networks at every width and resolution, each from the same weights with an optimiser of its own.

    Writes a run's folder for each cell, the table (table.csv, .json, .md), and report.html with accuracy against
    computation and latency. Killed at any moment, the same command goes on, to the same table. With --recipe
    mobilenet-published and no more than --data it is the published experiment.
    """
    with reporting("experiment", as_json, quiet, verbose) as output:
        chosen = _recipe(recipe, set_, {"epochs": epochs, "batch": batch, "lr": lr})
        grid, place = _asked(
            networks, data, alpha, res, seeds, chosen, option, out, jobs, threads, workers, retries, ray,
            val_share, data_seed, checkpoint_every,
        )  # fmt: skip
        wish = _wish(export or bench, profile, no_engine, bench, runtime, max_time)
        output.detail(f"{chosen}")
        finished = _run(grid, out, place, wish, force, output)
        _report(finished, out, output)


# --- what was asked for


def _recipe(name: str, changes: list[str] | None, flags: dict[str, int | float | None]) -> Recipe:
    """The named recipe with what is changed in it; every mistake is named at once."""
    from edgekit import schema
    from edgekit.training.recipe import RECIPES, Recipe

    if name not in RECIPES:
        hint = did_you_mean(name, list(RECIPES))
        raise UsageError("there is no such recipe", where="--recipe", got=name, hint=hint)
    given = {key.replace("-", "_"): _value(text) for key, text in parse.pairs("--set", changes)}
    given |= {key: value for key, value in flags.items() if value is not None}
    data = to_json(RECIPES[name])
    assert isinstance(data, dict)
    try:
        return schema.read(Recipe, data | given)
    except schema.SchemaError as error:
        raise UsageError(f"the recipe {name!r} makes no training", where="--set", got=str(error)) from error


def _value(text: str) -> JSON:
    """What stands behind KEY=: a number, true, false, null, a list; all else is text."""
    try:
        value: JSON = json.loads(text)
    except ValueError:
        return text
    return value


def _asked(
    networks: list[str] | None,
    data: str,
    alpha: list[str] | None,
    res: list[str] | None,
    seeds: list[str] | None,
    recipe: Recipe,
    option: list[str] | None,
    out: Path,
    jobs: int | None,
    threads: int | None,
    workers: int | None,
    retries: int,
    ray: str | None,
    val_share: float,
    data_seed: int,
    checkpoint_every: float,
) -> tuple[Experiment, Place]:
    from edgekit.training.experiment import folder, request, running
    from edgekit.training.sources import parse_data

    _check(jobs, workers, retries, data_seed)
    published = recipe.name == request.PUBLISHED_RECIPE
    made = request.Experiment(
        networks=parse.words(networks or []) or request.NETWORKS,
        alphas=parse.numbers("--alpha", alpha) or (request.ALPHAS if published else (1.0,)),
        resolutions=parse.whole_numbers("--res", res) or (request.RESOLUTIONS if published else (224,)),
        seeds=parse.whole_numbers("--seeds", seeds) or (0,),
        data=parse_data(_given(data)),
        recipe=recipe,
        options=parse.pairs("--option", option) or (request.PUBLISHED_OPTIONS if published else ()),
        val_share=val_share,
        data_seed=data_seed,
        workers=workers,
        checkpoint_every_s=checkpoint_every,
    )
    # What was begun with so many threads goes on with them, on whatever machine.
    share = running.fair_share(jobs, threads or folder.threads_of(out), len(made.cells))
    return replace(made, threads=share[1]), running.Place(share[0], retries, ray)


def _given(data: str) -> str:
    if not data:
        raise UsageError("which images?", where="--data", wanted="a folder, digits, fashion-mnist or cifar10:DIR")
    return data


def _check(jobs: int | None, workers: int | None, retries: int, data_seed: int) -> None:
    if jobs is not None:
        parse.jobs(jobs)
    for name, value, most in (("--retries", retries, MOST_RETRIES), ("--workers", workers, 1024)):
        if value is not None and not 0 <= value <= most:
            raise UsageError("out of range", where=name, got=str(value), wanted=f"0 to {most}")
    if data_seed < 0:
        raise UsageError("out of range", where="--data-seed", got=str(data_seed), wanted="0 or more")


def _wish(
    wanted: bool,
    profile: list[str] | None,
    no_engine: bool,
    bench: bool,
    runtime: list[str] | None,
    max_time: float,
) -> Wish | None:
    """What to do with the trained cells; profiles and runtimes that there are not are refused before the training."""
    if not wanted:
        return None
    from edgekit import profile as profiles
    from edgekit.bench import runtimes
    from edgekit.training.experiment.exporting import Wish

    if not 0 < max_time <= 86_400:
        raise UsageError("not a time to measure in", where="--max-time", got=f"{max_time:g}", wanted="up to 86400 s")
    wish = Wish(parse.words(profile or ["rtx"]), not no_engine, bench, parse.words(runtime or []), max_time)
    for name in wish.profiles:
        profiles.load(name)
    for name in wish.runtimes:
        runtimes.runtime(name)
    return wish


# --- while it runs


def _run(grid: Experiment, out: Path, place: Place, wish: Wish | None, force: bool, output: Output) -> Finished:
    from edgekit.training.experiment import running

    where = f"Ray at {place.ray}" if place.ray else f"{min(place.jobs, len(grid.cells))} at a time"
    output.note(f"{len(grid.cells)} cells into {out}: {where}, threads of each: {grid.threads}")
    with _Display(len(grid.cells), output) as display:
        return running.run(grid, out, place, display.hear, wish=wish, force=force)


class _Display:
    """Progress on stderr: a live bar in a terminal, a line for each cell that is over, and now and then, elsewhere."""

    def __init__(self, total: int, output: Output) -> None:
        self.total, self.output = total, output
        self.over = 0
        self.live: Bar | None = None
        self.bar: TaskID | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> _Display:
        if sys.stderr.isatty() and not self.output.quiet:
            self.live, self.bar = _bar(self.total)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def hear(self, event: Heard) -> None:
        """One event of the experiment."""
        from edgekit.training.experiment.running import Course, Export
        from edgekit.training.experiment.scheduling import Ended, Retried

        if isinstance(event, Ended):
            self.over += 1
            self._line(f"[{self.over}/{self.total}] {event.cell.slug}: {_ending(event)}")
        elif isinstance(event, Retried):
            self._line(f"{event.cell.slug}: {event.error.what}; it goes on (retry {event.attempt})")
        elif isinstance(event, Course):
            self._show(event)
        elif isinstance(event, Export):
            word = "FAILED" if event.outcome.error else "kept" if event.outcome.cached else "proven"
            self._line(f"export of {event.cell.slug}: {word}")
        elif event is not None:
            self._busy(f"{event.runtime}: {event.stage} {event.done:.0%}")

    def _show(self, course: Course) -> None:
        words = [_going(it) for it in course.going[:MOST_SHOWN]]
        more = len(course.going) - len(words)
        self._busy(", ".join([*words, *([f"{more} more"] if more else [])]) or "starting", course.done)

    def _busy(self, text: str, done: int | None = None) -> None:
        if self.live is not None and self.bar is not None:
            self.live.update(self.bar, completed=self.over if done is None else done, busy=text, refresh=True)
        elif time.monotonic() - self.last_line > PLAIN_LINE_S:
            self._line(text)

    def _line(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            self.output.note(text)
        self.last_line = time.monotonic()


def _ending(ended: Ended) -> str:
    if ended.error is not None:
        return f"FAILED, {ended.error.what}"
    if not ended.attempts:
        return "kept"
    return "trained" if ended.attempts == 1 else f"trained, in {ended.attempts} attempts"


def _going(going: Going) -> str:
    accuracy = "" if going.accuracy is None else f" {going.accuracy:.1%}"
    return f"{going.cell.slug} {going.epoch}/{going.epochs}{accuracy}"


def _bar(total: int) -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[busy]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    # No refresh thread: exports are forked while this is on the screen.
    live = Progress(*columns, console=Console(stderr=True), auto_refresh=False, expand=True)
    return live, live.add_task("experiment", total=total, busy="starting")


# --- afterwards


def _report(finished: Finished, out: Path, output: Output) -> None:
    for error in finished.errors:
        output.failure(error)
    output.code = max((error.exit_code for error in finished.errors), default=0)
    body: dict[str, JSON] = {
        "out": str(out),
        "report": str(out / "report.html"),
        "cells": to_json(finished.table.cells),
        "groups": to_json(finished.table.groups),
        "timings": to_json(finished.timings),
        "measured": to_json(finished.measured),
        "errors": [error_json(error) for error in finished.errors],
    }
    output.result(body, _text(finished, out), ok=output.code == 0)


def _text(finished: Finished, out: Path) -> str:
    from edgekit.training.experiment.table import COLUMNS, HEADS, texts

    heads: Sequence[str] = [*HEADS, *(title for title, _ in COLUMNS)]
    rows = [heads, *(texts(group) for group in finished.table.groups)]
    return f"{table(rows, right=range(1, len(heads)))}\n{out / 'report.html'}"

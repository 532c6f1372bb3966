"""The whole experiment in order: hold the folder, train what is missing, and write down what came out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgekit import environment
from edgekit.errors import EdgekitError, UsageError
from edgekit.training import run_folder
from edgekit.training.experiment import folder, table
from edgekit.training.experiment.processes import LocalProcesses, gpus
from edgekit.training.experiment.request import Cell, Experiment
from edgekit.training.experiment.scheduling import Ended, Event, Job, Runner, longest_first
from edgekit.training.experiment.scheduling import run as schedule
from edgekit.training.experiment.table import Table, Timing

if TYPE_CHECKING:
    from edgekit.bench.protocol import Progress as BenchProgress
    from edgekit.pipeline import Outcome
    from edgekit.training.experiment.exporting import Measured, Wish

LOOK_EVERY_S = 2.0  # at the folders of the cells that run


@dataclass(frozen=True)
class Place:
    """Where the cells are trained: in `jobs` processes of this machine, or, with an address, by Ray."""

    jobs: int
    retries: int = 2
    ray: str | None = None

    def runner(self, threads: int, cells: int) -> Runner:
        """Whoever trains so many cells there. Raises MachineLacks where Ray is asked for and not installed."""
        slots = max(1, min(self.jobs, cells))
        if self.ray is None:
            return LocalProcesses(slots, threads)
        from edgekit.training.experiment.needs import on_ray

        return on_ray(self.ray, slots, threads)


@dataclass(frozen=True)
class Going:
    """How far a cell is that has begun: epochs that are done, of so many, and the best validation accuracy so far."""

    cell: Cell
    epoch: int
    epochs: int
    accuracy: float | None


@dataclass(frozen=True)
class Course:
    """How far everything is: cells that are over, of so many, and those that are on their way."""

    done: int
    total: int
    going: tuple[Going, ...]


@dataclass(frozen=True)
class Export:
    """A cell was exported, or found exported."""

    cell: Cell
    outcome: Outcome


Heard: TypeAlias = "Course | Event | Export | BenchProgress"
Listener = Callable[[Heard], None]


@dataclass(frozen=True)
class Finished:
    """The table, what became of every cell, how long each took, and what was measured of them.

    `errors` are those of cells that failed, and of gates and measurements.
    """

    table: Table
    ended: tuple[Ended, ...]
    timings: tuple[Timing, ...]
    measured: Measured
    errors: tuple[EdgekitError, ...]


def fair_share(jobs: int | None, threads: int | None, cells: int) -> tuple[int, int]:
    """(processes, threads of each): what was asked for, the rest so that the cores of this machine are all in use.

    With GPUs, as many processes as there are of them.
    """
    cores, cards = environment.usable_cores(), len(gpus())
    if jobs is None:
        jobs = min(cells, cards or max(1, cores // (threads or 1)))
    return jobs, threads or max(1, cores // min(jobs, cells))


def run(
    experiment: Experiment,
    out: Path,
    place: Place,
    listen: Listener = lambda _: None,
    *,
    wish: Wish | None = None,
    force: bool = False,
) -> Finished:
    """Train every cell that is not finished, write the table, do what is wished with the cells, and draw the page.

    Whatever an earlier run of it finished is kept. A cell that fails does not stop the others: it is in the table, with
    its reason. Raises UsageError where another experiment lies in the folder, another process works in it, or the data
    have changed since it began; MachineLacks where the cluster cannot be reached.
    """
    with folder.opened(out, experiment, force=force):
        ended = _trained(experiment, out, place, listen)
        errors = {it.cell: it.error for it in ended if it.error is not None}
        found = table.table(out, experiment.asked(), experiment.cells, errors)
        timings = table.timings(out, experiment.cells)
        write(out, found, timings)
        measured, problems = _measured(experiment, out, wish, listen)
        folder.write_text(out / "report.html", _page(out, found, measured))
        return Finished(found, ended, timings, measured, (*(_named(*it) for it in errors.items()), *problems))


def _named(cell: Cell, error: EdgekitError) -> EdgekitError:
    """The error of one cell among many."""
    what = f"{cell.slug}: {error.what}"
    return type(error)(what, where=error.where, got=error.got, wanted=error.wanted, hint=error.hint)


def _trained(experiment: Experiment, out: Path, place: Place, listen: Listener) -> tuple[Ended, ...]:
    kept = [Ended(cell, 0) for cell in experiment.cells if table.is_finished(out, cell)]
    for it in kept:
        listen(it)
    over = {it.cell for it in kept}
    jobs = longest_first([_job(experiment, out, cell) for cell in experiment.cells if cell not in over])
    watch = _Watch(out, experiment, listen, over)
    ended = schedule(jobs, place.runner(experiment.threads, len(jobs)), place.retries, watch.hear) if jobs else ()
    _check_data(experiment, out)
    return (*kept, *ended)


def _job(experiment: Experiment, out: Path, cell: Cell) -> Job:
    request = experiment.train_request(cell, folder.run_of(out, cell))
    return Job(cell, request, experiment.threads, str(folder.facts_of(out, cell).resolve()))


def _check_data(experiment: Experiment, out: Path) -> None:
    """Raise UsageError when two cells have seen different data: their figures say nothing about the networks then."""
    seen: dict[str, Cell] = {}
    for cell in experiment.cells:
        if table.is_finished(out, cell):
            seen.setdefault(run_folder.read(folder.run_of(out, cell)).data.digest, cell)
    if len(seen) > 1:
        raise UsageError(
            "the data have changed since this experiment began",
            where=experiment.data.text,
            got=", ".join(f"{cell.slug}: digest {digest[:16]}" for digest, cell in seen.items()),
            wanted="the same images for every cell",
            hint="begin again, in another --out",
        )


def write(out: Path, found: Table, timings: tuple[Timing, ...]) -> None:
    """Write the table in its three forms, and how long it took beside it."""
    folder.write_text(out / "table.csv", table.to_csv(found.cells, table.Row))
    folder.write_json(out / "table.json", found)
    folder.write_text(out / "table.md", table.to_markdown(found))
    folder.write_text(out / "timing.csv", table.to_csv(timings, Timing))


def _measured(
    experiment: Experiment, out: Path, wish: Wish | None, listen: Listener
) -> tuple[Measured, tuple[EdgekitError, ...]]:
    from edgekit.training.experiment import exporting

    if wish is None:
        return exporting.read(out), ()
    cells = [cell for cell in experiment.cells if table.is_finished(out, cell)]
    return exporting.measure(out, cells, wish, lambda cell, outcome: listen(Export(cell, outcome)), listen)


def _page(out: Path, found: Table, measured: Measured) -> str:
    from edgekit.training.experiment.page import render

    return render(out.resolve().name, found, measured)


@dataclass
class _Watch:
    """Hears of the scheduling, looks at the folders of the cells that run, and tells how far it all is."""

    out: Path
    experiment: Experiment
    listen: Listener
    over: set[Cell]
    looked: float = field(default=0.0)

    def hear(self, event: Event) -> None:
        if isinstance(event, Ended):
            self.over.add(event.cell)
        if event is not None:
            self.listen(event)
        if event is not None or time.monotonic() - self.looked > LOOK_EVERY_S:
            self.looked = time.monotonic()
            self.listen(self._course())

    def _course(self) -> Course:
        cells = self.experiment.cells
        going = [self._going(cell) for cell in cells if cell not in self.over]
        return Course(len(self.over), len(cells), tuple(it for it in going if it is not None))

    def _going(self, cell: Cell) -> Going | None:
        place = folder.run_of(self.out, cell)
        try:
            run = run_folder.read(place) if run_folder.is_run(place) else None
        except EdgekitError:  # a damaged one is for the training itself to refuse
            return None
        if run is None:
            return None
        best = run.best_epoch
        return Going(cell, len(run.history), run.recipe.epochs, best.val_accuracy if best else None)

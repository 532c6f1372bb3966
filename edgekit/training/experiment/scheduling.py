"""Who trains which cell, and what becomes of a cell whose process dies. Nothing heavy is imported.

Where the cells are trained is a `Runner`'s business: processes of this machine, or a Ray cluster's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from edgekit.errors import EdgekitError
from edgekit.training.experiment.request import Cell
from edgekit.training.request import TrainRequest

TICK_S = 0.25


@dataclass(frozen=True)
class Job:
    """A cell on its way to whoever trains it; it travels pickled. `facts` is the file of what is found besides."""

    cell: Cell
    request: TrainRequest
    threads: int
    facts: str


@dataclass(frozen=True)
class Ending:
    """A job is over: done, failed with `error`, or, with `died`, lost together with its process."""

    job: Job
    error: EdgekitError | None = None
    died: bool = False


class Runner(Protocol):
    """Trains what is submitted, several at a time. Used as a context: leaving it ends whatever still runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, job: Job) -> None:
        """Take a job; returns at once."""

    def wait(self, seconds: float) -> Sequence[Ending]:
        """What has ended, as soon as something has, or nothing after so many seconds."""


@dataclass(frozen=True)
class Ended:
    """A cell is finished or has failed, after so many attempts (0: an earlier run had finished it)."""

    cell: Cell
    attempts: int
    error: EdgekitError | None = None


@dataclass(frozen=True)
class Retried:
    """A cell's process died; the cell goes on, from its last checkpoint, in another one."""

    cell: Cell
    attempt: int
    error: EdgekitError


Event = Ended | Retried | None  # None: a moment has passed
Listener = Callable[[Event], None]


def run(jobs: Sequence[Job], runner: Runner, retries: int, listen: Listener) -> tuple[Ended, ...]:
    """Have every job done; one whose process dies is submitted again, `retries` times at the most.

    An error that a cell raises is that cell's end: the same would come of it again. The others go on in any case.
    """
    if not jobs:
        return ()
    with runner:
        course = _Course(runner, retries, listen)
        for job in jobs:
            course.submit(job)
        while course.running:
            for ending in runner.wait(TICK_S):
                course.settle(ending)
            listen(None)
    return tuple(course.ended)


@dataclass
class _Course:
    runner: Runner
    retries: int
    listen: Listener
    attempts: dict[Cell, int] = field(default_factory=dict)
    running: set[Cell] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)

    def submit(self, job: Job) -> None:
        self.attempts[job.cell] = self.attempts.get(job.cell, 0) + 1
        self.running.add(job.cell)
        self.runner.submit(job)

    def settle(self, ending: Ending) -> None:
        cell, attempt = ending.job.cell, self.attempts[ending.job.cell]
        self.running.discard(cell)
        if ending.died and ending.error is not None and attempt <= self.retries:
            self.listen(Retried(cell, attempt, ending.error))
            self.submit(ending.job)
            return
        end = Ended(cell, attempt, ending.error)
        self.ended.append(end)
        self.listen(end)


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs by what they roughly cost, so that no long one begins when all others are done."""

    def cost(job: Job) -> float:
        width = 1.0 if job.cell.alpha is None else job.cell.alpha
        return float(width * job.cell.resolution) ** 2

    return sorted(jobs, key=cost, reverse=True)

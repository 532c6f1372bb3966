"""Worker processes for a grid: forked after the heavy imports, so that they start with them for free.

One task is one network at several resolutions. What a worker has finished is reported at once; a worker that dies
loses the variant in its hands and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Generic, TypeVar

# Of mallopt(3), and bytes: larger blocks go back to the system as ever.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 512 << 20

Task = TypeVar("Task")
Event = TypeVar("Event")

Work = Callable[[int, Task, Callable[[Event], None]], None]


@dataclass(frozen=True)
class Died(Generic[Task]):
    """A worker ended in the middle of `task`; `reason` names the signal or the exit code."""

    task: Task
    reason: str


class _Worker(Generic[Task, Event]):
    def __init__(self, number: int, work: Work[Task, Event]) -> None:
        context = multiprocessing.get_context("fork")
        self.number = number
        self.pipe, theirs = context.Pipe()
        self.process: ForkProcess = context.Process(
            target=_serve, args=(number, work, theirs, self.pipe, os.getpid()), daemon=True
        )
        with warnings.catch_warnings():
            # Python warns of any thread at a fork. Ours are the numeric libraries' idle ones, made at import, which
            # those libraries handle; none of them holds a lock here.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()
        self.task: Task | None = None

    def give(self, task: Task) -> None:
        self.task = task
        # A worker may have died since its last task; that is found out when its answer is waited for.
        with contextlib.suppress(ConnectionError):
            self.pipe.send(task)

    def dismiss(self) -> None:
        """It ends while the others go on: giving back its memory takes a while."""
        with contextlib.suppress(ConnectionError):
            self.pipe.send(None)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.close()
        self.process.kill()


class _Finished:
    """Sent by a worker when it has done its task."""


def _serve(number: int, work: Work[Task, Event], pipe: Connection, parents: Connection, parent: int) -> None:
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    die_with_parent(parent)
    _keep_freed_memory()

    def report(event: Event | _Finished) -> None:
        try:
            pipe.send(event)
        except ConnectionError:  # nobody listens any more
            os._exit(0)

    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        if task is None:
            os._exit(0)
        work(number, task, report)
        report(_Finished())


def _keep_freed_memory() -> None:
    """Let the allocator hold on to what is freed, where it is glibc's: tensors of megabytes come and go layer by layer,
    and getting their pages from the system anew takes two per cent of a quick grid (50 paired rounds on two cores).
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT)


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the request
            os._exit(1)


def run(tasks: Sequence[Task], work: Work[Task, Event], jobs: int) -> Iterator[Event | Died[Task] | None]:
    """Run `work(worker number, task, report)` for every task in `jobs` processes; yields what the workers report.

    None is yielded when nothing happened for a tenth of a second, so that a display can move. Events are pickled.
    """
    waiting = list(reversed(tasks))
    workers: list[_Worker[Task, Event]] = [_Worker(number, work) for number in range(min(jobs, len(tasks)))]
    try:
        for worker in workers:
            _give_next(worker, waiting)
        while busy := [worker for worker in workers if worker.task is not None]:
            ready = wait([worker.pipe for worker in busy], timeout=0.1)
            if not ready:
                yield None
            for worker in (w for w in busy if w.pipe in ready):
                event = _receive(worker)
                if not isinstance(event, _Finished):
                    yield event
                if isinstance(event, Died):
                    workers[worker.number] = _Worker(worker.number, work)
                if isinstance(event, Died | _Finished):
                    worker.task = None
                    _give_next(workers[worker.number], waiting)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.process.join()


def _give_next(worker: _Worker[Task, Event], waiting: list[Task]) -> None:
    if waiting:
        worker.give(waiting.pop())
    else:
        worker.dismiss()


def _receive(worker: _Worker[Task, Event]) -> Event | Died[Task] | _Finished:
    try:
        received: Event | _Finished = worker.pipe.recv()
        return received
    except (EOFError, OSError):  # OSError: it died in the middle of a report
        worker.process.join()
        code = worker.process.exitcode or 0
        reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        assert worker.task is not None
        return Died(worker.task, reason)

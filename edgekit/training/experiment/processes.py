"""Cells in processes of this machine: each slot a fresh interpreter that trains one cell after the other.

A process that dies is one cell's loss. All of them die with the one that started them, however that ends
(`edgekit.isolation`), so a killed experiment leaves nobody writing to its folders.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from edgekit.errors import EdgekitError
from edgekit.isolation import Isolated, IsolationFailed
from edgekit.training.experiment.scheduling import Ending, Job

CELL = "edgekit.training.experiment.cell:train_cell"
NO_LIMIT = math.inf  # nobody knows how long a training takes
KILL_AGAIN_S = 0.05
NVIDIA = Path("/proc/driver/nvidia/gpus")


class LocalProcesses:
    """`slots` processes, each with `threads` threads and, where there are GPUs, one of them.

    `target` is the function, as "module:name", that trains a Job.
    """

    def __init__(self, slots: int, threads: int, target: str = CELL) -> None:
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        cards = gpus()
        self._processes = [
            Isolated(target, what="the training process", environment=environment(slot, threads, cards))
            for slot in range(slots)
        ]
        self._threads = [threading.Thread(target=self._serve, args=(it,), daemon=True) for it in self._processes]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._empty()
        for _ in self._threads:
            self._waiting.put(None)
        # A thread may be about to start a process when it is told to end, so one round of kills is not enough.
        while any(thread.is_alive() for thread in self._threads):
            for process in self._processes:
                _kill(process)
            for thread in self._threads:
                thread.join(KILL_AGAIN_S)

    def submit(self, job: Job) -> None:
        """Take a job; whichever process is free next trains it."""
        self._waiting.put(job)

    def wait(self, seconds: float) -> Sequence[Ending]:
        """What has ended, as soon as something has, or nothing after so many seconds."""
        with contextlib.suppress(queue.Empty):
            return [self._ended.get(timeout=seconds)]
        return []

    def _empty(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()

    def _serve(self, process: Isolated) -> None:
        with process:
            while (job := self._waiting.get()) is not None:
                self._ended.put(_trained(process, job))


def _trained(process: Isolated, job: Job) -> Ending:
    try:
        process.call(job, NO_LIMIT)
    except IsolationFailed as error:
        # A process that is still there has something to say about the cell; the same would come of it again.
        return Ending(job, error, died=process.pid is None)
    except EdgekitError as error:
        return Ending(job, error)
    return Ending(job)


def _kill(process: Isolated) -> None:
    """End the child from outside; the thread that waits for it notices, and clears up."""
    pid = process.pid
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def environment(slot: int, threads: int, cards: Sequence[str]) -> dict[str, str]:
    """What a slot's process sees: its number of threads, and one of the GPUs, where there are any."""
    shared = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return shared | ({"CUDA_VISIBLE_DEVICES": cards[slot % len(cards)]} if cards else {})


def gpus(listed: Path = NVIDIA) -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number, _ in enumerate(listed.iterdir())] if listed.is_dir() else []

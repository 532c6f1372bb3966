"""What a running training tells: the person watching, steps.csv, history.csv, and TensorBoard."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from edgekit.errors import MachineLacks
from edgekit.manifest import disk_errors
from edgekit.training.run_folder import HISTORY, LOGS, STEPS, Epoch, replacing

LOG_EVERY_STEPS = 10

Stage = Literal["note", "training", "validating", "epoch"]


@dataclass(frozen=True)
class Progress:
    """One thing that happened: `epoch` of `epochs` from 1, `step` of `steps` in it, and how it goes.

    `text` is the news of a "note"; `finished` the epoch that has just ended. `samples_per_s` and `left_s`, the seconds
    to the end of the training, are None while nothing is known.
    """

    stage: Stage
    epoch: int
    epochs: int
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    samples_per_s: float | None = None
    left_s: float | None = None
    text: str = ""
    finished: Epoch | None = None


Listener = Callable[[Progress], None]


class Steps:
    """steps.csv: the loss of every step, written so that it reads back as the same number.

    `offset` bytes are kept; what a killed run wrote behind its last checkpoint is written again.
    """

    HEADING = "epoch,step,loss\n"

    def __init__(self, folder: Path, offset: int) -> None:
        self.path = folder / STEPS
        with disk_errors(self.path):
            self._file = self.path.open("r+b" if offset else "w+b")
            self._file.truncate(offset)
            self._file.seek(offset)
            self.bytes = offset
            if not offset:
                self._write(self.HEADING)

    def add(self, epoch: int, step: int, loss: float) -> None:
        """One step, both numbered from 1."""
        with disk_errors(self.path):
            self._write(f"{epoch},{step},{loss!r}\n")

    def settle(self) -> int:
        """Get everything on the disk; returns how many bytes that is."""
        with disk_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.bytes

    def close(self) -> None:
        """The last lines, too."""
        with disk_errors(self.path):
            self._file.close()

    def _write(self, text: str) -> None:
        self.bytes += self._file.write(text.encode())


def write_history(folder: Path, history: Sequence[Epoch]) -> None:
    """history.csv, whole or not at all: a line for each epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [slot.name for slot in fields(Epoch)]
    writer.writerow(names)
    writer.writerows([repr(getattr(epoch, name)) for name in names] for epoch in history)
    with replacing(folder / HISTORY) as file:
        file.write(text.getvalue().encode())


class Board:
    """TensorBoard's log of one process, written at once: its own writer is a thread, whose errors nobody sees.

    `first_step` is where this process begins; what an earlier one logged behind it is void. Raises MachineLacks where
    TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        except ImportError as error:
            raise MachineLacks(
                "TensorBoard is not installed", got=str(error), hint='pip install "edgekit-trt[train]"'
            ) from error
        self._event, self._summary = Event, Summary
        self.path = folder / LOGS / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        with disk_errors(self.path):
            self.path.parent.mkdir(exist_ok=True)
            self._file = self.path.open("wb")
            self._records = RecordWriter(self._file)
            self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
            start = SessionLog(status=SessionLog.START)
            self._put(Event(wall_time=time.time(), step=first_step, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Figures by name, at the step from the beginning of the run."""
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=it) for tag, it in values.items()])
        with disk_errors(self.path):
            self._put(self._event(wall_time=time.time(), step=step, summary=summary))

    def epoch(self, step: int, epoch: Epoch) -> None:
        """The figures of an epoch that has ended."""
        self.scalars(
            step,
            {
                "loss/train": epoch.train_loss,
                "loss/validation": epoch.val_loss,
                "accuracy/train": epoch.train_accuracy,
                "accuracy/validation": epoch.val_accuracy,
                "learning rate": epoch.lr,
                "samples per second": epoch.samples_per_s,
            },
        )
        with disk_errors(self.path):
            self._file.flush()

    def close(self) -> None:
        """The last lines, too."""
        with disk_errors(self.path):
            self._file.close()

    def _put(self, event: object) -> None:
        self._records.write(event.SerializeToString())  # type: ignore[attr-defined]


class Records:
    """All files but weights and state, of the one process that writes them."""

    def __init__(self, folder: Path, offset: int, first_step: int) -> None:
        self.folder = folder
        self.steps = Steps(folder, offset)
        self.board = Board(folder, first_step)

    def step(self, epoch: int, step: int, whole: int, loss: float) -> None:
        """A step's loss: `step` of its epoch, `whole` of the run."""
        self.steps.add(epoch, step, loss)
        if whole % LOG_EVERY_STEPS == 0:
            self.board.scalars(whole, {"loss/step": loss})

    def epoch(self, whole: int, history: Sequence[Epoch]) -> None:
        """The last epoch of the history has ended, after `whole` steps."""
        write_history(self.folder, history)
        self.board.epoch(whole, history[-1])

    def close(self) -> None:
        """Let go of the files."""
        self.steps.close()
        self.board.close()

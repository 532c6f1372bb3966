"""What stands where the training goes in tests of the scheduling. It runs in processes of its own; the seed says how.

Every attempt leaves a line with its process id in the file `job.facts`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from edgekit.errors import InputUnusable
from edgekit.training.experiment.scheduling import Job

FINE, DIES_ONCE, ALWAYS_DIES, UNUSABLE, BUG, SLEEPS, EXITS = range(7)


def attempts(job: Job) -> list[int]:
    """The process ids of the attempts so far."""
    path = Path(job.facts)
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(job: object) -> None:
    assert isinstance(job, Job)
    with Path(job.facts).open("a") as file:
        file.write(f"{os.getpid()}\n")
    how = job.cell.seed
    if how == ALWAYS_DIES or (how == DIES_ONCE and len(attempts(job)) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == EXITS and len(attempts(job)) == 1:
        sys.exit(3)
    if how == UNUSABLE:
        raise InputUnusable("an image cannot be read", where="7.png")
    if how == BUG:
        raise ZeroDivisionError("a bug")
    if how == SLEEPS:
        time.sleep(60)

"""The training of one cell, in a process that has nothing else to do. Imports what imports PyTorch."""

from __future__ import annotations

import time
from pathlib import Path

from edgekit.errors import UsageError
from edgekit.manifest import locked
from edgekit.models import _create
from edgekit.models._counting import count
from edgekit.models._options import parse_options
from edgekit.training import run_folder
from edgekit.training.experiment.folder import Facts, write_json
from edgekit.training.experiment.scheduling import Job
from edgekit.training.request import asked
from edgekit.training.run_folder import Run
from edgekit.training.train import train

DEATH_S = 30.0
LOOK_AGAIN_S = 0.5


def train_cell(job: object) -> None:
    """Train a Job, or go on where it was killed; one that is done is left as it is.

    What lies in its folder and was asked for otherwise is another experiment's, which has left the folder to this one.
    """
    assert isinstance(job, Job)
    wait_until_free(job.request.out)
    train(job.request, force=_is_anothers(job))
    write_json(Path(job.facts), Facts(macs(run_folder.read(job.request.out)), job.threads))


def wait_until_free(place: Path, within: float = DEATH_S) -> None:
    """Wait for a former process of this cell to be gone: one on another machine is told late that nobody listens.

    Raises UsageError where one still works there after so many seconds.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            with locked(place):
                return
        except UsageError:
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK_AGAIN_S)


def _is_anothers(job: Job) -> bool:
    place = job.request.out
    return run_folder.is_run(place) and run_folder.read(place).asked != asked(job.request)


def macs(run: Run) -> int:
    """Multiply-accumulates of the run's network on one image of its size."""
    options = parse_options(run.model, run.options)
    return count(_create.initial(run.model, run.alpha, run.num_classes, options, 0), run.resolution).macs

"""The training of one cell, in a process that has nothing else to do. Imports what imports PyTorch."""

from __future__ import annotations

from pathlib import Path

from edgekit.models import _create
from edgekit.models._counting import count
from edgekit.models._options import parse_options
from edgekit.training import run_folder
from edgekit.training.experiment.folder import Facts, write_json
from edgekit.training.experiment.scheduling import Job
from edgekit.training.request import asked
from edgekit.training.run_folder import Run
from edgekit.training.train import train


def train_cell(job: object) -> None:
    """Train a Job, or go on where it was killed; one that is done is left as it is.

    What lies in its folder and was asked for otherwise is another experiment's, which has left the folder to this one.
    """
    assert isinstance(job, Job)
    train(job.request, force=_is_anothers(job))
    write_json(Path(job.facts), Facts(macs(run_folder.read(job.request.out)), job.threads))


def _is_anothers(job: Job) -> bool:
    place = job.request.out
    return run_folder.is_run(place) and run_folder.read(place).asked != asked(job.request)


def macs(run: Run) -> int:
    """Multiply-accumulates of the run's network on one image of its size."""
    options = parse_options(run.model, run.options)
    return count(_create.initial(run.model, run.alpha, run.num_classes, options, 0), run.resolution).macs

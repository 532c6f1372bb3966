"""The folder of a training run, and `run.json`, which says how its weights came to be.

    run.json            this file's `Run`
    best.safetensors    the weights of the best epoch (averaged ones where the recipe has `ema`)
    last.safetensors    the weights of the last finished epoch
    state.ckpt          all that an exact continuation needs; gone when the run is done
    steps.csv           epoch, step, loss of every step
    history.csv         a line for each epoch
    logs/               TensorBoard's

Torch-free: whoever exports or draws a run reads it here.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from edgekit import schema
from edgekit.errors import InputUnusable
from edgekit.manifest import disk_errors, sha256_file, sync_folder
from edgekit.preprocessing import Preprocessing
from edgekit.training.recipe import Recipe

SCHEMA = 1
NAME = "run.json"
BEST, LAST, STATE, STEPS, HISTORY, LOGS = (
    "best.safetensors",
    "last.safetensors",
    "state.ckpt",
    "steps.csv",
    "history.csv",
    "logs",
)

Status = Literal["running", "done", "early"]


@dataclass(frozen=True)
class Epoch:
    """One epoch, numbered from 1: mean losses, accuracies 0..1, the learning rate at its end, its time and pace.

    `train_accuracy` is over the augmented images as they were learnt from; with mixed labels it counts the larger part.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float
    samples_per_s: float


@dataclass(frozen=True)
class DataRecord:
    """The data: as it was named, the digest that tells it from other data, the split and the images in each part."""

    text: str
    digest: str
    val_share: float
    seed: int
    train: int
    val: int


@dataclass(frozen=True)
class Run:
    """Everything about one training run. `best` is the number of the best epoch; `files` are sha256 by name.

    `asked` is the request as option and text; the same request goes on where this one stopped.
    """

    created: str
    edgekit: str
    model: str
    alpha: float | None
    resolution: int
    options: dict[str, str]
    head: tuple[str, ...]
    num_classes: int
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    recipe: Recipe
    data: DataRecord
    seed: int
    weights: str
    params: int
    asked: dict[str, str]
    tools: dict[str, str]
    machine: dict[str, str]
    status: Status = "running"
    history: tuple[Epoch, ...] = ()
    best: int | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    processes: int = 1
    schema: int = SCHEMA

    @property
    def best_epoch(self) -> Epoch | None:
        """The epoch whose weights are in best.safetensors; None before the first has ended."""
        return next((epoch for epoch in self.history if epoch.epoch == self.best), None)


def is_run(folder: Path) -> bool:
    """Whether the folder holds a training run."""
    return (folder / NAME).is_file()


def read(folder: Path) -> Run:
    """The run in `folder`. Raises InputUnusable when there is none, or one that is damaged or of another schema."""
    path = folder / NAME
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InputUnusable(
            "this is not the folder of a training run",
            where=str(path),
            got=error.strerror or str(error),
            hint="edgekit train writes one",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputUnusable("run.json is not JSON", where=str(path), got=str(error)) from error
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise InputUnusable(
            "run.json's schema is not known to this edgekit", where=str(path), got=str(found)[:80], wanted=str(SCHEMA)
        )
    try:
        return schema.read(Run, data)
    except schema.SchemaError as error:
        raise InputUnusable("run.json does not fit its schema", where=str(path), got=str(error)) from error


def weights_of(folder: Path, name: str = BEST) -> Path:
    """The file of the weights, held to the hash in run.json.

    Raises InputUnusable when the run has none yet, or they are not those that it wrote.
    """
    run, path = read(folder), folder / name
    if name not in run.files or not path.is_file():
        raise InputUnusable(
            "the run has no such weights yet", where=str(path), hint="let it finish its first epoch, and run it again"
        )
    if sha256_file(path) != run.files[name]:
        raise InputUnusable(
            "these are not the weights that the run wrote", where=str(path), hint="train again, into another folder"
        )
    return path


def write(folder: Path, run: Run) -> None:
    """Put run.json there, whole or not at all. Raises MachineLacks for a full disk."""
    body = json.dumps(schema.to_json(run), indent=1, allow_nan=False) + "\n"
    with replacing(folder / NAME) as file:
        file.write(body.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all is on the disk; until then, and on any error, the old one stays.

    Raises MachineLacks for a full disk and UsageError for a place that cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with disk_errors(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)

"""What was measured with labelled images: `accuracy.json` beside a manifest. Nothing heavy is imported.

A score belongs to a file by its hash, so that one that was exported again since has none.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgekit import schema
from edgekit.errors import InputUnusable
from edgekit.manifest import disk_errors, sync_folder
from edgekit.preprocessing import Preprocessing

FILE = "accuracy.json"
SCHEMA = 1
LARGEST_BYTES = 64 * 2**20
Z95 = 1.959964  # the normal distribution's 97.5 % point

Split = Literal["val", "train", "all"]


@dataclass(frozen=True)
class Labels:
    """The labelled images: as they were named, what tells them from others, and which of them were used.

    `val_share` and `seed` say how a folder without a validation part of its own was divided.
    """

    text: str
    digest: str
    split: Split
    val_share: float
    seed: int
    images: int
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ClassScore:
    """One class: the images that are of it, and how many of those were recognised."""

    name: str
    images: int
    right: int


@dataclass(frozen=True)
class Score:
    """How one artifact did. Shares are 0..1; `ci95` is Wilson's interval for `top1`.

    `top5` is None for fewer than six classes, `agreement` (the share of images to which the fp32 graph gives the same
    class) for that graph itself. `loss` is the mean cross-entropy in nats over the images with finite outputs, None
    where there are none; `not_finite` counts the others, which are wrong.
    """

    kind: str
    sha256: str
    images: int
    right: int
    top1: float
    ci95: tuple[float, float]
    top5: float | None
    loss: float | None
    not_finite: int
    agreement: float | None
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class NotMeasured:
    """An artifact that cannot be run here, and what it needs."""

    kind: str
    profile: str
    needs: str


@dataclass(frozen=True)
class Accuracy:
    """The scores of one variant's artifacts on the same images, and how these became inputs."""

    created: str
    edgekit: str
    data: Labels
    preprocessing: Preprocessing
    scores: tuple[Score, ...]
    not_measured: tuple[NotMeasured, ...]
    tools: dict[str, str]
    machine: dict[str, str]
    schema: int = field(default=SCHEMA)

    def of(self, sha256: str) -> Score | None:
        """The score of the file with that hash."""
        return next((score for score in self.scores if score.sha256 == sha256), None)


def wilson(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `right` of `images` were seen (Wilson 1927); (0, 1) for no images."""
    if images == 0:
        return 0.0, 1.0
    share, spread = right / images, Z95**2 / images
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    return (0.0 if right == 0 else middle - half), (1.0 if right == images else middle + half)


def read(folder: Path) -> Accuracy | None:
    """The accuracy file of a variant's folder, None where there is none. Raises InputUnusable for a damaged one."""
    path = folder / FILE
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > LARGEST_BYTES:
            raise InputUnusable("the file is too large for an accuracy file", where=str(path))
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputUnusable("cannot read the accuracy file", where=str(path), got=str(error)) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputUnusable("this is not an accuracy file of this edgekit", where=str(path), wanted=f"schema {SCHEMA}")
    try:
        return schema.read(Accuracy, data)
    except schema.SchemaError as error:
        raise InputUnusable("the accuracy file does not fit its schema", where=str(path), got=str(error)) from error


def write(folder: Path, accuracy: Accuracy) -> Path:
    """Write the file beside the manifest, whole or not at all; returns its path."""
    path = folder / FILE
    data = schema.to_json(accuracy)
    assert isinstance(data, dict)
    text = json.dumps({"schema": data.pop("schema"), **data}, indent=1, allow_nan=False) + "\n"
    temporary = folder / f".{FILE}.partial-{os.getpid()}"
    with disk_errors(path):
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(folder)
    return path

"""With which weights, from the word on the command line; known without importing anything heavy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.models._info import PretrainedWeights
from edgekit.models._published import find
from edgekit.sources.archives import path_of
from edgekit.sources.naming import LIBRARIES, Library, Source
from edgekit.variant import check_whole

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class SeedWeights:
    """Random weights from a seed, with calibrated statistics."""

    seed: int
    kind: Literal["seed"] = "seed"


@dataclass(frozen=True)
class CheckpointWeights:
    """A state dict in a file."""

    path: Path
    kind: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True)
class TorchvisionWeights:
    """The weights that torchvision publishes for a reference network."""

    pretrained: PretrainedWeights
    kind: Literal["torchvision"] = "torchvision"


@dataclass(frozen=True)
class LibraryWeights:
    """The weights that torchvision or timm gives its own network by default; which they are shows at `load`."""

    library: Library
    network: str
    kind: Literal["library"] = "library"


@dataclass(frozen=True)
class OwnWeights:
    """The weights that the source brings: an archive's, or those with which a factory returns its module.

    `seed` is what random generators are set to before the factory is called.
    """

    seed: int
    kind: Literal["own"] = "own"


Weights = SeedWeights | CheckpointWeights | TorchvisionWeights | LibraryWeights | OwnWeights


def parse_weights(text: str, *, model: str | None = None, source: Source | None = None, seed: int = 0) -> Weights:
    """The weights that `--weights` names for `source`, or for the reference network `model`.

    "none" is `SeedWeights`, or what the source itself brings; "default" the published ones, or a run's best; all else a
    file. Raises
    UsageError for a seed out of range, for "default" where there are no published weights and for a file where the
    source has its own, and InputUnusable for a file that is not there.
    """
    if source is None:
        source = Source("reference", model or "")
    if source.kind == "run" and text in ("none", "default"):
        from edgekit.sources import from_run

        return from_run.best(source)
    if text == "none":
        check_whole("seed", seed, 0, LARGEST_SEED)
        return SeedWeights(seed) if source.kind in ("reference", *LIBRARIES) else OwnWeights(seed)
    if text == "default":
        return _published(source)
    if source.kind not in ("reference", "factory", "run", *LIBRARIES):
        raise UsageError("this source has its weights in it", where="--weights", got=text, hint="leave --weights out")
    return _checkpoint(text)


def identity(weights: Weights) -> str:
    """What tells these weights from others, for a cache key: equal texts mean equal weights of the same source.

    Raises InputUnusable for a file that cannot be read.
    """
    if isinstance(weights, SeedWeights | OwnWeights):
        return f"{weights.kind}:{weights.seed}"
    if isinstance(weights, TorchvisionWeights):
        return f"{weights.pretrained.library}:{weights.pretrained.name}:{weights.pretrained.file}"
    if isinstance(weights, LibraryWeights):
        return f"{weights.library}:{weights.network}:default"
    return f"sha256:{file_digest(weights.path, 'the weights')}"


def file_digest(path: Path, what: str) -> str:
    """The SHA-256 of a file. Raises InputUnusable when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputUnusable(f"cannot read {what}", where=str(path), got=str(error.strerror)) from error


def _checkpoint(text: str) -> CheckpointWeights:
    path = path_of(text)
    if not _exists(path):
        hint = did_you_mean(text, ["none", "default"])
        raise InputUnusable("there is no such weights file", where="--weights", got=text, hint=hint)
    return CheckpointWeights(path)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no file can have such a name
        return False


def _published(source: Source) -> TorchvisionWeights | LibraryWeights:
    for library in LIBRARIES:
        if source.kind == library:
            return LibraryWeights(library, source.name)
    if source.kind == "reference":
        return TorchvisionWeights(find(source.name))
    raise UsageError(
        "nobody publishes weights for this source",
        where="--weights default",
        got=source.text,
        hint="leave --weights out for those that it brings itself",
    )

"""What is asked of a builder, and what it gives back: plain data that crosses the border to its process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import UsageError
from edgekit.manifest import EnginePrecision, Receipt

LEVELS = range(6)


@dataclass(frozen=True)
class BuildRequest:
    """One plan: from which graph, to which file, in which precision, for which compute capabilities ("sm86").

    `batch` is (min, opt, max) for a graph with a dynamic batch, None for a static one, and `sides` the same for open
    heights and widths. `fp16_mode` "typed" takes the
    precision from the graph's own types; "flag" (TensorRT 8) allows FP16 by a builder flag. `workspace_mib` and
    `optimization_level` None leave TensorRT's defaults. Raises UsageError for what contradicts itself.
    """

    onnx_path: Path
    out_path: Path
    precision: EnginePrecision
    targets: tuple[str, ...] = ()
    batch: tuple[int, int, int] | None = None
    fp16_mode: Literal["typed", "flag"] = "typed"
    workspace_mib: int | None = None
    optimization_level: int | None = None
    sides: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        # TensorRT takes most of these silently: a minimum of 0 as a static batch, a level of -1 as the default.
        if self.precision not in ("fp16", "fp32"):
            raise _contradiction("precision", str(self.precision), "fp16 or fp32")
        for name, span in (("batch", self.batch), ("sides", self.sides)):
            if span is not None and not 1 <= span[0] <= span[1] <= span[2]:
                raise _contradiction(name, str(span), "1 <= min <= opt <= max")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise _contradiction("workspace_mib", str(self.workspace_mib), "a number of MiB above 0")
        if self.optimization_level is not None and self.optimization_level not in LEVELS:
            raise _contradiction("optimization_level", str(self.optimization_level), "a whole number from 0 to 5")
        for target in self.targets:
            capability(target)
        if len(set(self.targets)) < len(self.targets):  # it would be compiled twice and make the plan six times larger
            raise _contradiction("targets", ", ".join(self.targets), "each target once")


@dataclass(frozen=True)
class BuiltEngine:
    """A plan on disk: its size in bytes, its SHA-256 (hex), what it is for, its receipt, and what built it.

    `seconds` is the time for parsing and building; `log` holds TensorRT's warnings.
    """

    path: Path
    bytes: int
    sha256: str
    targets: tuple[str, ...]
    receipt: Receipt
    tensorrt_version: str
    seconds: float
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """Asks a builder's process whether it could build here."""


@dataclass(frozen=True)
class Probed:
    """The TensorRT version found, and what is missing, None when nothing is."""

    version: str | None
    lacking: str | None


def capability(target: str) -> tuple[int, int]:
    """A compute capability as numbers: "sm86" is (8, 6), "sm121" is (12, 1). Raises UsageError for anything else."""
    match = re.fullmatch(r"sm([1-9][0-9]?)([0-9])", target)
    if match is None:
        raise _contradiction("targets", target, "compute capabilities such as sm86")
    return int(match[1]), int(match[2])


def partial_path(path: Path, pid: int) -> Path:
    """Where a builder with this process id writes before it renames."""
    return path.with_name(f".{path.name}.{pid}.partial")


def _contradiction(where: str, got: str, wanted: str) -> UsageError:
    return UsageError("the engine cannot be built as asked", where=where, got=got, wanted=wanted)

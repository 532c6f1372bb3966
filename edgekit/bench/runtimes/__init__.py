"""What can be measured: one file for each runtime, found by its name (`onnxruntime_cpu.py` is `onnxruntime-cpu`).

Such a file holds `RUNTIME`, a `Runtime`, and imports nothing heavy at its top: what it needs is imported by `open`,
which runs in a process of its own. Files whose names begin with an underscore are shared by several.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from edgekit.bench.record import Clock, Placement, Transfers
from edgekit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from edgekit.parity.metrics import AnyArray, Feeds

ArtifactKind = Literal["onnx-fp32", "onnx-fp16", "engine", "module"]


@dataclass(frozen=True)
class Settings:
    """How a runtime is to run: what of the contract the user chooses. None is the runtime's own default.

    `strict` is for a runtime that was asked for by name: `open` raises GateFailed where a single node runs elsewhere.
    """

    threads: int | None = None
    spin: bool | None = None
    cuda_graph: bool | None = None
    transfers: Transfers | None = None
    compiled: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Candidate:
    """One thing to be measured: a file of an exported variant.

    `path` is the graph's or the engine's; `directory` is the variant's folder, from whose manifest a module is made
    again. `profile` names the engine's export profile, `flavour` whose engine it is.
    """

    directory: Path
    kind: ArtifactKind
    path: Path
    sha256: str
    profile: str | None = None
    flavour: str | None = None


class Runner(Protocol):
    """A candidate that is loaded, with its inputs in place; made by `Runtime.open` in the measuring process.

    `placement` says where its nodes run. `transfers`, `cuda_graph`, `threads` and `spin` are what is so, not what was
    asked for.
    """

    placement: Placement | None
    transfers: Transfers
    cuda_graph: bool | None
    threads: int | None
    spin: bool | None

    def feed(self, feeds: Feeds) -> None:
        """Put these inputs, by name, where the runs take them from."""

    def sample(self, count: int) -> Sequence[float]:
        """Run `count` times, one after the other; seconds of each by the runtime's clock. Nothing else happens."""

    def outputs(self) -> Mapping[str, AnyArray]:
        """What one more run on the inputs gives, by name; float16 as float32."""

    def close(self) -> None:
        """Let go of memory and devices."""


class Runtime(Protocol):
    """A way to run an artifact. `clock` is what its samples are taken with, `flavour` whose engines it runs, if any."""

    name: str
    clock: Clock
    kinds: tuple[ArtifactKind, ...]
    flavour: str | None

    def missing(self) -> str | None:
        """What this machine lacks to run it, and how to get it; None when it runs here. Imports nothing heavy."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the packages and programs that take part, by name."""

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """Load it. Raises InputUnusable where the runtime refuses it, GateFailed where it would quietly run elsewhere
        than the runtime's name says.
        """


def names() -> list[str]:
    """The runtimes that there are files for, in alphabetical order."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))


def runtime(name: str) -> Runtime:
    """The runtime with that name. Raises UsageError for one that nobody knows."""
    if name not in names():
        raise UsageError("unknown runtime", where="--runtime", got=name, hint=did_you_mean(name, names()))
    found: Runtime = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").RUNTIME
    return found

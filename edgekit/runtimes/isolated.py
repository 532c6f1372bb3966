"""ONNX Runtime for graphs that nobody here made: in a process of its own, with a limit on time and on memory.

Nothing native runs in the caller's process. A graph that crashes, hangs, or unfolds a few bytes to many gigabytes is
an error with a name; the other graphs are loaded again into a new process when they are next run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from edgekit.isolation import Isolated
from edgekit.parity.metrics import AnyArray

TIMEOUT_S = 120.0
MAX_RESULT_BYTES = 1 << 30  # of one run: results cross a border in memory, and lie there twice


@dataclass(frozen=True)
class LoadRequest:
    """A graph to hold ready: what `CpuSession` takes, and the memory in bytes that the process may use from now on."""

    model: bytes
    extra: tuple[str, ...]
    optimise: bool
    folder: Path | None
    memory_bytes: int


@dataclass(frozen=True)
class Loaded:
    """A graph that is ready: its number, and the names of its inputs and outputs."""

    number: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class RunRequest:
    """One run of the graph with that number."""

    number: int
    feed: Mapping[str, AnyArray]


@dataclass(frozen=True)
class DropRequest:
    """The graph with that number is not needed any more."""

    number: int


class IsolatedCpu:
    """A process with ONNX Runtime, started on first use, that holds any number of graphs.

    `timeout_s` limits every load and every run; `memory_bytes` limits the process, by default to half of the machine.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, memory_bytes: int | None = None) -> None:
        self.timeout_s = timeout_s
        self.memory_bytes = half_of_memory() if memory_bytes is None else memory_bytes
        self._isolated = Isolated("edgekit.runtimes.isolated_worker:serve_request", what="ONNX Runtime")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id, None while there is none."""
        return self._isolated.pid

    def start(self) -> None:
        """Let the process import ONNX Runtime while this one does something else."""
        self._isolated.start()

    def load(
        self, model: bytes, extra: Sequence[str] = (), *, optimise: bool = True, folder: Path | None = None
    ) -> IsolatedSession:
        """A serialised model, ready to run, with the arguments of `CpuSession`.

        Raises InputUnusable where ONNX Runtime refuses it or needs more memory than there may be, and IsolationFailed
        where it dies or takes too long.
        """
        absolute = None if folder is None else folder.absolute()  # the process keeps the folder it was started in
        return IsolatedSession(self, LoadRequest(model, tuple(extra), optimise, absolute, self.memory_bytes))

    def call(self, request: LoadRequest | RunRequest | DropRequest) -> object:
        """The process's reply, within the time limit."""
        return self._isolated.call(request, self.timeout_s)

    def release(self) -> None:
        """Let go of the process without ending it: a worker forked after `start` has it from now on."""
        self._isolated.release()

    def close(self) -> None:
        """End the process at once."""
        self._isolated.close()


class IsolatedSession:
    """A graph ready to run, as a `CpuSession` is; made by `IsolatedCpu.load`."""

    def __init__(self, runtime: IsolatedCpu, request: LoadRequest) -> None:
        self._runtime, self._request = runtime, request
        self._loaded = self._load()
        self.inputs, self.outputs = list(self._loaded.inputs), list(self._loaded.outputs)

    def __call__(self, values: AnyArray | Mapping[str, AnyArray]) -> Mapping[str, AnyArray]:
        """One array for the first input, or arrays by name, to all outputs by name; float16 comes back as float32.

        Raises InputUnusable where the graph cannot be run on them or needs too much memory, and IsolationFailed where
        the process dies or takes too long.
        """
        if self._runtime.pid != self._pid:  # it died over another graph
            self._loaded = self._load()
        feed = dict(values) if isinstance(values, Mapping) else {self.inputs[0]: values}
        found = self._runtime.call(RunRequest(self._loaded.number, feed))
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        """Give the graph's memory back; the process goes on."""
        if self._runtime.pid is not None and self._runtime.pid == self._pid:
            self._runtime.call(DropRequest(self._loaded.number))

    def _load(self) -> Loaded:
        loaded = self._runtime.call(self._request)
        assert isinstance(loaded, Loaded)
        self._pid = self._runtime.pid
        return loaded


def half_of_memory() -> int:
    """Half of the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

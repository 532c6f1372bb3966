"""ONNX Runtime on the CPU: what most people without a GPU run, and the reference of every other runtime here.

With more than one thread, all sessions of a process share one pool of them, and its threads spin while they wait, as
ONNX Runtime's own do: pools that spin beside each other take each other's cores. Without spinning, every session has a
pool of its own, which sleeps between the runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import ONNXRUNTIMES, installed, missing_module


class OnnxRuntimeCpu:
    """Graphs on the CPU's cores, timed by the host's clock. See `Runtime`."""

    name = "onnxruntime-cpu"
    clock: Clock = "host"
    kinds: tuple[ArtifactKind, ...] = ("onnx-fp32", "onnx-fp16")
    flavour: str | None = None

    def missing(self) -> str | None:
        """The package, where it is not installed."""
        return missing_module("onnxruntime", "pip install onnxruntime")

    def versions(self) -> Mapping[str, str]:
        """Of whichever ONNX Runtime is installed."""
        return installed(*ONNXRUNTIMES)

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """The graph in a session. Raises InputUnusable where ONNX Runtime refuses it, UsageError for other settings
        than the CPU has, or another number of threads than this process runs with already.
        """
        from edgekit.bench.runtimes._onnxruntime import open_on_cpu

        return open_on_cpu(candidate.path, settings)


RUNTIME = OnnxRuntimeCpu()

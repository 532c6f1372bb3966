"""OpenVINO on the CPU, in the precision that the graph declares.

Left to itself, OpenVINO computes a float32 graph in bfloat16 where the CPU has units for it: twice as fast, and another
arithmetic. Here it is told to keep to float32, and `openvino-bf16` is where the other is measured, under its own name.
A float16 graph is computed in float16 where the CPU can, else in float32, as ONNX Runtime does.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import installed, missing_module

INSTALL = "pip install 'edgekit-trt[openvino]'"


class OpenVino:
    """Graphs on the CPU's cores, timed by the host's clock. See `Runtime`."""

    name = "openvino"
    clock: Clock = "host"
    kinds: tuple[ArtifactKind, ...] = ("onnx-fp32", "onnx-fp16")
    flavour: str | None = None

    def missing(self) -> str | None:
        """The package, where it is not installed."""
        return missing_module("openvino", INSTALL)

    def versions(self) -> Mapping[str, str]:
        """Of OpenVINO, and the precision that it is told to compute in."""
        return {**installed("openvino"), "inference-precision": "as the graph declares"}

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """The graph, compiled for the CPU. Raises InputUnusable where OpenVINO refuses it, GateFailed where it computes
        in another precision than it was told to, UsageError for settings that it does not have.
        """
        from edgekit.bench.runtimes._openvino import declared, open_graph

        return open_graph(candidate.path, settings, declared(candidate.kind))


RUNTIME = OpenVino()

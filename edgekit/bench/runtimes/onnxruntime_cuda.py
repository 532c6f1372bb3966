"""ONNX Runtime with CUDA. Unverified: it needs a GPU, and no such machine was at hand.

Its time is the host's, from the call until the GPU has finished, with the copies of inputs and outputs unless transfers
are excluded; then both stay on the GPU. A CUDA graph replays fixed addresses, so it comes with transfers excluded.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import ONNXRUNTIMES, installed, missing_gpu, missing_provider


class OnnxRuntimeCuda:
    """Graphs on an NVIDIA GPU by ONNX Runtime's own kernels and cuDNN. See `Runtime`."""

    name = "onnxruntime-cuda"
    clock: Clock = "host"
    kinds: tuple[ArtifactKind, ...] = ("onnx-fp32", "onnx-fp16")
    flavour: str | None = None

    def missing(self) -> str | None:
        """A GPU, or an ONNX Runtime that was built with CUDA."""
        return missing_gpu() or missing_provider("cuda")

    def versions(self) -> Mapping[str, str]:
        """Of ONNX Runtime, and of what it uses where that was installed by pip."""
        return installed(*ONNXRUNTIMES, "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cuda-runtime")

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """The graph on the GPU. Raises GateFailed where no node runs there or, if strict, a single one does not;
        MachineLacks where this ONNX Runtime knows no CUDA; InputUnusable where it refuses the graph.
        """
        from edgekit.bench.runtimes._onnxruntime import CUDA, open_on_gpu

        return open_on_gpu(candidate.path, settings, CUDA, ())


RUNTIME = OnnxRuntimeCuda()

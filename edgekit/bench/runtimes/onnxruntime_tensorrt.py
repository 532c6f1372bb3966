"""ONNX Runtime with TensorRT; nodes that TensorRT does not take go to CUDA. Unverified: it needs a GPU.

The clock, transfers and CUDA graphs are those of `onnxruntime_cuda`.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
from collections.abc import Mapping

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import ONNXRUNTIMES, installed, missing_gpu, missing_provider


class OnnxRuntimeTensorRT:
    """Graphs on an NVIDIA GPU by TensorRT inside of ONNX Runtime, which builds the engine while it loads."""

    name = "onnxruntime-tensorrt"
    clock: Clock = "host"
    kinds: tuple[ArtifactKind, ...] = ("onnx-fp32", "onnx-fp16")
    flavour: str | None = None

    def missing(self) -> str | None:
        """A GPU, an ONNX Runtime that was built with TensorRT, or TensorRT's own libraries."""
        return missing_gpu() or missing_provider("tensorrt") or _missing_libraries()

    def versions(self) -> Mapping[str, str]:
        """Of ONNX Runtime, and of TensorRT where it was installed by pip."""
        return installed(*ONNXRUNTIMES, "tensorrt", "nvidia-cuda-runtime")

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """The graph in TensorRT. Raises as `onnxruntime-cuda` does."""
        from edgekit.bench.runtimes._onnxruntime import CUDA, NO_TF32, TENSORRT, open_on_gpu

        half = {"trt_fp16_enable": str(int(candidate.kind == "onnx-fp16"))}
        return open_on_gpu(candidate.path, settings, TENSORRT, ((CUDA, NO_TF32),), half)


def _missing_libraries() -> str | None:
    if importlib.util.find_spec("tensorrt") or ctypes.util.find_library("nvinfer"):
        return None
    return "TensorRT's libraries: JetPack brings them; elsewhere pip install 'edgekit-trt[tensorrt]'"


RUNTIME = OnnxRuntimeTensorRT()

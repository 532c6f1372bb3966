"""TensorRT-RTX engines on this machine's GPU, timed by its own clock. Unverified: it needs a GPU.

The kernels of such an engine are compiled when it is loaded, which is not in its time. Tested is what `tensorrt` is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import installed, missing_gpu, missing_module
from edgekit.engines.rtx import FLAVOUR


class TensorRTRtx:
    """Engines of TensorRT-RTX. See `Runtime`."""

    name = "tensorrt-rtx"
    clock: Clock = "device"
    kinds: tuple[ArtifactKind, ...] = ("engine",)
    flavour: str | None = "tensorrt-rtx"

    def missing(self) -> str | None:
        """A GPU, TensorRT-RTX, or what it is spoken to through."""
        lacking = missing_gpu() or missing_module("tensorrt_rtx", FLAVOUR.install)
        return lacking or missing_module("torch", "pip install torch")

    def versions(self) -> Mapping[str, str]:
        """Of TensorRT-RTX and of PyTorch, whose memory and events are used."""
        return installed("tensorrt_rtx", "torch")

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """As `tensorrt` does."""
        from edgekit.bench.runtimes._engine_files import require

        require(self.missing(), candidate.path, "tensorrt-rtx")
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read when Polygraphy is imported, once for a process
        from edgekit.bench.runtimes._tensorrt import open_engine

        return open_engine(candidate.path, settings, rtx=True)


RUNTIME = TensorRTRtx()

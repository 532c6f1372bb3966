"""TensorRT engines on this machine's GPU, timed by its own clock. Unverified: it needs a GPU.

What is tested without one: that its absence is named, and that every attribute which it touches exists in 8.6.1, 10.3,
10.13, 10.16 and 11.4.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import installed, missing_gpu, missing_module
from edgekit.engines.tensorrt import FLAVOUR


class TensorRT:
    """Engines of full TensorRT. See `Runtime`."""

    name = "tensorrt"
    clock: Clock = "device"
    kinds: tuple[ArtifactKind, ...] = ("engine",)
    flavour: str | None = "tensorrt"

    def missing(self) -> str | None:
        """A GPU, TensorRT, or what it is spoken to through."""
        return (
            missing_gpu() or missing_module("tensorrt", FLAVOUR.install) or missing_module("torch", "pip install torch")
        )

    def versions(self) -> Mapping[str, str]:
        """Of TensorRT and of PyTorch, whose memory and events are used."""
        return installed("tensorrt", "torch")

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """The engine on the GPU. Raises MachineLacks without one, InputUnusable for a file that is no such engine or
        that this GPU does not take, UsageError for settings that it does not have.
        """
        from edgekit.bench.runtimes._engine_files import require

        require(self.missing(), candidate.path, "tensorrt")
        from edgekit.bench.runtimes._tensorrt import open_engine

        return open_engine(candidate.path, settings, rtx=False)


RUNTIME = TensorRT()

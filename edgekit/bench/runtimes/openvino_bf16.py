"""OpenVINO on the CPU, computing float32 graphs in bfloat16: what it does by default on CPUs with units for it.

bfloat16 has three bits less than float16. Whether a network bears that is for its parity check to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import installed, missing_module
from edgekit.bench.runtimes.openvino import INSTALL

CPU_INFO = Path("/proc/cpuinfo")
UNITS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # x86's two, and Arm's


class OpenVinoBf16:
    """float32 graphs in bfloat16 on the CPU's cores, timed by the host's clock. See `Runtime`."""

    name = "openvino-bf16"
    clock: Clock = "host"
    kinds: tuple[ArtifactKind, ...] = ("onnx-fp32",)
    flavour: str | None = None

    def missing(self) -> str | None:
        """The package, or a CPU with bfloat16."""
        return missing_module("openvino", INSTALL) or missing_units(CPU_INFO)

    def versions(self) -> Mapping[str, str]:
        """Of OpenVINO, and the precision that it is told to compute in."""
        return {**installed("openvino"), "inference-precision": "bf16"}

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """As `openvino` does."""
        from edgekit.bench.runtimes._openvino import open_graph

        return open_graph(candidate.path, settings, "bf16")


def missing_units(cpu_info: Path) -> str | None:
    """Whether the CPU lacks bfloat16, by its flags."""
    try:
        words = set(cpu_info.read_text().split())
    except OSError:
        words = set()
    return None if words & UNITS else "a CPU with bfloat16 instructions (AMX or AVX-512 BF16)"


RUNTIME = OpenVinoBf16()

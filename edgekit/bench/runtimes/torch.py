"""PyTorch on the CPU: the network itself, made again as the manifest says; eager, or compiled on request.

Convolutions run in the channels-last layout, weights and images alike, put there before the clock starts: it is what
PyTorch is fastest in on x86, and a slower layout would flatter everything that is compared with it. Nothing else is
changed: batch norms stay layers of their own. `versions` names the layout, as it is part of what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import installed, missing_module


class Torch:
    """Modules on the CPU's cores, timed by the host's clock. See `Runtime`."""

    name = "torch"
    clock: Clock = "host"
    kinds: tuple[ArtifactKind, ...] = ("module",)
    flavour: str | None = None

    def missing(self) -> str | None:
        """The package, where it is not installed."""
        return missing_module("torch", "pip install torch")

    def versions(self) -> Mapping[str, str]:
        """Of PyTorch, and the memory format."""
        return {**installed("torch"), "memory-format": "channels-last"}

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """The module of `candidate.directory`'s manifest. Raises InputUnusable where it cannot be made again or has
        other weights than were exported, UsageError for settings that it does not have.
        """
        from edgekit.bench.runtimes._torch import open_module

        return open_module(candidate.directory, settings)


RUNTIME = Torch()

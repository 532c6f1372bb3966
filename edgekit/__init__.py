"""edgekit: from a PyTorch network to a proven edge engine.

The public API. Importing it loads nothing heavy; each function imports what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, GateFailed, InputUnusable, MachineLacks, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from edgekit.manifest import Manifest
    from edgekit.pipeline import Outcome
    from edgekit.plan import Parity, Precision
    from edgekit.profile import ExportProfile

__version__ = "0.1.0"
__all__ = [
    "EdgekitError",
    "GateFailed",
    "InputUnusable",
    "MachineLacks",
    "UsageError",
    "__version__",
    "export",
    "load_profile",
    "read_manifest",
    "verify",
]


def export(
    source: str,
    *,
    alpha: float | None = None,
    resolution: int | None = None,
    batch: int | None = 1,
    num_classes: int | None = None,
    options: dict[str, str] | None = None,
    weights: str | PathLike[str] = "none",
    seed: int = 0,
    precisions: Sequence[Precision] = ("fp32", "fp16"),
    profiles: Sequence[str] = ("rtx",),
    engines: bool = True,
    parity: Parity = "full",
    out: str | PathLike[str] = "artifacts",
    force: bool = False,
) -> Outcome:
    """Carry one network through the whole journey, or find it done: what `edgekit export` does.

    `source` is a reference network; `batch` None leaves the batch open; `weights` is a checkpoint, "default" or
    "none". The work is done in a forked process, so no other thread may be in the middle of something. Raises
    GateFailed when a rung or an engine fails, and the other errors of this package for what cannot be served.
    """
    from pathlib import Path

    from edgekit import models, pipeline, profile, sources
    from edgekit.plan import Plan
    from edgekit.variant import Variant

    about = models.info(source)
    width = alpha if alpha is not None or not about.has_alpha else 1.0
    size = about.default_resolution if resolution is None else resolution
    variant = Variant(source, width, size, batch, num_classes, tuple(sorted((options or {}).items())))
    plan = Plan(
        weights=sources.parse_weights(str(weights), model=source, seed=seed),
        profiles=tuple(profile.load(name) for name in profiles),
        precisions=tuple(precisions),
        engines=engines,
        parity=parity,
        out=Path(out),
        force=force,
    )
    plan.check()
    return pipeline.export_variant(variant, plan)


def load_profile(name_or_path: str) -> ExportProfile:
    """A shipped export profile by its name, or one of your own by its path. Raises UsageError naming every mistake."""
    from edgekit import profile

    return profile.load(name_or_path)


def read_manifest(path: str | PathLike[str]) -> Manifest:
    """The manifest of a variant: its file, or the folder that holds it. Raises InputUnusable for anything else."""
    from pathlib import Path

    from edgekit import manifest

    return manifest.read(Path(path))


def verify(path: str | PathLike[str]) -> Manifest:
    """The manifest of a variant after checking the hash of every file. Raises InputUnusable naming what differs."""
    from pathlib import Path

    from edgekit import manifest

    return manifest.read_verified(Path(path))[0]

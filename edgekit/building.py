"""Engines for a variant that is already exported, added to its folder and manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgekit import manifest, profile
from edgekit.errors import GateFailed, UsageError
from edgekit.helpers import EngineBuilds, Helpers
from edgekit.manifest import Engine, Manifest, ProfileRecord
from edgekit.plan import FASTEST_FIRST, Precision
from edgekit.profile import ExportProfile


def build(path: Path, profiles: Sequence[ExportProfile]) -> tuple[Engine, ...]:
    """Build every profile's engine for the variant at `path` (its folder or manifest); returns their records.

    An engine that fails leaves the one that was there. Raises InputUnusable when the folder is not what its manifest
    says, GateFailed when the variant never passed its ladder, UsageError for a precision that it does not have.
    """
    _, folder = _exported(path)  # refused before anything is locked, and a folder made for the lock
    with manifest.locked(folder.parent):
        found, _ = _exported(path)  # as it is, now that nobody else writes to it
        return _build(found, folder, profiles)


def _exported(path: Path) -> tuple[Manifest, Path]:
    found, folder = manifest.read_verified(path)
    if not found.parity.passed:
        raise GateFailed("no engine is built of a variant that failed its parity ladder", where=str(folder))
    return found, folder


def _build(found: Manifest, folder: Path, profiles: Sequence[ExportProfile]) -> tuple[Engine, ...]:
    graphs = {a.kind.removeprefix("onnx-"): a.path for a in found.artifacts if a.kind.startswith("onnx-")}
    wanted = [(used, _precision(used, graphs)) for used in profiles if used.flavour != "none"]
    staging = manifest.Staging(folder)
    helpers = Helpers(profiles, simplify=False)
    try:
        for graph in graphs.values():
            staging.link(folder / graph)
        builds = EngineBuilds(helpers, staging.folder, found.variant.batch, graphs, _side(found))
        builds.start(wanted)
        records = builds.finish()
        staging.add_to(_with_engines(found, profiles, records))
    finally:
        helpers.close()
        staging.discard()
    return records


def _side(found: Manifest) -> int | None:
    """The side that the ladder was climbed at, where the graph leaves height and width open."""
    fp32 = found.artifact("onnx-fp32")
    is_open = fp32 is not None and any("height" in spec.shape for spec in fp32.inputs)
    return found.variant.resolution if is_open else None


def _precision(used: ExportProfile, graphs: dict[str, str]) -> Precision:
    for precision in FASTEST_FIRST:
        if precision in graphs and precision in used.precisions:
            return precision
    raise UsageError(
        f"profile {used.name} cannot run what was exported",
        got=", ".join(graphs),
        wanted=" or ".join(used.precisions),
        hint="export it again with that --precision",
    )


def _with_engines(found: Manifest, profiles: Sequence[ExportProfile], records: Sequence[Engine]) -> Manifest:
    """The manifest with the new engines in place of older ones of the same profile; a failed one replaces nothing."""
    done = {record.profile for record in records if record.status != "failed"}
    engines = [record for record in found.engines if record.profile not in done]
    described = {used.name: ProfileRecord(used.name, profile.digest(used), used) for used in profiles}
    known = [record for record in found.profiles if record.name not in described]
    return replace(
        found,
        engines=(*engines, *(record for record in records if record.profile in done)),
        profiles=(*known, *described.values()),
    )

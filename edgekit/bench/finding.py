"""From folders on disk to what can be measured. Manifests are verified: a changed file is no variant's any more."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit import manifest
from edgekit.bench.record import Subject
from edgekit.bench.runtimes import ArtifactKind, Candidate
from edgekit.errors import InputUnusable, UsageError
from edgekit.manifest import NAME, Manifest

GRAPHS: tuple[ArtifactKind, ...] = ("onnx-fp32", "onnx-fp16")


@dataclass(frozen=True)
class Selection:
    """What to keep of what is found; empty means all of it."""

    alphas: tuple[float, ...] = ()
    resolutions: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    batch: int | None = None

    def takes(self, found: Manifest) -> bool:
        """Whether the variant is wanted. One with an open batch serves every batch."""
        it = found.variant
        return (
            (not self.alphas or it.alpha in self.alphas)
            and (not self.resolutions or it.resolution in self.resolutions)
            and (self.batch is None or it.batch in (None, self.batch))
        )

    def takes_precision(self, precision: str) -> bool:
        """Whether artifacts in that precision are wanted."""
        return not self.precisions or precision in self.precisions


@dataclass(frozen=True)
class Found:
    """One thing to measure: as the bench file names it, as a runtime opens it, and the manifest that speaks for it."""

    subject: Subject
    candidate: Candidate
    manifest: Manifest
    precision: str

    def rows(self, batch: int | None) -> int:
        """Rows in a batch when it is measured: the variant's, or where that is open what was asked for, or 1."""
        return self.manifest.variant.batch or batch or 1


def manifests(target: Path) -> list[Path]:
    """The folders of exported variants that a path means: itself, or those in it. Raises InputUnusable for none."""
    if target.is_file() and target.name == NAME:
        return [target.parent]
    if (target / NAME).is_file():
        return [target]
    found = [path.parent for path in sorted(target.glob(f"*/{NAME}")) if not path.parent.name.startswith(".")]
    if not found:
        raise InputUnusable(
            "no exported variant there", where=str(target), wanted=f"a folder with a {NAME}", hint="edgekit export"
        )
    return found


def find(targets: Sequence[Path], chosen: Selection, beside: Path) -> tuple[Found, ...]:
    """Everything there is to measure below the targets, in their order; paths are kept relative to the folder `beside`.

    Raises InputUnusable for a folder that is not what its manifest says, UsageError where the selection leaves nothing.
    """
    folders = list(dict.fromkeys(folder.resolve() for target in targets for folder in manifests(target)))
    found = [it for folder in folders for it in _in_folder(folder, chosen, beside.resolve())]
    if not found:
        raise UsageError(
            "nothing there fits what was asked for",
            where=", ".join(map(str, targets)),
            got=f"{len(folders)} exported variants",
            hint="leave out --alpha, --res, --precision or --batch to see what there is",
        )
    return tuple(_told_apart(found))


def _in_folder(folder: Path, chosen: Selection, beside: Path) -> Iterator[Found]:
    read, _ = manifest.read_verified(folder)
    if not chosen.takes(read):
        return
    for precision, candidate, size in _candidates(read, folder):
        if chosen.takes_precision(precision):
            yield Found(_subject(read, folder, candidate, size, beside), candidate, read, precision)


def _candidates(read: Manifest, folder: Path) -> Iterator[tuple[str, Candidate, int]]:
    """(precision, candidate, bytes) of the graphs, the engines, and the module that they were made from."""
    for kind in GRAPHS:
        if artifact := read.artifact(kind):
            candidate = Candidate(folder, kind, folder / artifact.path, artifact.sha256)
            yield kind.removeprefix("onnx-"), candidate, artifact.bytes
    for engine in read.engines:
        if engine.path is not None and engine.sha256 is not None and engine.receipt is not None:
            candidate = Candidate(folder, "engine", folder / engine.path, engine.sha256, engine.profile, engine.flavour)
            yield engine.receipt.requested, candidate, engine.bytes or 0
    if not read.source.lower().endswith(".onnx"):  # a graph from elsewhere has no module
        yield "fp32", Candidate(folder, "module", folder / NAME, read.weights.sha256), 4 * read.params


def _subject(read: Manifest, folder: Path, candidate: Candidate, size: int, beside: Path) -> Subject:
    return Subject(
        variant=read.variant,
        slug=folder.name,
        dir=os.path.relpath(folder, beside),
        kind=candidate.kind,
        sha256=candidate.sha256,
        bytes=size,
        params=read.params,
        macs=read.macs,
        profile=candidate.profile,
    )


def _told_apart(found: Sequence[Found]) -> Iterator[Found]:
    """Folders of one name in different places get their parents' names, and engines of several profiles theirs."""
    parts = dict.fromkeys((it.candidate.directory for it in found), 1)
    while clash := _clashing({folder: _name(folder, depth) for folder, depth in parts.items()}):
        for folder in clash:
            parts[folder] += 1
    engines = Counter(it.candidate.directory for it in found if it.candidate.kind == "engine")
    for it in found:
        folder = it.candidate.directory
        several = it.candidate.kind == "engine" and engines[folder] > 1
        kind = f"engine-{it.candidate.profile}" if several else it.subject.kind
        yield replace(it, subject=replace(it.subject, slug=_name(folder, parts[folder]), kind=kind))


def _name(folder: Path, depth: int) -> str:
    return "/".join(folder.parts[-depth:])


def _clashing(names: dict[Path, str]) -> list[Path]:
    counted = Counter(names.values())
    return [folder for folder, name in names.items() if counted[name] > 1]

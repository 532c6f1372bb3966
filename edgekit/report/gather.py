"""What there is to report on: every exported variant below a folder, and its benchmark, brought together.

Nothing is believed twice: files are held against their manifests again, and a measurement counts for a variant only
where the file that was measured is the one that is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

from edgekit import accuracy as accuracies
from edgekit import manifest as manifests
from edgekit.accuracy import Accuracy
from edgekit.bench import record
from edgekit.bench.record import BenchFile, Contract, Result, Subject
from edgekit.errors import EdgekitError, InputUnusable
from edgekit.manifest import Manifest
from edgekit.report import published
from edgekit.report.published import Published


@dataclass(frozen=True)
class Measured:
    """Top-1 in per cent with its 95 % interval, counted here on labelled images; `on` says on which, in words.

    Figures of one `data` are of the same images and can be compared. `by` is the graph that ran: an engine and a module
    have the figure of the graph of their precision.
    """

    top1: float
    low: float
    high: float
    on: str
    data: str
    by: str


@dataclass(frozen=True)
class Exported:
    """One exported variant. `problems`: what its files differ in from its manifest."""

    slug: str
    folder: Path
    manifest: Manifest
    problems: tuple[str, ...]
    accuracy: Accuracy | None = None

    def measured(self, kind: str, precision: str) -> Measured | None:
        """The accuracy of an artifact, where `edgekit eval` measured the file that is there now."""
        graph = self.manifest.artifact(kind if kind.startswith("onnx-") else f"onnx-{precision}")
        score = self.accuracy.of(graph.sha256) if self.accuracy and graph else None
        if score is None or self.accuracy is None:
            return None
        data = self.accuracy.data
        on = f"{data.images} images of {data.text}, {data.split}"
        same = f"{data.digest} {data.split} {data.val_share} {data.seed}"
        return Measured(score.top1 * 100, score.ci95[0] * 100, score.ci95[1] * 100, on, same, score.kind)

    @property
    def published(self) -> Published | None:
        """Its ImageNet top-1, where somebody published it."""
        return published.of(self.manifest)

    @property
    def bytes(self) -> int | None:
        """The size of its fp32 graph."""
        found = self.manifest.artifact("onnx-fp32")
        return found.bytes if found else None


@dataclass(frozen=True)
class Unreadable:
    """A folder whose manifest cannot be read, and why."""

    slug: str
    reason: str


@dataclass(frozen=True)
class Point:
    """One artifact under one runtime. `series` says which runtime and precision, in words that tell all of them apart.

    `faults` are reasons against the measurement that only show when the folder is looked at as well.
    """

    result: Result
    series: str
    exported: Exported | None
    faults: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason why the measurement cannot be relied on."""
        return (*self.result.verdict.reasons, *self.faults)

    @property
    def valid(self) -> bool:
        """Whether it can be relied on."""
        return self.result.verdict.valid and not self.faults

    @property
    def published(self) -> Published | None:
        """Its ImageNet top-1, where somebody published it; not without a manifest, as names alone may deceive."""
        return self.exported.published if self.exported else None

    @property
    def measured(self) -> Measured | None:
        """Its top-1 on labelled images, where that was measured."""
        if self.exported is None:
            return None
        return self.exported.measured(self.result.subject.kind, self.result.contract.precision)


def on_same_images(points: Sequence[Point]) -> str | None:
    """The images, in words, on which the accuracy of all the points was measured; None unless they are the same."""
    found = [point.measured for point in points]
    known = {it.data: it.on for it in found if it}
    return next(iter(known.values())) if len(known) == 1 and all(found) else None


@dataclass(frozen=True)
class Played:
    """A result of a scenario, and the file that it is of."""

    point: Point
    file: BenchFile


@dataclass(frozen=True)
class Gathered:
    """Everything that a report is made from; `bench` is None where nothing was measured in rounds.

    `played` are the results of scenarios: those that lie in the folder, and the benchmark's own where it is one.
    """

    name: str
    exported: tuple[Exported, ...]
    unreadable: tuple[Unreadable, ...]
    bench: BenchFile | None
    points: tuple[Point, ...]
    played: tuple[Played, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The runtimes and precisions: by runtime, its fp32 before all else."""
        found = {point.series: point.result.contract for point in self.points}
        return tuple(sorted(found, key=lambda name: (found[name].runtime, found[name].precision != "fp32", name)))


def gather(folder: Path, bench: Path | None = None) -> Gathered:
    """Read a variant's folder, or a grid's, and its benchmark: `bench`, or the folder's own bench.json if it has one.

    Raises InputUnusable where there is neither a variant nor a benchmark, and for a benchmark that cannot be read.
    """
    exported, unreadable = _variants(folder)
    path = bench or folder / record.FILE
    file = record.read(path) if bench or path.is_file() else None
    if not exported and (unreadable or file is None):
        raise _nothing(folder, unreadable)
    points = _points(file, path.parent, exported) if file else ()
    own = tuple(Played(it, file) for it in points if file and it.result.contract.scenario != "rounds")
    played = (*own, *_scenarios(folder, path, exported))
    return Gathered(folder.resolve().name, exported, unreadable, file, points, played)


def _scenarios(folder: Path, besides: Path, exported: Sequence[Exported]) -> Iterator[Played]:
    """What was played with the variants of a folder, where `edgekit bench --scenario` leaves it."""
    for scenario in get_args(record.Scenario):
        path = folder / record.file_of(scenario)
        if scenario != "rounds" and path.is_file() and path.resolve() != besides.resolve():
            file = record.read(path)
            yield from (Played(point, file) for point in _points(file, folder, exported))


def _nothing(folder: Path, unreadable: Sequence[Unreadable]) -> InputUnusable:
    return InputUnusable(
        "no exported variant can be read there" if unreadable else "no exported variant there",
        where=str(folder),
        got="; ".join(f"{it.slug}: {it.reason}" for it in unreadable) or None,
        wanted=f"a folder with a {manifests.NAME}, or a grid of them",
        hint="edgekit export",
    )


def _variants(folder: Path) -> tuple[tuple[Exported, ...], tuple[Unreadable, ...]]:
    exported, unreadable = [], []
    for path in _folders(folder):
        name = path.resolve().name
        try:
            read = manifests.read(path)
        except EdgekitError as error:
            unreadable.append(Unreadable(name, f"{error.what}: {error.got}" if error.got else error.what))
        else:
            scored, doubts = _accuracy(path)
            problems = (*manifests.verify(read, path), *doubts)
            exported.append(Exported(name, path.resolve(), read, problems, scored))
    return tuple(sorted(exported, key=_order)), tuple(unreadable)


def _accuracy(folder: Path) -> tuple[Accuracy | None, tuple[str, ...]]:
    """What `edgekit eval` left there, and what is wrong with it."""
    try:
        return accuracies.read(folder), ()
    except EdgekitError as error:
        return None, (f"{accuracies.FILE}: {error.what}",)


def _folders(folder: Path) -> list[Path]:
    if (folder / manifests.NAME).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{manifests.NAME}")) if folder.is_dir() else []
    return [path for path in found if not path.name.startswith(".")]


def _order(exported: Exported) -> tuple[str, float, int, str]:
    """By network, the widest and largest first: as their publishers list them."""
    variant = exported.manifest.variant
    return variant.model, -(variant.alpha or 0.0), -(variant.resolution or 0), exported.slug


def _points(file: BenchFile, beside: Path, exported: Sequence[Exported]) -> tuple[Point, ...]:
    names = series_names([result.contract for result in file.results], [it.subject for it in file.results])
    pairs = zip(file.results, names, strict=True)
    return tuple(_point(result, name, beside, exported) for result, name in pairs)


def _point(result: Result, series: str, beside: Path, exported: Sequence[Exported]) -> Point:
    subject = result.subject
    found = _measured(subject, beside, exported)
    return Point(result, series, found, tuple(_faults(subject, found)) if found else ())


def _measured(subject: Subject, beside: Path, exported: Sequence[Exported]) -> Exported | None:
    """The variant that was measured: in the folder that the benchmark names, or, where folders moved, of that name."""
    there = Path(os.path.abspath(beside / subject.dir))  # noqa: PTH100 (a link that leads elsewhere is the same variant)
    for it in exported:
        if it.folder in (there, there.resolve()):
            return it
    named = [it for it in exported if it.slug == subject.slug.rpartition("/")[2]]
    return named[0] if len(named) == 1 else None


def _faults(subject: Subject, exported: Exported) -> list[str]:
    faults = []
    if subject.sha256 not in _hashes(exported.manifest):
        faults.append("the file that was measured is not the one that is in the folder now")
    if not exported.manifest.parity.passed:
        faults.append(f"the export failed its parity at {exported.manifest.parity.first_failure()}")
    return faults


def _hashes(manifest: Manifest) -> set[str]:
    """Of everything that can be measured; a module is known by its weights."""
    return {digest for _, digest in manifest.files()} | {manifest.weights.sha256}


# What a series is named by where its results differ in it; versions and warm-up stand in the table of contracts.
TELLING = ("batch", "threads", "clock", "transfers", "cuda_graph", "spin", "compiled", "scenario", "inputs")


def series_names(contracts: Sequence[Contract], subjects: Sequence[Subject]) -> list[str]:
    """`onnxruntime-cpu fp32` for each, with a profile, and with what tells contracts of that name apart."""
    bases = [_base(*pair) for pair in zip(contracts, subjects, strict=True)]
    return [
        ", ".join(
            [base, *_told_apart(contract, [it for it, name in zip(contracts, bases, strict=True) if name == base])]
        )
        for contract, base in zip(contracts, bases, strict=True)
    ]


def _base(contract: Contract, subject: Subject) -> str:
    return " ".join(word for word in (contract.runtime, contract.precision, subject.profile) if word)


def _told_apart(contract: Contract, like: Sequence[Contract]) -> list[str]:
    names = [slot.name for slot in fields(Contract) if slot.name in TELLING]
    differing = [name for name in names if len({getattr(other, name) for other in like}) > 1]
    return [f"{name.replace('_', ' ')} {word(getattr(contract, name))}" for name in differing]


def word(value: object) -> str:
    """A field of a contract as a word."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not stated" if value is None else str(value)

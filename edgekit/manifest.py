"""The manifest of an exported variant, and the only writer of an artifact folder.

A folder is written beside its final place and moved in file by file with the manifest last: a folder that has a
manifest is complete. The manifest holds the hash of every file, and its own, so that a later change is seen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgekit import headed, schema
from edgekit.errors import EdgekitError, InputUnusable, MachineLacks, UsageError
from edgekit.parity.report import ParityReport
from edgekit.preprocessing import Preprocessing
from edgekit.profile import ExportProfile

SCHEMA = 1
NAME = "manifest.json"
LARGEST_MANIFEST = 16 * 2**20

EnginePrecision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output; a dimension is a size, or a name where it is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Artifact:
    """One file of the folder. `path` is relative to the manifest; `nodes` is known for graphs only."""

    kind: str
    path: str
    sha256: str
    bytes: int
    made_by: str
    nodes: int | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True)
class Receipt:
    """The precision `requested`, and how many compute layers of each dtype were `found` in the network that is built.

    `reason` says why it did not pass; where it did, it may name a reservation.
    """

    requested: EnginePrecision
    found: dict[str, int]
    passed: bool
    reason: str | None = None


@dataclass(frozen=True)
class Engine:
    """What became of one profile's engine; `path` is relative to the manifest.

    "built": `path`, `bytes`, `sha256`, `builder` (the TensorRT version) and a passed `receipt` are there. "not-here":
    `reason` says why, and what to run where. "failed": `reason` says why; `receipt` is there when the precision is it.
    """

    profile: str
    flavour: str
    targets: tuple[str, ...]
    status: Literal["built", "not-here", "failed"]
    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    receipt: Receipt | None = None
    reason: str | None = None
    builder: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class VariantRecord:
    """The variant as asked for, with the number of classes that the network really has."""

    model: str
    alpha: float | None
    resolution: int | None
    batch: int | None
    num_classes: int | None
    options: dict[str, str]


@dataclass(frozen=True)
class WeightsRecord:
    """Where the weights came from, what identifies that source, and the hash of the tensors themselves."""

    kind: str
    identity: str
    sha256: str
    path: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ProfileRecord:
    """A profile as it was when the variant was exported."""

    name: str
    sha256: str
    resolved: ExportProfile


@dataclass(frozen=True)
class Manifest:
    """Everything about one exported variant."""

    key: str
    created: str
    edgekit: str
    variant: VariantRecord
    source: str
    weights: WeightsRecord
    params: int
    macs: int | None
    opset: int
    exporter: str
    preprocessing: Preprocessing | None
    artifacts: tuple[Artifact, ...]
    parity: ParityReport
    engines: tuple[Engine, ...]
    profiles: tuple[ProfileRecord, ...]
    tools: dict[str, str]
    machine: dict[str, str]
    notes: tuple[str, ...]
    seconds: float
    schema: int = field(default=SCHEMA)

    @property
    def passed(self) -> bool:
        """Whether every gate was passed: the ladder, and every engine that was to be built here."""
        return self.parity.passed and all(engine.status != "failed" for engine in self.engines)

    def artifact(self, kind: str) -> Artifact | None:
        """The artifact of that kind, for example `onnx-fp32`."""
        return next((artifact for artifact in self.artifacts if artifact.kind == kind), None)

    def files(self) -> list[tuple[str, str]]:
        """(relative path, sha256) of every file that the manifest speaks for."""
        listed = [(artifact.path, artifact.sha256) for artifact in self.artifacts]
        return listed + [(e.path, e.sha256) for e in self.engines if e.path is not None and e.sha256 is not None]


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(data: schema.JSON) -> bytes:
    """One spelling for one value: what hashes are taken of."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def encode(manifest: Manifest) -> bytes:
    """The manifest as it stands on disk: indented JSON that ends with the hash of everything before it."""
    data = schema.to_json(manifest)
    assert isinstance(data, dict)
    body = {"schema": data.pop("schema"), **data}
    body["digest"] = hashlib.sha256(canonical(body)).hexdigest()
    return (json.dumps(body, indent=1, allow_nan=False) + "\n").encode()


def decode(text: bytes, where: str) -> Manifest:
    """The manifest in `text`. Raises InputUnusable for anything else, and for one that was changed by hand."""
    try:
        data = json.loads(text)
        # Taken here, as NaN, an infinity and brackets nested deeply can be read and yet not be written.
        found = hashlib.sha256(canonical(_without_digest(data))).hexdigest()
    except (ValueError, RecursionError) as error:
        raise InputUnusable("the manifest is not JSON", where=where, got=str(error)) from error
    if not isinstance(data, dict) or "schema" not in data or "digest" not in data:
        raise InputUnusable("this is not an edgekit manifest", where=where, wanted="an object with schema and digest")
    if data["schema"] != SCHEMA:
        raise InputUnusable(
            "the manifest's schema is not known to this edgekit",
            where=where,
            got=str(data["schema"])[:80],
            wanted=str(SCHEMA),
        )
    if data["digest"] != found:
        raise InputUnusable(
            "the manifest was changed after it was written",
            where=where,
            hint="export again; nothing in it can be trusted",
        )
    try:
        return schema.read(Manifest, _without_digest(data))
    except schema.SchemaError as error:
        raise InputUnusable("the manifest does not fit its schema", where=where, got=str(error)) from error


def _without_digest(data: schema.JSON) -> schema.JSON:
    return {key: value for key, value in data.items() if key != "digest"} if isinstance(data, dict) else data


def read(path: Path) -> Manifest:
    """Read a manifest: the file, or the folder that holds it. Raises InputUnusable when it cannot be."""
    file = path
    try:
        file = path / NAME if path.is_dir() else path
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device never end
            raise InputUnusable("this is not a file", where=str(file), wanted="a manifest, or the folder that holds it")
        if status.st_size > LARGEST_MANIFEST:
            raise InputUnusable("the file is too large for a manifest", where=str(file))
        return decode(file.read_bytes(), str(file))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputUnusable(
            "cannot read the manifest",
            where=str(file),
            got=getattr(error, "strerror", None) or str(error),
            hint="edgekit export writes one",
        ) from error


def verify(manifest: Manifest, folder: Path) -> list[str]:
    """What is wrong with the folder's files, one line each: missing, changed, or outside the folder."""
    problems = []
    for name, wanted in manifest.files():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            problems.append(f"{name}: points outside the folder")
        else:
            problems += [f"{name}: {problem}" for problem in _file_problems(folder / name, wanted)]
    return problems


def _file_problems(path: Path, wanted: str) -> Iterator[str]:
    try:
        if not path.is_file():
            yield "missing"
        elif sha256_file(path) != wanted:
            yield "changed since the manifest was written"
    except OSError as error:
        yield f"cannot be read: {error.strerror or error}"


def read_verified(path: Path) -> tuple[Manifest, Path]:
    """A manifest and its folder, with every file's hash checked. Raises InputUnusable naming what differs."""
    manifest = read(path)
    folder = path if path.is_dir() else path.parent
    problems = verify(manifest, folder)
    if problems:
        raise InputUnusable(
            "the files are not those that the manifest describes",
            where=str(folder),
            got="; ".join(problems),
            hint="export again to rebuild them",
        )
    return manifest, folder


class Staging:
    """A folder in the making, beside its final place; nothing appears there until `commit`."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self._hashes: dict[str, Future[str]] = {}
        self._on_disk: list[Future[None]] = []
        # One hashes; the others wait for the disk, which brings files that are waited for together to an end together.
        self._hashing, self._settling = ThreadPoolExecutor(1), ThreadPoolExecutor(3)
        self.folder = final.parent / f".{final.name}.partial-{os.getpid()}"
        with disk_errors(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)

    def write(self, name: str, data: headed.Content) -> None:
        """Write a file. It can be read at once; it gets on the disk, and its hash is taken, while others go on.

        Waiting for the disk takes as long as climbing a small network's ladder.
        """
        with disk_errors(self.folder / name), (self.folder / name).open("wb") as file:
            file.writelines(headed.parts(data))
        self._hashes[name] = self._hashing.submit(headed.sha256, data)
        self._on_disk.append(self._settling.submit(_settle, self.folder / name))

    def digest(self, name: str) -> str:
        """The sha256 of a file that was written."""
        return self._hashes[name].result()

    def commit(self, manifest: Manifest) -> None:
        """Move everything to the final folder, the manifest last; files of an older manifest that are gone go too."""
        self._write_last(manifest)
        with disk_errors(self.final):
            self.final.mkdir(exist_ok=True)
            stale = _listed(self.final)
            (self.final / NAME).unlink(missing_ok=True)
            names = sorted(path.name for path in self.folder.iterdir() if path.name != NAME)
            for name in [*names, NAME]:
                (self.folder / name).replace(self.final / name)
            for name in stale - set(names):
                (self.final / name).unlink(missing_ok=True)
            sync_folder(self.final)
        self.discard()

    def link(self, file: Path) -> None:
        """Make a file of the final folder visible here, too, under its own name."""
        with disk_errors(self.folder):
            (self.folder / file.name).symlink_to(file.resolve())

    def add_to(self, manifest: Manifest) -> None:
        """Move new files to a folder that exists, then replace its manifest; what is there already stays."""
        self._write_last(manifest)
        with disk_errors(self.final):
            new = sorted(path.name for path in self.folder.iterdir() if path.name != NAME and not path.is_symlink())
            for name in [*new, NAME]:
                (self.folder / name).replace(self.final / name)
            sync_folder(self.final)

    def discard(self) -> None:
        """Forget what was written so far."""
        for thread in (self._hashing, self._settling):
            thread.shutdown(cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_last(self, manifest: Manifest) -> None:
        self.write(NAME, encode(manifest))
        for settled in self._on_disk:
            settled.result()


def _settle(path: Path) -> None:
    """Get a written file on the disk."""
    with disk_errors(path), path.open("rb") as file:
        os.fsync(file.fileno())


def _listed(folder: Path) -> set[str]:
    """Names that an earlier manifest of the folder speaks for; plain names only, and none when it cannot be read."""
    try:
        listed = read(folder).files()
    except EdgekitError:
        return set()
    return {name for name, _ in listed if Path(name).name == name}


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what a disk can refuse into typed errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineLacks("the disk is full", where=str(where), hint="free some space and run it again") from error
        raise UsageError(
            "cannot write there",
            where=str(where),
            got=error.strerror or str(error),
            wanted="a folder that can be written",
        ) from error


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the output folder for this process, and clear what killed runs left there.

    Raises UsageError at once when another edgekit is writing to it.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".edgekit.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, out)
        for leftover in out.glob(".*.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, out: Path) -> None:
    with disk_errors(out):  # a full disk takes an empty file and then refuses what is to be written to it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
            raise UsageError(
                "another edgekit is writing to this folder",
                where=str(out),
                got=f"process {owner}" if owner else None,
                hint="wait for it, or give this one another --out",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def cache_key(parts: Mapping[str, schema.JSON]) -> str:
    """One hash over everything that a variant's files depend on."""
    return hashlib.sha256(canonical(dict(parts))).hexdigest()

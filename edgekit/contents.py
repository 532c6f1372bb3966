"""What kind of file somebody has handed over, by its content and not by its name. Nothing heavy is imported.

Nothing native has seen the file when `recognise` returns: it looks at the first bytes, and for ONNX walks over the
outermost layer of the protobuf, so that truncated and foreign files are told apart from broken models.
"""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

from edgekit import manifest
from edgekit.engines.plan import FLAVOURS
from edgekit.errors import InputUnusable

Kind = Literal["manifest", "onnx", "plan", "arrays"]

ZIP_MAGIC = b"PK\x03\x04"
KNOWN = "a variant folder or its manifest, an ONNX file, a TensorRT plan, or golden.npz"

IR_VERSION, GRAPH = 1, 7  # fields of onnx.ModelProto
NEWEST_IR_VERSION = 100  # far beyond any that exists; a larger one is some other file's byte
VARINT, BYTES = 0, 2  # wire types of protobuf
FIXED_BYTES = {1: 8, 5: 4}  # wire types of fixed size
CONTINUED = 0x80  # the bit of a byte that says that its number goes on
MAX_FIELDS = 200_000  # outermost fields; a model has a dozen, or a few thousand with many local functions
HEAD_BYTES = 64


def recognise(path: Path) -> Kind:
    """What `path` holds. Raises InputUnusable for what is not there, empty, truncated, or of no known kind."""
    status = _status(path)
    if stat.S_ISDIR(status.st_mode):
        return _folder(path)
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device never end
        raise _unusable(path, "this is not an ordinary file")
    if status.st_size == 0:
        raise _unusable(path, "the file is empty")
    try:
        with path.open("rb") as file:
            return _kind(path, file, status.st_size)
    except OSError as error:
        raise _unusable(path, "the file cannot be read", error.strerror) from error


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise _unusable(path, "there is no such file" if isinstance(error, FileNotFoundError) else reason) from error


def _folder(path: Path) -> Kind:
    if (path / manifest.NAME).is_file():
        return "manifest"
    inside = sorted(found.parent for found in path.glob(f"*/{manifest.NAME}") if found.parent.name[0] != ".")
    hint = f"it holds {len(inside)} variant folders: name one of them, such as {inside[0]}" if inside else None
    raise _unusable(path, "the folder has no manifest", None, hint or "edgekit export writes one")


def _kind(path: Path, file: BinaryIO, size: int) -> Kind:
    head = file.read(HEAD_BYTES)
    if head[:4] in FLAVOURS:
        return "plan"
    if head.startswith(ZIP_MAGIC):
        return _archive(path)
    if head.lstrip().startswith(b"{"):
        return "manifest"
    file.seek(0)
    return _model(path, file, size)


def _archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _unusable(path, "the archive is truncated or broken", str(error)) from error
    if names and all(name.endswith(".npy") for name in names):
        return "arrays"
    hint = "this looks like a PyTorch checkpoint: edgekit export --weights takes it"
    pickled = any(name.endswith("data.pkl") for name in names)
    raise _unusable(path, "this zip archive holds no arrays", None, hint if pickled else None)


# --- ONNX: a protobuf has no magic number, but its outermost fields can be walked without reading what they hold


def _model(path: Path, file: BinaryIO, size: int) -> Kind:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    looks_like_one = _begins_like_a_model(head)
    try:
        if GRAPH in _outermost_fields(file, size):
            return "onnx"
        what, got = "the ONNX file holds no graph", None
    except EOFError as error:
        what, got = "the ONNX file is truncated", str(error)
    except ValueError:
        looks_like_one = False
    if looks_like_one:
        raise _unusable(path, what, got, "copy it or export it again")
    if head[4:5] == b"{":
        return "plan"  # one with metadata in front of it, perhaps: whoever reads the header says so
    raise _unusable(path, "this is not a file that edgekit knows", f"it begins with {head[:16]!r}")


def _begins_like_a_model(head: bytes) -> bool:
    """Every serialiser writes ir_version first."""
    return len(head) > 1 and head[0] == IR_VERSION << 3 | VARINT and 0 < head[1] <= NEWEST_IR_VERSION


def _outermost_fields(file: BinaryIO, size: int) -> set[int]:
    """The numbers of the fields. Raises EOFError where the file ends inside one, ValueError where it is no protobuf."""
    fields: set[int] = set()
    for _ in range(MAX_FIELDS):
        tag = _varint(file)
        fields.add(tag >> 3)
        end = _end_of_field(file, tag & 7)
        if end > size:
            raise EOFError(f"bytes missing at the end: {end - size}")
        if end == size:
            return fields
        file.seek(end)
    raise ValueError("too many fields")


def _end_of_field(file: BinaryIO, wire: int) -> int:
    if wire == VARINT:
        _varint(file)
        return file.tell()
    if wire == BYTES:
        length = _varint(file)
        return file.tell() + length
    if wire in FIXED_BYTES:
        return file.tell() + FIXED_BYTES[wire]
    raise ValueError("no such wire type")


def _varint(file: BinaryIO) -> int:
    """A protobuf integer: seven bits a byte, the lowest first, at most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < CONTINUED:
            return value
    raise ValueError("a number without an end")


def _unusable(path: Path, what: str, got: str | None = None, hint: str | None = None) -> InputUnusable:
    where = str(path) if str(path).isprintable() else repr(str(path))
    return InputUnusable(what, where=where, got=got, wanted=KNOWN, hint=hint)

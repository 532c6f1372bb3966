"""Files that hold a whole network, recognised by what is in them: nothing is unpickled, and nothing heavy imported."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import Literal

from edgekit.errors import InputUnusable

Archive = Literal["torchscript", "exported"]
SUFFIXES = (".pt", ".pth", ".pt2", ".ts", ".torchscript", ".ckpt", ".bin", ".safetensors", ".onnx")
WANTED = "a TorchScript archive (torch.jit.save) or a torch.export archive (torch.export.save)"
AS_WEIGHTS = "this is a checkpoint: name the network and give it as --weights"

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_CHUNK = 1 << 20


def path_of(text: str) -> Path:
    """The path that a user means, whose `~` no shell has replaced; one that means nobody's home stays as it is."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        return Path(text)


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file; a name that no file can have, such as one of 300 letters, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_file(path: Path) -> None:
    """Raise InputUnusable unless `path` is an ordinary file that holds something."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise InputUnusable("there is no such file", where=str(path), hint=_beside(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputUnusable("the file cannot be read", where=str(path), got=str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        got = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise InputUnusable("this is not an ordinary file", where=str(path), got=got)
    if found.st_size == 0:
        raise InputUnusable("the file is empty", where=str(path))


def recognise(path: Path) -> Archive:
    """Which kind of archive `path` is. Raises InputUnusable for every other file, saying what it seems to be."""
    check_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputUnusable("the file cannot be read", where=str(path), got=str(error.strerror)) from error
    if head.startswith(_ZIP):
        return _in_zip(path)
    raise _foreign(path, head)


def check_sums(path: Path) -> None:
    """Raise InputUnusable for a changed byte: PyTorch maps weights into memory and compares no sums."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC:  # 0 says that PyTorch was told to write none
                    _read_through(archive, entry)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise InputUnusable("the archive is damaged", where=str(path), got=str(error), hint="copy it again") from error


def names(path: Path) -> list[str]:
    """The entries of a zip archive without the folder that holds all of them. Raises InputUnusable for a broken one."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError) as error:
        got = f"damaged or cut short: {error}"
        raise InputUnusable("cannot read the archive", where=str(path), got=got, hint="copy it again") from error
    folders = {name.partition("/")[0] for name in found}
    return [name.partition("/")[2] for name in found] if len(folders) == 1 else found


def _read_through(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """zipfile compares the sum at the end."""
    with archive.open(entry) as file:
        while file.read(_CHUNK):
            pass


def _in_zip(path: Path) -> Archive:
    entries = names(path)
    if "constants.pkl" in entries and "data.pkl" in entries:
        return "torchscript"
    if any(entry.startswith("models/") for entry in entries) and "archive_format" in entries:
        return "exported"
    if "serialized_exported_program.json" in entries:
        hint = "export it again with torch.export.save of a newer PyTorch"
        raise InputUnusable("an archive of an older torch.export", where=str(path), wanted=WANTED, hint=hint)
    if "data.pkl" in entries:
        raise InputUnusable("this file holds weights and no network", where=str(path), wanted=WANTED, hint=AS_WEIGHTS)
    raise InputUnusable("this zip archive holds no network", where=str(path), wanted=WANTED)


def _foreign(path: Path, head: bytes) -> InputUnusable:
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        what, hint = "this file holds weights and no network", AS_WEIGHTS
    elif head.startswith(_PICKLE):
        what, hint = "a pickle, which could run code: it is not unpickled", AS_WEIGHTS
    elif head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b":", b"B"):
        what, hint = "this seems to be an ONNX model", "give its name the ending .onnx"
    else:
        what, hint = "this file holds no network", None
    return InputUnusable(what, where=str(path), got=f"it begins with {head[:8]!r}", wanted=WANTED, hint=hint)


def _beside(path: Path) -> str | None:
    """The files of that folder whose names are near."""
    import difflib

    try:
        others = [found.name for found in path.parent.iterdir() if found.is_file()]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, others, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else None

"""What an .npz archive holds, read from the headers of its arrays: nothing is unpacked and nothing unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from edgekit.errors import InputUnusable

MAX_HEADER_BYTES = 10_000  # numpy's own limit against headers made to exhaust memory


@dataclass(frozen=True)
class ArraySpec:
    """One array of an archive: its type as numpy names it ("text" for strings), and the bytes of its values."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def list_arrays(path: Path) -> list[ArraySpec]:
    """The arrays of an .npz archive. Raises InputUnusable for a broken one, and for arrays of Python objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [_array(archive, entry) for entry in archive.infolist()]
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise InputUnusable("the archive of arrays is broken", where=str(path), got=str(error)) from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> ArraySpec:
    with archive.open(entry) as file:
        shape, dtype = _header(file)
        begin = file.tell()
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds pickled Python objects")
    if begin + size != entry.file_size:
        raise ValueError(f"{entry.filename} has {entry.file_size - begin} bytes of values, its header says {size}")
    kind = "text" if dtype.kind == "U" else dtype.name
    return ArraySpec(entry.filename.removesuffix(".npy"), kind, shape, size)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the array format is not known")
    shape, _, dtype = readers[version](file, max_header_size=MAX_HEADER_BYTES)
    return shape, dtype

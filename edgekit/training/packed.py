"""Data sets that come as a few packed files: idx (MNIST's format, gzipped or not) and CIFAR-10's pickles.

The files may be anybody's: what they claim is checked before it is believed, and unpickling imports nothing but what
arrays are made of.
"""

from __future__ import annotations

import gzip
import math
import pickle
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputUnusable

Bytes = NDArray[np.uint8]

UNSIGNED_BYTES = 8  # idx's code for the type of its values
LARGEST_BYTES = 2**32
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR_SIDE = 32
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, eq=False)
class Packed:
    """Images, uint8 (N, H, W) or (N, H, W, 3), and as many labels."""

    pixels: Bytes
    labels: tuple[int, ...]


# --- idx


def read_idx(folder: Path, split: str, classes: int) -> Packed:
    """The images and labels of one split, `train` or `t10k`, by the names that MNIST gave to its files.

    Raises InputUnusable naming the file that is missing, damaged, or does not fit the other one.
    """
    images, labels = (_idx_file(folder, f"{split}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
    pixels, targets = _read_idx(images, 3), _read_idx(labels, 1)
    _check_images(pixels, images)
    if len(pixels) != len(targets):
        raise InputUnusable(
            "the labels do not match the images",
            where=str(labels),
            got=f"{len(targets)} labels",
            wanted=f"{len(pixels)}, as many as {images.name} has images",
        )
    _check_labels(targets, classes, labels)
    return Packed(pixels, tuple(targets.tolist()))


def _idx_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise InputUnusable("a file is missing", where=str(folder), wanted=f"{name}, or {name}.gz")


def _read_idx(path: Path, dimensions: int) -> Bytes:
    try:
        with _opened(path) as file:
            shape = _shape(file, path, dimensions)
            data = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if len(data) != math.prod(shape):
        problem = "it ends too early" if len(data) < math.prod(shape) else "there is more behind the values"
        raise _damaged(path, f"{problem}: {' x '.join(map(str, shape))} values were announced")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def _shape(file: BinaryIO, path: Path, dimensions: int) -> tuple[int, ...]:
    head = file.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, UNSIGNED_BYTES, dimensions)):
        raise _damaged(path, f"it begins with {head[:4]!r}")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    if not 0 < math.prod(shape) < LARGEST_BYTES:
        raise _damaged(path, f"it announces {' x '.join(map(str, shape))} values")
    return shape


def _damaged(path: Path, got: str) -> InputUnusable:
    return InputUnusable("cannot read the data set", where=str(path), got=got, wanted="an idx file of unsigned bytes")


def _check_images(pixels: Bytes, path: Path) -> None:
    if pixels.shape[1] != pixels.shape[2]:
        got = f"{pixels.shape[1]} x {pixels.shape[2]}"
        raise InputUnusable("the images are not square", where=str(path), got=got)


def _check_labels(labels: Bytes, classes: int, path: Path) -> None:
    if labels.max() >= classes:
        raise InputUnusable(
            "a label is out of range",
            where=f"{path}, label {int(labels.argmax())}",
            got=str(labels.max()),
            wanted=f"0 to {classes - 1}",
        )
    missing = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
    if missing:
        raise InputUnusable(f"the class {missing[0]} is empty", where=str(path), wanted=f"labels 0 to {classes - 1}")


# --- CIFAR-10


def read_cifar(folder: Path) -> tuple[Packed, Packed, tuple[str, ...]]:
    """Training images, test images and the names of the classes, from CIFAR-10's "python version", unpacked.

    Raises InputUnusable naming the file that is missing, damaged, or would run code.
    """
    inner = folder / CIFAR_FOLDER
    place = inner if inner.is_dir() else folder
    parts = [_cifar_batch(place / name) for name in CIFAR_TRAIN]
    pixels = np.concatenate([part.pixels for part in parts])
    train = Packed(pixels, tuple(label for part in parts for label in part.labels))
    return train, _cifar_batch(place / "test_batch"), CIFAR_CLASSES


def _cifar_batch(path: Path) -> Packed:
    data = _unpickled(path)
    found = data if isinstance(data, Mapping) else {}
    pixels, labels = found.get(b"data", found.get("data")), found.get(b"labels", found.get("labels"))
    size = 3 * CIFAR_SIDE**2
    if not (
        isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape[1] == size
    ):
        raise _no_batch(path, "no array of images in it", f"data: unsigned bytes, {size} for each image")
    if not (isinstance(labels, Sequence) and all(type(label) is int for label in labels) and labels):
        raise _no_batch(path, "no list of labels in it", "labels: a list of whole numbers")
    if len(labels) != len(pixels):
        raise InputUnusable(
            "the labels do not match the images", where=str(path), got=f"{len(labels)} labels", wanted=f"{len(pixels)}"
        )
    if not all(0 <= label < len(CIFAR_CLASSES) for label in labels):
        raise InputUnusable("a label is out of range", where=str(path), wanted=f"0 to {len(CIFAR_CLASSES) - 1}")
    upright = pixels.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
    return Packed(np.ascontiguousarray(upright), tuple(labels))


class _ArraysOnly(pickle.Unpickler):
    """Unpickles containers, numbers, text and arrays; anything else would be somebody's code."""

    ALLOWED = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.numeric", "_frombuffer"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),  # how Python 3 writes bytes for older readers
        }
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it would import and run {module}.{name}: refused")
        return super().find_class(module, name)


def _unpickled(path: Path) -> object:
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="bytes").load()
    except FileNotFoundError as error:
        wanted = f"{', '.join(CIFAR_TRAIN)} and test_batch"
        raise InputUnusable("a file is missing", where=str(path), wanted=wanted) from error
    except Exception as error:  # hostile bytes make a pickle raise anything
        raise _no_batch(path, str(error) or type(error).__name__, "a batch of CIFAR-10's python version") from error


def _no_batch(path: Path, got: str, wanted: str) -> InputUnusable:
    return InputUnusable("cannot read the data set", where=str(path), got=got, wanted=wanted)

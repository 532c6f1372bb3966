"""Labelled images, opened and checked: from files that are decoded when they are wanted, or held in memory.

What is read here may come from anywhere: files are known by their content, and a pickle gets no code run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.images import IMAGE_SUFFIXES, fitted, open_rgb
from edgekit.preprocessing import CIFAR, IMAGENET, Preprocessing
from edgekit.training import packed
from edgekit.training.sources import DataSource

Bytes = NDArray[np.uint8]

# Mean and deviation of all training images' pixels, which are grey: three times the same. Taken whole.
DIGITS = Preprocessing(mean=(0.3053,) * 3, std=(0.3759,) * 3, crop=1.0)
FASHION = Preprocessing(mean=(0.2860,) * 3, std=(0.3530,) * 3, crop=1.0)
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

TRAIN, VALIDATION = "train", ("val", "valid", "validation", "test")
MOST_HELD_BYTES = 2**30  # resized beforehand up to here; beyond, each image when it is wanted
SMALLEST_SIDE, LARGEST_SIDE = 1, 4096


@dataclass(frozen=True, eq=False)
class Held:
    """Images in memory: uint8 (N, side, side) greys or (N, side, side, 3). They are taken whole."""

    pixels: Bytes
    name: str

    def square(self, i: int, side: int) -> Bytes:
        """Image `i` as uint8 (side, side) or (side, side, 3)."""
        found = self.pixels[i]
        return found if self.ready(side) else np.asarray(fitted(Image.fromarray(found), side, 1.0))

    def ready(self, side: int) -> bool:
        """Whether the images are of that side already."""
        return bool(self.pixels.shape[1] == side)

    def where(self, i: int) -> str:
        """What to call image `i`."""
        return f"{self.name}, image {i}"

    def resized(self, side: int) -> Held:
        """The same, ready for that side, unless it would take too much memory."""
        size = self.pixels.size // self.pixels.shape[1] ** 2 * side**2
        if self.ready(side) or size > MOST_HELD_BYTES:
            return self
        return replace(self, pixels=np.stack([self.square(i, side) for i in range(len(self.pixels))]))


@dataclass(frozen=True, eq=False)
class Files:
    """Image files, decoded each time they are wanted."""

    paths: tuple[Path, ...]

    def square(self, i: int, side: int, crop: float) -> Bytes:
        """Image `i` as uint8 (side, side, 3). Raises InputUnusable for a file that cannot be read."""
        return np.asarray(fitted(open_rgb(self.paths[i]), side, crop))

    def where(self, i: int) -> str:
        """The name of file `i`."""
        return str(self.paths[i])


@dataclass(frozen=True, eq=False)
class Labelled:
    """One split of labelled images: a map-style data set of (uint8 tensor (3, side, side), label).

    `images` are held or files; `crop` is the contract's share of the shorter side. `labels` count from 0.
    """

    images: Held | Files
    labels: tuple[int, ...]
    side: int
    crop: float
    numbers: Tensor = field(repr=False)  # the labels as int64, for indexing

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """Image `i`, exactly as export and bench prepare it. Raises InputUnusable for a file that cannot be read."""
        images = self.images
        square = images.square(i, self.side) if isinstance(images, Held) else images.square(i, self.side, self.crop)
        return _channels(square[None])[0], self.labels[i]

    @property
    def held(self) -> bool:
        """Whether the images are in memory, so that workers gain nothing."""
        return isinstance(self.images, Held)

    def stacked(self, part: Sequence[int]) -> Tensor:
        """Several images as uint8 (N, 3, side, side); fast where they are held and ready."""
        if isinstance(self.images, Held) and self.images.ready(self.side):
            return _channels(self.images.pixels[part])
        return torch.stack([self[i][0] for i in part])

    def where(self, i: int) -> str:
        """What to call image `i` in a message: its file, or data set and number."""
        return self.images.where(i)


def merged(first: Labelled, second: Labelled) -> Labelled:
    """Both parts as one, the second behind the first."""
    labels = (*first.labels, *second.labels)
    if isinstance(first.images, Held) and isinstance(second.images, Held):
        both: Held | Files = replace(first.images, pixels=np.concatenate([first.images.pixels, second.images.pixels]))
    else:
        assert isinstance(first.images, Files)
        assert isinstance(second.images, Files)
        both = Files((*first.images.paths, *second.images.paths))
    return _labelled(both, labels, first.side, first.crop)


@dataclass(frozen=True, eq=False)
class Splits:
    """Data to train and to validate with. `digest` tells these images from others; it knows nothing of the split."""

    train: Labelled
    val: Labelled
    classes: tuple[str, ...]
    contract: Preprocessing
    digest: str


def open_data(
    source: DataSource, side: int, *, contract: Preprocessing | None, val_share: float = 0.1, seed: int = 0
) -> Splits:
    """The data behind `source`, as squares of `side` pixels.

    `contract` None takes the data's own statistics, ImageNet's for a folder. Small data sets are taken whole, whatever
    the contract's crop. Where the data bring no validation images along, `val_share` of each class, at least one, is
    set aside by `seed`. Raises InputUnusable naming the file or class at fault, MachineLacks for a missing package.
    """
    if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
        raise UsageError("out of range", where="--res", got=str(side), wanted=f"{SMALLEST_SIDE} to {LARGEST_SIDE}")
    if not 0 < val_share < 1:
        raise UsageError("not a share", where="--val-share", got=f"{val_share:g}", wanted="between 0 and 1")
    match source.kind:
        case "digits":
            return _digits(side, contract or DIGITS, val_share, seed)
        case "fashion-mnist":
            assert source.path is not None
            return _fashion(source.path, side, contract or FASHION)
        case "cifar10":
            assert source.path is not None
            return _cifar(source.path, side, contract or CIFAR)
        case "folder":
            assert source.path is not None
            return _folder(source.path, side, contract or IMAGENET, val_share, seed)


# --- data sets that are held in memory


def _digits(side: int, contract: Preprocessing, val_share: float, seed: int) -> Splits:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MachineLacks(
            "digits come with scikit-learn, which is not installed",
            where="--data digits",
            hint="pip install scikit-learn",
        ) from error
    pixels, labels = load_digits(return_X_y=True)  # 0 to 16
    images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    targets = [int(label) for label in labels]
    classes = tuple(str(number) for number in range(10))
    parts = _divided(targets, classes, val_share, seed)
    train, val = (_held("digits", images[part], [targets[i] for i in part], side) for part in parts)
    return Splits(train, val, classes, replace(contract, crop=1.0), _digest(images, labels))


def _fashion(folder: Path, side: int, contract: Preprocessing) -> Splits:
    if not folder.is_dir():
        raise MachineLacks(
            "Fashion-MNIST is not installed",
            where=str(folder),
            hint="apt install dataset-fashion-mnist, or fashion-mnist:DIR for a folder with its idx files",
        )
    train, val = (packed.read_idx(folder, split, len(FASHION_CLASSES)) for split in ("train", "t10k"))
    return _given_splits("fashion-mnist", train, val, FASHION_CLASSES, side, contract)


def _cifar(folder: Path, side: int, contract: Preprocessing) -> Splits:
    train, val, classes = packed.read_cifar(folder)
    return _given_splits("cifar10", train, val, classes, side, contract)


def _given_splits(
    name: str,
    train: packed.Packed,
    val: packed.Packed,
    classes: tuple[str, ...],
    side: int,
    contract: Preprocessing,
) -> Splits:
    train_held = _held(f"{name} train", train.pixels, train.labels, side)
    val_held = _held(f"{name} test", val.pixels, val.labels, side)
    digest = _digest(train.pixels, train.labels, val.pixels, val.labels)
    return Splits(train_held, val_held, classes, replace(contract, crop=1.0), digest)


def _held(name: str, pixels: Bytes, labels: Sequence[int], side: int) -> Labelled:
    return _labelled(Held(pixels, name).resized(side), labels, side, 1.0)


def _labelled(images: Held | Files, labels: Sequence[int], side: int, crop: float) -> Labelled:
    targets = tuple(int(label) for label in labels)
    return Labelled(images, targets, side, crop, torch.tensor(targets, dtype=torch.int64))


def _digest(*parts: Bytes | Sequence[int]) -> str:
    found = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part, np.uint8)
        found.update(str(array.shape).encode())
        found.update(array.tobytes())
    return found.hexdigest()


# --- folders


def _folder(root: Path, side: int, contract: Preprocessing, val_share: float, seed: int) -> Splits:
    """ImageFolder's convention: a folder for each class, all of them in `train` and `val` or to be divided."""
    top = _subfolders(root)
    train = top.get(TRAIN)
    if train is None or not _subfolders(train):
        return _undivided(root, root, side, contract, val_share, seed)
    val = next((top[name] for name in VALIDATION if name in top), None)
    if val is None:
        return _undivided(root, train, side, contract, val_share, seed)
    classes = _classes(train)
    _same_classes(classes, tuple(_subfolders(val)), val)
    found = [_listed(folder, classes) for folder in (train, val)]
    digest = _folder_digest(root, [path for paths, _ in found for path in paths])
    train_files, val_files = (_labelled(Files(tuple(p)), labels, side, contract.crop) for p, labels in found)
    return Splits(train_files, val_files, classes, contract, digest)


def _undivided(root: Path, folder: Path, side: int, contract: Preprocessing, val_share: float, seed: int) -> Splits:
    classes = _classes(folder)
    paths, labels = _listed(folder, classes)
    train, val = (
        _labelled(Files(tuple(paths[i] for i in part)), [labels[i] for i in part], side, contract.crop)
        for part in _divided(labels, classes, val_share, seed)
    )
    return Splits(train, val, classes, contract, _folder_digest(root, paths))


def _subfolders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name, sorted; hidden ones are left out."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputUnusable("cannot look into the folder", where=str(folder), got=error.strerror) from error
    return {path.name: path for path in found}


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(_subfolders(folder))
    if len(names) < 2:
        raise InputUnusable(
            "there is only one class" if names else "there are no classes",
            where=str(folder),
            got=f"the folder {names[0]}" if names else "no folder in it",
            wanted="a folder of images for each of two classes or more",
        )
    return names


def _same_classes(train: tuple[str, ...], val: tuple[str, ...], folder: Path) -> None:
    missing, extra = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    if missing or extra:
        found = [f"without {', '.join(missing)}"] if missing else []
        found += [f"also {', '.join(extra)}"] if extra else []
        raise InputUnusable(
            "the classes to validate with are not those to train with",
            where=str(folder),
            got="; ".join(found),
            wanted=f"{', '.join(train)}",
        )


def _listed(folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Every image file below the classes' folders, by name, with its label. Raises InputUnusable for an empty class."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = list(_image_files(folder / name))
        if not found:
            raise InputUnusable(
                f"the class {name} is empty",
                where=str(folder / name),
                wanted=f"files ending in {', '.join(IMAGE_SUFFIXES)}",
            )
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _image_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _folder_digest(root: Path, paths: Sequence[Path]) -> str:
    """Names and sizes of the files: reading all of a large folder for a hash would take as long as an epoch."""
    found = hashlib.sha256()
    for name, size in sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in paths):
        found.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


# --- both


def _divided(labels: Sequence[int], classes: Sequence[str], val_share: float, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the images to train and to validate with: of each class `val_share`, and one at the least."""
    train: list[int] = []
    val: list[int] = []
    for label, name in enumerate(classes):
        members = [i for i, found in enumerate(labels) if found == label]
        if len(members) < 2:
            raise InputUnusable(
                f"the class {name} is too small to be divided",
                got=f"{len(members)} image",
                wanted="two or more: one to train with, one to validate with",
            )
        random.Random(f"{seed} {name}").shuffle(members)  # noqa: S311  # a split, not a secret
        count = min(max(1, round(len(members) * val_share)), len(members) - 1)
        val += members[:count]
        train += members[count:]
    return sorted(train), sorted(val)


def _channels(pixels: Bytes) -> Tensor:
    """uint8 (N, H, W) or (N, H, W, 3) as (N, 3, H, W); greys become three equal channels."""
    found = torch.from_numpy(np.array(pixels))
    planes = found.permute(0, 3, 1, 2) if found.ndim == 4 else found[:, None].expand(-1, 3, -1, -1)
    return planes.contiguous()

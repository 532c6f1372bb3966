"""Batches of one epoch: images by index where they are in memory, decoded by worker processes where they are files.

The order, and whatever a worker decides by chance, depend on the seed, the epoch and the image alone, so that an epoch
can be entered anywhere and goes on as if it had never stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgekit.environment import usable_cores
from edgekit.errors import EdgekitError, MachineLacks
from edgekit.images import fitted, open_rgb
from edgekit.training.labelled import Files, Held, Labelled

Batch = tuple[Tensor, Tensor]
MOST_WORKERS = 16
PREFETCH = 3  # batches that each worker is ahead
DIED = re.compile(r"DataLoader worker.*(killed|exited)", re.DOTALL)


class Batches:
    """The batches of one epoch: (images uint8 (N, 3, side, side), labels int64 (N,)), on the CPU.

    `batch` images for each of them, the last one smaller unless `drop_last`. With `shuffle` the order is one of its
    own for each (seed, epoch), JPEGs are decoded at a reduced size where that is enough, and `roam` takes the square
    from anywhere along a file's longer side instead of the middle of what the contract keeps. Without `shuffle` the
    pixels are exactly those that export and bench see. `start` skips so many batches without loading them.

    `rank` of `world` processes takes every world-th image, so that the k-th batches of all of them are the k-th batch
    of world times the size. With `shuffle` some images come twice so that all have the same number of batches; without,
    each comes once. `workers` processes decode files and are kept for the next epoch; 0 decodes in this one.

    Raises InputUnusable naming a file that cannot be read, when its batch is due.
    """

    def __init__(
        self,
        data: Labelled,
        batch: int,
        *,
        seed: int,
        epoch: int,
        start: int = 0,
        shuffle: bool,
        workers: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        roam: bool = False,
    ) -> None:
        self.data, self.batch, self.seed, self.epoch, self.start = data, batch, seed, epoch, start
        self.shuffle, self.workers, self.roam = shuffle, workers, roam and shuffle
        indices = order(len(data), seed, epoch, shuffle, rank, world)
        whole = len(indices) // batch * batch if drop_last else len(indices)
        self._parts = [indices[first : min(first + batch, whole)] for first in range(0, whole, batch)]

    @property
    def total(self) -> int:
        """The batches of the whole epoch, those skipped by `start` among them."""
        return len(self._parts)

    def __len__(self) -> int:
        return max(0, self.total - self.start)

    def __iter__(self) -> Iterator[Batch]:
        parts = self._parts[self.start :]
        images = self.data.images
        if isinstance(images, Held):
            return ((self.data.stacked(part), self.data.numbers[part]) for part in parts)
        decoder = Decoder(images, self.data.side, self.data.crop)
        tasks = [Task(tuple(part), self.seed, self.epoch, self.shuffle, self.roam) for part in parts]
        decoded = self._by_workers(decoder, tasks) if self.workers else map(decoder.__getitem__, tasks)
        return ((_or_raise(found), self.data.numbers[part]) for found, part in zip(decoded, parts, strict=True))

    def _by_workers(self, decoder: Decoder, tasks: list[Task]) -> Iterator[Tensor | EdgekitError]:
        kept = _POOLS.setdefault(self.data, {})
        pool = kept.setdefault(self.workers, Pool(decoder, self.workers))
        return (Pool(decoder, self.workers) if pool.busy else pool).run(tasks)


def default_workers(data: Labelled) -> int:
    """The worker processes that suit the data: none where they are in memory, else one for each core but the network's.

    Where the network is trained on the CPU, that leaves it `usable_cores() - workers` threads.
    """
    return 0 if data.held else min(MOST_WORKERS, max(1, usable_cores() - 1))


def order(count: int, seed: int, epoch: int, shuffle: bool, rank: int = 0, world: int = 1) -> list[int]:
    """The numbers of the images that `rank` of `world` sees, in their order."""
    if not shuffle:
        return list(range(rank, count, world))
    mixed = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    padded = mixed + (mixed * world)[: -count % world]
    return list(padded[rank::world])


# --- decoding


@dataclass(frozen=True)
class Task:
    """One batch to decode: the numbers of its images, and all that decides how they are looked at."""

    part: tuple[int, ...]
    seed: int
    epoch: int
    quick: bool
    roam: bool


@dataclass(frozen=True)
class Decoder:
    """Decodes the images of a task, in whatever process it is. An error comes back as a value.

    Raised in a worker, it would reach the main process as the text of a traceback.
    """

    files: Files
    side: int
    crop: float

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, task: Task) -> Tensor | EdgekitError:
        pixels = torch.empty(len(task.part), 3, self.side, self.side, dtype=torch.uint8)
        try:
            for row, i in zip(pixels, task.part, strict=True):
                row.copy_(torch.from_numpy(np.array(self._square(i, task))).permute(2, 0, 1))
        except EdgekitError as error:
            return error
        return pixels

    def _square(self, i: int, task: Task) -> Image.Image:
        path = self.files.paths[i]
        if not task.quick:
            return fitted(open_rgb(path), self.side, self.crop)
        crop = 1.0 if task.roam else self.crop
        image = open_rgb(path, least=round(self.side / crop))
        if not task.roam:
            return fitted(image, self.side, crop)
        return _anywhere(image, self.side, np.random.default_rng([task.seed, task.epoch, i]).random())


def _anywhere(image: Image.Image, side: int, share: float) -> Image.Image:
    """The square that lies `share` (0 to 1) of the way along the image's longer side, at `side` pixels."""
    shorter = min(image.size)
    left, top = (share * (length - shorter) for length in image.size)
    return image.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + shorter, top + shorter))


class _Tasks(Sampler[Task]):
    """What the workers of a pool are to do next; set anew for each epoch."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


class Pool:
    """Worker processes that decode, started when first used and kept: for one epoch at a time."""

    def __init__(self, decoder: Decoder, workers: int) -> None:
        self.busy = False
        self._tasks = _Tasks()
        self._loader: DataLoader[Tensor | EdgekitError] = DataLoader(
            cast(Dataset[Tensor | EdgekitError], decoder),
            batch_size=None,
            sampler=self._tasks,
            num_workers=workers,
            persistent_workers=True,
            prefetch_factor=PREFETCH,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_as_it_is,
        )

    def run(self, tasks: list[Task]) -> Iterator[Tensor | EdgekitError]:
        """What the tasks give, in their order. Raises MachineLacks when a worker dies."""
        self.busy, self._tasks.tasks = True, tasks
        try:
            yield from self._loader
        except RuntimeError as error:
            if not DIED.search(str(error)):
                raise
            self._loader._iterator = None  # a pool without all of its workers is of no more use
            raise _worker_died(error) from error
        finally:
            self.busy = False


_POOLS: WeakKeyDictionary[Labelled, dict[int, Pool]] = WeakKeyDictionary()


def _as_it_is(found: object) -> object:
    return found


def _or_raise(found: Tensor | EdgekitError) -> Tensor:
    if isinstance(found, EdgekitError):
        raise found
    return found


def _worker_died(error: RuntimeError) -> MachineLacks:
    return MachineLacks(
        "a process that decodes images died",
        got=str(error).splitlines()[0],
        wanted="memory enough for all workers, /dev/shm included",
        hint="fewer workers: --workers 1, or 0 for none",
    )

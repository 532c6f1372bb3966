"""Batches of one epoch: images by index where they are in memory, decoded by worker processes where they are files.

The order, and whatever a worker decides by chance, depend on the seed, the epoch and the image alone, so that an epoch
can be entered anywhere and goes on as if it had never stopped.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.multiprocessing
from PIL import Image
from torch import Tensor

from edgekit.environment import usable_cores
from edgekit.errors import MachineLacks
from edgekit.images import fitted, open_rgb
from edgekit.training.labelled import Files, Held, Labelled

Batch = tuple[Tensor, Tensor]
MOST_WORKERS = 16
PREFETCH = 3  # batches that each worker is ahead


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
        decoded = _by_workers(self.data, decoder, self.workers, tasks) if self.workers else map(decoder, tasks)
        return ((found, self.data.numbers[part]) for found, part in zip(decoded, parts, strict=True))


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
    """Decodes the images of a task, in whatever process it is."""

    files: Files
    side: int
    crop: float

    def __call__(self, task: Task) -> Tensor:
        """uint8 (N, 3, side, side). Raises InputUnusable naming a file that cannot be read."""
        pixels = torch.empty(len(task.part), 3, self.side, self.side, dtype=torch.uint8)
        for row, i in zip(pixels, task.part, strict=True):
            row.copy_(torch.from_numpy(np.array(self._square(i, task))).permute(2, 0, 1))
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


# --- the processes that decode
#
# Not torch's DataLoader: when one of its workers dies, it raises an error in whatever the main process is doing, and
# what a worker raises becomes the text of a traceback.

_POOLS: WeakKeyDictionary[Labelled, dict[int, ProcessPoolExecutor]] = WeakKeyDictionary()  # kept for the next epoch


def _by_workers(data: Labelled, decoder: Decoder, workers: int, tasks: list[Task]) -> Iterator[Tensor]:
    """What the tasks give, in their order, with a few of them under way."""
    pool = _pool(data, decoder, workers)
    under_way: deque[Future[Tensor]] = deque()
    try:
        for task in tasks:
            under_way.append(pool.submit(_decoded, task))
            if len(under_way) > workers * PREFETCH:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        _POOLS[data].pop(workers, None)
        raise MachineLacks(
            "a process that decodes images died",
            wanted="memory enough for all workers, in /dev/shm as well",
            hint="fewer workers: --workers 1, or 0 for none",
        ) from error
    finally:
        for future in under_way:
            future.cancel()


def _pool(data: Labelled, decoder: Decoder, workers: int) -> ProcessPoolExecutor:
    pools = _POOLS.setdefault(data, {})
    if workers not in pools:
        # Forked, as the files' names would take long to send; tensors come back in shared memory.
        context = torch.multiprocessing.get_context("fork")
        pools[workers] = ProcessPoolExecutor(workers, context, _begin, (decoder, os.getpid()))
    return pools[workers]


_decoder: Decoder | None = None  # in a worker: what it was started with


def _begin(decoder: Decoder, parent: int) -> None:
    """In a worker, first of all."""
    global _decoder  # noqa: PLW0603  # a process pool hands its workers nothing else
    _decoder = decoder
    torch.set_num_threads(1)  # the others' threads were not forked along, and would be waited for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to answer
    sys.excepthook = lambda *_: None  # the thread that shares memory tells of a main process that went away meanwhile
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this process when the main one has ended, also by kill -9."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def _decoded(task: Task) -> Tensor:
    assert _decoder is not None
    return _decoder(task)

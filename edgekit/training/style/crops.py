"""Squares cut from photos, the same for the same seed and step, whatever was done before."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgekit.errors import InputUnusable
from edgekit.training.style import pictures

KEPT_BYTES = 512 << 20  # of decoded photos: a handful is decoded once, a large collection again and again
LEAST_SIDE = 16  # smaller ones would be enlarged to nothing but a blur


class Crops:
    """Batches of squares from the photos in `files`: random place, size (from `side` to the whole) and mirroring."""

    def __init__(self, files: list[Path], side: int, batch: int, seed: int) -> None:
        self.files, self.side, self.batch, self.seed = files, side, batch, seed
        self._kept: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()

    def at(self, step: int) -> Tensor:
        """The batch of that step: (batch, 3, side, side), float32 in 0..1.

        Raises InputUnusable, naming the file, for a photo that cannot be read or is too small.
        """
        random = np.random.default_rng((self.seed, step))
        chosen = random.integers(len(self.files), size=self.batch)
        squares = [self._square(self._photo(self.files[i]), random) for i in chosen]
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous().float() / 255

    def _square(self, photo: NDArray[np.uint8], random: Generator) -> NDArray[np.uint8]:
        height, width = photo.shape[:2]
        whole = min(height, width)
        extent = int(random.integers(min(self.side, whole), whole, endpoint=True))
        top = int(random.integers(height - extent, endpoint=True))
        left = int(random.integers(width - extent, endpoint=True))
        square = Image.fromarray(photo[top : top + extent, left : left + extent])
        pixels = np.asarray(square.resize((self.side, self.side), Image.Resampling.BILINEAR))
        return pixels[:, ::-1] if random.random() < 0.5 else pixels

    def _photo(self, file: Path) -> NDArray[np.uint8]:
        if file not in self._kept:
            self._kept[file] = self._read(file)
            while len(self._kept) > 1 and sum(photo.nbytes for photo in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(file)
        return self._kept[file]

    def _read(self, file: Path) -> NDArray[np.uint8]:
        photo = pictures.read(file)
        if min(photo.size) < LEAST_SIDE:
            height, width = photo.size
            wanted = f"{LEAST_SIDE} pixels or more on each side"
            got = f"{width} x {height} pixels"
            raise InputUnusable("the photo is too small to learn from", where=str(file), got=got, wanted=wanted)
        return photo.pixels

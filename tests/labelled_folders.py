"""Folders of small labelled images, for the tests of training and evaluation."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, size: tuple[int, int] = (40, 56), kind: str = "JPEG") -> bytes:
    """An encoded image of noise, (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def folder_of(root: Path, counts: Mapping[str, int]) -> Path:
    """A folder for each class with so many JPEGs; returns `root`."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:03}.jpg").write_bytes(noise(1000 * label + number))
    return root

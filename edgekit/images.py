"""Image files and pixels as input tensors, by the preprocessing contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputUnusable
from edgekit.preprocessing import Preprocessing

Array = NDArray[np.float32]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


def normalise(pixels: Array, contract: Preprocessing) -> Array:
    """Pixels (channels, H, W) in 0..1 to the input tensor (1, channels, H, W)."""
    mean = np.asarray(contract.mean, np.float32).reshape(-1, 1, 1)
    std = np.asarray(contract.std, np.float32).reshape(-1, 1, 1)
    return np.ascontiguousarray(((pixels - mean) / std)[None], dtype=np.float32)


def load_image(path: Path, contract: Preprocessing, resolution: int) -> Array:
    """An image file as the input tensor (1, 3, resolution, resolution).

    EXIF rotation is applied; greyscale, palette, RGBA and CMYK images become RGB. Raises InputUnusable for a file
    that is not an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputUnusable("cannot read the image", where=str(path), got=str(error), wanted="an image file") from error
    side = round(resolution / contract.crop)
    scale = side / min(upright.size)
    size = (max(side, round(upright.width * scale)), max(side, round(upright.height * scale)))
    resized = upright.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    crop = resized.crop((left, top, left + resolution, top + resolution))
    pixels = np.asarray(crop, np.float32).transpose(2, 0, 1) * np.float32(contract.scale)
    return normalise(pixels, contract)


def find_images(folder: Path, limit: int) -> list[Path]:
    """The first `limit` image files of a folder (or the one file named), by name. Raises InputUnusable for none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputUnusable("no such image folder", where=str(folder), wanted="a folder of images, or one image")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputUnusable(
            "the folder holds no images", where=str(folder), wanted=f"files ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    return found[:limit]

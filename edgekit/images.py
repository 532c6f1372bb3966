"""Image files and pixels as input tensors, by the preprocessing contract."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputUnusable
from edgekit.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[np.float32]
NARROWEST = 500
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


def normalise(pixels: Array, contract: Preprocessing) -> Array:
    """Pixels (channels, H, W) in 0..1 to the input tensor (1, channels, H, W)."""
    mean = np.asarray(contract.mean, np.float32).reshape(-1, 1, 1)
    std = np.asarray(contract.std, np.float32).reshape(-1, 1, 1)
    return np.ascontiguousarray(((pixels - mean) / std)[None], dtype=np.float32)


def load_image(path: Path, contract: Preprocessing, resolution: int) -> Array:
    """An image file as the input tensor (1, 3, resolution, resolution).

    Raises InputUnusable for a file that is not an image, or not one of 8 bits a channel.
    """
    square = fitted(open_rgb(path), resolution, contract.crop)
    pixels = np.asarray(square, np.float32).transpose(2, 0, 1) * np.float32(contract.scale)
    return normalise(pixels, contract)


def open_rgb(path: Path, least: int | None = None) -> Image.Image:
    """An image file, upright and in RGB: EXIF rotation is applied; greyscale, palette, RGBA and CMYK are converted.

    With `least`, a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps
    that many pixels: several times faster, and not quite the same pixels. Raises InputUnusable for a file that is not
    an image, not one of 8 bits a channel, or hardly more than a line.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        # Pillow warns of oddities that it puts right itself, such as transparent palettes.
        with warnings.catch_warnings(action="ignore", category=UserWarning), Image.open(path) as image:
            _check_depth(image.mode, path)
            _check_shape(image.size, path)
            if least is not None:
                image.draft(image.mode, (least, least))
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InputUnusable("cannot read the image", where=str(path), got=str(error), wanted="an image file") from error


def fitted(image: Image.Image, resolution: int, crop: float) -> Image.Image:
    """The centre of the image as a square of `resolution` pixels; it is resized so that `crop` of its shorter side is.

    Sizes and offsets are rounded as torchvision's Resize and CenterCrop do, so that the pixels are the same.
    """
    from PIL import Image

    side = round(resolution / crop)
    shorter = min(image.size)
    size = (side * image.width // shorter, side * image.height // shorter)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - resolution) / 2), round((size[1] - resolution) / 2)
    return resized.crop((left, top, left + resolution, top + resolution))


def _check_shape(size: tuple[int, int], path: Path) -> None:
    # The longer side grows with the shorter one: a line of 10 000 pixels would become an image of gigabytes.
    if min(size) < 1 or max(size) > NARROWEST * min(size):
        raise InputUnusable(
            "the image is too narrow",
            where=str(path),
            got=f"{size[0]} x {size[1]} pixels",
            wanted=f"sides of at most {NARROWEST} to 1",
        )


def _check_depth(mode: str, path: Path) -> None:
    # Pillow cuts deeper greys off at 255 instead of scaling them: nearly all of such an image turns white.
    if mode.startswith(("I", "F")):
        raise InputUnusable(
            "the image has more than 8 bits a channel",
            where=str(path),
            got=f"Pillow's mode {mode}",
            wanted="8 bits, as the preprocessing contract says",
        )


def find_images(folder: Path, limit: int) -> list[Path]:
    """The first `limit` image files of a folder (or the one file named), by name. Raises InputUnusable for none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputUnusable("no such image folder", where=str(folder), wanted="a folder of images, or one image")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise InputUnusable(
            "the folder holds no images", where=str(folder), wanted=f"files ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    return found[:limit]

"""Pictures from files and back: whole, upright, of any size, with their transparency.

edgekit/images.py cuts photos to what a classifier takes; here nothing is cut.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from edgekit.errors import InputUnusable, UsageError
from edgekit.images import find_images
from edgekit.manifest import disk_errors

Bytes = NDArray[np.uint8]
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
JPEG_QUALITY = 95
NO_LIMIT = 2**31


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels as bytes (H, W, 3), red first, and the transparency (H, W) where the file has one."""

    pixels: Bytes
    alpha: Bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def tensor(self) -> Tensor:
        """The colours as float32 (1, 3, H, W) in 0..1."""
        return torch.from_numpy(self.pixels.copy()).permute(2, 0, 1)[None].contiguous().float() / 255


def read(path: Path) -> Picture:
    """The picture in a file: EXIF rotation applied, greyscale, palette and CMYK as RGB, the alpha channel kept.

    Raises InputUnusable for a file that is no image, and for one of more than 8 bits a channel.
    """
    try:
        # Pillow warns of oddities that it puts right itself, such as transparent palettes.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            _check_depth(image, path)
            upright = ImageOps.exif_transpose(image)
            transparent = "A" in upright.getbands() or "transparency" in upright.info
            pixels = np.asarray(upright.convert("RGBA" if transparent else "RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)
        raise InputUnusable("cannot read the image", where=str(path), got=got, wanted="an image file") from error
    return Picture(pixels[..., :3], pixels[..., 3] if transparent else None)


def _check_depth(image: Image.Image, path: Path) -> None:
    # As in edgekit/images.py; Pillow reads PNG's 16-bit colours, cut to 8, and tells so only in the raw mode.
    tile = getattr(image, "tile", None)
    raw = str(tile[0][3]) if tile else ""
    deep = image.mode if image.mode.startswith(("I", "F")) else raw if ";16" in raw else None
    if deep is not None:
        raise InputUnusable(
            "the image has more than 8 bits a channel", where=str(path), got=f"Pillow's mode {deep}", wanted="8 bits"
        )


def resized(picture: Picture, height: int, width: int) -> Picture:
    """The picture at another size, bilinear and antialiased; alpha likewise."""
    if picture.size == (height, width):
        return picture
    return Picture(
        _resized(picture.pixels, height, width),
        None if picture.alpha is None else _resized(picture.alpha, height, width),
    )


def _resized(pixels: Bytes, height: int, width: int) -> Bytes:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def within(picture: Picture, longer: int | None) -> Picture:
    """The picture with its longer side at most that long, in pixels; None leaves it as it is."""
    side = max(picture.size)
    if longer is None or side <= longer:
        return picture
    height, width = (max(1, round(extent * longer / side)) for extent in picture.size)
    return resized(picture, height, width)


def from_tensor(image: Tensor, alpha: Bytes | None = None) -> Picture:
    """Colours (1, 3, H, W) or (3, H, W) in 0..1 as a picture; what lies outside is cut off."""
    colours = image.detach().squeeze(0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Picture(colours.permute(1, 2, 0).contiguous().numpy(), alpha)


def check_target(path: Path, force: bool) -> None:
    """Raise UsageError, before any work is done, where a picture cannot be written or must not be overwritten."""
    if path.suffix.lower() not in FORMATS:
        wanted = f"a name ending in {', '.join(FORMATS)}"
        raise UsageError("pictures are written as PNG or JPEG", where="--out", got=str(path), wanted=wanted)
    if path.is_dir():
        raise UsageError("this is a folder", where="--out", got=str(path), wanted="the name of a picture")
    if path.exists() and not force:
        raise UsageError("the picture is there already", where=str(path), hint="--force overwrites it")


def write(picture: Picture, path: Path) -> None:
    """Write the picture by its suffix: all of it, or nothing. JPEG has no transparency: that lies on white there.

    Raises MachineLacks where the disk is full and UsageError where nothing can be written.
    """
    kind = FORMATS[path.suffix.lower()]
    buffer = BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    _image(picture, kind).save(buffer, kind, **options)
    write_bytes(path, buffer.getvalue())


def _image(picture: Picture, kind: str) -> Image.Image:
    colours = Image.fromarray(picture.pixels)
    if picture.alpha is None:
        return colours
    alpha = Image.fromarray(picture.alpha)
    if kind == "JPEG":
        return Image.composite(colours, Image.new("RGB", colours.size, "white"), alpha)
    colours.putalpha(alpha)
    return colours


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that at any moment there is the old one or the new one. Raises as `write` does."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def find(paths: list[Path]) -> list[Path]:
    """The images named, and those in the folders named. Raises InputUnusable for what is not there."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputUnusable("there is no such image", where=str(path), wanted="an image, or a folder of them")
        found += find_images(path, NO_LIMIT)
    return list(dict.fromkeys(found))

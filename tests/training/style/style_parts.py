"""What the tests of style transfer share: small photos in files, feature weights made here, and small requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
from PIL import Image

from edgekit.synthetic import natural_image
from edgekit.training.style import features
from edgekit.training.style.request import Features, Objective, TrainRequest, Weighted

SHALLOW: tuple[Weighted, Weighted] = ((("relu1_1", 0.5), ("relu2_1", 0.5)), (("relu2_1", 1.0),))


def photo(seed: int, height: int, width: int) -> np.ndarray:  # type: ignore[type-arg]
    """Image-like bytes (height, width, 3)."""
    image = natural_image(max(height, width), seed)[:, :height, :width]
    return (image.transpose(1, 2, 0) * 255).astype(np.uint8)


def save_photo(path: Path, seed: int, height: int = 40, width: int = 48) -> Path:
    """One in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(seed, height, width)).save(path)
    return path


def tinted(path: Path, colour: tuple[int, int, int], side: int = 48) -> Path:
    """A photo in which one colour prevails: what a style transfer has to bring across."""
    mixed = photo(99, side, side) * 0.3 + np.array(colour) * 0.7
    Image.fromarray(mixed.astype(np.uint8)).save(path)
    return path


def vgg_weights(path: Path) -> Path:
    """A file as torchvision's VGG-19 has it, names and shapes, the classifier aside."""
    stages = features.build(Features("vgg19", 3), ["relu5_4"]).stages
    names = list(features._vgg_stages())
    state = {
        f"features.{names.index(key)}.{part}": getattr(stage, part).clone()
        for key, stage in stages.items()
        if hasattr(stage, "weight")
        for part in ("weight", "bias")
    }
    safetensors.torch.save_file(state, path)
    return path


def train_request(folder: Path, **changes: object) -> TrainRequest:
    """A training of seconds: tiny crops, few steps, shallow features."""
    save_photo(folder / "photos" / "a.png", 1, 60, 70)
    save_photo(folder / "photos" / "b.png", 2, 50, 50)
    style = tinted(folder / "style.png", (200, 90, 30))
    given: dict[str, object] = {
        "style": style,
        "data": folder / "photos",
        "features": Features("vgg19", 0),
        "objective": Objective(*SHALLOW),
        "alpha": 0.1,
        "style_size": 48,
        "crop": 24,
        "batch": 2,
        "steps": 6,
        "rate": 1e-2,
    }
    return TrainRequest(**{**given, **changes})  # type: ignore[arg-type]

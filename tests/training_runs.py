"""Trainings that take a second: a network of 2,000 weights and a folder of small coloured images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edgekit.training.recipe import Recipe
from edgekit.training.request import TrainRequest
from edgekit.training.sources import parse_data

if TYPE_CHECKING:
    from edgekit.training.callbacks import Listener
    from edgekit.training.train import Trained

MODEL = "densenet_bc"
OPTIONS = {"depth": "10", "growth": "4"}
SIDE = 8
# Chance in every place that has any: order, augmentation, mixing, dropout; and all that a checkpoint has to keep.
BUSY = Recipe(
    "busy",
    batch=8,
    epochs=3,
    lr=0.01,
    schedule="cosine",
    warmup_epochs=0.5,
    label_smoothing=0.1,
    mixup=0.2,
    ema=0.9,
    clip=1.0,
    augment="standard",
)


def coloured(root: Path, count: int = 22, classes: int = 3) -> Path:
    """A folder of so many images of each class, which a colour tells apart; returns `root`."""
    random = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 160, (12, 12, 3), np.uint8)
            pixels[..., label % 3] += 90
            Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return root


def request(root: Path, out: Path, recipe: Recipe = BUSY, **changes: object) -> TrainRequest:
    """A training of the small network on `root`, on one thread; `options` are the network's, on top of its own."""
    options: Mapping[str, str] = OPTIONS | dict(changes.pop("options", {}))  # type: ignore[call-overload]
    made = TrainRequest(
        MODEL,
        parse_data(str(root)),
        recipe,
        out,
        resolution=SIDE,
        options=tuple(sorted(options.items())),
        val_share=0.2,
        workers=0,
        threads=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def trained(asked: TrainRequest, listen: Listener = lambda _: None, **how: Callable[[], bool] | bool) -> Trained:
    """Train it here and now."""
    from edgekit.training.train import train

    return train(asked, listen, **how)  # type: ignore[arg-type]

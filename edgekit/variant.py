"""What is exported: one network at one width and one resolution, and the grid of them.

Nothing heavy is imported here. The slug is the one name that a variant has on disk.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from edgekit.errors import UsageError

T = TypeVar("T")

MAX_RESOLUTION = 8192  # a float32 RGB image of this side is 805 MB; the activations are many times that
MAX_BATCH = 4096


@dataclass(frozen=True)
class Variant:
    """One network at one width multiplier and input resolution.

    `alpha` is None for a network without a width option; `batch` is None for a dynamic batch. `resolution` None leaves
    it to the network: its own default, or inputs that are no square images. `num_classes` None leaves it to the
    weights, or to the network's own default.
    """

    model: str
    alpha: float | None
    resolution: int | None
    batch: int | None = 1
    num_classes: int | None = None
    options: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.alpha is not None:
            check_alpha(self.alpha)
        if self.resolution is not None:
            check_whole("res", self.resolution, 1, MAX_RESOLUTION)
        if self.batch is not None:
            check_whole("batch", self.batch, 1, MAX_BATCH)
        if self.num_classes is not None:
            check_whole("num-classes", self.num_classes, 1, 1_000_000)

    @property
    def slug(self) -> str:
        """The name on disk, for example `mobilenet_v2-a0.50-r160`."""
        parts = [self.model]
        if self.alpha is not None:
            parts.append(f"a{format_alpha(self.alpha)}")
        if self.resolution is not None:
            parts.append(f"r{self.resolution}")
        if self.batch != 1:
            parts.append("bdyn" if self.batch is None else f"b{self.batch}")
        parts += [f"{key}-{value}" for key, value in self.options]
        return "-".join(parts)


@dataclass(frozen=True)
class Grid:
    """The product of its axes, in the order given, without repeats."""

    models: tuple[str, ...]
    alphas: tuple[float | None, ...]
    resolutions: tuple[int | None, ...]
    batch: int | None = 1
    num_classes: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[Variant]:
        axes = itertools.product(unique(self.models), unique(self.alphas), unique(self.resolutions))
        for model, alpha, resolution in axes:
            yield Variant(model, alpha, resolution, self.batch, self.num_classes, self.options)

    def __len__(self) -> int:
        return len(unique(self.models)) * len(unique(self.alphas)) * len(unique(self.resolutions))


def unique(items: Sequence[T]) -> list[T]:
    """The items in their order, each once."""
    return list(dict.fromkeys(items))


def format_alpha(alpha: float) -> str:
    """Two decimals where they say it all, otherwise the shortest text that reads back as the same number."""
    short = f"{alpha:.2f}"
    return short if float(short) == alpha else repr(float(alpha))


def check_alpha(alpha: float) -> None:
    """Raise UsageError unless `alpha` is a finite number above 0 (and at most 16: wider is a typing error)."""
    if not (math.isfinite(alpha) and 0 < alpha <= 16):
        raise UsageError(
            "alpha is not a usable width multiplier",
            where="--alpha",
            got=str(alpha),
            wanted="a number above 0 and at most 16, for example 0.35, 0.5, 0.75 or 1",
        )


def check_whole(name: str, value: int, low: int, high: int) -> None:
    """Raise UsageError unless low <= value <= high."""
    if not low <= value <= high:
        raise UsageError(
            f"{name} is out of range",
            where=f"--{name}",
            got=str(value),
            wanted=f"a whole number from {low} to {high}",
        )

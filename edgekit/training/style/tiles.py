"""Pictures larger than memory, painted in tiles that fit together exactly.

A style network's instance norms and squeeze-and-excitation blocks look at the whole picture: a tile with statistics of
its own gets other colours than its neighbour, and blending only smears the seam. So every tile gets the statistics of
the whole picture. They are found in passes over all tiles, which begin with those of the picture made small; each pass
measures every layer behind the statistics of the pass before. After pass n the first n layers are exact, so as many
passes as there are layers give what an untiled run has; in practice they stop changing long before.

Around its core a tile has a margin of the network's reach, so that a core does not feel the tile's border: the cores
are what an untiled run gives, and nothing needs to be blended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Passes end when no mean moves by more than this share of its channel's deviation, and no deviation by more than this
# share of itself: below what a byte of colour can show.
SETTLED = 1e-3
LEAST_DEVIATION = 1e-6


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and variance of each channel of one layer's input, float64 (C,), over the whole picture."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """How a layer changes where its outputs look: a window of `kernel`, every `stride` pixels, enlarged `up` times."""

    kernel: float = 1
    stride: int = 1
    up: int = 1


class Engine(Protocol):
    """A style network for sizes that are multiples of `multiple`, whose outputs depend on what is within `margin`."""

    runtime: str
    multiple: int
    margin: int

    def whole(self, x: Array) -> Array:
        """(1, 3, H, W) to the same shape, with the picture's own statistics."""

    def watched(self, x: Array, statistics: Sequence[Statistics] | None) -> tuple[Array, list[Array]]:
        """The output with these statistics (None: its own), and the inputs of the layers that they are for."""


def reach(layers: Iterable[Layer]) -> tuple[int, int]:
    """What sides must be multiples of, and the margin in whole multiples that no output looks beyond.

    The layers in their order; branches may stand one after the other: that makes the margin larger, never too small.
    """
    scale, radius, multiple = 1.0, 0.0, 1
    for layer in layers:
        radius += (layer.kernel - 1) / 2 * scale
        scale *= layer.stride / layer.up
        multiple = max(multiple, round(scale))
    # One more for outputs that share a coarse pixel, of which one looks further to the left than the other.
    return multiple, (-(-int(np.ceil(radius)) // multiple) + 1) * multiple


def padded(pixels: Bytes, multiple: int, least: int) -> tuple[Bytes, int, int]:
    """Bytes (H, W, 3) reflected on all sides to multiples, at least that large; and how far from the top and left."""
    pads = []
    for extent in pixels.shape[:2]:
        whole = max(-(-extent // multiple) * multiple, -(-least // multiple) * multiple)
        pads.append(((whole - extent) // 2, whole - extent - (whole - extent) // 2))
    return np.pad(pixels, (*pads, (0, 0)), mode="reflect"), pads[0][0], pads[1][0]


@dataclass(frozen=True)
class Tile:
    """A core (rows, columns) of the picture, and the part around it that is looked at."""

    core: tuple[slice, slice]
    around: tuple[slice, slice]

    @property
    def inner(self) -> tuple[slice, slice]:
        """Where the core lies in the part around it."""
        rows, columns = (
            slice(core.start - around.start, core.stop - around.start)
            for core, around in zip(self.core, self.around, strict=True)
        )
        return rows, columns


def tiles(height: int, width: int, side: int, margin: int) -> Iterator[Tile]:
    """Cores of `side` pixels that cover the picture once, each with its margin where the picture goes on."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = slice(top, min(top + side, height)), slice(left, min(left + side, width))
            yield Tile((rows, columns), (_widened(rows, margin, height), _widened(columns, margin, width)))


def _widened(core: slice, margin: int, extent: int) -> slice:
    return slice(max(0, core.start - margin), min(extent, core.stop + margin))


def paint(engine: Engine, pixels: Bytes, side: int, small: Callable[[Bytes, int], Bytes]) -> Bytes:
    """Paint bytes (H, W, 3), whose sides are multiples of the engine's, in tiles with cores of `side` pixels.

    `small` shrinks a picture to a longer side, for the first guess of the statistics. In memory are the picture, the
    result, and one tile's tensors.
    """
    side = -(-side // engine.multiple) * engine.multiple
    parts = list(tiles(pixels.shape[0], pixels.shape[1], side, engine.margin))
    guess, *_ = padded(small(pixels, side + 2 * engine.margin), engine.multiple, engine.multiple * 2)
    statistics = [_of(seen) for seen in engine.watched(to_input(guess), None)[1]]
    for _ in range(len(statistics)):
        before, statistics = statistics, _measured(engine, pixels, parts, statistics)
        if max(map(_change, before, statistics), default=0.0) < SETTLED:
            break
    result = np.empty_like(pixels)
    for part in parts:
        painted, _seen = engine.watched(to_input(pixels[part.around]), statistics)
        result[part.core] = to_bytes(painted[..., *part.inner])
    return result


def _measured(engine: Engine, pixels: Bytes, parts: list[Tile], given: Sequence[Statistics]) -> list[Statistics]:
    """The statistics of every layer behind those that are given, summed over the cores."""
    sums = [_Sums(len(one.mean)) for one in given]
    for part in parts:
        tile = to_input(pixels[part.around])
        for layer, seen in zip(sums, engine.watched(tile, given)[1], strict=True):
            layer.add(_core(seen, tile.shape[-1] / seen.shape[-1], part))
    return [layer.statistics() for layer in sums]


def _core(seen: Array, scale: float, part: Tile) -> Array:
    """The core of a layer's input, which is `scale` times smaller than the tile."""
    rows, columns = (slice(round(it.start / scale), round(it.stop / scale)) for it in part.inner)
    return seen[..., rows, columns]


class _Sums:
    """Sums over many tiles, in double precision."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sum, self.squares = np.zeros(channels), np.zeros(channels)

    def add(self, seen: Array) -> None:
        values = seen[0].reshape(seen.shape[1], -1).astype(np.float64)
        self.count += values.shape[1]
        self.sum += values.sum(1)
        self.squares += np.square(values).sum(1)

    def statistics(self) -> Statistics:
        mean = self.sum / self.count
        return Statistics(mean, np.maximum(self.squares / self.count - np.square(mean), 0))


def _of(seen: Array) -> Statistics:
    sums = _Sums(seen.shape[1])
    sums.add(seen)
    return sums.statistics()


def _change(before: Statistics, after: Statistics) -> float:
    old, new = np.sqrt(before.variance) + LEAST_DEVIATION, np.sqrt(after.variance) + LEAST_DEVIATION
    moved = float(np.max(np.abs(after.mean - before.mean) / new))
    return max(moved, float(np.max(np.abs(new - old) / new)))


def to_input(pixels: Bytes) -> Array:
    """Bytes (H, W, 3) as float32 (1, 3, H, W) in 0..1."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)


def to_bytes(painted: Array) -> Bytes:
    """(1, 3, H, W) as bytes (H, W, 3); what lies outside 0..1 is cut off."""
    colours: Bytes = (np.clip(painted[0], 0, 1) * 255).round().astype(np.uint8)
    return colours.transpose(1, 2, 0)

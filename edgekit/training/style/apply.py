"""Pictures painted by a trained network: through PyTorch or ONNX Runtime, whole or in tiles, at their own size."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputUnusable, UsageError
from edgekit.training.style import nets, pictures, tiles
from edgekit.training.style.pictures import Bytes, Picture
from edgekit.training.style.tiles import Engine

LEAST_SIDE = nets.SMALLEST  # smaller pictures are reflected further, so that the network can reflect its borders


@dataclass(frozen=True)
class Job:
    """One picture to paint, and where it goes."""

    source: Path
    out: Path


@dataclass(frozen=True)
class Applied:
    """One painted picture."""

    source: str
    out: str
    width: int
    height: int
    runtime: str
    tile: int | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Painter:
    """A network ready to paint; with `tile`, in cores of so many pixels."""

    engine: Engine
    tile: int | None = None

    def __call__(self, picture: Picture) -> Picture:
        """The picture painted, at its size and with its transparency."""
        height, width = picture.size
        whole, top, left = tiles.padded(picture.pixels, self.engine.multiple, LEAST_SIDE)
        painted = self._painted(whole)[top : top + height, left : left + width]
        return Picture(painted, picture.alpha)

    def _painted(self, whole: Bytes) -> Bytes:
        if self.tile is None:
            return tiles.to_bytes(self.engine.whole(tiles.to_input(whole)))
        return tiles.paint(self.engine, whole, self.tile, _small)


def _small(pixels: Bytes, longer: int) -> Bytes:
    return pictures.within(Picture(pixels), longer).pixels


@contextlib.contextmanager
def open_painter(net: Path, tile: int | None = None) -> Iterator[Painter]:
    """The network in an ONNX file, an exported variant's folder, a training run's folder, or a file of its weights.

    Raises InputUnusable for everything else.
    """
    from edgekit.training.style import painting_onnx

    if not net.exists():
        raise InputUnusable(
            "there is no such network", where=str(net), wanted="a run's folder, weights, or an ONNX file"
        )
    if painting_onnx.is_graph(net):
        with painting_onnx.OnnxEngine(net) as engine:
            yield Painter(engine, tile)
    else:
        from edgekit.training.style.painting_torch import TorchEngine

        _, module = nets.read(net)
        yield Painter(TorchEngine(module), tile)


def plan(images: list[Path], out: Path | None, kind: str | None, force: bool) -> list[Job]:
    """Where every picture goes: into the folder `out`, or beside itself as NAME-styled.

    `kind` is the format, "png" or "jpg"; by default JPEG for JPEG, PNG for all else. Raises InputUnusable for images
    that are not there and UsageError where two would be written to one file, or one is there already.
    """
    jobs = [Job(source, _target(source, out, kind)) for source in pictures.find(images)]
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.out in taken:
            got = f"{taken[job.out]} and {job.source}"
            raise UsageError("two pictures would be written to one file", where=str(job.out), got=got)
        taken[job.out] = job.source
        pictures.check_target(job.out, force)
    return jobs


def _target(source: Path, out: Path | None, kind: str | None) -> Path:
    suffix = f".{kind}" if kind else ".jpg" if source.suffix.lower() in (".jpg", ".jpeg") else ".png"
    return source.with_name(f"{source.stem}-styled{suffix}") if out is None else out / f"{source.stem}{suffix}"


def paint(painter: Painter, job: Job) -> Applied:
    """Paint one picture and write it. Raises InputUnusable for what cannot be read, MachineLacks for a full disk."""
    begun = time.monotonic()
    picture = pictures.read(job.source)
    pictures.write(painter(picture), job.out)
    height, width = picture.size
    seconds = time.monotonic() - begun
    return Applied(str(job.source), str(job.out), width, height, painter.engine.runtime, painter.tile, seconds)

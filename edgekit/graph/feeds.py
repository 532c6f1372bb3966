"""Inputs for any ONNX graph: those that came with it, and others made up to be as realistic as the graph lets on.

What is made up is a function of the graph, the sizes and the seed. Four axes with one or three channels are an image:
natural-looking, and normalised (mean 0, values within 2) unless it is of bytes. Other floats are normally distributed.
Whole numbers stay below what they index, and are what they are compared with; masks are ones with an end of zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from edgekit.errors import InputUnusable
from edgekit.graph.given import read_given
from edgekit.graph.indices import Meaning, meaning
from edgekit.graph.interface import ALTERNATIVES, FLOATS, GIVE_IT, INTEGERS, Slot, sized, slots
from edgekit.parity.metrics import AnyArray
from edgekit.synthetic import natural_image

SATURATING_GAIN = 8.0  # times the ordinary contrast, as for the reference networks (parity/inputs.py)
LETTERBOX = 1000  # its seed is so far from the others
PIXEL_MEAN, PIXEL_DEVIATION = 0.5, 0.25  # of natural images: what normalising takes out
LARGEST_IMAGE = 1024  # pixels a side that are made up; what is larger mirrors them
SMALL = 2  # whole numbers of which nothing is known are below this: flags, segments, classes
MASK_NAME = re.compile("mask", re.IGNORECASE)

Runner = Callable[[Mapping[str, AnyArray]], object]


@dataclass(frozen=True)
class Feed:
    """One set of inputs by name. `ordinary` ones are what the network is made for, others are extremes."""

    name: str
    values: Mapping[str, AnyArray]
    ordinary: bool = True
    made_up: bool = False


def feeds(
    model: ModelProto,
    count: int = 3,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    given: Path | None = None,
) -> list[Feed]:
    """At least `count` ordinary sets of inputs and, where there are floats, one in which they are eight times as large.

    `sizes` sets open axes (`interface.sized`); `given` holds inputs that came with the network (`given.read_given`).
    They come first, all of them, and their sizes hold for what is made up besides. Images get an ordinary set with
    black bars, too. A graph without inputs gets one empty set. What the graph takes for parameters (sizes, axes,
    scales) is the same in all sets.

    Raises InputUnusable for an input that cannot be made up and is not given, or does not fit; UsageError for sizes
    of no axis.
    """
    wanted = slots(model)
    if not wanted:
        return [Feed("nothing", {})]
    if given is not None:
        return _given(model, wanted, given, count, seed)
    return _made(model, sized(wanted, sizes or {}), count, seed)


def fitting_feeds(
    model: ModelProto,
    run: Runner,
    count: int = 3,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    given: Path | None = None,
) -> list[Feed]:
    """`feeds` that the graph takes: where it does not run on the usual sizes of its open axes, others are tried.

    `run` runs the graph on one set of inputs, and raises InputUnusable where that cannot be done. Given inputs have to
    run; what was made up besides them and does not is left out. Raises what `run` raised for the given inputs, or for
    the usual sizes when no others will do.
    """
    if given is not None:
        return _running(feeds(model, count, seed, sizes, given), run)
    wanted = slots(model)
    tried: list[list[Slot]] = []
    first: InputUnusable | None = None
    for usual in ALTERNATIVES:
        closed = sized(wanted, sizes or {}, usual)
        if closed not in tried:
            tried.append(closed)
            made = _made(model, closed, count, seed) if closed else [Feed("nothing", {})]
            try:
                run(made[0].values)
            except InputUnusable as error:
                first = first or error
            else:
                return made
    assert first is not None
    raise first


def _running(found: Sequence[Feed], run: Runner) -> list[Feed]:
    running = []
    for feed in found:
        try:
            run(feed.values)
        except InputUnusable:
            if not feed.made_up:
                raise
        else:
            running.append(feed)
    return running


def _given(model: ModelProto, wanted: Sequence[Slot], given: Path, count: int, seed: int) -> list[Feed]:
    own = [Feed(name, values) for name, values in read_given(given, wanted)]
    if any(slot.kind == TensorProto.STRING for slot in wanted):
        return own  # nothing can be added to text
    meanings = {slot.name: meaning(model, slot.name) for slot in wanted}
    varied = [slot for slot in wanted if not meanings[slot.name].parameter]
    more = []
    for i in range(count - len(own) if varied else 0):
        values = {slot.name: _another(slot, own[0].values[slot.name], [seed, i]) for slot in varied}
        more.append(Feed(f"like-{i}", {**own[0].values, **values}, made_up=True))
    return [*own, *more, *_saturating(own[0], varied)]


def _another(slot: Slot, example: AnyArray, seed: Sequence[int]) -> AnyArray:
    """Another input of the kind of `example`: of its shape, and with its mean and deviation or with its own numbers."""
    rng = np.random.default_rng(seed)
    if slot.kind not in FLOATS:
        return np.asarray(example.ravel()[rng.permutation(example.size)].reshape(example.shape))
    exact = example.astype(np.float64)
    # One number, or the same everywhere: without a deviation every set would be this one, and prove nothing.
    centre, spread = (exact.mean(), exact.std() or 1.0) if exact.size else (0.0, 0.0)
    return np.asarray(centre + spread * rng.standard_normal(example.shape)).astype(slot.dtype)


def _made(model: ModelProto, wanted: Sequence[Slot], count: int, seed: int) -> list[Feed]:
    made = [Maker(slot, meaning(model, slot.name)) for slot in wanted]

    def feed(name: str, seed: int) -> Feed:
        values = {maker.slot.name: maker.values([seed, place]) for place, maker in enumerate(made)}
        return Feed(name, values, made_up=True)

    ordinary = [feed(f"made-{i}", seed + i) for i in range(count)]
    images = [slot for slot in wanted if slot.channels is not None]
    if images:
        barred = feed("letterbox", seed + LETTERBOX)
        values = {slot.name: _with_bars(barred.values[slot.name], slot) for slot in images}
        ordinary.append(replace(barred, values={**barred.values, **values}))
    varied = [maker.slot for maker in made if not maker.meaning.parameter]
    return [*ordinary, *_saturating(ordinary[0], varied)]


def _saturating(feed: Feed, varied: Sequence[Slot]) -> list[Feed]:
    """The same, with every float eight times as large; none where there are no floats."""
    floats = {slot.name: feed.values[slot.name] for slot in varied if slot.kind in FLOATS}
    if not floats:
        return []
    with np.errstate(over="ignore"):
        larger = {name: np.asarray(array * array.dtype.type(SATURATING_GAIN)) for name, array in floats.items()}
    return [Feed("saturating", {**feed.values, **larger}, ordinary=False, made_up=True)]


@dataclass(frozen=True)
class Maker:
    """Makes values for one input."""

    slot: Slot
    meaning: Meaning

    def values(self, seed: Sequence[int]) -> AnyArray:
        """An array of the input's type and shape, the same for the same seed."""
        rng = np.random.default_rng(seed)
        if self.slot.kind in FLOATS:
            values = self._floats(rng)
        elif self.slot.kind in INTEGERS:
            values = self._integers(rng)
        elif self.slot.kind == TensorProto.BOOL:
            values = rng.integers(0, 2, self.slot.shape) if self.slot.shape else np.array(True)
        else:
            raise InputUnusable("an input cannot be made up", where=f"input {self.slot.name}", got="text", hint=GIVE_IT)
        return np.asarray(values).astype(self.slot.dtype)

    def _floats(self, rng: np.random.Generator) -> AnyArray:
        if self.meaning.parameter:
            return np.ones(self.slot.shape)
        if self.slot.channels is not None:
            return self._image(rng, normalised=True)
        return np.asarray(rng.standard_normal(self.slot.shape))

    def _image(self, rng: np.random.Generator, *, normalised: bool) -> AnyArray:
        """Natural images in 0..1, or normalised, as many as the batch has, with the channels where they belong."""
        shape = list(self.slot.shape)
        assert self.slot.channels is not None
        channels = shape.pop(self.slot.channels)
        batch, height, width = shape
        side = min(max(height, width, 1), LARGEST_IMAGE)
        rows = [natural_image(side, int(rng.integers(1 << 31)), channels) for _ in range(batch)]
        images = np.array(rows).reshape(batch, channels, side, side)
        images = np.pad(images, [(0, 0), (0, 0), *((0, max(0, size - side)) for size in (height, width))], "symmetric")
        images = np.moveaxis(images[:, :, :height, :width], 1, self.slot.channels)
        return np.asarray((images - PIXEL_MEAN) / PIXEL_DEVIATION) if normalised else images

    def _integers(self, rng: np.random.Generator) -> AnyArray:
        if self.slot.channels is not None:
            return np.asarray(np.rint(255 * self._image(rng, normalised=False)))
        if self.meaning.parameter:
            return np.ones(self.slot.shape)
        if self.meaning.choices and not self.slot.shape:
            return np.array(self.meaning.choices[-1])  # one for all: a sample rate does not change from call to call
        if MASK_NAME.search(self.slot.name):
            return _mask(self.slot.shape, rng)
        below = min(self.meaning.below or self._limit(), self._limit())
        return np.asarray(rng.integers(0, max(1, below), self.slot.shape))

    def _limit(self) -> int:
        largest = int(np.iinfo(self.slot.dtype).max) + 1
        if self.meaning.below is None:
            return largest if self.slot.kind in (TensorProto.INT8, TensorProto.UINT8) else SMALL
        return largest


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> AnyArray:
    """Ones, and from a random place in the second half of each row on, zeros."""
    steps = shape[-1] if shape else 1
    ends = rng.integers((steps + 1) // 2, steps + 1, (*shape[:-1], 1))
    return np.asarray(np.broadcast_to(np.arange(steps) < ends, shape))


def _with_bars(images: AnyArray, slot: Slot) -> AnyArray:
    """Pure black above and below, as padded frames have it; not black all over (docs/decisions/0003-tolerances.md)."""
    down = 2 if slot.channels == 1 else 1
    bar = images.shape[down] // 4
    black = -PIXEL_MEAN / PIXEL_DEVIATION if slot.kind in FLOATS else 0
    barred = np.moveaxis(images.copy(), down, 0)
    barred[:bar] = black
    barred[len(barred) - bar :] = black
    return np.moveaxis(barred, 0, down)

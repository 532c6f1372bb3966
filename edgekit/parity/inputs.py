"""What the ladder feeds the networks: ordinary images, real ones where given, and extremes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.images import normalise
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.preprocessing import Preprocessing
from edgekit.synthetic import natural_image

# Synthetic ordinary inputs where no images are given. In a full climb every one of them is a run in float64, and the
# letterboxed one is ordinary, too.
QUICK_INPUTS, FULL_INPUTS = 3, 1
LETTERBOX_SEED = 1000
# Ordinary inputs need not drive every activation to its limit of 6; eight times their contrast drives every ReLU6 of
# the reference networks there (measured from alpha 0.25 to 1, 96 to 224 pixels).
SATURATING_GAIN = 8.0
# A network whose norms take their statistics from the image undoes any contrast. What drives its activations far is
# one bright spot: the deviations of n pixels of which one stands out reach sqrt(n). Around it lies an image in the
# dark, not black, as in a flat image all pixels round alike.
SPOT_SEED = 2000
SPOT_DARKNESS = 0.1  # at 0.01 the small maps of a network at 64 pixels lose all digits to rounding
SPOT_SHARE = 32  # of the image's side; smaller ones do not get through the strides of a network's first layers


def ladder_inputs(
    contract: Preprocessing,
    resolution: int,
    batch: int,
    images: Sequence[AnyArray] = (),
    quick: bool = False,
    name: str = "input",
    *,
    adapting: bool = False,
) -> list[Input]:
    """Inputs (batch, 3, resolution, resolution), float32: seeded image-like ones, real `images`, and extremes.

    They are fed to the network's one input, called `name`. An `adapting` network normalises by what is in the image:
    its extreme is a bright spot in the dark instead of more contrast.

    A real image replaces a synthetic one, so that the number of inputs, and the time they take, stays the same
    until there are more photos than places.
    """
    real = {f"image-{i}": _batch(image, batch) for i, image in enumerate(images)}
    places = QUICK_INPUTS if quick else FULL_INPUTS
    seeds = range(max(places - len(real), 0))
    ordinary = real | {f"natural-{seed}": _natural(contract, resolution, batch, seed) for seed in seeds}
    if not quick:
        ordinary["letterbox"] = _letterbox(contract, resolution, batch)
    inputs = [Input(of, {name: values}) for of, values in ordinary.items()]
    if not quick and adapting:
        inputs.append(Input("spot", {name: _spot(contract, resolution, batch)}, ordinary=False))
    elif not quick:
        saturating = next(iter(ordinary.values())) * np.float32(SATURATING_GAIN)
        inputs.append(Input("saturating", {name: saturating}, ordinary=False))
    return inputs


def around(example: Feeds, quick: bool = False) -> list[Input]:
    """The example itself, and others of its kind: for inputs that are not images.

    Floating-point values are drawn with the example's mean and deviation, whole numbers between its smallest and its
    largest, truth values evenly. Shapes stay as they are.
    """
    places = QUICK_INPUTS if quick else FULL_INPUTS + 1
    inputs = [Input("example", example)]
    for seed in range(1, places):
        rng = np.random.default_rng(seed)
        inputs.append(Input(f"like-{seed}", {name: _like(values, rng) for name, values in example.items()}))
    if not quick:
        loud = {n: v * v.dtype.type(SATURATING_GAIN) if v.dtype.kind == "f" else v for n, v in example.items()}
        inputs.append(Input("saturating", loud, ordinary=False))
    return inputs


def _like(values: AnyArray, rng: np.random.Generator) -> AnyArray:
    if values.dtype.kind == "f":
        return rng.normal(values.mean(), values.std() or 1.0, values.shape).astype(values.dtype)
    if values.dtype.kind == "b":
        return rng.integers(0, 2, values.shape).astype(values.dtype)
    return rng.integers(values.min(), values.max(), values.shape, endpoint=True).astype(values.dtype)


def _natural(contract: Preprocessing, resolution: int, batch: int, seed: int) -> AnyArray:
    return np.concatenate([normalise(natural_image(resolution, seed * 4096 + row), contract) for row in range(batch)])


def _letterbox(contract: Preprocessing, resolution: int, batch: int) -> AnyArray:
    """An image between two bars of pure black: zeros, as every camera and every padded frame has them.

    Not black all over: in a flat image all pixels of a channel round alike, and a floor is measured on one rounding
    where it should be on thousands (docs/decisions/0003-tolerances.md).
    """
    values = _natural(contract, resolution, batch, LETTERBOX_SEED)
    bar = resolution // 4
    black = normalise(np.zeros((3, 1, 1), np.float32), contract)
    values[:, :, :bar] = black
    values[:, :, -bar:] = black
    return values


def _spot(contract: Preprocessing, resolution: int, batch: int) -> AnyArray:
    """A white square, off the middle, in an image of a tenth of its light."""
    rows = []
    for row in range(batch):
        image = natural_image(resolution, SPOT_SEED * 4096 + row) * np.float32(SPOT_DARKNESS)
        down, right, side = resolution // 2, resolution // 3, max(resolution // SPOT_SHARE, 1)
        image[:, down : down + side, right : right + side] = 1.0
        rows.append(normalise(image, contract))
    return np.concatenate(rows)


def _batch(image: AnyArray, batch: int) -> AnyArray:
    return np.repeat(image, batch, axis=0)

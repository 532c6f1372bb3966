"""The preprocessing contract: how pixels become the network's input tensor, written into every manifest.

A deployment that scales, orders or normalises differently feeds the network other numbers; the contract is what the
two sides agree on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preprocessing:
    """From an 8-bit image to the input tensor: resize, crop, scale, normalise, lay out.

    `crop` is the share of the resized image's shorter side that the centre crop keeps; `mean` and `std` are in the
    units after scaling, in the colour order given.
    """

    layout: str = "NCHW"
    colour: str = "RGB"
    dtype: str = "float32"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: str = "bilinear, antialiased, shorter side"
    crop: float = 0.875


IMAGENET = Preprocessing()

# The contracts that networks name.
CONTRACTS = {"imagenet": IMAGENET}

"""The preprocessing contract: how pixels become the network's input tensor, written into every manifest.

A deployment that scales, orders or normalises differently feeds the network other numbers; the contract is what the
two sides agree on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


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
# The Inception family sees -1..1; its largest member is measured on a tighter crop.
INCEPTION = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
INCEPTION_RESNET = replace(INCEPTION, crop=0.8975)
# The statistics of CIFAR-10's training images, as in the densenet authors' code; its images are taken whole.
CIFAR = Preprocessing(mean=(0.4914, 0.4824, 0.4467), std=(0.2471, 0.2435, 0.2616), crop=1.0)
# Image in, image out: pixels in 0..1.
PIXELS = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop=1.0)

# The contracts that networks name.
CONTRACTS = {
    "imagenet": IMAGENET,
    "inception": INCEPTION,
    "inception_resnet": INCEPTION_RESNET,
    "cifar": CIFAR,
    "pixels": PIXELS,
}

"""What happens to a batch of pixels before the network sees it: chance, and the preprocessing contract.

All of it works on whole batches, on whatever device they are, and every decision is drawn from the generator that is
handed in: torchvision's transforms take none, and decide once for a batch. Each image is moved, turned and cropped by
one matrix, and coloured by another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from edgekit.preprocessing import Preprocessing

Kind = Literal["none", "light", "standard", "cifar", "published"]

LIGHT_SHIFT = 1 / 16  # of the side, either way: 2 pixels of 32
CIFAR_SHIFT = 1 / 8  # 4 pixels of 32
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601's weights, as in torchvision
# RGB to brightness and two axes of colour, in which a turn changes the hue (NTSC's YIQ).
YIQ = (GREY, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@dataclass(frozen=True)
class Jitter:
    """How far brightness, contrast and saturation may be from 1, and the hue, in turns, from 0: either way."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


MILD = Jitter(0.2, 0.2, 0.2, 0.0)
PUBLISHED = Jitter(0.4, 0.4, 0.4, 0.1)


class Augment:
    """Pixels uint8 (N, 3, S, S) and labels (N,) to float32 input tensors (N, 3, S, S) and labels.

    - `none`: the contract alone, as for validation
    - `light`: moved by up to 1/16 of the side, the edge repeated; for digits and the like
    - `cifar`: moved by up to 1/8, 4 pixels of 32, black beyond the edge; half of the images mirrored
    - `standard`: a random part of 50 to 100 % of the area, its sides up to 3:4, mirrored by half; mild colour jitter
    - `published`: the published mobilenet training's: mirrored by half, jitter .4 .4 .4 .1, turned by 30 to 70 degrees,
      moved by up to .1 and .3 of the side, .5 to .75 of the size. It never shows an upright image

    `mixup` and `cutmix` are the alphas of their Beta distributions, 0 for off; with both, a coin decides each time.
    Labels are then shares (N, classes), float32, else as they came. All randomness comes from `generator`, on the CPU.
    """

    def __init__(
        self, kind: Kind, contract: Preprocessing, mixup: float = 0.0, cutmix: float = 0.0, *, classes: int
    ) -> None:
        self.kind, self.contract, self.mixup, self.cutmix, self.classes = kind, contract, mixup, cutmix, classes

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        inputs = normalise(self._changed(images, generator), self.contract)
        return self._mixed(inputs, labels, generator) if self.mixup or self.cutmix else (inputs, labels)

    def _changed(self, images: Tensor, generator: Generator) -> Tensor:
        side = images.shape[-1]
        match self.kind:
            case "none":
                return images
            case "light":
                return _shifted(images, max(1, round(side * LIGHT_SHIFT)), generator, "repeat")
            case "cifar":
                moved = _shifted(images, max(1, round(side * CIFAR_SHIFT)), generator, "black")
                return _mirrored(moved, generator)
            case "standard":
                return _jittered(_warped(images, _parts(len(images), generator)), MILD, generator)
            case "published":
                coloured = _jittered(images.float(), PUBLISHED, generator)
                return _warped(coloured, _turns(len(images), generator))

    def _mixed(self, inputs: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Every image with another of the batch: as a weighted mean, or with a rectangle of it."""
        cut = self.cutmix > 0 and (self.mixup == 0 or _uniform(1, 0, 1, generator).item() < 0.5)
        kept = _beta(self.cutmix if cut else self.mixup, generator)
        others = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        if cut:
            mixed, kept = _pasted(inputs, inputs[others], kept, generator)
        else:
            mixed = inputs * kept + inputs[others] * (1 - kept)
        shares = F.one_hot(labels, self.classes).to(torch.float32)
        return mixed, shares * kept + shares[others] * (1 - kept)


def normalise(images: Tensor, contract: Preprocessing) -> Tensor:
    """Pixels 0..255 (N, 3, H, W) to input tensors float32: the arithmetic of edgekit/images.py, bit for bit."""
    mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (contract.mean, contract.std))
    # In place: at 160 pixels a batch has 60 MB, and finding memory for it anew takes longer than the arithmetic.
    return images.to(torch.float32, copy=True).mul_(contract.scale).sub_(mean).div_(std)


# --- where the pixels come from


def _shifted(images: Tensor, most: int, generator: Generator, edge: Literal["black", "repeat"]) -> Tensor:
    """Each image moved by up to `most` pixels either way; beyond its edge is black, or the edge again."""
    count, _, height, width = images.shape
    down, right = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    within = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    moved = _picked(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    if edge == "black":
        moved *= (within[0][:, None, :, None] & within[1][:, None, None, :]).to(images.device)
    return moved


def _picked(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Image n at its own `rows[n]` and `columns[n]`."""
    flat = (rows[:, :, None] * images.shape[-1] + columns[:, None, :]).flatten(1).to(images.device)
    return images.flatten(2).gather(2, flat[:, None].expand(-1, 3, -1)).view_as(images)


def _mirrored(images: Tensor, generator: Generator) -> Tensor:
    chosen = _coins(len(images), generator).view(-1, 1, 1, 1).to(images.device)
    return torch.where(chosen, images.flip(-1), images)


def _warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Pixels 0..255 float32, taken from where the matrices (N, 2, 3) say, in -1..1 of the image; black beyond it."""
    grid = F.affine_grid(matrices.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _parts(count: int, generator: Generator) -> Tensor:
    """Matrices for a random part of the image, half of them mirrored."""
    area, ratio = _uniform(count, 0.5, 1, generator), _uniform(count, math.log(3 / 4), math.log(4 / 3), generator).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x, y = (_uniform(count, -1, 1, generator) * (1 - share) for share in (width, height))
    sign = torch.where(_coins(count, generator), -1.0, 1.0)
    nothing = torch.zeros(count)
    return torch.stack([width * sign, nothing, x, nothing, height, y], dim=1).view(-1, 2, 3)


def _turns(count: int, generator: Generator) -> Tensor:
    """Matrices of the published training: mirrored, then turned clockwise, made smaller, and moved."""
    angle = torch.deg2rad(_uniform(count, 30, 70, generator))
    scale = _uniform(count, 0.5, 0.75, generator)
    right, down = 2 * _uniform(count, -0.1, 0.1, generator), 2 * _uniform(count, -0.3, 0.3, generator)
    sign = torch.where(_coins(count, generator), -1.0, 1.0)
    return turned(angle, scale, right, down, sign)


def turned(angle: Tensor, scale: Tensor, right: Tensor, down: Tensor, sign: Tensor) -> Tensor:
    """Matrices (N, 2, 3) from a place in the result to the place in the image that it shows.

    The image is mirrored where `sign` is -1, scaled and turned clockwise about its centre by `angle` radians, and moved
    `right` and `down`, in halves of its side. It is the way back that has to be known, so all is undone in reverse.
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    first = torch.stack([cos, sin, -cos * right - sin * down], dim=1) * sign[:, None]
    second = torch.stack([-sin, cos, sin * right - cos * down], dim=1)
    return torch.stack([first, second], dim=1)


# --- colours


def _jittered(pixels: Tensor, jitter: Jitter, generator: Generator) -> Tensor:
    """Pixels 0..255, float32, with each image's own brightness, contrast, saturation and hue."""
    count = len(pixels)
    limits = (jitter.brightness, jitter.contrast, jitter.saturation)
    brightness, contrast, saturation = (_uniform(count, 1 - limit, 1 + limit, generator) for limit in limits)
    turns = _uniform(count, -jitter.hue, jitter.hue, generator)
    return coloured(pixels, brightness, contrast, saturation, turns)


def coloured(pixels: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turns: Tensor) -> Tensor:
    """Pixels 0..255 (N, 3, H, W) multiplied in brightness, contrast (about the image's mean grey) and saturation.

    The hue is turned about the grey axis, which keeps the brightness; torchvision's, in HSV, keeps the largest channel.
    Values are cut off once, at the end.
    """
    grey = torch.tensor(GREY)
    device = pixels.device
    matrix = _saturations(saturation, grey) * (brightness * contrast).view(-1, 1, 1)
    means = pixels.mean((2, 3)).cpu() @ grey * brightness * (1 - contrast)  # grey, so that colour changes leave it
    flat = torch.baddbmm(means.view(-1, 1, 1).to(device), (_hues(turns) @ matrix).to(device), pixels.flatten(2))
    return flat.clamp_(0, 255).view_as(pixels)


def _saturations(saturation: Tensor, grey: Tensor) -> Tensor:
    share = saturation.view(-1, 1, 1)
    return torch.eye(3) * share + (1 - share) * grey.expand(3, 3)


def _hues(turns: Tensor) -> Tensor:
    basis = torch.tensor(YIQ)
    cos, sin = torch.cos(turns * math.tau), torch.sin(turns * math.tau)
    one, nothing = torch.ones_like(cos), torch.zeros_like(cos)
    rows = [one, nothing, nothing, nothing, cos, -sin, nothing, sin, cos]
    turn: Tensor = torch.linalg.inv(basis) @ torch.stack(rows, dim=1).view(-1, 3, 3) @ basis
    return turn


# --- chance


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _coins(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator) < 0.5


def _beta(alpha: float, generator: Generator) -> float:
    seed = int(torch.randint(2**62, (1,), generator=generator))  # torch's own Beta takes no generator
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _pasted(images: Tensor, others: Tensor, kept: float, generator: Generator) -> tuple[Tensor, float]:
    """The images with a rectangle of the others, about 1 - `kept` of the area; and the share that is really kept."""
    height, width = images.shape[-2:]
    share = math.sqrt(1 - kept)
    middle = torch.rand(2, generator=generator).tolist()
    top, bottom = _span(middle[0], share, height)
    left, right = _span(middle[1], share, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(middle: float, share: float, length: int) -> tuple[int, int]:
    """The part of 0..length that lies `share` of it around `middle`, cut off at both ends."""
    first = round((middle - share / 2) * length)
    return max(0, first), min(length, first + round(share * length))

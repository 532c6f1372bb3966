"""What happens to a batch of pixels before the network sees it: chance, and the preprocessing contract.

All of it works on whole batches, wherever they are, and every decision is drawn from the generator that is handed in.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from edgekit.preprocessing import Preprocessing

Kind = Literal["none", "light", "standard", "cifar", "published"]

LIGHT_SHIFT = 1 / 16  # of the side, either way: 2 pixels of 32


class Augment:
    """Pixels uint8 (N, 3, H, W) and labels (N,) to float32 input tensors (N, 3, H, W) and labels.

    `light` shifts by a sixteenth of the side at most.
    """

    def __init__(
        self, kind: Kind, contract: Preprocessing, mixup: float = 0.0, cutmix: float = 0.0, *, classes: int
    ) -> None:
        self.kind, self.contract, self.mixup, self.cutmix, self.classes = kind, contract, mixup, cutmix, classes

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.kind == "light":
            images = _shifted(images, max(1, round(images.shape[-1] * LIGHT_SHIFT)), generator, "repeat")
        return normalise(images, self.contract), labels


def normalise(images: Tensor, contract: Preprocessing) -> Tensor:
    """Pixels uint8 (N, 3, H, W) to input tensors float32: the arithmetic of edgekit/images.py, bit for bit."""
    mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (contract.mean, contract.std))
    return images.to(torch.float32).mul_(contract.scale).sub_(mean).div_(std)


def _shifted(images: Tensor, most: int, generator: torch.Generator, edge: Literal["black", "repeat"]) -> Tensor:
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

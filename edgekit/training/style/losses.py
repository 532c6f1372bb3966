"""How far a picture is from a style and from a content, as the features see it.

Source: Gatys et al. 2016 for the terms; the Gram matrices are divided by channels x height x width, as in Johnson et
al. 2016, arXiv 1603.08155.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.training.style.features import Extractor
from edgekit.training.style.request import Objective


@dataclass(frozen=True, eq=False)
class Terms:
    """The parts of a loss, each times its weight, as scalars that can be differentiated."""

    style: Tensor
    content: Tensor
    variation: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.style + self.content + self.variation


def gram(features: Tensor) -> Tensor:
    """Features (N, C, H, W) to the inner products of their channels (N, C, C), divided by C x H x W."""
    channels, height, width = features.shape[1:]
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (channels * height * width)


def total_variation(image: Tensor) -> Tensor:
    """The mean squared difference of neighbours, down and to the right; 0 where there are none."""
    down, right = image[..., 1:, :] - image[..., :-1, :], image[..., 1:] - image[..., :-1]
    return _mean_square(down) + _mean_square(right)


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean() if x.numel() else x.sum()


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum()


class PerceptualLoss:
    """The distance of pictures from one style image, and from contents given as their features."""

    def __init__(self, extractor: Extractor, objective: Objective, style: Tensor) -> None:
        self.extractor, self.objective = extractor, objective
        with torch.no_grad():
            found = extractor(style)
            self.grams = {name: gram(found[name]) for name, _ in objective.style_layers}

    @torch.no_grad()
    def content_of(self, image: Tensor) -> dict[str, Tensor]:
        """What a picture shows (N, 3, H, W), to be compared with later."""
        found = self.extractor(image)
        return {name: found[name] for name, _ in self.objective.content_layers}

    def __call__(self, image: Tensor, content: Mapping[str, Tensor]) -> Terms:
        """The loss of pictures (N, 3, H, W) in 0..1 that shall show `content`: of a batch, the mean."""
        ask, found = self.objective, self.extractor(image)
        style = _sum(weight * self._style(found[name], name) for name, weight in ask.style_layers)
        shown = _sum(weight * F.mse_loss(found[name], content[name]) for name, weight in ask.content_layers)
        variation = total_variation(image) if ask.variation_weight else image.new_zeros(())
        return Terms(ask.style_weight * style, ask.content_weight * shown, ask.variation_weight * variation)

    def _style(self, features: Tensor, name: str) -> Tensor:
        mine = gram(features)
        return F.mse_loss(mine, self.grams[name].expand_as(mine))

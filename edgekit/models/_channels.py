"""From a width multiplier to channel counts, in the two roundings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from edgekit.errors import UsageError

Rounding = Literal["divisible8", "published"]


def scale(channels: Mapping[str, int], alpha: float, rounding: Rounding) -> dict[str, int]:
    """The channel count of every named layer at width `alpha`; `channels` holds them at width 1.

    Raises UsageError, naming the layer and the smallest width that works, when a layer would have no channel left.
    """
    rounded = divisible_by_8 if rounding == "divisible8" else int
    scaled = {layer: rounded(count * alpha) for layer, count in channels.items()}
    for layer, count in scaled.items():
        if count < 1:
            raise _vanished(layer, channels, alpha)
    return scaled


def divisible_by_8(width: float) -> int:
    """The multiple of 8 nearest to `width`, at least 8 and never below 90 % of `width` (torchvision's rule)."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * width else nearest + 8


def _vanished(layer: str, channels: Mapping[str, int], alpha: float) -> UsageError:
    smallest = math.ceil(1e6 / min(channels.values())) / 1e6
    return UsageError(
        f"alpha {alpha:g} leaves no channel in {layer}",
        where="--alpha",
        got=f"int({channels[layer]} x {alpha:g}) = {int(channels[layer] * alpha)} channels",
        wanted=f"an alpha of at least {smallest:g} with rounding=published",
        hint="or rounding=divisible8, which keeps at least 8 channels in every layer",
    )

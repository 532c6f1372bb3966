"""MobileNet: depthwise-separable convolutions from end to end.

Source: Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
arXiv 1704.04861; ReLU6 as in the authors' released code.
"""

from typing import TYPE_CHECKING

from edgekit.models._channels import Rounding, scale
from edgekit.models._info import ModelInfo

if TYPE_CHECKING:
    from torch import nn

INFO = ModelInfo(
    title="MobileNet v1",
    source="arXiv 1704.04861",
    stride=32,
    default_resolution=224,
    has_alpha=True,
)

STEM = 32
TABLE = (
    # channels, repeats, stride of the first
    (64, 1, 1),
    (128, 2, 2),
    (256, 2, 2),
    (512, 6, 2),
    (1024, 2, 2),
)


def build(alpha: float = 1.0, num_classes: int = 1000, *, rounding: Rounding = "divisible8") -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are multiples of 32.

    Raises UsageError when `alpha` with rounding="published" leaves a layer without a channel.
    """
    from torch import nn

    from edgekit.models._blocks import ConvNorm, chain, depthwise, head

    rows = [(count, first if repeat == 0 else 1) for count, repeats, first in TABLE for repeat in range(repeats)]
    width = scale({"stem": STEM} | {f"blocks.{i}": count for i, (count, _) in enumerate(rows)}, alpha, rounding)
    inputs = list(width.values())
    blocks = [
        chain(depthwise=depthwise(inputs[i], stride), pointwise=ConvNorm(inputs[i], inputs[i + 1]))
        for i, (_, stride) in enumerate(rows)
    ]
    return chain(
        stem=ConvNorm(3, width["stem"], 3, stride=2), blocks=nn.Sequential(*blocks), **head(inputs[-1], num_classes)
    )

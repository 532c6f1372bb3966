"""C-MobileNetV2: MobileNetV2 with a shortcut in every block and LeakyReLU after every sum.

Source: the course notes that this project follows (Published form: ReLU6 on the shortcut). A negative result, kept so
that it can be reproduced; the network it changes is arXiv 1801.04381.
"""

from typing import TYPE_CHECKING

from edgekit.models import mobilenet_v2
from edgekit.models._channels import Rounding
from edgekit.models._info import ModelInfo

if TYPE_CHECKING:
    from torch import nn

INFO = ModelInfo(
    title="C-MobileNet v2 (every block has a shortcut)",
    source="course notes; after arXiv 1801.04381",
    stride=32,
    default_resolution=224,
    has_alpha=True,
)

TABLE = mobilenet_v2.TABLE
SLOPE = 0.01


def build(
    alpha: float = 1.0,
    num_classes: int = 1000,
    *,
    rounding: Rounding = "divisible8",
    shortcut_act: bool = True,
) -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are multiples of 32.

    `shortcut_act` False leaves out the ReLU6 on the shortcuts that are convolutions. Raises UsageError when `alpha`
    with rounding="published" leaves a layer without a channel.
    """
    from torch import nn

    from edgekit.models._blocks import ConvNorm

    def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
        if stride == 1 and inputs == outputs:
            return nn.Identity()
        return ConvNorm(inputs, outputs, stride=stride, act=nn.ReLU6 if shortcut_act else None)

    return mobilenet_v2.assemble(alpha, num_classes, rounding, shortcut, act=lambda: nn.LeakyReLU(SLOPE))

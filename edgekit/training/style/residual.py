"""The plain residual network for fast style transfer: what the small one is measured against.

Source: Johnson, Alahi and Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", arXiv
1603.08155, with the table of its supplement; with instance norms (arXiv 1607.08022), nearest-neighbour upsampling and
a convolution instead of transposed ones (Odena et al. 2016, distill.pub/2016/deconv-checkerboard), and reflection.

`edgekit export edgekit.training.style.residual:factory --weights RUN/last.safetensors` exports one.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from edgekit.models._blocks import AnySize, Residual, chain

SOURCE = "edgekit.training.style.residual:factory"
TABLE = (
    # kind, kernel, channels, stride; RES is a block of two convolutions with its input added, UP enlarges first
    ("CONV", 9, 32, 1),
    ("CONV", 3, 64, 2),
    ("CONV", 3, 128, 2),
    *(("RES", 3, 128, 1),) * 5,
    ("UP", 3, 64, 2),
    ("UP", 3, 32, 2),
)
LAST_KERNEL = 9
MULTIPLE = 4
SMALLEST = 17  # two halvings leave 5 pixels, which a border of 1 can be reflected in; 9x9 wants 5 itself
DIVISOR = 8


def factory(alpha: float = 1.0, dynamic_size: bool = False) -> nn.Module:
    """The network: float32 images (N, 3, H, W) in 0..1 to images of the same shape; H and W are 17 or more.

    It ends in a sigmoid, as the source's ends in a tanh scaled to the range of pixels. `alpha` scales all widths.
    """
    stages: list[nn.Module] = []
    inputs = 3
    for kind, kernel, channels, stride in TABLE:
        outputs = max(DIVISOR, round(channels * alpha / DIVISOR) * DIVISOR)
        stages.append(_stage(kind, inputs, outputs, kernel, stride))
        inputs = outputs
    tail = chain(pad=nn.ReflectionPad2d(LAST_KERNEL // 2), conv=nn.Conv2d(inputs, 3, LAST_KERNEL), bound=nn.Sigmoid())
    return AnySize(OrderedDict[str, nn.Module](blocks=nn.Sequential(*stages), tail=tail), MULTIPLE, dynamic_size)


def _stage(kind: str, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    if kind == "RES":
        body = chain(first=_conv(inputs, outputs, kernel), second=_conv(outputs, outputs, kernel, act=False))
        return Residual(body, act=nn.Identity)
    if kind == "UP":
        return chain(enlarge=nn.Upsample(scale_factor=stride, mode="nearest"), conv=_conv(inputs, outputs, kernel))
    return _conv(inputs, outputs, kernel, stride)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, act: bool = True) -> nn.Module:
    children: dict[str, nn.Module] = {
        "pad": nn.ReflectionPad2d(kernel // 2),
        "conv": nn.Conv2d(inputs, outputs, kernel, stride, bias=False),
        "norm": nn.InstanceNorm2d(outputs, affine=True),
    }
    return chain(**children, **({"act": nn.ReLU()} if act else {}))

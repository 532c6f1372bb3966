"""Fast style transfer in one pass, made of depthwise-separable blocks with squeeze-and-excitation.

Source: the course notes that this project follows; after Johnson et al. 2016, "Perceptual Losses for Real-Time Style
Transfer and Super-Resolution" (arXiv 1603.08155), with the blocks of MobileNet (arXiv 1704.04861), the squeeze and
excitation of arXiv 1709.01507 and the instance norms of arXiv 1607.08022.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

from edgekit.models._channels import Rounding, scale
from edgekit.models._info import ModelInfo

if TYPE_CHECKING:
    from torch import nn

INFO = ModelInfo(
    title="SE-MobileNet for style transfer",
    source="course notes; after arXiv 1603.08155",
    stride=1,
    smallest=17,
    default_resolution=224,
    has_alpha=True,
    num_classes=None,
    preprocessing="pixels",
    task="image",
)

STEM = 32
TABLE = (
    # kind, channels, stride; DSR is DS with its input added, SE squeezes and excites
    ("DS", 64, 1),
    ("DS", 128, 2),
    ("SE", 128, 1),
    ("DSR", 128, 1),
    ("DS", 256, 2),
    ("SE", 256, 1),
    ("DSR", 256, 1),
    ("DS", 512, 2),
    ("SE", 512, 1),
    *(("DSR", 512, 1),) * 5,
    ("SE", 512, 1),
    ("UP", 256, 2),
    ("UP", 128, 2),
    ("UP", 64, 2),
    ("UP", 32, 2),
)
MULTIPLE = 16  # four halvings on the way down
REDUCTION = 16


def build(
    alpha: float = 1.0,
    *,
    rounding: Rounding = "divisible8",
    tail: Literal["plain", "bounded", "published"] = "plain",
    dynamic_size: bool = False,
) -> "nn.Module":
    """The network: float32 images (N, 3, H, W) in 0..1 to images of the same shape; H and W are 17 or more.

    `tail` "plain" ends in a convolution, whose outputs may leave 0..1; "bounded" ends in a sigmoid, so that they
    cannot; "published" has an instance norm and a ReLU there, which force every colour to one mean and deviation.
    Sizes that are no multiple of 16 are padded by reflection, and the output is cropped back. An exported graph is for
    the size that it was exported at; with `dynamic_size` it works out the padding itself, for any size. Raises
    UsageError when `alpha` with rounding="published" leaves a layer without a channel.
    """
    from torch import nn

    from edgekit.models._blocks import AnySize

    exact = {"stem": STEM} | {f"blocks.{i}": channels for i, (_, channels, _) in enumerate(TABLE)}
    stem, *outputs = scale(exact, alpha, rounding).values()
    inputs = [stem, *outputs]
    blocks = [_block(kind, inputs[i], inputs[i + 1], stride) for i, (kind, _, stride) in enumerate(TABLE)]
    children = {"stem": _conv(3, stem, 3, stride=2), "blocks": nn.Sequential(*blocks), "tail": _tail(tail, outputs[-1])}
    return AnySize(OrderedDict(children), MULTIPLE, dynamic_size)


def _block(kind: str, inputs: int, outputs: int, stride: int) -> "nn.Module":
    from torch import nn

    from edgekit.models._blocks import Residual, SqueezeExcite, chain

    if kind == "SE":
        return SqueezeExcite(outputs, REDUCTION)
    if kind == "UP":
        return chain(conv=nn.ConvTranspose2d(inputs, outputs, 2, 2), norm=_norm(outputs), act=nn.ReLU())
    depthwise = _conv(inputs, inputs, 3, stride=stride, groups=inputs)
    if kind == "DSR":
        return Residual(chain(depthwise=depthwise, pointwise=_conv(inputs, outputs, 1, act=False)), act=nn.ReLU)
    return chain(depthwise=depthwise, pointwise=_conv(inputs, outputs, 1))


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True) -> "nn.Module":
    """A convolution without bias, reflecting at the border, with its instance norm and ReLU."""
    from torch import nn

    from edgekit.models._blocks import chain

    pad = {"pad": nn.ReflectionPad2d(1)} if kernel > 1 else {}
    conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return chain(**pad, conv=conv, norm=_norm(outputs), **({"act": nn.ReLU()} if act else {}))


def _norm(channels: int) -> "nn.Module":
    from torch import nn

    return nn.InstanceNorm2d(channels, affine=True)


def _tail(kind: str, inputs: int) -> "nn.Module":
    from torch import nn

    from edgekit.models._blocks import chain

    if kind == "published":
        return _conv(inputs, 3, 1)
    return chain(conv=nn.Conv2d(inputs, 3, 1), **({"bound": nn.Sigmoid()} if kind == "bounded" else {}))

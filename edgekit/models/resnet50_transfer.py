"""ResNet-50's features, frozen, and a small head to train on a few images.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv 1512.03385, with the stride in the 3x3 as
in torchvision's resnet50, whose weights it takes; the head is that of the course notes that this project follows.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from edgekit.models._info import ModelInfo, PretrainedWeights
from edgekit.models._renaming import renamed

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

INFO = ModelInfo(
    title="ResNet-50 with a new head",
    source="arXiv 1512.03385",
    stride=32,
    default_resolution=224,
    has_alpha=False,
    num_classes=2,
    pretrained=PretrainedWeights(
        name="ResNet50_Weights.IMAGENET1K_V2",
        file="resnet50-11ad3fa6.pth",
        alpha=1.0,
        num_classes=None,
        part="features",
    ),
)

STEM = 64
TABLE = (
    # channels, repeats, stride of the first
    (64, 3, 1),
    (128, 4, 2),
    (256, 6, 2),
    (512, 3, 2),
)
EXPANSION = 4
FEATURES = TABLE[-1][0] * EXPANSION
HIDDEN = 500


def build(num_classes: int = 2, *, last_relu: bool = False) -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are multiples of 32.

    `last_relu` puts a ReLU behind the logits, as published: it zeroes half of them. The features neither learn nor
    change their statistics in train mode, in which the head's norm wants two images or more.
    """
    from torch import nn

    from edgekit.models._blocks import ConvNorm, Frozen, chain

    stem = ConvNorm(3, STEM, 7, stride=2, act=nn.ReLU)
    children: dict[str, nn.Module] = {
        "features": Frozen(OrderedDict(stem=stem, pool=nn.MaxPool2d(3, 2, 1), **_layers())),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(1),
        "hidden": chain(linear=nn.Linear(FEATURES, HIDDEN), norm=nn.BatchNorm1d(HIDDEN), act=nn.ReLU()),
        "classifier": nn.Linear(HIDDEN, num_classes),
    }
    if last_relu:
        children["act"] = nn.ReLU()
    return chain(**children)


def _layers() -> "dict[str, nn.Module]":
    """The table's rows as layer1 to layer4."""
    from torch import nn

    layers: dict[str, nn.Module] = {}
    inputs = STEM
    for number, (channels, repeats, first) in enumerate(TABLE, start=1):
        outputs = channels * EXPANSION
        widths = [inputs] + [outputs] * (repeats - 1)
        blocks = [_bottleneck(width, channels, first if i == 0 else 1) for i, width in enumerate(widths)]
        layers[f"layer{number}"], inputs = nn.Sequential(*blocks), outputs
    return layers


def _bottleneck(inputs: int, channels: int, stride: int) -> "nn.Module":
    from torch import nn

    from edgekit.models._blocks import ConvNorm, Residual, chain

    outputs = channels * EXPANSION
    body = chain(
        reduce=ConvNorm(inputs, channels, act=nn.ReLU),
        spatial=ConvNorm(channels, channels, 3, stride=stride, act=nn.ReLU),
        expand=ConvNorm(channels, outputs, act=None),
    )
    same = stride == 1 and inputs == outputs
    return Residual(body, None if same else ConvNorm(inputs, outputs, stride=stride, act=None), act=nn.ReLU)


def from_torchvision(state: Mapping[str, T]) -> dict[str, T]:
    """torchvision's weights of ResNet-50 under this network's names, without its head, whose place another one takes.

    Names that are not torchvision's stay as they are.
    """
    kept = {name: value for name, value in state.items() if not name.startswith("fc.")}
    return renamed(kept, _torchvision_names())


def _torchvision_names() -> dict[str, str]:
    names = {"conv1": "features.stem.conv", "bn1": "features.stem.norm"}
    for number, (_, repeats, _) in enumerate(TABLE, start=1):
        for place in (f"layer{number}.{i}" for i in range(repeats)):
            for i, part in enumerate(("reduce", "spatial", "expand"), start=1):
                names[f"{place}.conv{i}"] = f"features.{place}.body.{part}.conv"
                names[f"{place}.bn{i}"] = f"features.{place}.body.{part}.norm"
            names[f"{place}.downsample.0"] = f"features.{place}.shortcut.conv"
            names[f"{place}.downsample.1"] = f"features.{place}.shortcut.norm"
    return names

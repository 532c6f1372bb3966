"""MobileNetV2: inverted residuals with linear bottlenecks.

Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381. With
rounding="divisible8" it is torchvision's `mobilenet_v2(width_mult=alpha)`, and takes its weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from edgekit.models._channels import Rounding, divisible_by_8, scale
from edgekit.models._info import ModelInfo, PretrainedWeights
from edgekit.models._renaming import renamed

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

INFO = ModelInfo(
    title="MobileNet v2",
    source="arXiv 1801.04381",
    stride=32,
    default_resolution=224,
    has_alpha=True,
    pretrained=PretrainedWeights(
        name="MobileNet_V2_Weights.IMAGENET1K_V2",
        file="mobilenet_v2-7ebf99e0.pth",
        alpha=1.0,
        num_classes=1000,
    ),
)

STEM = 32
TABLE = (
    # expansion, channels, repeats, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
TAIL = 1280
DROPOUT = 0.2


def build(alpha: float = 1.0, num_classes: int = 1000, *, rounding: Rounding = "divisible8") -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are multiples of 32.

    Raises UsageError when `alpha` with rounding="published" leaves a layer without a channel.
    """
    from torch import nn

    def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
        return nn.Identity() if stride == 1 and inputs == outputs else None

    return assemble(alpha, num_classes, rounding, shortcut)


def assemble(
    alpha: float,
    num_classes: int,
    rounding: Rounding,
    shortcut: "Callable[[int, int, int], nn.Module | None]",
    act: "Callable[[], nn.Module] | None" = None,
) -> "nn.Module":
    """The table as a network, with the shortcut that `shortcut(inputs, outputs, stride)` gives each block.

    `act` makes the activation after each block's sum; None leaves the sum linear.
    """
    from torch import nn

    from edgekit.models._blocks import ConvNorm, InvertedResidual, chain, head

    stem, rows, tail = layout(alpha, rounding)
    blocks = [
        InvertedResidual(
            row.inputs,
            row.outputs,
            expansion=row.expansion,
            stride=row.stride,
            shortcut=shortcut(row.inputs, row.outputs, row.stride),
            act=act() if act else None,
        )
        for row in rows
    ]
    return chain(
        stem=ConvNorm(3, stem, 3, stride=2),
        blocks=nn.Sequential(*blocks),
        tail=ConvNorm(rows[-1].outputs, tail),
        **head(tail, num_classes, DROPOUT),
    )


@dataclass(frozen=True)
class Row:
    """One block of the table, with its channel counts."""

    inputs: int
    outputs: int
    expansion: int
    stride: int


def layout(alpha: float, rounding: Rounding) -> tuple[int, list[Row], int]:
    """The stem's channels, every block, and the tail's channels, at width `alpha`.

    Raises UsageError when a layer would have no channel left.
    """
    rows = [(t, c, first if repeat == 0 else 1) for t, c, repeats, first in TABLE for repeat in range(repeats)]
    exact = {"stem": STEM} | {f"blocks.{i}": c for i, (_, c, _) in enumerate(rows)} | {"tail": TAIL}
    stem, *outputs, tail = scale(exact, alpha, rounding).values()
    if rounding == "divisible8":
        tail = divisible_by_8(TAIL * max(1.0, alpha))  # a narrow network keeps the full tail
    inputs = [stem, *outputs]
    return stem, [Row(inputs[i], outputs[i], t, s) for i, (t, _, s) in enumerate(rows)], tail


def from_torchvision(state: Mapping[str, T]) -> dict[str, T]:
    """The same weights under this network's names; names that are not torchvision's stay as they are."""
    return renamed(state, _torchvision_names())


def _torchvision_names() -> dict[str, str]:
    """torchvision's path of every layer with weights, and ours: it numbers the layers by their place in a list."""
    expansions = [expansion for expansion, _, repeats, _ in TABLE for _ in range(repeats)]
    names = _conv_norm("features.0", "stem") | _conv_norm(f"features.{len(expansions) + 1}", "tail")
    for i, expansion in enumerate(expansions):
        theirs, block = f"features.{i + 1}.conv", f"blocks.{i}"
        parts = ["expand", "depthwise"] if expansion > 1 else ["depthwise"]
        for place, part in enumerate(parts):
            names |= _conv_norm(f"{theirs}.{place}", f"{block}.{part}")
        names |= {
            f"{theirs}.{len(parts)}": f"{block}.project.conv",
            f"{theirs}.{len(parts) + 1}": f"{block}.project.norm",
        }
    return names | {"classifier.1": "classifier"}


def _conv_norm(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.0": f"{ours}.conv", f"{theirs}.1": f"{ours}.norm"}

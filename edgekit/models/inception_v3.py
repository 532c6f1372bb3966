"""Inception v3: factorised convolutions, and an auxiliary head while it is trained.

Source: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567, in the form
of the course notes that this project follows. variant="torchvision" is torchvision's inception_v3 with
transform_input=False, and takes its weights: they were trained on -1..1, which is this network's preprocessing, and
transform_input=True does no more than turn ImageNet's normalisation into that.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from edgekit.models._info import ModelInfo, PretrainedWeights
from edgekit.models._renaming import conv_bn, renamed

if TYPE_CHECKING:
    from torch import nn

    from edgekit.models._inception import Convolution, Table

T = TypeVar("T")
Form = Literal["published", "torchvision"]

INFO = ModelInfo(
    title="Inception v3",
    source="arXiv 1512.00567",
    stride=1,
    smallest=75,
    default_resolution=299,
    has_alpha=False,
    preprocessing="inception",
    pretrained=PretrainedWeights(
        name="Inception_V3_Weights.IMAGENET1K_V1",
        file="inception_v3_google-0cc3c7bd.pth",
        alpha=1.0,
        num_classes=1000,
        options=(("variant", "torchvision"),),
    ),
)


REDUCE_A = {"3x3": "3x3/2 384", "3x3dbl": "1x1 64, 3x3 96, 3x3/2 96", "pool": "max 3x3/2"}
REDUCE_B = {"3x3": "1x1 192, 3x3/2 320", "7x7x3": "1x1 192, 1x7 192, 7x1 192, 3x3/2 192", "pool": "max 3x3/2"}
TORCHVISION_STEM = {
    "stem.3x3": "Conv2d_1a_3x3",
    "stem.3x3_2": "Conv2d_2a_3x3",
    "stem.3x3_3": "Conv2d_2b_3x3",
    "stem.1x1": "Conv2d_3b_1x1",
    "stem.3x3_4": "Conv2d_4a_3x3",
}
TORCHVISION_BLOCKS = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")  # Mixed_5b and so on
B_OUTPUTS = 768  # of every B, the last of which the auxiliary head looks at
DROPOUT, AUXILIARY_DROPOUT = 0.5, 0.7


def published() -> "Table":
    """Every row but the heads, in the form of the course notes."""
    return (
        ("stem", "3x3/2 32, 3x3 32 V, 3x3 64, max 3x3/2, 3x3 80 V, 3x3/2 192, 3x3 288"),
        ("a", [_a({"3x3": "1x1 48, 3x3 64"}, "max 3x3, 1x1 64")] * 3),
        ("reduce_a", REDUCE_A),
        ("b", [_b(n, "1x7", "7x1", "max") for n in (128, 160, 160, 160, 192)]),
        ("reduce_b", REDUCE_B),
        ("c", [_c("max")] * 2),
    )


def torchvision() -> "Table":
    """Every row but the heads, in torchvision's form."""
    return (
        ("stem", "3x3/2 32, 3x3 32 V, 3x3 64, max 3x3/2, 1x1 80, 3x3 192 V, max 3x3/2"),
        ("a", [_a({"5x5": "1x1 48, 5x5 64"}, f"avg 3x3, 1x1 {n}") for n in (32, 64, 64)]),
        ("reduce_a", REDUCE_A),
        ("b", [_b(n, "7x1", "1x7", "avg") for n in (128, 160, 160, 192)]),
        ("reduce_b", REDUCE_B),
        ("c", [_c("avg")] * 2),
    )


def _a(single: dict[str, str], pool: str) -> dict[str, str]:
    return {"1x1": "1x1 64", **single, "3x3dbl": "1x1 64, 3x3 96, 3x3 96", "pool": pool}


def _b(n: int, first: str, second: str, pool: str) -> dict[str, str]:
    return {
        "1x1": "1x1 192",
        "7x7": f"1x1 {n}, 1x7 {n}, 7x1 192",
        "7x7dbl": f"1x1 {n}, {first} {n}, {second} {n}, {first} {n}, {second} 192",
        "pool": f"{pool} 3x3, 1x1 192",
    }


def _c(pool: str) -> dict[str, str]:
    return {
        "1x1": "1x1 320",
        "3x3": "1x1 384, 1x3 384 | 3x1 384",
        "3x3dbl": "1x1 448, 3x3 384, 1x3 384 | 3x1 384",
        "pool": f"{pool} 3x3, 1x1 192",
    }


def build(num_classes: int = 1000, *, variant: Form = "published") -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are 75 or more.

    In train mode it returns the pair (logits, the auxiliary head's logits). Average pools of the torchvision variant
    count the zeros of the border.
    """
    from edgekit.models._blocks import WithAuxiliary, head
    from edgekit.models._inception import trunk

    children, width = trunk(published() if variant == "published" else torchvision())
    children |= head(width, num_classes, DROPOUT)
    return WithAuxiliary(children, "b", _auxiliary(num_classes, variant))


def _auxiliary(num_classes: int, variant: Form) -> "nn.Module":
    from torch import nn

    from edgekit.models._blocks import ConvNorm, chain, head
    from edgekit.models._inception import EPS

    reduce = ConvNorm(B_OUTPUTS, 128, eps=EPS, act=nn.ReLU)
    if variant == "torchvision":
        widen = ConvNorm(128, 768, 5, padding=0, eps=EPS, act=nn.ReLU)
        return chain(grid=nn.AvgPool2d(5, 3), reduce=reduce, widen=widen, **head(768, num_classes))
    return chain(
        grid=nn.AdaptiveAvgPool2d(5),
        reduce=reduce,
        flatten=nn.Flatten(1),
        hidden=nn.Linear(128 * 5 * 5, 1024),
        act=nn.ReLU(),
        dropout=nn.Dropout(AUXILIARY_DROPOUT),
        classifier=nn.Linear(1024, num_classes),
    )


def from_torchvision(state: Mapping[str, T]) -> dict[str, T]:
    """The same weights under the torchvision variant's names; names that are not torchvision's stay as they are."""
    from edgekit.models._inception import convolutions

    ours = {"fc": "classifier", "AuxLogits.fc": "auxiliary.classifier"}
    ours |= conv_bn("AuxLogits.conv0", "auxiliary.reduce") | conv_bn("AuxLogits.conv1", "auxiliary.widen")
    for one in convolutions(torchvision()):
        ours |= conv_bn(_torchvision_path(one), one.path)
    return renamed(state, ours)


def _torchvision_path(one: "Convolution") -> str:
    """torchvision names a branch like this table does, and numbers the convolutions in it."""
    if one.block == 0:
        return TORCHVISION_STEM[one.path]
    block = f"Mixed_{TORCHVISION_BLOCKS[one.block - 1]}"
    if one.chain == "pool":
        return f"{block}.branch_pool"
    branch = f"{block}.branch{one.chain}"
    return branch if one.alone else f"{branch}_{one.step + 1}{one.side}"

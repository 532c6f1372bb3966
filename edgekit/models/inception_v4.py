"""Inception-v4: Inception blocks without residuals, made uniform.

Source: Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
arXiv 1602.07261. The default is the network that its authors released: it is timm's inception_v4, and takes its
weights. Where rows and columns stand in another order than in the paper's figures, that is how it was released.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from edgekit.models._info import ModelInfo, PretrainedWeights
from edgekit.models._renaming import conv_bn, renamed

if TYPE_CHECKING:
    from torch import nn

    from edgekit.models._inception import Convolution, Table

T = TypeVar("T")
Form = Literal["released", "published"]

INFO = ModelInfo(
    title="Inception v4",
    source="arXiv 1602.07261",
    stride=1,
    smallest=75,
    default_resolution=299,
    has_alpha=False,
    preprocessing="inception",
    pretrained=PretrainedWeights(
        name="inception_v4.tf_in1k",
        file="model.safetensors",
        alpha=1.0,
        num_classes=1000,
        library="timm",
        options=(("variant", "released"),),
    ),
)

STEM = "3x3/2 32, 3x3 32 V, 3x3 64"
MIXED_3A = {"pool": "max 3x3/2", "conv": "3x3/2 96"}
MIXED_4A = {
    "released": {"short": "1x1 64, 3x3 96 V", "long": "1x1 64, 1x7 64, 7x1 64, 3x3 96 V"},
    "published": {"short": "1x1 64, 3x3 96 V", "long": "1x1 64, 7x1 64, 1x7 64, 3x3 96 V"},
}
MIXED_5A = {"conv": "3x3/2 192", "pool": "max 3x3/2"}
A = {
    "point": "1x1 96",
    "short": "1x1 64, 3x3 96",
    "long": "1x1 64, 3x3 96, 3x3 96",
    "pool": "avg 3x3, 1x1 96",
}
REDUCE_A = {"strided": "3x3/2 384", "long": "1x1 192, 3x3 224, 3x3/2 256", "pool": "max 3x3/2"}
B = {
    "released": {
        "point": "1x1 384",
        "short": "1x1 192, 1x7 224, 7x1 256",
        "long": "1x1 192, 7x1 192, 1x7 224, 7x1 224, 1x7 256",
        "pool": "avg 3x3, 1x1 128",
    },
    "published": {
        "point": "1x1 384",
        "short": "1x1 192, 1x7 224, 7x1 256",
        "long": "1x1 64, 1x7 192, 7x1 224, 1x7 224, 7x1 256",
        "pool": "avg 3x3, 1x1 128",
    },
}
REDUCE_B = {"short": "1x1 192, 3x3/2 192", "long": "1x1 256, 1x7 256, 7x1 320, 3x3/2 320", "pool": "max 3x3/2"}
C = {
    "released": {
        "point": "1x1 256",
        "short": "1x1 384, 1x3 256 | 3x1 256",
        "long": "1x1 384, 3x1 448, 1x3 512, 1x3 256 | 3x1 256",
        "pool": "avg 3x3, 1x1 256",
    },
    "published": {
        "point": "1x1 256",
        "short": "1x1 384, 1x3 256 | 3x1 256",
        "long": "1x1 384, 1x3 448, 3x1 512, 1x3 256 | 3x1 256",
        "pool": "avg 3x3, 1x1 256",
    },
}
DROPOUT = 0.2  # the paper's 0.8 is the share that is kept


def stem(form: Form) -> "Table":
    """The rows from the image to 384 channels at an eighth of its side."""
    return (("stem", STEM), ("mixed_3a", MIXED_3A), ("mixed_4a", MIXED_4A[form]), ("mixed_5a", MIXED_5A))


def table(form: Form) -> "Table":
    """Every row but the head."""
    blocks: Table = (
        ("a", [A] * 4),
        ("reduce_a", REDUCE_A),
        ("b", [B[form]] * 7),
        ("reduce_b", REDUCE_B),
        ("c", [C[form]] * 3),
    )
    return (*stem(form), *blocks)


def build(num_classes: int = 1000, *, variant: Form = "released") -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are 75 or more.

    `variant` "published" is the form of the course notes: the longest branch of every B begins with 64 channels and
    not with 192, rows and columns stand as in the paper, and average pools count the zeros of the border.
    """
    from edgekit.models._blocks import chain, head
    from edgekit.models._inception import block, trunk

    pad_counts = variant == "published"
    children, width = trunk(table(variant), lambda inputs, entry: block(inputs, entry, pad_counts))
    return chain(**children, **head(width, num_classes, DROPOUT))


def from_timm(state: Mapping[str, T]) -> dict[str, T]:
    """The same weights under this network's names; names that are not timm's stay as they are."""
    from edgekit.models._inception import convolutions

    ours = {"last_linear": "classifier"}
    for one in convolutions(table("released")):
        ours |= conv_bn(_timm_path(one), one.path)
    return renamed(state, ours)


def _timm_path(one: "Convolution") -> str:
    """timm numbers the stem's convolutions and then the blocks, and in each block the branches."""
    if one.block == 0:
        return f"features.{one.step}"
    where = f"features.{one.block + 2}"
    if one.chain == "conv":
        return f"{where}.conv"
    branch = f"{where}.branch{one.branch}"
    if one.alone:
        return branch
    return f"{branch}_{one.step}{one.side}" if one.splits else f"{branch}.{one.step}"

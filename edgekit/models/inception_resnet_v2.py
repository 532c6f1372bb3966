"""Inception-ResNet-v2: Inception blocks as the bodies of residuals.

Source: Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
arXiv 1602.07261, in the form of the course notes that this project follows. The network that its authors released is
another one, with other widths, twice the blocks and scaled residuals: variant="released" takes it from timm.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from edgekit.errors import MachineLacks, UsageError
from edgekit.models import inception_v4
from edgekit.models._info import ModelInfo, PretrainedWeights

if TYPE_CHECKING:
    from torch import nn

    from edgekit.models._inception import Table

T = TypeVar("T")

INFO = ModelInfo(
    title="Inception-ResNet v2",
    source="arXiv 1602.07261",
    stride=1,
    smallest=75,
    default_resolution=299,
    has_alpha=False,
    preprocessing="inception_resnet",
    pretrained=PretrainedWeights(
        name="inception_resnet_v2.tf_in1k",
        file="model.safetensors",
        alpha=1.0,
        num_classes=1000,
        library="timm",
        options=(("variant", "released"),),
    ),
)

A = {"point": "1x1 32", "short": "1x1 32, 3x3 32", "long": "1x1 32, 3x3 48, 3x3 64"}
REDUCE_A = {"strided": "3x3/2 384", "long": "1x1 256, 3x3 256, 3x3/2 384", "pool": "max 3x3/2"}
B = {"point": "1x1 192", "long": "1x1 128, 1x7 160, 7x1 192"}
REDUCE_B = {
    "wide": "1x1 256, 3x3/2 384",
    "short": "1x1 256, 3x3/2 288",
    "long": "1x1 256, 3x3 288, 3x3/2 320",
    "pool": "max 3x3/2",
}
C = {"point": "1x1 192", "long": "1x1 192, 1x3 224, 3x1 256"}
RESIDUAL = (A, B, C)
RELEASED_FEATURES = 1536
DROPOUT = 0.2  # the paper's 0.8 is the share that is kept


def table() -> "Table":
    """Every row of the published form but the head."""
    blocks: Table = (("a", [A] * 5), ("reduce_a", REDUCE_A), ("b", [B] * 10), ("reduce_b", REDUCE_B), ("c", [C] * 5))
    return (*inception_v4.stem("published"), *blocks)


def build(
    num_classes: int = 1000, *, variant: Literal["published", "released"] = "published", scale: float = 1.0
) -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are 75 or more.

    `scale` is what the published form multiplies its residuals with; the released one has its own. Raises UsageError
    for another scale of the released form, and MachineLacks where timm, which has that form, is not installed.
    """
    if variant == "released":
        _check_scale(scale)
        return _released(num_classes)
    from edgekit.models._blocks import chain, head
    from edgekit.models._inception import Block, block, trunk

    def make(inputs: int, entry: Block) -> "tuple[nn.Module, int]":
        module, width = block(inputs, entry)
        return (_residual(module, width, inputs, scale), inputs) if entry in RESIDUAL else (module, width)

    children, width = trunk(table(), make)
    return chain(**children, **head(width, num_classes, DROPOUT))


def _residual(branches: "nn.Module", width: int, inputs: int, scale: float) -> "nn.Module":
    """The branches, led back to the block's width by a convolution without norm, and added to the input."""
    from torch import nn

    from edgekit.models._blocks import Residual, chain

    body = chain(branches=branches, project=nn.Conv2d(width, inputs, 1))
    return Residual(body, scale=scale, act=nn.ReLU)


def _check_scale(scale: float) -> None:
    if scale != 1.0:
        raise UsageError(
            "the released Inception-ResNet-v2 has its own scales",
            where="--option scale",
            got=str(scale),
            hint="leave scale out, or take variant=published",
        )


def _released(num_classes: int) -> "nn.Module":
    try:
        from edgekit.models import _timm
    except ImportError as error:
        raise MachineLacks(
            "the released Inception-ResNet-v2 is timm's, which is not installed",
            where="--option variant=released",
            got=str(error),
            hint='pip install "edgekit-trt[timm]"',
        ) from error
    from edgekit.models._blocks import chain, head

    return chain(**_timm.features("inception_resnet_v2"), **head(RELEASED_FEATURES, num_classes, DROPOUT))


def from_timm(state: Mapping[str, T]) -> dict[str, T]:
    """The same weights under the names of the released form; names that are not timm's stay as they are."""
    return {_own_name(name): value for name, value in state.items()}


def _own_name(theirs: str) -> str:
    if theirs.startswith("classif."):
        return theirs.replace("classif.", "classifier.", 1)
    return theirs.replace(".bn.", ".norm.")

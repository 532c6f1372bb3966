"""DenseNet-BC for small images: every layer sees all that came before it in its block.

Source: Huang et al. 2016, "Densely Connected Convolutional Networks", arXiv 1608.06993; the CIFAR form of the authors'
released code. Depth 40, growth 12, reduction 1 and no bottleneck are the plain DenseNet of the same paper.
"""

from typing import TYPE_CHECKING

from edgekit.errors import UsageError
from edgekit.models._info import ModelInfo

if TYPE_CHECKING:
    from torch import nn

INFO = ModelInfo(
    title="DenseNet-BC",
    source="arXiv 1608.06993",
    stride=4,
    default_resolution=32,
    has_alpha=False,
    num_classes=10,
    preprocessing="cifar",
)

BLOCKS = 3
EXPANSION = 4  # of a bottleneck: its 1x1 has four times as many outputs as the layer
PLAIN_STEM = 16


def build(
    num_classes: int = 10,
    *,
    depth: int = 100,
    growth: int = 12,
    reduction: float = 0.5,
    bottleneck: bool = True,
    dropout: float = 0.0,
) -> "nn.Module":
    """The network: float32 images (N, 3, H, W) to logits (N, num_classes); H and W are multiples of 4.

    `growth` is the channels that every layer adds, `reduction` the share of channels that a transition keeps, `dropout`
    the share of a layer's outputs that training drops. Raises UsageError for values that make no network.
    """
    from torch import nn

    from edgekit.models._blocks import chain, head

    layers = layers_per_block(depth, bottleneck)
    _check(growth, reduction, dropout)
    width = 2 * growth if bottleneck else PLAIN_STEM
    children: dict[str, nn.Module] = {"stem": nn.Conv2d(3, width, 3, padding=1, bias=False)}
    for number in range(1, BLOCKS + 1):
        block = [_layer(width + i * growth, growth, bottleneck, dropout) for i in range(layers)]
        children[f"block{number}"] = nn.Sequential(*block)
        width += layers * growth
        if number < BLOCKS:
            children[f"transition{number}"] = _transition(width, int(width * reduction), dropout)
            width = int(width * reduction)
    return chain(**children, norm=nn.BatchNorm2d(width), act=nn.ReLU(), **head(width, num_classes))


def layers_per_block(depth: int, bottleneck: bool) -> int:
    """How many layers each of the three blocks has in a network of `depth` weighted layers.

    Four of them are the stem, the two transitions and the classifier. Raises UsageError, naming the nearest depths that
    work, for one that leaves no whole number of layers.
    """
    step = BLOCKS * (2 if bottleneck else 1)
    if depth > 4 and (depth - 4) % step == 0:
        return (depth - 4) // step
    below = (depth - 4) // step * step + 4
    nearest = [str(fits) for fits in (below, below + step) if fits > 4] or [str(step + 4)]
    raise UsageError(
        f"no densenet_bc{'' if bottleneck else ' without bottleneck'} is {depth} layers deep",
        where="--option depth",
        got=str(depth),
        wanted=f"{step} times a whole number, and 4",
        hint=f"the nearest: {' or '.join(nearest)}",
    )


def _check(growth: int, reduction: float, dropout: float) -> None:
    rules = [
        ("growth", growth, 1 <= growth <= 1024, "a whole number from 1 to 1024"),
        ("reduction", reduction, 0 < reduction <= 1, "a number above 0, at most 1"),
        ("dropout", dropout, 0 <= dropout < 1, "a number from 0 to below 1"),
    ]
    for name, value, fits, wanted in rules:
        if not fits:
            raise UsageError(f"{name} is out of range", where=f"--option {name}", got=str(value), wanted=wanted)


def _layer(inputs: int, growth: int, bottleneck: bool, dropout: float) -> "nn.Module":
    """The input, and behind it the `growth` channels that the layer makes of it."""
    from torch import nn

    from edgekit.models._blocks import Concat, ConvNorm, chain

    children: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(inputs), "act": nn.ReLU()}
    if bottleneck:
        children["reduce"] = ConvNorm(inputs, EXPANSION * growth, act=nn.ReLU)
        inputs = EXPANSION * growth
    children["conv"] = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)
    if dropout:
        children["dropout"] = nn.Dropout(dropout)
    return Concat({"known": nn.Identity(), "new": chain(**children)})


def _transition(inputs: int, outputs: int, dropout: float) -> "nn.Module":
    from torch import nn

    from edgekit.models._blocks import chain

    children: dict[str, nn.Module] = {
        "norm": nn.BatchNorm2d(inputs),
        "act": nn.ReLU(),
        "conv": nn.Conv2d(inputs, outputs, 1, bias=False),
    }
    if dropout:
        children["dropout"] = nn.Dropout(dropout)
    return chain(**children, pool=nn.AvgPool2d(2))

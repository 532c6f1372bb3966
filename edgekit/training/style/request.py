"""What style transfer is asked for, in types that need no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.models._info import PretrainedWeights
from edgekit.variant import check_whole

FeatureNetwork = Literal["vgg19", "resnet50"]
FEATURE_NETWORKS: tuple[FeatureNetwork, ...] = ("vgg19", "resnet50")
Start = Literal["content", "noise", "style"]
STARTS: tuple[Start, ...] = ("content", "noise", "style")
StyleNetwork = Literal["se_mobilenet_style", "residual"]
STYLE_NETWORKS: tuple[StyleNetwork, ...] = ("se_mobilenet_style", "residual")
Tail = Literal["plain", "bounded", "published"]
TAILS: tuple[Tail, ...] = ("plain", "bounded", "published")

PRETRAINED: dict[FeatureNetwork, PretrainedWeights] = {
    "vgg19": PretrainedWeights("VGG19_Weights.IMAGENET1K_V1", "vgg19-dcbb9e9d.pth", 1.0, None),
    "resnet50": PretrainedWeights("ResNet50_Weights.IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 1.0, None),
}

# Convolutions in each block of VGG-19 (arXiv 1409.1556, configuration E), bottlenecks in each layer of ResNet-50.
VGG_BLOCKS = (2, 2, 4, 4, 4)
RESNET_LAYERS = (3, 4, 6, 3)

Weighted: TypeAlias = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Features:
    """The network whose features are compared, and its weights: a file, "default" (torchvision's) or a seed."""

    network: FeatureNetwork = "vgg19"
    weights: Path | Literal["default"] | int = "default"
    average_pools: bool = False


@dataclass(frozen=True)
class Objective:
    """What is made small: the style's and the content's distance and the total variation, times their weights.

    `style_layers` and `content_layers` are pairs of a layer's name and its own weight. 1000 : 1 is the published ratio.
    """

    style_layers: Weighted
    content_layers: Weighted
    style_weight: float = 1000.0
    content_weight: float = 1.0
    variation_weight: float = 0.0

    @property
    def layers(self) -> tuple[str, ...]:
        """Every layer that is looked at, once."""
        return tuple(dict.fromkeys(name for name, _ in (*self.style_layers, *self.content_layers)))


@dataclass(frozen=True)
class OptimiseRequest:
    """`edgekit style optimize` in full; `size` is the longer side of the result in pixels, None the content's own."""

    content: Path
    style: Path
    features: Features
    objective: Objective
    size: int | None = 512
    start: Start = "content"
    seed: int = 0
    steps: int = 300
    tolerance: float = 1e-4


@dataclass(frozen=True)
class TrainRequest:
    """`edgekit style train` in full. `crop` is the side of the squares cut from the photos, in pixels."""

    style: Path
    data: Path
    features: Features
    objective: Objective
    network: StyleNetwork = "se_mobilenet_style"
    alpha: float = 1.0
    tail: Tail = "plain"
    style_size: int = 256
    crop: int = 256
    batch: int = 4
    steps: int = 2000
    rate: float = 1e-3
    seed: int = 0


def parse_weights(text: str, seed: int) -> Path | Literal["default"] | int:
    """`--weights`: "default" torchvision's, "none" random ones from `seed`, all else a file, which must be there."""
    if text == "default":
        return "default"
    if text == "none":
        check_whole("seed", seed, 0, 2**63 - 1)
        return seed
    if not Path(text).is_file():
        hint = did_you_mean(text, ["default", "none"])
        raise InputUnusable("there is no such weights file", where="--weights", got=text, hint=hint)
    return Path(text)


def parse_layers(option: str, words: tuple[str, ...], network: FeatureNetwork) -> Weighted:
    """`relu1_1` or `relu1_1=0.5`, any number of them, held against the layers that the network has."""
    found: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in layer_names(network):
            hint = did_you_mean(name, list(layer_names(network)))
            raise UsageError(f"{network} has no layer of this name", where=option, got=name, hint=hint)
        if name in found:
            raise UsageError("the same layer twice", where=option, got=name)
        found[name] = _weight(option, word, text) if text else 1.0
    if not any(found.values()):
        raise UsageError("no layer to look at", where=option, wanted="NAME or NAME=WEIGHT, as relu3_1=0.5")
    return tuple(found.items())


def _weight(option: str, word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError("not a layer's weight", where=option, got=word, wanted="NAME=WEIGHT with a number from 0 on")
    return value


def layer_names(network: FeatureNetwork) -> tuple[str, ...]:
    """The layers that can be looked at, from the input on.

    VGG-19: convB_I and reluB_I of block B, before and behind the activation, and poolB. ResNet-50: stem (behind its
    ReLU), layerL.B behind every bottleneck, and layerL for the last of them.
    """
    if network == "vgg19":
        blocks = ((b, i) for b, count in enumerate(VGG_BLOCKS, 1) for i in range(1, count + 1))
        names = [name for b, i in blocks for name in _vgg_names(b, i)]
        return tuple(names)
    names = ["stem"]
    for number, count in enumerate(RESNET_LAYERS, 1):
        names += [*(f"layer{number}.{i}" for i in range(count)), f"layer{number}"]
    return tuple(names)


def _vgg_names(block: int, number: int) -> list[str]:
    names = [f"conv{block}_{number}", f"relu{block}_{number}"]
    return [*names, f"pool{block}"] if number == VGG_BLOCKS[block - 1] else names


# Gatys et al. 2016's layers for images, Johnson et al. 2016's (of VGG-16) for networks; in ResNet-50 what stands at
# the same sizes.
_OPTIMISE: dict[FeatureNetwork, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "vgg19": (("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), ("relu4_2",)),
    "resnet50": (("stem", "layer1", "layer2", "layer3"), ("layer2",)),
}
_TRAIN: dict[FeatureNetwork, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "vgg19": (("relu1_2", "relu2_2", "relu3_3", "relu4_3"), ("relu3_3",)),
    "resnet50": (("stem", "layer1", "layer2", "layer3"), ("layer2",)),
}


def default_layers(network: FeatureNetwork, use: Literal["optimise", "train"]) -> tuple[Weighted, Weighted]:
    """Style layers and content layers where none are named, each set with weights that add up to 1."""
    style, content = (_OPTIMISE if use == "optimise" else _TRAIN)[network]
    return _even(style), _even(content)


def _even(names: tuple[str, ...]) -> Weighted:
    return tuple((name, 1 / len(names)) for name in names)

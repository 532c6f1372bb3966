"""What a trained (or a random) classifier sees in a picture, layer by layer, differentiably.

Source: Gatys, Ecker and Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks", CVPR; VGG-19 is
arXiv 1409.1556. That random features carry texture, too, is shown by Ustyuzhaninov et al. 2016, arXiv 1606.00021, and
by He, Wang and Hopcroft 2016, arXiv 1606.04801.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgekit import checkpoints
from edgekit.errors import InputUnusable
from edgekit.models import _create
from edgekit.models._calibrate import calibration_images
from edgekit.models._init import initialise
from edgekit.preprocessing import IMAGENET
from edgekit.training.style.request import PRETRAINED, RESNET_LAYERS, VGG_BLOCKS, Features, layer_names

VGG_WIDTHS = (64, 128, 256, 512, 512)
# What untrained features are multiplied by beyond that. A Gram matrix grows with the square of the features, so this
# decides what 1000 : 1 means. At 1 the content keeps the picture as it is; at 3 both are seen in it.
STRENGTH = 3.0
# The mean of what an untrained activation gets to see, in deviations. At 0 a ReLU throws half of the signal away, and
# ten of them are chaos: L-BFGS takes off 79 per cent of a loss in 60 steps, at 1 it takes off 99 (128 pixels).
SHIFT = 1.0
RESNET = "resnet50_transfer"  # edgekit's own ResNet-50, whose file knows torchvision's names


class Extractor(nn.Module):
    """Colours (N, 3, H, W) in 0..1 to the outputs of `layers` by name. Frozen, and always in eval mode.

    `stages` are run one after the other up to the last that is looked at; a stage's name is a layer's name. With
    `balanced`, features are multiplied by the square root of their channels: see `build`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stages: OrderedDict[str, nn.Module], layers: Sequence[str], balanced: bool = False) -> None:
        super().__init__()
        self.balanced = balanced
        names = list(stages)
        deepest = max(names.index(name) for name in layers)
        self.stages = nn.ModuleDict({name.replace(".", "/"): stages[name] for name in names[: deepest + 1]})
        self.layers = frozenset(layers)
        self.register_buffer("mean", torch.tensor(IMAGENET.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Extractor:  # noqa: ARG002  # eval mode, whatever is asked for
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The features (N, C, H', W') by layer. Raises InputUnusable for an image that pooling leaves nothing of."""
        x = (image - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for key, stage in self.stages.items():
            if min(x.shape[-2:]) < 2 and isinstance(stage, nn.MaxPool2d | nn.AvgPool2d):
                raise self._too_small(image, key)
            x = stage(x)
            if (name := key.replace("/", ".")) in self.layers:
                found[name] = x * (STRENGTH * math.sqrt(x.shape[1])) if self.balanced else x
        return found

    def _too_small(self, image: Tensor, stage: str) -> InputUnusable:
        pools = [key for key, it in self.stages.items() if isinstance(it, nn.MaxPool2d | nn.AvgPool2d)]
        return InputUnusable(
            "the picture is too small for these layers",
            where=f"{stage} of the features",
            got=f"{image.shape[-1]} x {image.shape[-2]} pixels",
            wanted=f"{2 ** len(pools)} pixels or more on each side",
            hint="take a larger picture (and --size), or layers nearer to the input",
        )


def build(features: Features, layers: Sequence[str]) -> Extractor:
    """The extractor of `layers` with its weights.

    An int as `features.weights` is the seed of untrained features. They are made alive (deviation about 1 in every
    layer) and then multiplied by the square root of their channels and by STRENGTH: Gram matrices, which are divided
    by the channels, are then of one size in all layers. Without that, layers of 512 channels count for nothing. Raises
    InputUnusable for a file that cannot be used or does not fit, and MachineLacks for published weights that are not
    here and cannot be downloaded.
    """
    stages = _vgg(features, layers) if features.network == "vgg19" else _resnet(features)
    if features.average_pools:
        stages = OrderedDict((name, _averaging(stage)) for name, stage in stages.items())
    return Extractor(stages, layers, balanced=isinstance(features.weights, int))


def _averaging(stage: nn.Module) -> nn.Module:
    if isinstance(stage, nn.MaxPool2d):
        return nn.AvgPool2d(stage.kernel_size, stage.stride, stage.padding, count_include_pad=False)
    return stage


def _state(features: Features) -> tuple[dict[str, Tensor], str]:
    """The weights in the file, or those that torchvision publishes, and where they are."""
    if features.weights == "default":
        from edgekit.models import _pretrained

        path = _pretrained.fetch(PRETRAINED[features.network])
    else:
        assert not isinstance(features.weights, int | str)
        path = features.weights
    return checkpoints.read_state_dict(path), str(path)


# --- VGG-19


def _vgg(features: Features, layers: Sequence[str]) -> OrderedDict[str, nn.Module]:
    stages = _vgg_stages()
    if isinstance(features.weights, int):
        # Only as deep as is looked at: the whole network takes seconds, and what is drawn first is the same.
        deepest = max(list(stages).index(name) for name in layers)
        stages = OrderedDict(list(stages.items())[: deepest + 1])
        chain = nn.Sequential(*stages.values())
        initialise(chain, features.weights)
        _enliven(chain, features.weights)
    else:
        raw, source = _state(features)
        checkpoints.fit(nn.Sequential(*stages.values()), _convolutions(raw), source)
    return stages


def _vgg_stages() -> OrderedDict[str, nn.Module]:
    """VGG-19's convolutions, activations and pools under the names of `layer_names`, numbered as torchvision does."""
    names, inputs = iter(layer_names("vgg19")), 3
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for count, width in zip(VGG_BLOCKS, VGG_WIDTHS, strict=True):
        for _ in range(count):
            stages[next(names)] = nn.Conv2d(inputs, width, 3, padding=1)
            stages[next(names)] = nn.ReLU()
            inputs = width
        stages[next(names)] = nn.MaxPool2d(2, 2)
    return stages


def _convolutions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's `features.*` without that word; the classifier is not needed. Other names stay as they are."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    return {name.removeprefix("features."): tensor for name, tensor in kept.items()}


@torch.no_grad()
def _enliven(chain: nn.Sequential, seed: int) -> None:
    """Scale and shift every convolution so that its outputs over image-like inputs have mean SHIFT and deviation 1.

    Untrained layers without norms let a signal fade or explode, and their first features differ in size by what the
    draw happened to be; Mishkin and Matas 2015, "All you need is a good init", arXiv 1511.06422, scale in the same way.
    """
    x = calibration_images(seed).contiguous()
    for layer in chain:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            deviation, mean = torch.std_mean(x, (0, 2, 3))
            layer.weight.div_(deviation.view(-1, 1, 1, 1))
            layer.bias.sub_(mean).div_(deviation).add_(SHIFT)
            x = (x - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1) + SHIFT


# --- ResNet-50


def _resnet(features: Features) -> OrderedDict[str, nn.Module]:
    if isinstance(features.weights, int):
        network = _create.seeded(RESNET, None, None, {}, features.weights)
    else:
        raw, source = _state(features)
        network = _create.with_state(RESNET, None, None, {}, _create.own_names(RESNET, raw), source)
    body = network.get_submodule("features")
    stages: OrderedDict[str, nn.Module] = OrderedDict(stem=body.get_submodule("stem"), pool=body.get_submodule("pool"))
    for number, count in enumerate(RESNET_LAYERS, 1):
        for i in range(count):
            stages[f"layer{number}.{i}"] = body.get_submodule(f"layer{number}.{i}")
        stages[f"layer{number}"] = nn.Identity()
    return stages

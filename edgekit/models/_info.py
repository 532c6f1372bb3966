"""What a reference network says about itself, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights that torchvision publishes for one form of a network.

    `name` is torchvision's `WeightsEnum` member, pinned: `DEFAULT` may mean another file in another version. `file` is
    the name under `$TORCH_HOME/hub/checkpoints`; the eight hexadecimal digits in it begin the file's SHA-256.
    """

    name: str
    file: str
    alpha: float
    num_classes: int


@dataclass(frozen=True)
class ModelInfo:
    """A reference network in a few words.

    `stride` is the factor between the input's side and the last feature map's: resolutions are its multiples.
    `preprocessing` names the contract (edgekit/preprocessing.py) that its weights are trained with.
    """

    title: str
    source: str
    stride: int
    default_resolution: int
    has_alpha: bool
    num_classes: int = 1000
    preprocessing: str = "imagenet"
    pretrained: PretrainedWeights | None = None

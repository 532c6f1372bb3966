"""What a reference network says about itself, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights that torchvision or timm publishes for one form of a network.

    torchvision: `name` is a `WeightsEnum` member, pinned, as `DEFAULT` may mean another file in another version;
    `file` is the name under `$TORCH_HOME/hub/checkpoints`, and the eight hexadecimal digits in it begin the file's
    SHA-256. timm: `name` is a model with its tag, whose repository of the Hugging Face hub holds `file`.

    `alpha` (1 for a network without widths), `num_classes` and `options` (names and texts, as on the command line) are
    the form that the weights fit; None, and an option that is not named, where any will do. `part` is the child that
    they are for, when they are not for the whole network: the rest of it keeps its seeded weights.
    """

    name: str
    file: str
    alpha: float
    num_classes: int | None
    library: Literal["torchvision", "timm"] = "torchvision"
    options: tuple[tuple[str, str], ...] = ()
    part: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """A reference network in a few words.

    `stride` is what resolutions are multiples of: for most networks the factor between the input's side and the last
    feature map's, 1 for one that takes any size. `smallest` is the least resolution that works; 0 stands for `stride`.
    `task` "image" is a network whose output is an image of the input's size: it has no classes (`num_classes` None).
    `preprocessing` names the contract (edgekit/preprocessing.py) that its weights are trained with.
    """

    title: str
    source: str
    stride: int
    default_resolution: int
    has_alpha: bool
    num_classes: int | None = 1000
    preprocessing: str = "imagenet"
    pretrained: PretrainedWeights | None = None
    smallest: int = 0
    task: Literal["classification", "image"] = "classification"

    def __post_init__(self) -> None:
        if not self.smallest:
            object.__setattr__(self, "smallest", self.stride)

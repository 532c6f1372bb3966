"""`torchvision:NAME`: torchvision's own networks, with random weights, a checkpoint, or the published ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision import models as torchvision

from edgekit import checkpoints
from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.models import _pretrained
from edgekit.models._info import PretrainedWeights
from edgekit.preprocessing import Preprocessing
from edgekit.sources import options
from edgekit.sources.library import fill, settle
from edgekit.sources.loaded import Loaded
from edgekit.sources.making import Known, finish, image_feed, ready
from edgekit.sources.naming import Source
from edgekit.sources.running import guarded
from edgekit.sources.seeding import seeded
from edgekit.sources.weights import SeedWeights, Weights, identity
from edgekit.variant import Variant, format_alpha

DEFAULT_RESOLUTION = 224
# Kinds of network whose input is not one batch of images, by the package of torchvision that holds them.
OTHER_INPUTS = {
    "detection": "a list of images of different sizes",
    "video": "clips (N, 3, frames, H, W)",
    "optical_flow": "pairs of images",
    "quantization": "quantised tensors (edgekit takes the network of the same name without quantized_)",
}
# The keyword for the width, by family; all others come in sizes with names of their own.
WIDTHS = {"mobilenetv2": "width_mult", "mobilenetv3": "width_mult", "mnasnet": "alpha"}
ANY_WIDTH_MNASNET = "mnasnet1_0"  # the functions of this family fix the width that its class takes
RESERVED = {
    "weights": "use --weights",
    "pretrained": "use --weights",
    "weights_backbone": "use --weights",
    "num_classes": "use --num-classes",
    "width_mult": "use --alpha",
    "alpha": "use --alpha",
    "image_size": "use --res",
    "input_size": "use --res",
    "progress": "leave it out",
    "init_weights": "leave it out",
    "aux_logits": "leave it out: auxiliary heads are for training",
}
UNLISTED = {"mobilenetv3": ("reduced_tail", "dilated")}  # options that no signature shows
# Heads for training, whose weights a published checkpoint holds all the same.
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception": ("AuxLogits.",)}


@dataclass(frozen=True)
class _Network:
    """One of torchvision's functions that make networks."""

    name: str
    build: Callable[..., nn.Module]

    @property
    def family(self) -> str:
        """The module that it stands in."""
        return str(self.build.__module__).rpartition(".")[2]

    @property
    def parameters(self) -> list[str]:
        """What can be given by keyword: the function's own, and its class's."""
        signature = inspect.signature(self.build)
        inner = options.parameters(signature.return_annotation) or []
        own = options.keywords([*signature.parameters.values()])
        return list(dict.fromkeys([*own, *options.keywords(inner), *UNLISTED.get(self.family, ())]))

    @property
    def options(self) -> list[str]:
        """The parameters that are the user's to set."""
        return [name for name in self.parameters if name not in RESERVED]

    @property
    def published(self) -> Any:
        """The weights that torchvision takes by default: a member of its enumeration for this network."""
        return torchvision.get_model_weights(self.name).DEFAULT

    @property
    def size_keyword(self) -> str | None:
        """What a network that is made for one size calls it."""
        return next((name for name in ("image_size", "input_size") if name in self.parameters), None)


def load(source: Source, variant: Variant, weights: Weights) -> Loaded:
    """torchvision's network NAME at the variant's width, classes and resolution, else at its own.

    Random weights are torchvision's initial ones from the seed, made alive (seeding.py). Raises UsageError for a name,
    a width or an option that torchvision does not have, InputUnusable for weights that do not fit and for a network
    that does not run on one batch of images, MachineLacks for published weights that are not here.
    """
    found = _find(source.name)
    side = variant.resolution or _own_resolution(found)
    keywords = _keywords(found, variant, weights, side)
    any_size = found.size_keyword is None
    with seeded(weights.seed if isinstance(weights, SeedWeights) else 0):
        module = ready(_build(source, found, variant.alpha, keywords))
    if weights.kind == "library":
        _publish(found, module)
    settle(source, module, weights, channels=3, size=None if any_size else side)
    name = str(found.published) if weights.kind == "library" else identity(weights)
    known = Known(name, _preprocessing(found), side, any_size, variant.alpha, variant.num_classes)
    return finish(source, module, image_feed(side), known)


def _find(name: str) -> _Network:
    known = torchvision.list_models()
    if name not in known:
        hint = did_you_mean(name, torchvision.list_models(module=torchvision))
        raise UsageError(f"torchvision has no network called {name!r}", where="SOURCE", got=name, hint=hint)
    build = torchvision.get_model_builder(name)
    takes = OTHER_INPUTS.get(str(build.__module__).split(".")[2])
    if takes is not None:
        what, got = "this network does not take one batch of images", f"{name} takes {takes}"
        raise InputUnusable(what, where=f"torchvision:{name}", got=got)
    return _Network(name, build)


def _own_resolution(found: _Network) -> int:
    """The size of the published weights' images."""
    made_for = getattr(found.published.transforms, "keywords", {}).get("crop_size")
    return made_for if isinstance(made_for, int) else DEFAULT_RESOLUTION


def _keywords(found: _Network, variant: Variant, weights: Weights, side: int) -> dict[str, object]:
    given: dict[str, object] = {**options.parse(dict(variant.options), RESERVED)}
    for key in given:
        if key not in found.options:
            raise options.unknown(f"torchvision:{found.name}", key, found.options)
    if variant.num_classes is not None:
        given["num_classes"] = variant.num_classes
    if variant.alpha is not None:
        given[_width_keyword(found, variant.alpha)] = variant.alpha
    if found.size_keyword is not None:
        given[found.size_keyword] = side if found.size_keyword == "image_size" else (side, side)
    return _quirks(found, weights) | given


def _quirks(found: _Network, weights: Weights) -> dict[str, object]:
    """What some of torchvision's networks need to be told, to be the network for inference and nothing else."""
    own = inspect.signature(found.build).parameters
    quirks: dict[str, object] = {"weights_backbone": None} if "weights_backbone" in own else {}
    if found.family in AUXILIARY:
        # init_weights is said outright because torchvision warns that its default will change; transform_input is
        # what torchvision sets for its published weights.
        quirks |= {"aux_logits": False, "init_weights": isinstance(weights, SeedWeights)}
        quirks |= {"transform_input": True} if weights.kind == "library" else {}
    return quirks


def _build(source: Source, found: _Network, alpha: float | None, keywords: dict[str, object]) -> nn.Module:
    hint = "look at --option and --res"
    refusing = options.refusing(source.text, keywords, found.options)
    with guarded("torchvision cannot make this network", source.text, hint=hint), refusing:
        if found.family == "mnasnet" and alpha is not None:
            made: nn.Module = torchvision.MNASNet(**keywords)
            return made
        return found.build(weights=None, **keywords)


def _width_keyword(found: _Network, alpha: float) -> str:
    if found.name in _with_width():
        return WIDTHS[found.family]
    family = [name for name, it in _networks().items() if it.family == found.family]
    raise UsageError(
        f"torchvision:{found.name} has no width option",
        where="--alpha",
        got=format_alpha(alpha),
        wanted=f"one of the networks that have it: {', '.join(_with_width())}",
        hint=f"this family comes as {', '.join(family)}" if len(family) > 1 else "leave --alpha out",
    )


def _networks() -> dict[str, _Network]:
    """torchvision's classifiers."""
    names = torchvision.list_models(module=torchvision)
    return {name: _Network(name, torchvision.get_model_builder(name)) for name in names}


def _with_width() -> list[str]:
    families = [(name, found.family) for name, found in _networks().items()]
    return [
        name for name, family in families if family in WIDTHS and (family != "mnasnet" or name == ANY_WIDTH_MNASNET)
    ]


def _publish(found: _Network, module: nn.Module) -> None:
    """Put the published weights into the module, read by edgekit: torchvision unpickles them without a restriction."""
    weights = found.published
    file = str(weights.url).rpartition("/")[2]
    path = _pretrained.fetch(PretrainedWeights(str(weights), file, 1.0, len(weights.meta["categories"])))
    unused = AUXILIARY.get(found.family, ())
    state = {name: it for name, it in checkpoints.read_state_dict(path).items() if not name.startswith(unused)}
    fill(module, state, str(path))


def _preprocessing(found: _Network) -> Preprocessing | None:
    """What torchvision's transforms of the published weights do; None for what is no classifier."""
    transforms = found.published.transforms()
    if not hasattr(transforms, "crop_size"):
        return None
    return Preprocessing(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        resize=f"{transforms.interpolation.value}, antialiased, shorter side",
        crop=transforms.crop_size[0] / transforms.resize_size[0],
    )

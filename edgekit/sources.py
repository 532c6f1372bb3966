"""What is exported and with which weights, from the words on the command line to a network that can run.

Everything but `network` works without torch: names, options and weights are checked, and the cache key is known,
before anything heavy is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit import models
from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.models._info import PretrainedWeights
from edgekit.models._options import Value, forms, parse_options
from edgekit.variant import Variant, check_whole, format_alpha

if TYPE_CHECKING:
    from torch import Tensor, nn

# What networks are usually trained at; tried when weights do not fit, to say where they belong.
USUAL_ALPHAS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.4, 1.3, 1.25, 1.2, 1.1, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1)
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Source:
    """What the user typed to say which network: the name of a reference network."""

    kind: Literal["reference"]
    name: str


@dataclass(frozen=True)
class SeedWeights:
    """Random weights from a seed, with calibrated statistics."""

    seed: int
    kind: Literal["seed"] = "seed"


@dataclass(frozen=True)
class CheckpointWeights:
    """A state dict in a file."""

    path: Path
    kind: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True)
class TorchvisionWeights:
    """The weights that torchvision publishes for a network."""

    pretrained: PretrainedWeights
    kind: Literal["torchvision"] = "torchvision"


Weights = SeedWeights | CheckpointWeights | TorchvisionWeights


def parse_source(text: str) -> Source:
    """The source that `text` names. Raises UsageError, with the nearest names, when it names none."""
    models.load(text)
    return Source("reference", text)


def parse_weights(text: str, *, model: str, seed: int = 0) -> Weights:
    """The weights that `--weights` names for the network `model`: "none" (from `seed`), "default", or a file.

    Raises UsageError for a seed out of range and for "default" where a network has no published weights, and
    InputUnusable for a file that is not there.
    """
    if text == "none":
        check_whole("seed", seed, 0, LARGEST_SEED)
        return SeedWeights(seed)
    if text == "default":
        return TorchvisionWeights(_pretrained(model))
    path = Path(text).expanduser()
    if not path.exists():
        hint = did_you_mean(text, ["none", "default"])
        raise InputUnusable("there is no such weights file", where="--weights", got=text, hint=hint)
    return CheckpointWeights(path)


def identity(weights: Weights) -> str:
    """What tells these weights from others, for a cache key: equal texts mean equal weights.

    Raises InputUnusable for a file that cannot be read.
    """
    if isinstance(weights, SeedWeights):
        return f"seed:{weights.seed}"
    if isinstance(weights, TorchvisionWeights):
        return f"torchvision:{weights.pretrained.name}:{weights.pretrained.file}"
    try:
        with weights.path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise InputUnusable("cannot read the weights", where=str(weights.path), got=str(error.strerror)) from error


def check(variant: Variant, weights: Weights) -> None:
    """Raise UsageError for what can be seen to be wrong without building the network.

    An unknown network or option, a width for a network that has none, a resolution that the network cannot take, and
    published weights asked for in a form for which there are none.
    """
    parse_options(variant.model, dict(variant.options))
    models.check_width(variant.model, variant.alpha)
    models.check_resolution(variant.model, variant.resolution)
    if isinstance(weights, TorchvisionWeights):
        _check_published(variant, weights.pretrained)


def network(variant: Variant, weights: Weights) -> nn.Module:
    """The network of `variant` on the CPU, in eval mode, with its weights; no parameter asks for a gradient.

    The classes are `variant.num_classes`, else as many as the weights have, else the network's own default. Raises
    UsageError as `check` does and for a width that leaves a layer without a channel, InputUnusable for weights that
    cannot be used or do not fit, MachineLacks for published weights that are not here and cannot be downloaded.
    """
    from edgekit.models import _create

    check(variant, weights)
    options = parse_options(variant.model, dict(variant.options))
    if isinstance(weights, SeedWeights):
        classes = variant.num_classes or models.info(variant.model).num_classes
        return _create.seeded(variant.model, variant.alpha, classes, options, weights.seed)
    return _with_weights(variant, options, _file(weights))


def _pretrained(model: str) -> PretrainedWeights:
    found = models.info(model).pretrained
    if found is None:
        having = [name for name in models.names() if models.info(name).pretrained]
        raise UsageError(
            f"torchvision publishes no weights for {model}",
            where="--weights default",
            wanted=f"a network that has them: {', '.join(having)}",
            hint="--weights FILE for a checkpoint of your own, --weights none for random weights",
        )
    return found


def _check_published(variant: Variant, pretrained: PretrainedWeights) -> None:
    width = f"alpha {format_alpha(pretrained.alpha)}"
    if variant.alpha is not None and variant.alpha != pretrained.alpha:
        raise UsageError(
            f"torchvision publishes weights of {variant.model} for {width} only",
            where="--weights default",
            got=f"alpha {format_alpha(variant.alpha)}",
            wanted=width,
            hint="--weights FILE for a checkpoint of this width",
        )
    if variant.num_classes not in (None, pretrained.num_classes):
        raise UsageError(
            f"torchvision's weights of {variant.model} are for {pretrained.num_classes} classes",
            where="--weights default",
            got=f"{variant.num_classes} classes",
            hint="leave --num-classes out",
        )


def _file(weights: CheckpointWeights | TorchvisionWeights) -> Path:
    if isinstance(weights, CheckpointWeights):
        return weights.path
    from edgekit.models import _pretrained

    return _pretrained.fetch(weights.pretrained)


def _with_weights(variant: Variant, options: Mapping[str, Value], path: Path) -> nn.Module:
    from edgekit import checkpoints
    from edgekit.models import _create

    raw = checkpoints.read_state_dict(path)
    state = _own_names(variant.model, raw)
    classes = variant.num_classes or _classes(state) or models.info(variant.model).num_classes
    module = _create.skeleton(variant.model, variant.alpha, classes, options)
    checkpoints.fit(module, state, str(path), explain=lambda: _where_they_belong(variant, raw))
    return module


def _own_names(model: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the network's names, where its file knows how to rename torchvision's."""
    rename = getattr(models.load(model), "from_torchvision", None)
    return state if rename is None else rename(state)


def _classes(state: Mapping[str, Tensor]) -> int | None:
    """As many as the last layer has outputs: every reference network calls it `classifier`."""
    weight = state.get("classifier.weight")
    return None if weight is None or weight.ndim != 2 else int(weight.shape[0])


def _where_they_belong(variant: Variant, raw: dict[str, Tensor]) -> str | None:
    """The command for the reference network, width, options and classes that these weights fit, if there is one."""
    for model in [variant.model, *(name for name in models.names() if name != variant.model)]:
        state = _own_names(model, raw)
        form = next(_forms(model, variant.alpha, state), None)
        if form is not None:
            return f"they fit: edgekit export {_as_arguments(model, *form, _classes(state))}"
    return None


def _forms(
    model: str, first: float | None, state: Mapping[str, Tensor]
) -> Iterator[tuple[float | None, Mapping[str, Value]]]:
    """The widths (`first`, then the usual ones) and options with which `model` has the names and shapes of `state`."""
    from edgekit import checkpoints
    from edgekit.models import _create

    alphas = dict.fromkeys([first or 1.0, *USUAL_ALPHAS]) if models.info(model).has_alpha else [None]
    classes = _classes(state) or models.info(model).num_classes
    for options in forms(model):
        for alpha in alphas:
            try:
                module = _create.skeleton(model, alpha, classes, options)
            except UsageError:  # no channel left at this width
                continue
            mismatch = checkpoints.compare(module, state)
            if mismatch.missing or mismatch.unexpected:
                break  # the names are the same at every width
            if not mismatch:
                yield alpha, options


def _as_arguments(model: str, alpha: float | None, options: Mapping[str, Value], classes: int | None) -> str:
    words = [model]
    words += [] if alpha is None else ["--alpha", f"{alpha:g}"]
    words += [word for key, value in options.items() for word in ("--option", f"{key}={value}".lower())]
    words += [] if classes is None else ["--num-classes", str(classes)]
    return " ".join(words)

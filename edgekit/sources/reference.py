"""The reference networks of edgekit/models, with their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import models
from edgekit.errors import MachineLacks, UsageError
from edgekit.manifest import TensorSpec
from edgekit.models._options import Value, forms, parse_options
from edgekit.models._published import published
from edgekit.preprocessing import CONTRACTS
from edgekit.sources.inputs import BATCH
from edgekit.sources.loaded import Loaded
from edgekit.sources.weights import (
    CheckpointWeights,
    LibraryWeights,
    OwnWeights,
    SeedWeights,
    TorchvisionWeights,
    Weights,
    identity,
)
from edgekit.variant import Variant

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUTS = {"classification": "logits", "image": "output"}
# What networks are usually trained at; tried when weights do not fit, to say where they belong.
USUAL_ALPHAS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.4, 1.3, 1.25, 1.2, 1.1, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1)


def check(variant: Variant, weights: Weights) -> None:
    """Raise UsageError for what can be seen to be wrong without building the network.

    An unknown network or option, a width for a network that has none, a resolution that the network cannot take, and
    published weights asked for in a form for which there are none.
    """
    parse_options(variant.model, dict(variant.options))
    models.check_width(variant.model, variant.alpha)
    models.check_classes(variant.model, variant.num_classes)
    models.check_resolution(variant.model, resolution(variant))
    if isinstance(weights, LibraryWeights | OwnWeights):
        wanted = "--weights none, default or a file of this network"
        raise UsageError("these weights are of another source", where="--weights", got=identity(weights), wanted=wanted)
    if isinstance(weights, TorchvisionWeights):
        options = parse_options(variant.model, dict(variant.options))
        published(variant.model, variant.alpha, variant.num_classes, options)


def resolution(variant: Variant) -> int:
    """The side of the image: as asked for, or the network's default."""
    return models.info(variant.model).default_resolution if variant.resolution is None else variant.resolution


def load(variant: Variant, weights: Weights) -> Loaded:
    """The network as `network` gives it, with what is known about it. Raises as `network` does."""
    about = models.info(variant.model)
    module = network(variant, weights)
    side = resolution(variant)
    return Loaded(
        module=module,
        inputs=(TensorSpec("input", "float32", (BATCH, 3, side, side)),),
        outputs=(OUTPUTS[about.task],),
        task=about.task,
        preprocessing=CONTRACTS[about.preprocessing],
        weights=identity(weights),
        resolution=side,
        alpha=variant.alpha if variant.alpha is not None or not about.has_alpha else 1.0,
        num_classes=variant.num_classes,
    )


def network(variant: Variant, weights: Weights) -> nn.Module:
    """The network of `variant` on the CPU, in eval mode, with its weights; no parameter asks for a gradient.

    The classes are `variant.num_classes`, else as many as the weights have, else the network's own default. Raises
    UsageError as `check` does and for a width that leaves a layer without a channel, InputUnusable for weights that
    cannot be used or do not fit, MachineLacks for published weights that are not here and cannot be downloaded.
    """
    from edgekit.models import _create

    check(variant, weights)
    options = parse_options(variant.model, dict(variant.options))
    given = (variant.model, variant.alpha, variant.num_classes, options)
    if isinstance(weights, SeedWeights):
        return _create.seeded(*given, weights.seed)
    if isinstance(weights, TorchvisionWeights):
        from edgekit.models import _pretrained

        return _pretrained.network(*given, weights=weights.pretrained)
    assert isinstance(weights, CheckpointWeights)  # `check` refuses all others
    return _with_weights(variant, options, weights.path)


def _with_weights(variant: Variant, options: Mapping[str, Value], path: Path) -> nn.Module:
    from edgekit import checkpoints
    from edgekit.models import _create

    raw = checkpoints.read_state_dict(path)
    state = _create.own_names(variant.model, raw)
    classes = variant.num_classes or _classes(variant.model, state)
    explain = partial(_where_they_belong, variant, raw)
    return _create.with_state(variant.model, variant.alpha, classes, options, state, str(path), explain=explain)


def _classes(model: str, state: Mapping[str, Tensor]) -> int | None:
    """As many as the last layer has outputs: every reference network with classes calls it `classifier`."""
    weight = state.get("classifier.weight")
    if models.info(model).num_classes is None or weight is None or weight.ndim != 2:
        return None
    return int(weight.shape[0])


def _where_they_belong(variant: Variant, raw: dict[str, Tensor]) -> str | None:
    """The command for the reference network, width, options and classes that these weights fit, if there is one."""
    from edgekit.models import _create

    for model in [variant.model, *(name for name in models.names() if name != variant.model)]:
        state = _create.own_names(model, raw)
        form = next(_forms(model, variant.alpha, state), None)
        if form is not None:
            return f"they fit: edgekit export {_as_arguments(model, *form, _classes(model, state))}"
    return None


def _forms(
    model: str, first: float | None, state: Mapping[str, Tensor]
) -> Iterator[tuple[float | None, Mapping[str, Value]]]:
    """The widths (`first`, then the usual ones) and options with which `model` has the names and shapes of `state`."""
    from edgekit import checkpoints
    from edgekit.models import _create

    alphas = dict.fromkeys([first or 1.0, *USUAL_ALPHAS]) if models.info(model).has_alpha else [None]
    classes = _classes(model, state)
    for options in forms(model):
        for alpha in alphas:
            try:
                module = _create.skeleton(model, alpha, classes, options)
            except (UsageError, MachineLacks):  # no channel left at this width; timm is not here
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

"""Which weights somebody has published for a network, and for which form of it."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit import models
from edgekit.errors import UsageError
from edgekit.models._info import PretrainedWeights
from edgekit.models._options import Value, options, parse_options
from edgekit.variant import format_alpha

WHERE = "--weights default"


def published(
    name: str, alpha: float | None, num_classes: int | None, given: Mapping[str, Value] | None = None
) -> PretrainedWeights:
    """The published weights of the network `name` in this form; None leaves a width or number of classes to them.

    Raises UsageError for a network that has none, and for a form that they are not for, naming the one that they are.
    """
    found = find(name)
    _check_options(name, found, given or {})
    if alpha not in (None, found.alpha):
        width = f"alpha {format_alpha(found.alpha)}"
        raise UsageError(
            f"{found.library} publishes weights of {name} for {width} only",
            where=WHERE,
            got=f"alpha {alpha}",
            wanted=width,
            hint="--weights FILE for a checkpoint of this width",
        )
    if found.num_classes is not None and num_classes not in (None, found.num_classes):
        raise UsageError(
            f"{found.library}'s weights of {name} are for {found.num_classes} classes",
            where=WHERE,
            got=f"{num_classes} classes",
            hint="leave --num-classes out",
        )
    return found


def find(name: str) -> PretrainedWeights:
    """The published weights of the network `name`, in whatever form. Raises UsageError where there are none."""
    found = models.info(name).pretrained
    if found is None:
        having = [other for other in models.names() if models.info(other).pretrained]
        raise UsageError(
            f"torchvision and timm publish no weights for {name}",
            where=WHERE,
            wanted=f"a network that has them: {', '.join(having)}",
            hint="--weights FILE for a checkpoint of your own, --weights none for random weights",
        )
    return found


def _check_options(name: str, found: PretrainedWeights, given: Mapping[str, Value]) -> None:
    defaults = {option.name: option.default for option in options(name)}
    asked = {**defaults, **given}
    for key, wanted in parse_options(name, dict(found.options)).items():
        if asked[key] != wanted:
            raise UsageError(
                f"{found.library} publishes weights of {name} for {key}={wanted} only",
                where=WHERE,
                got=f"{key}={asked[key]}",
                wanted=f"{key}={wanted}",
                hint=f"--option {key}={wanted}",
            )

"""Networks ready for inference, without paying for the random initialisation that torch's layers start with.

A network is built with its weights left as they lie in memory, or on the meta device (shapes only) where they come from
a state dict, and then given them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgekit import checkpoints
from edgekit.models import check_classes, check_width, info, load
from edgekit.models._calibrate import calibrate
from edgekit.models._init import initialise
from edgekit.models._options import Value
from edgekit.preprocessing import CONTRACTS

T = TypeVar("T")
LARGEST_STRIDE = 32
AUXILIARY = "auxiliary."  # where WithAuxiliary keeps its second head


def skeleton(name: str, alpha: float | None, num_classes: int | None, options: Mapping[str, Value]) -> nn.Module:
    """The network on the meta device, in eval mode: shapes and no weights.

    `alpha` None is the network's default width, `num_classes` None its default number of classes. Raises UsageError for
    an unknown network, a width or classes for a network that has none, a width that leaves a layer without a channel
    and options that make no network; MachineLacks for a form that needs a package that is not installed.
    """
    with torch.device("meta"):
        return _built(name, alpha, num_classes, options)


def _built(name: str, alpha: float | None, num_classes: int | None, options: Mapping[str, Value]) -> nn.Module:
    check_width(name, alpha)
    check_classes(name, num_classes)
    given = {"alpha": alpha, "num_classes": num_classes}
    module: nn.Module = load(name).build(**{key: value for key, value in given.items() if value is not None}, **options)
    return module.eval().requires_grad_(False)


class _Unfilled(TorchFunctionMode):
    """While it is active, layers are made without drawing weights that others will replace: `torch.nn.init` hands its
    functions to such a mode, and this one leaves the tensor as it is.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:  # properties of tensors have none
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def seeded(
    name: str, alpha: float | None, num_classes: int | None, options: Mapping[str, Value], seed: int
) -> nn.Module:
    """The network in eval mode with random weights from `seed` and calibrated statistics, so that it is alive.

    The weights depend on the arguments alone, not on any resolution. Raises as `skeleton` does.
    """
    module = initial(name, alpha, num_classes, options, seed)
    calibrate_as(name, module, seed)
    return module


def initial(
    name: str, alpha: float | None, num_classes: int | None, options: Mapping[str, Value], seed: int
) -> nn.Module:
    """The network in eval mode with random weights from `seed`, as training starts with. Raises as `skeleton` does."""
    with _Unfilled():
        module = _built(name, alpha, num_classes, options)
    initialise(module, seed)
    return module


def with_state(
    name: str,
    alpha: float | None,
    num_classes: int | None,
    options: Mapping[str, Value],
    state: Mapping[str, Tensor],
    source: str,
    seed: int = 0,
    explain: Callable[[], str | None] = lambda: None,
) -> nn.Module:
    """The network in eval mode with the weights `state`, under its own names, which come from `source`.

    What they leave open comes from `seed`: all but the part for which weights of this network are published, when they
    hold that part alone, calibrated as in `seeded`; and an auxiliary head, which only training runs. Raises as
    `skeleton` does, and InputUnusable, with what `explain` makes of it, for weights that do not fit.
    """
    module = skeleton(name, alpha, num_classes, options)
    part = _given_part(name, state)
    left_open = [key for key in module.state_dict() if not key.startswith(f"{part}.")] if part else []
    if not any(key.startswith(AUXILIARY) for key in state):
        left_open += [key for key in module.state_dict() if key.startswith(AUXILIARY)]
    if left_open:
        module = initial(name, alpha, num_classes, options, seed)
    own = module.state_dict()
    checkpoints.fit(module, {**{key: own[key] for key in left_open}, **state}, source, explain)
    if part:
        calibrate_as(name, module, seed, given=part)
    return module


def _given_part(name: str, state: Mapping[str, Tensor]) -> str:
    """The part of the network `name` with published weights, when `state` holds no more than that; else ""."""
    weights = info(name).pretrained
    part = weights.part if weights else ""
    return part if part and all(key.startswith(f"{part}.") for key in state) else ""


def own_names(name: str, state: Mapping[str, T]) -> dict[str, T]:
    """The state under the names of the network `name`, where its file knows how to rename torchvision's or timm's."""
    renamed = dict(state)
    for rename in ("from_torchvision", "from_timm"):
        renamed = getattr(load(name), rename, dict)(renamed)
    return renamed


def calibrate_as(name: str, module: nn.Module, seed: int, given: str = "") -> None:
    """`calibrate` with images as the network `name` is made for, large enough to leave 4 x 4 pixels at its end."""
    about = info(name)
    side = min(about.default_resolution, about.smallest + 3 * LARGEST_STRIDE)
    calibrate(module, seed, side=side, contract=CONTRACTS[about.preprocessing], given=given)

"""What networks of torchvision and of timm have in common: they come as functions, and without weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgekit import checkpoints
from edgekit.sources.making import ready
from edgekit.sources.naming import Source
from edgekit.sources.running import guarded
from edgekit.sources.seeding import CALIBRATION_SIDE, enliven
from edgekit.sources.weights import CheckpointWeights, SeedWeights, Weights


def settle(source: Source, module: nn.Module, weights: Weights, channels: int, size: int | None) -> None:
    """Make the library's initial weights alive, or put those of a checkpoint in their place; published ones stay.

    `size` is None for a network that takes images of any. Raises InputUnusable for a checkpoint that does not fit.
    """
    if isinstance(weights, SeedWeights):
        side = CALIBRATION_SIDE if size is None else size
        with guarded(f"the network fails on images of {side} x {side}", source.text, hint="another --res"):
            enliven(module, weights.seed, (channels, side, side))
    elif isinstance(weights, CheckpointWeights):
        fill(module, checkpoints.read_state_dict(weights.path), str(weights.path))


def fill(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put `state` into the module. Raises InputUnusable when it does not fit, saying so when only classes differ."""
    checkpoints.fit(module, state, where, explain=lambda: _other_classes(module, state))
    ready(module)


def _other_classes(module: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The command for weights of which one layer alone has another number of outputs."""
    mismatch = checkpoints.compare(module, state)
    classes = {found[0] for _, found, wanted in mismatch.shapes if found[1:] == wanted[1:]}
    layers = {name.rpartition(".")[0] for name, _, _ in mismatch.shapes}
    if mismatch.missing or mismatch.unexpected or len(layers) != 1 or len(classes) != 1:
        return None
    return f"they have other classes: --num-classes {classes.pop()}"

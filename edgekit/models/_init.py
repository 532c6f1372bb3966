"""Random weights from a seed: for export and measurement without trained ones, and to start training from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Fill every weight and statistic: the same seed gives the same values, and the global generator is not touched.

    Convolutions Kaiming-normal by fan-out, norms 1 and 0, Linear N(0, 0.01), biases 0, as in torchvision's MobileNetV2.
    A Linear without bias is no classifier but part of a block (squeeze and excitation), and filled like a convolution:
    otherwise the block would weight all channels alike. Raises TypeError for a layer with weights of any other kind.
    """
    # Its state is put back: a generator of our own needs more of PyTorch than `lean` imports.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in module.modules():
            _fill(layer)


def _fill(layer: nn.Module) -> None:
    if isinstance(layer, _CONVOLUTIONS) or (isinstance(layer, nn.Linear) and layer.bias is None):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        _zero(layer.bias)
    elif isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.01)
        _zero(layer.bias)
    elif isinstance(layer, _NORMS):
        layer.reset_parameters()
    elif next(layer.parameters(recurse=False), None) is not None:
        raise TypeError(f"no rule for the weights of {type(layer).__name__}")


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)

"""A trained style network in PyTorch, whose norms can be given the statistics of a larger picture."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.training.style.tiles import Array, Layer, Statistics, reach


class TorchEngine:
    """See `tiles.Engine`."""

    runtime = "torch"

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.pinned = _pin(self.module)
        self.multiple, self.margin = reach(_layers(self.module))

    def whole(self, x: Array) -> Array:
        """(1, 3, H, W) to the same shape, with the picture's own statistics."""
        for layer in self.pinned:
            layer.given = None
        return self._run(x)

    def watched(self, x: Array, statistics: Sequence[Statistics] | None) -> tuple[Array, list[Array]]:
        """The output with these statistics, and what the layers saw that they are for."""
        for i, layer in enumerate(self.pinned):
            layer.given = None if statistics is None else statistics[i]
            layer.watching = True
        try:
            return self._run(x), [layer.take() for layer in self.pinned]
        finally:
            for layer in self.pinned:
                layer.watching = False

    @torch.no_grad()
    def _run(self, x: Array) -> Array:
        result: Array = np.asarray(self.module(torch.from_numpy(x)).numpy())
        return result


class _Pinned(nn.Module):
    """A norm or a pool over the whole picture, with its own statistics or with those given."""

    def __init__(self, layer: nn.InstanceNorm2d | nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        self.layer = layer
        self.given: Statistics | None = None
        self.watching = False
        self._seen: Array | None = None

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's own."""
        if self.watching:
            self._seen = x.numpy()
        if self.given is None:
            own: Tensor = self.layer(x)
            return own
        mean, variance = (torch.from_numpy(it).float() for it in (self.given.mean, self.given.variance))
        if isinstance(self.layer, nn.InstanceNorm2d):
            weight, bias = self.layer.weight, self.layer.bias
            return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, self.layer.eps)
        return mean.view(1, -1, 1, 1).expand(len(x), -1, 1, 1)

    def take(self) -> Array:
        assert self._seen is not None
        seen, self._seen = self._seen, None
        return seen


def _pin(module: nn.Module) -> list[_Pinned]:
    """Put a `_Pinned` around every layer that looks at the whole picture, in the order of the network."""
    found: list[_Pinned] = []
    for name, child in module.named_children():
        if isinstance(child, nn.InstanceNorm2d | nn.AdaptiveAvgPool2d):
            found.append(_Pinned(child))
            setattr(module, name, found[-1])
        else:
            found += _pin(child)
    return found


def _layers(module: nn.Module) -> Iterator[Layer]:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            yield Layer(layer.kernel_size[0], layer.stride[0])
        elif isinstance(layer, nn.ConvTranspose2d):
            yield Layer(1, 1, layer.stride[0])
        elif isinstance(layer, nn.Upsample):
            assert isinstance(layer.scale_factor, int | float)
            yield Layer(1, 1, round(layer.scale_factor))

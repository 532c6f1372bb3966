"""Parameters and multiply-accumulates, counted on the network itself.

The shapes come from running it on a batch of no images: every layer computes its output's shape and nothing else, in
about a millisecond. (The meta device would do the same, but its first convolution costs 1.5 s and 150 MB of imports.)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.models._blocks import WithAuxiliary


@dataclass(frozen=True)
class LayerCount:
    """One layer that ran: its path in the network, its class, and what it costs on one image."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int


@dataclass(frozen=True)
class Counts:
    """`macs` are multiply-accumulates of convolutions and Linear on one image; FLOPs are twice as many.

    `params` counts weights and biases once each, and no running statistics; those of an auxiliary head, which only
    training runs, are `training_only` and not among them. `layers` are in the order of execution; the batch axis of
    their shapes is left out.
    """

    params: int
    macs: int
    layers: tuple[LayerCount, ...]
    training_only: int = 0


def count(module: nn.Module, resolution: int, channels: int = 3) -> Counts:
    """What `module` costs on one image (channels, resolution, resolution), in eval mode.

    The module may be on the meta device or in train mode, and is not changed. Bias, norms, activations and pooling are
    not counted as multiply-accumulates.
    """
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    # Copying takes 25 ms, and a module that is ready to run comes to no harm by a batch of no images.
    runnable = module if on_cpu and not module.training else _hollow_copy(module)
    counter = Counter(runnable)
    try:
        with torch.inference_mode():
            _run(runnable, resolution, channels)
        return counter.counts()
    finally:
        counter.remove()


class Counter:
    """Counts what a module costs whenever it runs, on inputs of any size; until `remove`."""

    def __init__(self, module: nn.Module) -> None:
        heads = [layer.auxiliary for layer in module.modules() if isinstance(layer, WithAuxiliary)]
        self._training_only = sum(map(_params, heads))
        self._params = _params(module) - self._training_only
        self._layers: list[LayerCount] = []
        self._seen: set[str] = set()
        self._hooks = [module.register_forward_pre_hook(self._begin)]
        self._hooks += [
            layer.register_forward_hook(lambda layer, args, output, name=name: self._record(name, layer, args, output))
            for name, layer in module.named_modules()
            if not isinstance(layer, torch.jit.ScriptModule)  # takes no hooks
            if next(layer.children(), None) is None or next(layer.parameters(recurse=False), None) is not None
        ]

    def counts(self) -> Counts:
        """What the latest run cost, for each image of it."""
        macs = sum(layer.macs for layer in self._layers)
        return Counts(self._params, macs, tuple(self._layers), self._training_only)

    def remove(self) -> None:
        """Let go of the module."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, _module: nn.Module, _args: tuple[Tensor, ...]) -> None:
        self._layers.clear()
        self._seen.clear()

    def _record(self, name: str, layer: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and not isinstance(layer, nn.Identity | nn.Dropout):
            self._layers.append(_layer_count(name, layer, args[0], output, counted=name in self._seen))
            self._seen.add(name)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _hollow_copy(module: nn.Module) -> nn.Module:
    """The same layers with unset weights on the CPU: nothing is copied, and untouched memory is never paged in."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, object] = {id(tensor): torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in tensors}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), requires_grad=False)
    return copy.deepcopy(module, memo).eval()


def _run(module: nn.Module, resolution: int, channels: int) -> None:
    try:
        module(torch.empty(0, channels, resolution, resolution))
    except (RuntimeError, IndexError, ValueError):
        # Some layers (instance norm, a view with -1) take no empty batch: one real image, then.
        module(torch.zeros(1, channels, resolution, resolution))


def _layer_count(name: str, layer: nn.Module, x: Tensor, y: Tensor, *, counted: bool) -> LayerCount:
    params = 0 if counted else sum(parameter.numel() for parameter in layer.parameters(recurse=False))
    return LayerCount(name, type(layer).__name__, tuple(y.shape[1:]), params, _macs(layer, x.shape, y.shape))


def _macs(layer: nn.Module, inputs: torch.Size, outputs: torch.Size) -> int:
    """Per image: every output of a convolution or Linear sums over its inputs; of a transposed one, the reverse."""
    if isinstance(layer, nn.Conv2d):
        return outputs[1:].numel() * layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        return inputs[1:].numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return outputs[1:].numel() * layer.in_features
    return 0

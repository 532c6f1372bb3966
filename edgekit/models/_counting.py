"""Parameters and multiply-accumulates, counted on the network itself.

The shapes come from running it on a batch of no images: every layer computes its output's shape and nothing else, in
about a millisecond. (The meta device would do the same, but its first convolution costs 1.5 s and 150 MB of imports.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn

from edgekit.models._blocks import WithAuxiliary
from edgekit.models._operators import OperatorCounter, Work, has_bare_weights

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
OTHERS = "beside the layers"
COUNTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


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


@dataclass(frozen=True)
class _Known:
    """What can be said of a layer before it runs.

    `held` are its own weights' places in memory and sizes. Per image, every output of a convolution or Linear (of a
    transposed one every input, `by_input`) takes `each` multiply-accumulates.
    """

    name: str
    kind: str
    counts: bool
    held: tuple[tuple[int, int], ...]
    each: int
    by_input: bool

    @staticmethod
    def of(name: str, layer: nn.Module) -> _Known:
        held = tuple((weight.data_ptr(), weight.numel()) for weight in layer.parameters(recurse=False))
        each = 0
        if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
            each = layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            each = layer.in_features
        counts = not isinstance(layer, nn.Identity | nn.Dropout | fx.GraphModule)
        return _Known(name, type(layer).__name__, counts, held, each, isinstance(layer, TRANSPOSED))


class Counter:
    """Counts what a module costs whenever it runs, on inputs of any size; until `remove`."""

    def __init__(self, module: nn.Module) -> None:
        heads = [layer.auxiliary for layer in module.modules() if isinstance(layer, WithAuxiliary)]
        self._training_only = sum(map(_params, heads))
        self._params = _params(module) - self._training_only
        self._layers: list[LayerCount] = []
        self._seen: set[int] = set()
        self._rows = 0
        self._operators = OperatorCounter(module) if has_bare_weights(module) else None
        self._constants: dict[int, int] = {}  # weights that a frozen program holds as such, and their sizes
        self._hooks = [module.register_forward_pre_hook(self._begin)]
        # With most of what the rows say found out beforehand, a run takes 1 ms longer instead of 6.
        self._hooks += [
            layer.register_forward_hook(partial(self._record, _Known.of(name, layer)))
            for name, layer in module.named_modules()
            if not isinstance(layer, torch.jit.ScriptModule)  # takes no hooks
            if next(layer.children(), None) is None or next(layer.parameters(recurse=False), None) is not None
        ]
        self._hooks.append(module.register_forward_hook(self._end, always_call=True))

    def counts(self) -> Counts:
        """What the latest run cost, for each image of it."""
        macs = sum(layer.macs for layer in self._layers)
        return Counts(self._params + sum(self._constants.values()), macs, tuple(self._layers), self._training_only)

    def remove(self) -> None:
        """Let go of the module."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._layers.clear()
        self._seen.clear()
        self._rows = args[0].shape[0] if args and isinstance(args[0], Tensor) and args[0].ndim else 0
        if self._operators is not None:
            self._operators.pending.clear()
            self._operators.__enter__()  # type: ignore[no-untyped-call]

    def _end(self, _module: nn.Module, _args: tuple[Tensor, ...], _output: object) -> None:
        if self._operators is not None:
            self._operators.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._layers += map(self._counted, self._operators.pending)
            self._layers += self._rest()

    def _rest(self) -> list[LayerCount]:
        """One row for the parameters of no layer that ran, so that the table adds up."""
        rest = self._params + sum(self._constants.values()) - sum(layer.params for layer in self._layers)
        return [LayerCount("", OTHERS, (), rest, 0)] if rest > 0 else []

    def _record(self, known: _Known, layer: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        own = self._own_work(layer)
        if isinstance(output, tuple) and output:  # attention gives its weights, too
            output = output[0]
        if known.counts and isinstance(output, Tensor):
            shape = output.shape
            weights = [*known.held, *(weight for work in own for weight in work.weights)]
            params = self._unseen(weights) if weights else 0
            macs = _per_row(args[0].shape if known.by_input else shape, self._rows) * known.each if known.each else 0
            macs += sum(self._each(work) for work in own)
            self._layers.append(LayerCount(known.name, known.kind, tuple(shape[1:]), params, macs))

    def _own_work(self, layer: nn.Module) -> list[Work]:
        """What the layer multiplied by its weights itself, unless its class tells; what came before it gets rows of its
        own. A program's is left to `_end`.
        """
        if self._operators is None or isinstance(layer, fx.GraphModule):
            return []
        works, self._operators.pending = self._operators.pending, []
        held = {weight.data_ptr() for weight in layer.parameters()}
        own = [work for work in works if work.weights[0][0] in held]
        self._layers += [self._counted(work) for work in works if work not in own]
        return [] if isinstance(layer, COUNTED) else own

    def _counted(self, work: Work) -> LayerCount:
        known = self._operators.names if self._operators else {}
        self._constants |= {place: size for place, size in work.weights if place not in known}
        params = self._unseen(work.weights)
        return LayerCount(work.name, work.kind, tuple(work.output.shape[1:]), params, self._each(work))

    def _each(self, work: Work) -> int:
        return work.macs // max(self._rows, 1)

    def _unseen(self, weights: Iterable[tuple[int, int]]) -> int:
        """The size of those weights, told by their place in memory, that are in no row so far."""
        fresh = {place: size for place, size in weights if place not in self._seen}
        self._seen.update(fresh)
        return sum(fresh.values())


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


def _per_row(shape: torch.Size, rows: int) -> int:
    """How many numbers there are for each image; there may be several rows for one, such as windows."""
    return shape.numel() // rows if rows else shape[1:].numel()

"""PyTorch modules as tracers: run one input, hand back named arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.graph.from_torch import WEIGHTED, Anchor, Folded, Signature, clone, observe
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.runtimes.long_sums import LongSums

LARGE_MAP = 32 * 32  # above it a convolution for every channel is no slower than passes over all of them
CLIPPING = (nn.Hardtanh, nn.ReLU)  # nn.ReLU6 is a Hardtanh
PASSING = (Folded, nn.Dropout, nn.Flatten)  # what goes in comes out, and is rounded already


class TorchTracer:
    """A module in one dtype, fed with arrays by name; whole numbers stay as they are.

    With `sequential` long means are added in sequence. With `copies` it hands out copies of the anchors' outputs:
    `x += y` in a `forward` overwrites them later on. With `channels_last` its tensors lie in the order that
    convolutions in float32 are fastest in, by a third. A copy of the module that has no anchors clips in place, which
    takes a tenth less time.
    """

    def __init__(
        self,
        module: nn.Module,
        anchors: list[Anchor],
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
        copies: bool = False,
        sequential: bool = False,
        signature: Signature = Signature(),  # noqa: B008  # frozen
    ) -> None:
        self.anchors, self.dtype, self.signature = anchors, dtype, signature
        self.copies, self.sequential = copies, sequential
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module = clone(module, self._cast) if channels_last or dtype is not torch.float32 else module
        if dtype is torch.float64:
            _slice_depthwise(self.module)
        if self.module is not module and not anchors and not copies:
            _clip_in_place(self.module)

    def _cast(self, tensor: Tensor) -> Tensor:
        cast = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return cast.contiguous(memory_format=self.layout) if cast.ndim == 4 else cast

    def __call__(self, feeds: Feeds) -> Mapping[str, AnyArray]:
        """The anchors' outputs and the network's own, as arrays of the tracer's dtype."""
        seen: dict[str, AnyArray] = {}

        def keep(name: str, output: Tensor) -> None:
            seen[name] = output.numpy().copy() if self.copies else output.numpy()

        examples = tuple(self._cast(torch.from_numpy(feeds[name])) for name in self.signature.inputs)
        with LongSums(sequential=True) if self.sequential else nullcontext():
            results = observe(self.module, self.anchors, examples, keep)
        return seen | {name: result.numpy() for name, result in zip(self.signature.outputs, results, strict=True)}


def _slice_depthwise(module: nn.Module) -> None:
    """Let depthwise convolutions add up shifted images: in float64 PyTorch runs every channel as a convolution of its
    own, which takes two thirds of a MobileNet's time at 96 pixels.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and _is_plain_depthwise(layer):
            layer._conv_forward = partial(_sliced_depthwise, layer)  # type: ignore[method-assign]


def _is_plain_depthwise(layer: nn.Conv2d) -> bool:
    one_each = layer.groups == layer.in_channels == layer.out_channels
    return one_each and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _sliced_depthwise(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `layer` computes of x (N, C, H, W): a sum over its taps, the same products in the same precision."""
    if x.shape[2] * x.shape[3] > LARGE_MAP:
        result: Tensor = nn.Conv2d._conv_forward(layer, x, weight, bias)
        return result
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    (step_y, step_x), (pad_y, pad_x) = layer.dilation, (int(pad) for pad in layer.padding)
    padded = functional.pad(x, (pad_x, pad_x, pad_y, pad_y))
    rows = (padded.shape[2] - step_y * (high - 1) - 1) // down + 1
    columns = (padded.shape[3] - step_x * (wide - 1) - 1) // right + 1
    total = x.new_zeros(x.shape[0], x.shape[1], rows, columns)
    if bias is not None:
        total += bias.view(1, -1, 1, 1)
    for row, column in itertools.product(range(high), range(wide)):
        top, left = row * step_y, column * step_x
        seen = padded[:, :, top : top + (rows - 1) * down + 1 : down, left : left + (columns - 1) * right + 1 : right]
        total.addcmul_(seen, weight[:, 0, row, column].view(1, -1, 1, 1))
    return total


def _clip_in_place(module: nn.Module) -> None:
    """Let activations write to what a norm of the same chain hands to them, and to them alone."""
    for chain in module.modules():
        if isinstance(chain, nn.Sequential):
            for before, layer in itertools.pairwise(chain):
                if isinstance(before, nn.BatchNorm2d | Folded) and isinstance(layer, CLIPPING):
                    layer.inplace = True


class ClipCounter:
    """Counts, over all inputs run while it is attached, which ReLU6 layers saw a value above their limit."""

    def __init__(self, module: nn.Module) -> None:
        self.clips = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Hardtanh)}
        self.exercised: set[str] = set()
        for path, layer in self.clips.items():
            layer.register_forward_pre_hook(lambda layer, inputs, path=path: self._look(path, layer, inputs[0]))

    def _look(self, path: str, layer: nn.Module, values: Tensor) -> None:
        assert isinstance(layer, nn.Hardtanh)
        if path not in self.exercised and bool(values.max() > layer.max_val):
            self.exercised.add(path)


def half_precision(folded: nn.Module) -> nn.Module:
    """A copy of `folded` whose weights and layer outputs are rounded to float16, computed in float32.

    This is what a half-precision engine does with its tensors, on any CPU: it sets the fp16 noise floor.
    """
    rounded = clone(folded, lambda tensor: _to_half_and_back(tensor) if tensor.is_floating_point() else tensor)
    if any(isinstance(part, torch.jit.ScriptModule | fx.GraphModule) for part in rounded.modules()):
        return _RoundedProgram(rounded)
    for layer in rounded.modules():
        if isinstance(layer, WEIGHTED) or not (any(layer.children()) or isinstance(layer, PASSING)):
            layer.register_forward_hook(lambda _layer, _inputs, output: _to_half_and_back(output))
    rounded.register_forward_pre_hook(lambda _layer, inputs: tuple(_to_half_and_back(value) for value in inputs))
    return rounded


class _RoundedProgram(nn.Module):
    """A program has no layers to hook: the result of every operator is rounded."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Any:
        """Whatever the program returns."""
        with _Rounding():
            return self.module(*_to_half_and_back(inputs))


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped upstream
    """While it is active, what operators return is rounded to half precision."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped upstream

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch in place of each of its operators."""
        return _to_half_and_back(func(*args, **(kwargs or {})))


def _to_half_and_back(values: Any) -> Any:
    """Floating-point tensors rounded, also inside of tuples and lists; anything else as it is."""
    if isinstance(values, tuple | list):
        return type(values)(map(_to_half_and_back, values))
    return values.half().float() if isinstance(values, Tensor) and values.is_floating_point() else values

"""PyTorch modules as tracers: run one input, hand back named arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.graph.from_torch import OUTPUT, WEIGHTED, Anchor, Folded, clone, observe
from edgekit.parity.metrics import AnyArray

LARGE_MAP = 32 * 32  # above it a convolution for every channel is no slower than passes over all of them
PASSING = (Folded, nn.Dropout, nn.Flatten)  # what goes in comes out, and is rounded already


class TorchTracer:
    """A module in one dtype, run on float32 inputs.

    With `channels_last` its tensors lie in the order that convolutions in float32 are fastest in, by a third.
    """

    def __init__(
        self,
        module: nn.Module,
        anchors: list[Anchor],
        dtype: torch.dtype = torch.float32,
        *,
        channels_last: bool = False,
    ) -> None:
        self.anchors, self.dtype = anchors, dtype
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module = clone(module, self._cast) if channels_last or dtype is not torch.float32 else module
        if dtype is torch.float64:
            _slice_depthwise(self.module)

    def _cast(self, tensor: Tensor) -> Tensor:
        cast = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return cast.contiguous(memory_format=self.layout) if cast.ndim == 4 else cast

    def __call__(self, values: AnyArray) -> Mapping[str, AnyArray]:
        """Inputs (N, C, H, W) to the anchors' outputs and the network's own, as arrays of the tracer's dtype."""
        seen: dict[str, AnyArray] = {}

        def keep(name: str, output: Tensor) -> None:
            # In-place activations would overwrite the tensor after the hook; out-of-place ones leave it alone.
            seen[name] = output.numpy()

        example = torch.from_numpy(values).to(self.dtype, memory_format=self.layout)
        seen[OUTPUT] = observe(self.module, self.anchors, example, keep).numpy()
        return seen


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
    for layer in rounded.modules():
        if isinstance(layer, WEIGHTED) or not (any(layer.children()) or isinstance(layer, PASSING)):
            layer.register_forward_hook(lambda _layer, _inputs, output: _to_half_and_back(output))
    rounded.register_forward_pre_hook(lambda _layer, inputs: tuple(_to_half_and_back(value) for value in inputs))
    return rounded


def _to_half_and_back(values: Tensor) -> Tensor:
    return values.half().float()

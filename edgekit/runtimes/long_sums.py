"""Sums over many values, taken one after the other: the least exact order in which a runtime may take them.

PyTorch adds in a tree and loses next to nothing; others go from the first pixel to the last, and over the 12,544 pixels
of a squeeze-and-excitation block's first map lose ten times as much. Both are right, so both belong to the noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Values. The 49 of a MobileNet's last map at 224 pixels lose no more than the convolutions before them. Over the 64 of
# a DenseNet's, whose convolutions' noise averages out, the order alone took 0.8 of the logits' tolerance, and takes 0.3
# where both orders are in the floor.
LONG = 49

aten = torch.ops.aten
Arguments = Mapping[str, Any]


class LongSums(TorchDispatchMode):  # type: ignore[no-untyped-call]  # this class of torch's has no annotations
    """While it is active, the sums, means and norms of a network are watched, also those inside of a program without
    layers: `longest` is over how many values the longest went.

    With `sequential` those over more than LONG values are taken in sequence.
    """

    def __init__(self, *, sequential: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sequential = sequential
        self.longest = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Otherwise torch imports its compiler, for a second, to keep it from looking in here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its operators."""
        result = func(*args, **(kwargs or {}))
        operator = func.overloadpacket
        if operator in REDUCED:
            return self._reduced(operator, result, _bound(func, args, kwargs or {}))
        if operator in NORMS:
            return self._normalised(operator, result, _bound(func, args, kwargs or {}))
        return result

    def _reduced(self, operator: Any, result: Tensor, given: Arguments) -> Tensor:
        x: Tensor = given.get("self", given.get("input"))
        if result.numel() == 0:
            return result
        over = REDUCED[operator](x, result, given)
        if not self._is_long(over.count, x) or over.dims is None or result.dtype is not torch.float32:
            return result
        total = _in_sequence(x, over.dims)
        return (total if operator is aten.sum else total / over.count).reshape(result.shape)

    def _normalised(self, operator: Any, result: Any, given: Arguments) -> Any:
        """The same with mean and variance taken in sequence."""
        rows = NORMS[operator](given)
        if rows is None or rows.numel() == 0 or not self._is_long(rows.shape[1], rows):
            return result
        x, count = given["input"], rows.shape[1]
        centred = rows - (_in_sequence(rows, (1,)) / count).view(-1, 1)
        variance = (_in_sequence(centred * centred, (1,)) / count).view(-1, 1)
        y = (centred / torch.sqrt(variance + given["eps"])).reshape(x.shape)
        y = _scaled(y, given, last="normalized_shape" in given)
        return (y, *result[1:]) if isinstance(result, tuple) else y

    def _is_long(self, count: int, x: Tensor) -> bool:
        """Takes note of a sum over `count` values, and says whether it is to be taken anew."""
        self.longest = max(self.longest, count)
        return self.sequential and count > LONG and x.dtype is torch.float32


def _bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What an operator was given, by the names of its parameters."""
    names = func._schema.arguments
    given = {one.name: one.default_value for one in names if one.has_default_value()}
    return given | {one.name: value for one, value in zip(names, args, strict=False)} | dict(kwargs)


@dataclass(frozen=True)
class _Reduction:
    """Over which axes an operator sums, and how many values make one of its results."""

    dims: tuple[int, ...] | None  # None where a pool's windows are parts of a map: those stay as they are
    count: int


def _along(x: Tensor, result: Tensor, given: Arguments) -> _Reduction:
    dim = given.get("dim")
    dims = (dim,) if isinstance(dim, int) else tuple(dim or range(x.ndim))
    return _Reduction(dims, x.numel() // result.numel())


@dataclass(frozen=True)
class _Pool:
    """A pool over the last `axes` of its input."""

    axes: int

    def __call__(self, x: Tensor, result: Tensor, given: Arguments) -> _Reduction:
        sides = tuple(x.shape[-self.axes :])
        window = self._window(given)
        count = math.prod(window) if window else x.numel() // result.numel()
        whole = math.prod(result.shape[-self.axes :]) == 1 and window in ((), sides)
        plain = given.get("divisor_override") is None and not any(_numbers(given.get("padding")))
        return _Reduction(tuple(range(-self.axes, 0)) if whole and plain else None, count)

    def _window(self, given: Arguments) -> tuple[int, ...]:
        """Empty for one that divides what there is among its results."""
        window = _numbers(given.get("kernel_size"))
        return window * self.axes if len(window) == 1 else window


def _numbers(value: Any) -> tuple[int, ...]:
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)


REDUCED: dict[Any, Callable[[Tensor, Tensor, Arguments], _Reduction]] = {
    aten.mean: _along,
    aten.sum: _along,
    aten.adaptive_avg_pool1d: _Pool(1),
    aten.adaptive_avg_pool2d: _Pool(2),
    aten._adaptive_avg_pool2d: _Pool(2),
    aten.adaptive_avg_pool3d: _Pool(3),
    aten._adaptive_avg_pool3d: _Pool(3),
    aten.avg_pool1d: _Pool(1),
    aten.avg_pool2d: _Pool(2),
    aten.avg_pool3d: _Pool(3),
}


def _maps(given: Arguments) -> Tensor | None:
    """Each channel of each image by itself; None where the norm uses what it has learned: nothing is summed."""
    x: Tensor = given["input"]
    return x.reshape(x.shape[0] * x.shape[1], -1) if given["use_input_stats"] else None


def _channels(given: Arguments) -> Tensor | None:
    """Batch norm of one row, which is what PyTorch makes an instance norm of."""
    x: Tensor = given["input"]
    return x.reshape(x.shape[1], -1) if given["training"] and x.shape[0] == 1 else None


def _groups(given: Arguments) -> Tensor | None:
    x: Tensor = given["input"]
    return x.reshape(x.shape[0] * given.get("num_groups", given.get("group")), -1)


def _ends(given: Arguments) -> Tensor | None:
    x: Tensor = given["input"]
    return x.reshape(-1, math.prod(given["normalized_shape"]))


NORMS: dict[Any, Callable[[Arguments], Tensor | None]] = {
    aten.instance_norm: _maps,
    aten.native_batch_norm: _channels,
    aten.group_norm: _groups,
    aten.native_group_norm: _groups,
    aten.layer_norm: _ends,
    aten.native_layer_norm: _ends,
}


def _scaled(y: Tensor, given: Arguments, *, last: bool) -> Tensor:
    """Weight and bias put to `y`: along its last axes, or along its channels."""
    weight, bias = (
        value if value is None or last else value.view(1, -1, *(1,) * (y.ndim - 2))
        for value in (given["weight"], given["bias"])
    )
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _in_sequence(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The sum over these axes, in the order of the others."""
    rest = [axis for axis in range(x.ndim) if axis not in {dim % x.ndim for dim in dims}]
    first = [dim % x.ndim for dim in dims]
    rows = x.permute(*first, *rest).reshape(-1, math.prod(x.shape[axis] for axis in rest)).contiguous().numpy()
    # Along the first axis of an array numpy adds row after row; a single column it would add in a tree.
    total = np.add.reduce(rows, axis=0) if rows.shape[1] > 1 else np.add.accumulate(rows, axis=0)[-1]
    return torch.from_numpy(np.asarray(total))

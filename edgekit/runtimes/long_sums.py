"""Means over many values, added one after the other: the least exact order in which a runtime may take them.

PyTorch adds in a tree and loses next to nothing; others go from the first pixel to the last, and over the 12,544 pixels
of a squeeze-and-excitation block's first map lose ten times as much. Both are right, so both belong to the noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LONG = 64  # values; shorter means lose no more than the convolutions beside them


class LongSums(TorchFunctionMode):
    """While it is active, the means of a network are watched: `longest` is over how many values the longest went.

    With `sequential` those over more than LONG values are taken in sequence.
    """

    def __init__(self, *, sequential: bool = False) -> None:
        super().__init__()
        self.sequential = sequential
        self.longest = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        result = func(*args, **(kwargs or {}))
        if func is functional.instance_norm:
            return self._instance_norm(result, args[0], dict(kwargs or {}))
        if func not in MEANS or not isinstance(result, Tensor) or result.numel() == 0:
            return result
        x = args[0] if args else (kwargs or {})["input"]
        count = x.numel() // result.numel()
        self.longest = max(self.longest, count)
        dims = _dims(func, x, args, dict(kwargs or {}), result)
        single = x.dtype is result.dtype is torch.float32
        if not self.sequential or count <= LONG or dims is None or not single:
            return result
        return _in_sequence(x, dims).reshape(result.shape)

    def _instance_norm(self, result: Tensor, x: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """The same with mean and variance taken in sequence."""
        if not settings["use_input_stats"]:
            return result  # it normalises by what it learned: nothing is summed
        count = math.prod(x.shape[2:])
        self.longest = max(self.longest, count)
        if not self.sequential or count <= LONG or x.dtype is not torch.float32:
            return result
        dims = tuple(range(2, x.ndim))
        ones = (1,) * len(dims)
        centred = x - _in_sequence(x, dims).view(*x.shape[:2], *ones)
        variance = _in_sequence(centred * centred, dims).view(*x.shape[:2], *ones)
        y = centred / torch.sqrt(variance + settings["eps"])
        weight, bias = settings["weight"], settings["bias"]
        y = y if weight is None else y * weight.view(1, -1, *ones)
        return y if bias is None else y + bias.view(1, -1, *ones)


MEANS = (torch.mean, Tensor.mean, functional.adaptive_avg_pool2d, torch.adaptive_avg_pool1d)


def _dims(
    func: object, x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor
) -> tuple[int, ...] | None:
    """Over which axes the mean went; None where they are not whole axes."""
    if func is functional.adaptive_avg_pool2d:
        return (-2, -1) if math.prod(result.shape[-2:]) == 1 else None
    if func is torch.adaptive_avg_pool1d:
        return (-1,) if result.shape[-1] == 1 else None
    dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    return (dim,) if isinstance(dim, int) else tuple(dim or range(x.ndim))


def _in_sequence(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    rest = [axis for axis in range(x.ndim) if axis not in {dim % x.ndim for dim in dims}]
    first = [dim % x.ndim for dim in dims]
    rows = x.permute(*first, *rest).reshape(-1, math.prod(x.shape[axis] for axis in rest)).contiguous().numpy()
    # Along the first axis of an array numpy adds row after row; a single column it would add in a tree.
    total = np.add.reduce(rows, axis=0) if rows.shape[1] > 1 else np.add.accumulate(rows, axis=0)[-1]
    return torch.from_numpy(np.asarray(total / np.float32(len(rows))))

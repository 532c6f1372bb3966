"""Multiply-accumulates where no layer does them: in programs, and with a parameter that belongs to no layer.

A TorchScript or torch.export archive has no layers that could be asked, and an attention block multiplies by a bare
parameter; PyTorch's operators see both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

KINDS = {
    aten.conv1d: "Conv1d",
    aten.conv2d: "Conv2d",
    aten.conv3d: "Conv3d",
    aten.conv_transpose1d: "ConvTranspose1d",
    aten.conv_transpose2d: "ConvTranspose2d",
    aten.conv_transpose3d: "ConvTranspose3d",
    aten.convolution: "Conv{}d",
    aten._convolution: "Conv{}d",
    aten.linear: "Linear",
    aten.addmm: "Linear",
    aten.mm: "Linear",
    aten.matmul: "Linear",
}
BARE = (aten.mm, aten.matmul)  # a layer only where they multiply by a weight
TRANSPOSED = 6  # its place among the arguments of a convolution of any kind


@dataclass(frozen=True)
class Work:
    """One operator that ran: by whose weight, what of, and what it cost in all; `weights` are the weight's and bias's
    places in memory, each with its size.
    """

    name: str
    kind: str
    output: Tensor
    macs: int
    weights: tuple[tuple[int, int], ...]


def has_bare_weights(module: nn.Module) -> bool:
    """Whether layers alone do not tell what the module costs: it holds a program, or parameters beside its layers."""
    parts = list(module.modules())
    beside = (part for part in parts if any(part.children()) and next(part.parameters(recurse=False), None) is not None)
    return any(isinstance(part, torch.jit.ScriptModule | fx.GraphModule) for part in parts) or any(beside)


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # this class of torch's has no annotations
    """While it is active, `pending` collects the operators that multiply and add up; whoever accounts for them clears
    it. Weights go by the names that `module` has for them.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {tensor.data_ptr(): name for name, tensor in module.named_buffers()}
        self.names |= {tensor.data_ptr(): name for name, tensor in module.named_parameters()}
        self.pending: list[Work] = []

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
        if operator in KINDS:
            bias, x, weight = _operands(operator, args)
            if operator not in BARE or weight.data_ptr() in self.names:
                self.pending.append(self._work(operator, args, result, x, weight, bias))
        return result

    def _work(
        self, operator: Any, args: tuple[Any, ...], result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Work:
        kind = KINDS[operator]
        if kind == "Conv{}d":
            kind = f"Conv{'Transpose' if args[TRANSPOSED] else ''}{weight.ndim - 2}d"
        each = x.shape[-1] if kind == "Linear" else weight[0].numel()
        over = x if "Transpose" in kind else result
        name = self.names.get(weight.data_ptr(), str(operator))
        held = tuple((tensor.data_ptr(), tensor.numel()) for tensor in (weight, bias) if tensor is not None)
        return Work(name.removesuffix(".weight"), kind, result, over.numel() * each, held)


def _operands(operator: Any, args: tuple[Any, ...]) -> tuple[Tensor | None, Tensor, Tensor]:
    """(bias, x, weight)."""
    if operator is aten.addmm:
        return args[0], args[1], args[2]
    return (args[2] if len(args) > 2 else None), args[0], args[1]

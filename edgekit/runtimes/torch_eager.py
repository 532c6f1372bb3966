"""PyTorch modules as tracers: run one input, hand back named arrays."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgekit.graph.from_torch import OUTPUT, WEIGHTED, Anchor, clone, observe
from edgekit.parity.metrics import AnyArray


class TorchTracer:
    """A module in one dtype, run on float32 inputs; also notes which clipped activations reach their limit."""

    def __init__(self, module: nn.Module, anchors: list[Anchor], dtype: torch.dtype = torch.float32) -> None:
        same = dtype is torch.float32
        self.module = module if same else clone(module, lambda t: t.to(dtype) if t.is_floating_point() else t)
        self.anchors, self.dtype = anchors, dtype

    def __call__(self, values: AnyArray) -> Mapping[str, AnyArray]:
        """Inputs (N, C, H, W) to the anchors' outputs and the network's own, as arrays of the tracer's dtype."""
        seen: dict[str, AnyArray] = {}

        def keep(name: str, output: Tensor) -> None:
            # In-place activations would overwrite the tensor after the hook; out-of-place ones leave it alone.
            seen[name] = output.numpy()

        example = torch.from_numpy(values).to(self.dtype)
        seen[OUTPUT] = observe(self.module, self.anchors, example, keep).numpy()
        return seen


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
        if isinstance(layer, WEIGHTED) or not any(layer.children()):
            layer.register_forward_hook(lambda _layer, _inputs, output: _to_half_and_back(output))
    rounded.register_forward_pre_hook(lambda _layer, inputs: tuple(_to_half_and_back(value) for value in inputs))
    return rounded


def _to_half_and_back(values: Tensor) -> Tensor:
    return values.half().float()

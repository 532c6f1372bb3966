"""A PyTorch module into an ONNX graph whose tensors carry the module's own names.

Batch norms are folded here, in float64, before the exporter sees the network: more accurate than the exporters' own
float32 folding, and half the work for them.
"""

from __future__ import annotations

import copy
import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgekit import lean
from edgekit.errors import InputUnusable

Exporter = Literal["torchscript", "dynamo"]
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WEIGHTED_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
IMAGE, LOGITS = "input", "logits"  # what a network's only input and output are called if nobody says otherwise
# By torch's own word; the exporter is deprecated and learns no newer one. It tries all the same, and what it does not
# know ends in thousands of lines on stderr.
NEWEST_TORCHSCRIPT_OPSET = 20


@dataclass(frozen=True)
class Signature:
    """The names of a network's inputs and outputs, in the order of its `forward` and of what that returns.

    With `open_size` they are images of any height and width.
    """

    inputs: tuple[str, ...] = (IMAGE,)
    outputs: tuple[str, ...] = (LOGITS,)
    open_size: bool = False

    def axes(self, dynamic_batch: bool) -> dict[int, str]:
        """The axes that stay open, by what they are called, the same in every input and output."""
        batch = {0: "batch"} if dynamic_batch else {}
        return batch | ({2: "height", 3: "width"} if self.open_size else {})


@dataclass(frozen=True)
class Anchor:
    """A weighted layer whose output can be compared at every rung.

    `name` is the layer's path in the module, and the name of its output tensor in the graph; `observed` is the path
    of the module whose output that is: the batch norm's where one is folded into the layer. `is_output` marks a
    layer whose output is one of the network's own, which is compared under the output's name.
    """

    name: str
    observed: str
    is_output: bool = False


class Folded(nn.Identity):
    """What stands where a batch norm was."""


def norm_pairs(module: nn.Module) -> dict[str, str]:
    """Paths of the layers that a batch norm directly follows in an `nn.Sequential`: layer -> norm.

    Only there is "directly follows" a fact of the structure rather than a guess about `forward`.
    """
    pairs: dict[str, str] = {}
    for path, parent in module.named_modules():
        if not isinstance(parent, nn.Sequential):
            continue
        children = list(parent.named_children())
        for (name, layer), (norm_name, norm) in itertools.pairwise(children):
            # A norm without running statistics normalises by its input, in eval mode too: it cannot be folded. Nor
            # can a subclass, which may do more.
            if isinstance(layer, WEIGHTED) and type(norm) in NORMS and norm.running_mean is not None:
                prefix = f"{path}." if path else ""
                pairs[prefix + name] = prefix + norm_name
    return pairs


def clone(module: nn.Module, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> nn.Module:
    """A copy of the module tree whose tensors are `change(tensor)`; unchanged ones are shared with the original.

    Its hooks are its own, and none of the original's. A deep copy takes 28 ms for a MobileNet, this takes 4.
    """
    return _clone(module, change, {})


def _clone(module: nn.Module, change: Callable[[Tensor], Tensor], seen: dict[int, nn.Module]) -> nn.Module:
    if id(module) in seen:  # used twice in the network, once in the copy as well
        return seen[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        seen[id(module)] = _clone_script(module, change)
        return seen[id(module)]
    copied = seen[id(module)] = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):  # tensors, children, hooks: the copy must not write to the original's
            vars(copied)[name] = type(value)() if "hooks" in name else value.copy()
    for name, parameter in module._parameters.items():
        if parameter is not None:
            copied._parameters[name] = nn.Parameter(change(parameter.detach()), requires_grad=False)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            copied._buffers[name] = change(buffer)
    for name, child in module._modules.items():
        if child is not None:
            copied._modules[name] = _clone(child, change, seen)
    return copied


def _clone_script(module: torch.jit.ScriptModule, change: Callable[[Tensor], Tensor]) -> torch.jit.ScriptModule:
    """Its tensors lie in an object of C++, which is copied as a whole."""
    copied: torch.jit.ScriptModule = copy.deepcopy(module)
    for tensor in [*copied.parameters(), *copied.buffers()]:
        tensor.data = change(tensor.detach())
    return copied


def fold_batch_norms(module: nn.Module, pairs: Mapping[str, str] | None = None) -> nn.Module:
    """A copy of `module` (in eval mode) with every batch norm folded into its layer, in float64.

    `pairs` are paths of layers and of the norms that take their outputs; by default those of `norm_pairs`.
    """
    folded = clone(module)
    for layer_path, norm_path in (norm_pairs(folded) if pairs is None else pairs).items():
        _fold(folded.get_submodule(layer_path), folded.get_submodule(norm_path))
        parent, _, child = norm_path.rpartition(".")
        folded.get_submodule(parent).register_module(child, Folded())
    for parameter in folded.parameters():  # TorchScript has no Module.requires_grad_
        parameter.requires_grad_(False)
    return folded.eval()


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    assert isinstance(layer, WEIGHTED)
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = torch.rsqrt(var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -mean if layer.bias is None else layer.bias.double() - mean
    bias = shift * scale
    if norm.affine:
        bias = bias + norm.bias.double()
    weight = layer.weight.detach().double() * _by_output_channel(scale, layer)
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype))
    layer.bias = nn.Parameter(bias.detach().to(layer.weight.dtype))


def _by_output_channel(scale: Tensor, layer: nn.Module) -> Tensor:
    """One number for each output channel, in a shape that broadcasts against the layer's weight."""
    assert isinstance(layer.weight, Tensor)
    if not isinstance(layer, nn.ConvTranspose2d):
        return scale.view(-1, *(1 for _ in layer.weight.shape[1:]))
    # Its weight is (inputs, outputs / groups, H, W): each group of inputs makes its own outputs.
    by_group = scale.view(layer.groups, -1)
    return by_group.repeat_interleave(layer.in_channels // layer.groups, dim=0)[:, :, None, None]


def find_anchors(module: nn.Module, *example: Tensor, pairs: Mapping[str, str] | None = None) -> list[Anchor]:
    """The weighted layers in the order in which `module(*example)` calls them, each with where to observe it.

    A layer that is called more than once has no single output to compare, and is left out. `pairs` are those of
    `fold_batch_norms`.
    """
    pairs = norm_pairs(module) if pairs is None else pairs
    layers = [path for path, layer in module.named_modules() if path and isinstance(layer, WEIGHTED)]
    candidates = [Anchor(path, pairs.get(path, path)) for path in layers]
    seen: list[tuple[str, Tensor]] = []
    results = observe(module, candidates, example, lambda name, output: seen.append((name, output)))
    order = [name for name, _ in seen]
    return [
        Anchor(name, pairs.get(name, name), any(output is result for result in results))
        for name, output in seen
        if order.count(name) == 1
    ]


def export_onnx(
    folded: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    opset: int,
    exporter: str = "torchscript",
    dynamic_batch: bool = False,
    signature: Signature = Signature(),  # frozen
) -> bytes:
    """`folded` as a serialised ONNX model at the example's shapes, with the signature's names.

    With `dynamic_batch` the first axis of every input and output is open. Raises InputUnusable when the exporter cannot
    express the network, or not in this opset.
    """
    if exporter == "torchscript" and opset > NEWEST_TORCHSCRIPT_OPSET:
        raise _wrong_opset(exporter, f"up to {NEWEST_TORCHSCRIPT_OPSET}", opset)
    export = _torchscript if exporter == "torchscript" else _dynamo
    examples = (example,) if isinstance(example, Tensor) else example
    try:
        model = export(folded, examples, opset, dynamic_batch, signature)
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise InputUnusable(
            f"torch.onnx ({exporter}) cannot export this network",
            got=_first_line(error),
            hint="try the other one with --exporter",
        ) from error
    if (written := _opset(model)) != opset:
        raise _wrong_opset(exporter, str(written), opset)
    return model


def _opset(model: bytes) -> int:
    imports = onnx.load_model_from_string(model).opset_import
    return int(next(used.version for used in imports if used.domain in ("", "ai.onnx")))


def _wrong_opset(exporter: str, got: str, wanted: int) -> InputUnusable:
    return InputUnusable(
        f"torch.onnx ({exporter}) does not write this opset",
        got=f"opset {got}",
        wanted=f"opset {wanted}",
        hint="try the other one with --exporter, or another opset in the profile",
    )


def _holds_script(module: nn.Module) -> bool:
    """Whether a part of it is TorchScript: torch.onnx traces a network made of it, but not one around it."""
    return any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())


def _torchscript(
    folded: nn.Module, examples: tuple[Tensor, ...], opset: int, dynamic_batch: bool, signature: Signature
) -> bytes:
    buffer = io.BytesIO()
    axes = {name: signature.axes(dynamic_batch) for name in (*signature.inputs, *signature.outputs)}
    with warnings.catch_warnings(), torch.inference_mode():
        # This exporter is deprecated upstream. It is the default here because it is ten times faster and its
        # result is measured against PyTorch on every export; the other one stays selectable.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            torch.jit.trace(folded, examples, check_trace=False) if _holds_script(folded) else folded,  # type: ignore[no-untyped-call]
            examples,
            buffer,  # type: ignore[arg-type]  # annotated for the other exporter, which takes paths only
            dynamo=False,
            opset_version=opset,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_axes=axes,
        )
    return buffer.getvalue()


def _dynamo(
    folded: nn.Module, examples: tuple[Tensor, ...], opset: int, dynamic_batch: bool, signature: Signature
) -> bytes:
    lean.complete()
    shapes = {axis: torch.export.Dim(name, min=1, max=4096) for axis, name in signature.axes(dynamic_batch).items()}
    if dynamic_batch and examples[0].shape[0] == 1:  # torch.export specialises on a size of 1
        examples = tuple(torch.cat([example, example]) for example in examples)
    with warnings.catch_warnings(), _silent_logs():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            folded,
            examples,
            dynamo=True,
            opset_version=opset,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_shapes=(shapes,) * len(examples) if shapes else None,
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


@contextmanager
def _silent_logs() -> Iterator[None]:
    """Where it cannot write the opset asked for, this exporter logs a page, keeps its own, and calls that success."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def name_anchors(model: onnx.ModelProto, folded: nn.Module, anchors: list[Anchor]) -> list[Anchor]:
    """Give every anchor's node and output tensor the anchor's name, in place; returns the anchors found.

    Nodes and layers are matched by order *and* by their weights, bit for bit: a wrong pairing is impossible unless
    two neighbouring layers are identical. An anchor whose weights no node has is left out, and only that one.
    """
    nodes = list(_weighted_nodes(model))
    renamed: dict[str, str] = {}
    named: list[Anchor] = []
    for anchor in anchors:
        weight = folded.get_submodule(anchor.name).weight
        assert isinstance(weight, Tensor)
        place = next((i for i, (_, held) in enumerate(nodes) if _same_weight(held, weight)), None)
        if place is None:
            continue
        node, _ = nodes[place]
        del nodes[: place + 1]
        result = _with_bias(model, node, folded.get_submodule(anchor.name).bias)
        if result is None:
            continue
        node.name = anchor.name
        named.append(anchor)
        if not anchor.is_output:
            renamed[result] = anchor.name
    _rename_tensors(model, renamed)
    return named


def _with_bias(model: onnx.ModelProto, node: onnx.NodeProto, bias: object) -> str | None:
    """The tensor that is the layer's output: a MatMul leaves the bias to an Add. None where there is no such tensor."""
    if not isinstance(bias, Tensor) or node.op_type != "MatMul":
        return str(node.output[0])
    readers = [reader for reader in model.graph.node if node.output[0] in reader.input]
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for reader in readers:
        others = [held[name] for name in reader.input if name in held]
        if reader.op_type == "Add" and any(_same_weight(other, bias) for other in others):
            return str(reader.output[0]) if len(readers) == 1 else None
    return None


def _weighted_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in WEIGHTED_OPS and len(node.input) > 1 and node.input[1] in weights:
            yield node, weights[node.input[1]]


def _same_weight(tensor: onnx.TensorProto, weight: Tensor) -> bool:
    if sorted(tensor.dims) != sorted(weight.shape):
        return False
    value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
    return torch.equal(value, weight) or (weight.ndim == 2 and torch.equal(value, weight.T))


def _rename_tensors(model: onnx.ModelProto, renamed: dict[str, str]) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in renamed:
                    names[index] = renamed[name]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


Observer = Callable[[str, Tensor], None]


def observe(
    module: nn.Module, anchors: list[Anchor], examples: tuple[Tensor, ...], seen: Observer
) -> tuple[Tensor, ...]:
    """Run `module(*examples)` and hand every anchor's output to `seen` as it appears; returns the network's outputs."""
    handles = [
        module.get_submodule(anchor.observed).register_forward_hook(
            lambda _module, _inputs, output, name=anchor.name: seen(name, output)
        )
        for anchor in anchors
    ]
    try:
        with torch.inference_mode():
            result = module(*examples)
    finally:
        for handle in handles:
            handle.remove()
    results = (result,) if isinstance(result, Tensor) else tuple(result)
    assert all(isinstance(one, Tensor) for one in results)
    return results

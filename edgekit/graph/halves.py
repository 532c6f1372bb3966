"""A graph that computes in float32 and rounds every tensor to half precision: the noise floor of half precision.

This is to an ONNX graph what `runtimes/torch_eager.half_precision` is to a module: what an FP16 engine does with its
tensors, on any CPU and whatever kernels its runtime has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

ROUNDED, EXACT = ":half", ":exact"


def round_to_half(model: ModelProto, keep: Collection[str] = ()) -> ModelProto:
    """A new model whose float32 weights and node outputs are rounded to the nearest half; names stay as they are.

    What passes between nodes that are named in `keep` is not rounded, nor are weights that only they read. Inside of
    If, Loop and Scan nothing is rounded, only what comes out.
    """
    types, single = element_types(model), _between(model, {name for name in keep if name})
    rounded = ModelProto()
    rounded.CopyFrom(model)
    for tensor in rounded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in single:
            _round_tensor(tensor)
    nodes = [made for node in rounded.graph.node for made in _rounding(node, types, single)]
    inputs = [_rounded_input(rounded, value) for value in rounded.graph.input if value.name in _fed(rounded)]
    del rounded.graph.node[:]
    rounded.graph.node.extend([made for pair in inputs for made in pair] + nodes)
    return rounded


def element_types(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor of the main graph that shape inference can tell."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _between(model: ModelProto, kept: Collection[str]) -> set[str]:
    """The tensors that kept nodes make or are given as weights, and only kept nodes read."""
    read_by_others = {name for node in model.graph.node if node.name not in kept for name in node.input}
    read_by_others |= {value.name for value in model.graph.output}
    own = {name for node in model.graph.node if node.name in kept for name in (*node.input, *node.output)}
    return own - read_by_others


def _fed(model: ModelProto) -> set[str]:
    """Names of the inputs that are fed, and are float32."""
    held = {tensor.name for tensor in model.graph.initializer}
    floats = (v for v in model.graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT)
    return {value.name for value in floats if value.name not in held}


def _round_tensor(tensor: TensorProto) -> None:
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _rounding(node: NodeProto, types: dict[str, int], keep: Collection[str]) -> Iterator[NodeProto]:
    """The node, and what rounds its outputs."""
    floats = [name for name in node.output if types.get(name) == TensorProto.FLOAT and name not in keep]
    for index, name in enumerate(node.output):
        if name in floats:
            node.output[index] = name + EXACT
    yield node
    for name in floats:
        yield from _casts(name + EXACT, name)


def _casts(source: str, target: str) -> Iterator[NodeProto]:
    yield helper.make_node("Cast", [source], [target + ROUNDED], to=TensorProto.FLOAT16)
    yield helper.make_node("Cast", [target + ROUNDED], [target], to=TensorProto.FLOAT)


def _rounded_input(model: ModelProto, value: onnx.ValueInfoProto) -> list[NodeProto]:
    """Everything that reads the input reads it rounded; it keeps its name for who feeds it."""
    rounded = f"{value.name}{EXACT}"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == value.name:
                node.input[index] = rounded
    return list(_casts(value.name, rounded))

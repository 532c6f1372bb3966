"""Parameters and multiply-accumulates of any graph, from the shapes that ONNX can infer.

The convention is that of models/_counting.py: convolutions, transposed ones, Gemm and MatMul; no bias, norm,
activation or pooling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import ModelProto, NodeProto

from edgekit.models._counting import Counts, LayerCount

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def count(model: ModelProto) -> Counts:
    """What the main graph costs on its inputs as they are sized; layers whose shapes are unknown cost nothing known.

    `params` counts every floating-point number that is stored, once; bodies of If, Loop and Scan are not counted.
    """
    shapes, held = _shapes(model), _held(model)
    counted: set[str] = set()
    layers = [_layer(node, shapes, held, counted) for node in model.graph.node]
    params = sum(held.values())
    return Counts(params, sum(layer.macs for layer in layers), tuple(layers))


def _layer(node: NodeProto, shapes: Shapes, held: Mapping[str, int], counted: set[str]) -> LayerCount:
    own = [name for name in dict.fromkeys(node.input) if name in held and name not in counted]
    counted.update(own)
    output = shapes.get(next(iter(node.output), ""), ())
    name = node.name or next(iter(node.output), "")
    return LayerCount(name, node.op_type, output[1:], sum(held[n] for n in own), _macs(node, shapes))


def _macs(node: NodeProto, shapes: Shapes) -> int:
    """Of one row: the first axis is the batch."""
    x, w, y = (shapes.get(name, ()) for name in (*node.input[:2], *([""] * (2 - len(node.input[:2]))), node.output[0]))
    if node.op_type == "Conv" and w and y:
        return math.prod(y[1:]) * math.prod(w[1:])
    if node.op_type == "ConvTranspose" and x and w:
        return math.prod(x[1:]) * math.prod(w[1:])
    if node.op_type == "Gemm" and y and x:
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return math.prod(y[1:]) * x[0 if turned else -1]
    if node.op_type == "MatMul" and y and x:
        return math.prod(y[1:]) * x[-1] if len(y) > 1 else math.prod(y) * x[-1]
    return 0


def _shapes(model: ModelProto) -> dict[str, Shape]:
    """Shapes that are known in full."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes.setdefault(value.name, tuple(dim.dim_value for dim in tensor.shape.dim))
    return shapes


def _held(model: ModelProto) -> dict[str, int]:
    """How many floating-point numbers each stored tensor holds."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    return {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in floats}

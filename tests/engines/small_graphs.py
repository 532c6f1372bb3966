"""Small graphs of the MobileNet kind, typed in FP32 or in FP16 with FP32 inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
SIDE = 16


def mobile(precision: str = "fp32", batch: int | str = 1, fp32_layer: str | None = None) -> onnx.ModelProto:
    """conv - depthwise - pointwise with a residual, ReLU6, mean and Gemm; `fp32_layer` names one conv left in FP32."""
    dtype = np.float16 if precision == "fp16" else np.float32
    random = np.random.default_rng(0)
    weights: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, *shape: int, dtype: type = dtype) -> str:
        weights.append(numpy_helper.from_array((random.standard_normal(shape) / 8).astype(dtype), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        made = helper.make_node(op, inputs, [output], name=output)
        made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        nodes.append(made)
        return output

    def cast(source: str, to: int, name: str) -> str:
        return node("Cast", [source], name, to=to)

    def conv(source: str, name: str, *shape: int, **attributes: object) -> str:
        if name != fp32_layer:
            return node(
                "Conv", [source, weight(f"{name}.w", *shape), weight(f"{name}.b", shape[0])], name, **attributes
            )
        wide = cast(source, TensorProto.FLOAT, f"{name}.widen")
        held = [wide, weight(f"{name}.w", *shape, dtype=np.float32), weight(f"{name}.b", shape[0], dtype=np.float32)]
        return cast(node("Conv", held, name, **attributes), TensorProto.FLOAT16, f"{name}.narrow")

    def relu6(source: str) -> str:
        return node("Clip", [source, "zero", "six"], f"{source}.relu6")

    weights += [numpy_helper.from_array(np.array(v, dtype), n) for n, v in (("zero", 0), ("six", 6))]
    last = cast("input", TensorProto.FLOAT16, "input.half") if precision == "fp16" else "input"
    stem = relu6(conv(last, "stem", 8, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    depth = relu6(conv(stem, "depthwise", 8, 1, 3, 3, group=8, pads=[1, 1, 1, 1]))
    last = node("Add", [stem, conv(depth, "pointwise", 8, 8, 1, 1)], "residual")
    last = node("Flatten", [node("GlobalAveragePool", [last], "mean")], "flat", axis=1)
    last = node("Gemm", [last, weight("head.w", 10, 8), weight("head.b", 10)], "head", transB=1)
    cast(last, TensorProto.FLOAT, "output") if precision == "fp16" else node("Identity", [last], "output")
    graph = helper.make_graph(
        nodes,
        "mobile",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def chain(op: str, length: int, opset: int = OPSET) -> onnx.ModelProto:
    """`length` unary nodes one after the other."""
    nodes = [helper.make_node(op, [f"t{i}"], [f"t{i + 1}"], name=f"node{i}") for i in range(length)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("t0", f"t{length}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    """The path, with the model in it."""
    path.write_bytes(model.SerializeToString())
    return path

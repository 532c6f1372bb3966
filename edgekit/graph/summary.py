"""What an ONNX model holds, in figures."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from edgekit.graph.lint import DEFAULT_DOMAINS
from edgekit.manifest import TensorSpec

PACKED_BITS = {"int4": 4, "uint4": 4, "float4": 4, "int2": 2, "uint2": 2}  # several values in a byte
WHOLE_NUMBERS = ("int64", "int32", "bool", "string")  # shapes, axes and indices: no parameters


@dataclass(frozen=True)
class OnnxSummary:
    """One model. `nodes` and `initializer_bytes` count by operator and by type, the most first.

    Operators of other domains are named `domain::Op`. `params` are the values in initializers, those of whole-number
    types (shapes, axes, indices) aside. Graphs inside nodes are not counted.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: dict[str, int]
    initializers: int
    initializer_bytes: dict[str, int]
    params: int
    external_data: bool
    local_functions: int


def summarise(model: ModelProto) -> OnnxSummary:
    """The figures of any model, however odd; values in other files count, whether loaded or not."""
    graph = model.graph
    tensors = [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
    initializers = {tensor.name for tensor in tensors}
    return OnnxSummary(
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=tuple(_spec(value) for value in graph.input if value.name not in initializers),
        outputs=tuple(_spec(value) for value in graph.output),
        nodes=_operators(graph),
        initializers=len(tensors),
        initializer_bytes=_bytes_by_type(tensors),
        params=sum(_count(tensor) for tensor in tensors if _type_name(tensor.data_type) not in WHOLE_NUMBERS),
        external_data=any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors),
        local_functions=len(model.functions),
    )


def _operators(graph: GraphProto) -> dict[str, int]:
    names = (f"{n.domain}::{n.op_type}" if n.domain not in DEFAULT_DOMAINS else n.op_type for n in graph.node)
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _bytes_by_type(tensors: list[TensorProto]) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for tensor in tensors:
        sizes[_type_name(tensor.data_type)] += _bytes(tensor)
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def _count(tensor: TensorProto) -> int:
    return math.prod(max(0, size) for size in tensor.dims)


def _bytes(tensor: TensorProto) -> int:
    """By type and shape, so that values in other files count as well; 0 for a type that onnx does not know."""
    name = _type_name(tensor.data_type)
    if name == "string":
        return sum(map(len, tensor.string_data))
    bits = next((bits for prefix, bits in PACKED_BITS.items() if name.startswith(prefix)), None)
    if bits is None:
        known = tensor.data_type in TensorProto.DataType.values() and name != "undefined"
        bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if known else 0
    return -(-_count(tensor) * bits // 8)


def _type_name(kind: int) -> str:
    """numpy's name where there is one: `float32` for FLOAT."""
    if kind not in TensorProto.DataType.values():
        return f"unknown type {kind}"
    if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        return str(TensorProto.DataType.Name(kind)).lower()
    return str(helper.tensor_dtype_to_np_dtype(kind).name)


def _spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim)
    return TensorSpec(value.name, _type_name(tensor.elem_type), shape)

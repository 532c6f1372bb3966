"""A look at an ONNX file before TensorRT sees it: its parser takes empty files, text and any opset without a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import uses_external_data

from edgekit.engines.receipt import KEPT_FP32_KEY, Layer
from edgekit.errors import InputUnusable

MIN_OPSET = 9  # the oldest that NVIDIA supports officially; the parser reads older ones, and not always rightly
MAX_PROTOBUF_BYTES = 2**31 - 1
# ONNX's own, and those whose operators mean what ONNX's of the same name mean.
TRUSTED_DOMAINS = ("", "ai.onnx", "com.microsoft", "trt")
COMPUTE_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
DTYPES = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
    TensorProto.INT8: "int8",
}


@dataclass(frozen=True)
class Screened:
    """What an ONNX file holds: its layers, its nodes as (op, name) in file order, and what it declares kept in FP32."""

    layers: tuple[Layer, ...]
    nodes: tuple[tuple[str, str], ...]
    kept_fp32: frozenset[str]


def screen(path: Path, max_opset: int) -> Screened:
    """Check that TensorRT may be given this file. Raises InputUnusable with what is wrong with it."""
    model = _load(path)
    for what, count in (("nodes", len(model.graph.node)), ("outputs", len(model.graph.output))):
        if count == 0:
            raise _unusable(path, f"a graph without {what}", "a network with inputs, nodes and outputs")
    _check_opset(path, model, max_opset)
    _check_domains(path, model)
    _check_external_data(path, model)
    return Screened(
        tuple(_layers(model)),
        tuple((node.op_type, node.name) for node in model.graph.node),
        frozenset(
            name for entry in model.metadata_props if entry.key == KEPT_FP32_KEY for name in entry.value.split("\n")
        ),
    )


def _load(path: Path) -> ModelProto:
    try:
        size = path.stat().st_size
        if size == 0:
            raise _unusable(path, "an empty file", "an ONNX model")
        if size > MAX_PROTOBUF_BYTES:
            raise _unusable(path, f"{size} bytes", "at most 2 GB: larger models keep their weights beside the file")
        return onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InputUnusable("the ONNX file cannot be read", where=str(path), got=error.strerror) from error
    except DecodeError as error:
        raise _unusable(path, "something else, or a part of one", "an ONNX model") from error


def _check_opset(path: Path, model: ModelProto, max_opset: int) -> None:
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not opsets:
        raise _unusable(path, "no opset for ONNX's own operators", f"opset {MIN_OPSET} to {max_opset}")
    if not MIN_OPSET <= opsets[0] <= max_opset:
        raise InputUnusable(
            "this TensorRT does not take the model's opset",
            where=str(path),
            got=f"opset {opsets[0]}",
            wanted=f"opset {MIN_OPSET} to {max_opset}",
            hint="export again with the opset of the profile",
        )


def _check_domains(path: Path, model: ModelProto) -> None:
    """TensorRT looks at an operator's name only: somebody's own Relu would silently become ONNX's."""
    own = {(function.domain, function.name) for function in model.functions}
    for node in model.graph.node:
        foreign = node.domain not in TRUSTED_DOMAINS and (node.domain, node.op_type) not in own
        if foreign and onnx.defs.has(node.op_type):
            wanted = "a name of its own, or ONNX's own operator: TensorRT would take the one for the other"
            raise _unusable(path, f"operator {node.op_type} {node.name!r} of domain {node.domain!r}", wanted)


def _check_external_data(path: Path, model: ModelProto) -> None:
    """A model from elsewhere must not read files from outside its own folder."""
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if uses_external_data(tensor):
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            file = (folder / location).resolve()
            if not location or not file.is_relative_to(folder):
                raise _unusable(path, f"weights of {tensor.name} in {location!r}", "a file in the model's own folder")
            if not file.is_file():
                raise _unusable(path, f"no file {location!r} with the weights of {tensor.name}", "it beside the model")


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            if attribute.type == AttributeProto.GRAPH:
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _layers(model: ModelProto) -> Iterator[Layer]:
    """Every node of the main graph with the dtype of its first output, where ONNX can tell."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph  # TensorRT's parser will name the node, and the network is looked at in any case
    dtypes = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        dtype = DTYPES.get(dtypes.get(_first_output(node), TensorProto.UNDEFINED), "other")
        yield Layer(node.name, node.op_type, dtype, node.op_type in COMPUTE_OPS)


def _first_output(node: NodeProto) -> str:
    return next(iter(node.output), "")


def _unusable(path: Path, got: str, wanted: str) -> InputUnusable:
    return InputUnusable("this is not an ONNX model that TensorRT can use", where=str(path), got=got, wanted=wanted)

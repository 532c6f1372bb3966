"""A look at an ONNX file before TensorRT sees it: its parser takes empty files, text and any opset without a word.

Whether a file is a sound model at all is for `graph/incoming.py` to say; here is what TensorRT does not take of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from edgekit.engines.receipt import KEPT_FP32_KEY, Layer
from edgekit.errors import InputUnusable
from edgekit.graph.incoming import read_model
from edgekit.graph.structure import check_graph

MIN_OPSET = 9  # the oldest that NVIDIA supports officially; the parser reads older ones, and not always rightly
# TensorRT-RTX builds 2,500 unary nodes in a row and is killed by 3,000: it fuses them, recursing on 8 MB of stack.
MAX_CHAIN = 2000
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
    model = read_model(path, weights=False)
    check_graph(model, str(path))
    _check_opset(path, model, max_opset)
    _check_domains(path, model)
    _check_chains(path, model)
    return Screened(
        tuple(_layers(model)),
        tuple((node.op_type, node.name) for node in model.graph.node),
        frozenset(
            name for entry in model.metadata_props if entry.key == KEPT_FP32_KEY for name in entry.value.split("\n")
        ),
    )


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


def _check_chains(path: Path, model: ModelProto) -> None:
    """Nodes with one input that follow each other are fused, however many they are."""
    length: dict[str, int] = {}
    for node in model.graph.node:
        if len(set(node.input)) != 1 or node.op_type in COMPUTE_OPS:
            continue
        here = length.get(node.input[0], 0) + 1
        if here > MAX_CHAIN:
            raise InputUnusable(
                "TensorRT does not survive so many unary nodes in a row",
                where=f"{path}: node {node.name or node.output[0]}",
                got=f"more than {MAX_CHAIN}, the last a {node.op_type}",
                wanted=f"at most {MAX_CHAIN}",
                hint="leave the engine out: --no-engine",
            )
        length |= dict.fromkeys(node.output, here)


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

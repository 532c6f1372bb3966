"""An FP32 graph as an FP16 one, typed in the graph itself; inputs and outputs stay FP32.

Precision that lives in the graph means the same to every builder: TensorRT 10, TensorRT 11 and TensorRT-RTX build a
strongly typed network from it and have no way to fall back to FP32 silently. What has to stay in FP32 is declared in
the graph's metadata, and the receipt (engines/receipt.py) allows that and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, MutableSequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxconverter_common import float16

from edgekit.engines.receipt import KEPT_FP32_KEY
from edgekit.errors import GateFailed, InputUnusable

LARGEST_HALF = 65504.0
# Squares of activations are summed over a whole image: they leave the range of a half where the activations are as
# small as 3 on 100 x 100 pixels. LayerNormalization computes its statistics in FP32 by definition.
SQUARING = (
    "GlobalLpPool",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LpNormalization",
    "LpPool",
    "MeanVarianceNormalization",
    "ReduceL2",
    "ReduceSumSquare",
)
OWN = ":fp32"
# The converter's own list: operators without a half-precision form in ONNX or in a runtime.
WITHOUT_HALF = tuple(float16.DEFAULT_OP_BLOCK_LIST)


def to_fp16(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A new model with FP16 weights and arithmetic and FP32 inputs and outputs; `model` stays as it is.

    Every weight is rounded to the nearest half, none is clamped. Norms that sum squares stay in FP32, and so do the
    nodes named in `keep`; the graph's metadata lists them. Raises GateFailed naming the weights that do not fit, and
    InputUnusable when the graph is already FP16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _part_outputs(copy)
    _name_nodes(copy)
    kept = _kept(copy, keep)
    _refuse_overflow(copy, kept)
    _separate(copy, kept)
    try:
        with warnings.catch_warnings():
            # It warns of values it would clamp; with these limits it clamps none, and overflow was refused above.
            warnings.simplefilter("ignore")
            converted: onnx.ModelProto = float16.convert_float_to_float16(
                copy,
                min_positive_val=0.0,
                max_finite_val=LARGEST_HALF,
                keep_io_types=True,
                op_block_list=[*WITHOUT_HALF, *SQUARING],
                node_block_list=list(kept),
            )
    except ValueError as error:
        raise InputUnusable("the graph cannot be converted to FP16", got=str(error).splitlines()[0]) from error
    _retarget_casts(model, converted, kept)
    _hand_out_single(model, converted)
    _check_weights(model, converted)
    del converted.graph.value_info[:]
    if kept:
        onnx.helper.set_model_props(converted, _props(converted) | {KEPT_FP32_KEY: "\n".join(sorted(kept))})
    return converted


def _retarget_casts(model: onnx.ModelProto, converted: onnx.ModelProto, kept: Collection[str]) -> None:
    """Let the graph's own casts to FP32 go to FP16, as everything that reads them does; the converter forgets them."""
    own = {node.output[0] for node in _casts_to(model, TensorProto.FLOAT) if node.name not in kept}
    for node in _casts_to(converted, TensorProto.FLOAT):
        if node.output[0] in own:
            node.attribute[0].i = TensorProto.FLOAT16


def _casts_to(model: onnx.ModelProto, kind: int) -> list[onnx.NodeProto]:
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].name == "to"]
    return [node for node in casts if node.attribute[0].i == kind]


def check_types(converted: onnx.ModelProto) -> None:
    """Raise InputUnusable where two types meet that do not fit: the converter does not know every operator."""
    probe = onnx.ModelProto()
    probe.CopyFrom(converted)
    for value in probe.graph.output:  # a file may declare the wrong shape, and that is no matter of types
        value.type.tensor_type.ClearField("shape")
    try:
        onnx.shape_inference.infer_shapes(probe, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputUnusable("the graph cannot be converted to FP16", got=reason) from error


def kept_fp32(model: bytes) -> frozenset[str]:
    """The nodes of a half-precision model that its metadata declares as kept in FP32."""
    declared = _props(onnx.load_model_from_string(model)).get(KEPT_FP32_KEY, "")
    return frozenset(declared.split("\n")) - {""}


def _part_outputs(model: onnx.ModelProto) -> None:
    """Hand out a copy of every output that nodes read, too: outside it is FP32, inside it may be a half."""
    read = {name for node in model.graph.node for name in node.input}
    for value in model.graph.output:
        if value.name in read and any(value.name in node.output for node in model.graph.node):
            inner = f"{value.name}:inner"
            for node in model.graph.node:
                _rename(node.input, value.name, inner)
                _rename(node.output, value.name, inner)
            model.graph.node.append(onnx.helper.make_node("Identity", [inner], [value.name], f"{value.name}:copy"))


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own: the converter names its casts after them."""
    taken = {node.name for node in model.graph.node}
    for number, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}:{next(iter(node.output), number)}"
            node.name = name if name not in taken else f"{name}:{number}"
            taken.add(node.name)


def _hand_out_single(model: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    """Cast to FP32 what the converter hands out in half: outputs that a kept node makes, or that nodes read, too."""
    halves = {name for name, kind in _made_types(converted).items() if kind == TensorProto.FLOAT16}
    for value in model.graph.output:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name in halves:
            inner = f"{value.name}:half"
            for node in converted.graph.node:
                _rename(node.input, value.name, inner)
                _rename(node.output, value.name, inner)
            cast = onnx.helper.make_node("Cast", [inner], [value.name], f"{value.name}:single", to=TensorProto.FLOAT)
            converted.graph.node.append(cast)
    single = {v.name for v in model.graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    for value in converted.graph.output:
        if value.name in single:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _made_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element types of the outputs, as what makes them has it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:], probe.graph.value_info[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    try:
        found = onnx.shape_inference.infer_shapes(probe).graph
    except onnx.shape_inference.InferenceError:
        return {}
    return {value.name: value.type.tensor_type.elem_type for value in (*found.value_info, *found.output)}


def _rename(names: MutableSequence[str], before: str, after: str) -> None:
    for index, name in enumerate(names):
        if name == before:
            names[index] = after


def _kept(model: onnx.ModelProto, keep: Collection[str]) -> set[str]:
    """Names of the nodes that stay in FP32."""
    kept = set()
    for node in model.graph.node:
        if node.op_type in (*WITHOUT_HALF, *SQUARING) or (node.name and node.name in keep):
            kept.add(node.name)
    return kept


def _separate(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Give kept nodes weights of their own where others read the same: one tensor cannot have two types."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    others = {name for node in model.graph.node if node.name not in kept for name in node.input}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if node.name in kept and name in weights and name in others:
                node.input[index] = f"{name}{OWN}"
                if f"{name}{OWN}" not in weights:
                    own = weights[f"{name}{OWN}"] = model.graph.initializer.add()
                    own.CopyFrom(weights[name])
                    own.name = f"{name}{OWN}"


def _props(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _refuse_overflow(model: onnx.ModelProto, kept: Collection[str]) -> None:
    # Values between the largest half and half a step above it round down to it; beyond, they become infinite.
    in_half = {name for node in model.graph.node if node.name not in kept for name in node.input}
    overflowing = [
        tensor.name
        for tensor in _float_initializers(model)
        if tensor.name in in_half and np.abs(numpy_helper.to_array(tensor)).max(initial=0) >= 65520
    ]
    if overflowing:
        raise GateFailed(
            "weights do not fit in FP16",
            where=", ".join(overflowing[:5]),
            got=f"{len(overflowing)} tensors with magnitudes above {LARGEST_HALF:.0f}",
            hint="export with --precision fp32, or rescale these layers",
        )


def _check_weights(model: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    halves = {t.name: t for t in converted.graph.initializer if t.data_type == TensorProto.FLOAT16}
    for tensor in _float_initializers(model):
        half = halves.get(tensor.name)
        if half is None:
            continue  # its node was kept in FP32; the receipt says so
        wanted = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.array_equal(numpy_helper.to_array(half), wanted, equal_nan=True):
            raise GateFailed("the FP16 conversion changed a weight by more than rounding", where=tensor.name)


def _float_initializers(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]

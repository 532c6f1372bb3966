"""An FP32 graph as an FP16 one, typed in the graph itself; inputs and outputs stay FP32.

Precision that lives in the graph means the same to every builder: TensorRT 10, TensorRT 11 and TensorRT-RTX build a
strongly typed network from it and have no way to fall back to FP32 silently. What has to stay in FP32 is declared in
the graph's metadata, and the receipt (engines/receipt.py) allows that and nothing else.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TypeGuard

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common import float16

from edgekit.engines.receipt import KEPT_FP32_KEY
from edgekit.errors import GateFailed, InputUnusable
from edgekit.graph.tidy import drop_dead_nodes, sort_nodes

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
OWN, HALF = ":fp32", ":fp16"
# The converter's own list: operators without a half-precision form in ONNX or in a runtime.
WITHOUT_HALF = (*float16.DEFAULT_OP_BLOCK_LIST, "EyeLike")  # ONNX Runtime has no EyeLike of halves


def to_fp16(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A new model with FP16 weights and arithmetic and FP32 inputs and outputs; `model` stays as it is.

    Every weight is rounded to the nearest half, none is clamped. Norms that sum squares stay in FP32, and so do the
    nodes named in `keep`; the graph's metadata lists them. Raises GateFailed naming the weights that do not fit, and
    InputUnusable when the graph is already FP16.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    _say_zero(copy)
    kept = _kept(copy, keep)
    _refuse_overflow(copy, kept)
    _separate(copy, kept)
    named = onnx.ModelProto()
    named.CopyFrom(copy)  # the converter changes what it is given
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
    _retarget_casts(named, converted, kept)
    _hand_out_single(model, converted, kept)
    _join_kept(converted, kept)
    sort_nodes(converted)
    drop_dead_nodes(converted)
    _check_weights(model, converted)
    del converted.graph.value_info[:]
    if kept:
        onnx.helper.set_model_props(converted, _props(converted) | {KEPT_FP32_KEY: "\n".join(sorted(kept))})
    return converted


def _retarget_casts(model: onnx.ModelProto, converted: onnx.ModelProto, kept: Collection[str]) -> None:
    """Let the graph's own casts to FP32 go to FP16, as everything that reads them does; the converter forgets them."""
    casts = [node for node in _casts_to(model, TensorProto.FLOAT) if node.name not in kept]
    outputs = {value.name for value in model.graph.output}
    # One that makes an output has been renamed; under the old name there is the converter's own, back to FP32.
    own = {_before(node) if node.output[0] in outputs else node.output[0] for node in casts}
    for node in _casts_to(converted, TensorProto.FLOAT):
        if node.output[0] in own:
            next(attribute for attribute in node.attribute if attribute.name == "to").i = TensorProto.FLOAT16


def _say_zero(model: onnx.ModelProto) -> None:
    """Write out the value that ConstantOfShape takes for granted: a zero in FP32, which the converter does not see."""
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and not any(one.name == "value" for one in node.attribute):
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float32))))


def _before(node: onnx.NodeProto) -> str:
    """What the converter calls a node's output when the cast behind it has taken the name."""
    return f"{node.name}_cast_to_{node.output[0]}"


def _hand_out_single(model: onnx.ModelProto, converted: onnx.ModelProto, kept: Collection[str]) -> None:
    """Outputs are FP32 for the caller and for kept nodes, and FP16 for others that read them."""
    single = {value.name for value in model.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    makers = {name: node for node in converted.graph.node for name in node.output}
    for value in converted.graph.output:
        cast = makers.get(value.name)
        if value.name not in single or cast is None or cast.op_type != "Cast":
            continue
        half = cast.input[0]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:  # a kept node makes it
            half, exact = f"{value.name}{HALF}", cast.input[0]
            cast.output[0], value.type.tensor_type.elem_type = half, TensorProto.FLOAT
            made = makers[exact].output
            made[:] = [value.name if name == exact else name for name in made]
            _read(converted.graph.node, exact, value.name)
        others = [node for node in converted.graph.node if node.name not in kept and node is not cast]
        _read(others, value.name, half)


def _join_kept(converted: onnx.ModelProto, kept: Collection[str]) -> None:
    """Let kept nodes read each other's FP32: where several read one, the converter goes there and back by FP16."""
    makers = {name: node for node in converted.graph.node for name in node.output}
    for node in converted.graph.node:
        for index, name in enumerate(node.input if node.name in kept else ()):
            raised = makers.get(name)
            lowered = makers.get(raised.input[0]) if _is_cast(raised, TensorProto.FLOAT) else None
            if _is_cast(lowered, TensorProto.FLOAT16):
                node.input[index] = lowered.input[0]


def _read(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]


def name_nodes(model: onnx.ModelProto) -> None:
    """Call nodes that have no name of their own by what they make: the converter tells nodes apart by their names."""
    taken = Counter(node.name for node in model.graph.node)
    for node in model.graph.node:
        if not node.name or taken[node.name] > 1:
            node.name = f"{node.op_type}:{next(filter(None, node.output), '')}"


def _casts_to(model: onnx.ModelProto, kind: int) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if _is_cast(node, kind)]


def _is_cast(node: onnx.NodeProto | None, kind: int) -> TypeGuard[onnx.NodeProto]:
    return (
        node is not None
        and node.op_type == "Cast"
        and any(attribute.name == "to" and attribute.i == kind for attribute in node.attribute)
    )


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


def kept_fp32(model: onnx.ModelProto) -> frozenset[str]:
    """The nodes of a half-precision model that its metadata declares as kept in FP32."""
    declared = _props(model).get(KEPT_FP32_KEY, "")
    return frozenset(declared.split("\n")) - {""}


def _kept(model: onnx.ModelProto, keep: Collection[str]) -> set[str]:
    """Names of the nodes that stay in FP32."""
    kept = set()
    for node in model.graph.node:
        if node.op_type in (*WITHOUT_HALF, *SQUARING) or node.name in keep:
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

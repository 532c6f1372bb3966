"""An FP32 graph as an FP16 one, typed in the graph itself; inputs and outputs stay FP32.

Precision that lives in the graph means the same to every builder: TensorRT 10, TensorRT 11 and TensorRT-RTX build a
strongly typed network from it and have no way to fall back to FP32 silently.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxconverter_common import float16

from edgekit.errors import GateFailed, InputUnusable

LARGEST_HALF = 65504.0


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model with FP16 weights and arithmetic and FP32 inputs and outputs; `model` stays as it is.

    Every weight is rounded to the nearest half, none is clamped. Raises GateFailed naming the weights that do not
    fit, and InputUnusable when the graph is already FP16.
    """
    _refuse_overflow(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with warnings.catch_warnings():
            # It warns of values it would clamp; with these limits it clamps none, and overflow was refused above.
            warnings.simplefilter("ignore")
            converted: onnx.ModelProto = float16.convert_float_to_float16(
                copy, min_positive_val=0.0, max_finite_val=LARGEST_HALF, keep_io_types=True
            )
    except ValueError as error:
        raise InputUnusable("the graph cannot be converted to FP16", got=str(error).splitlines()[0]) from error
    _check_weights(model, converted)
    del converted.graph.value_info[:]
    return converted


def _refuse_overflow(model: onnx.ModelProto) -> None:
    # Values between the largest half and half a step above it round down to it; beyond, they become infinite.
    overflowing = [
        tensor.name
        for tensor in _float_initializers(model)
        if np.abs(numpy_helper.to_array(tensor)).max(initial=0) >= 65520
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

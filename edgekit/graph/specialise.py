"""One exported graph at another resolution or batch: a convolutional network's weights do not know either.

Rewriting the input's dimensions takes microseconds where another export takes seconds. Whether a network allows it
is measured, not assumed: every rewritten graph climbs the ladder at its own size (`journey`), and the tests compare it
with a real export there (`same_graph`).
"""

from __future__ import annotations

import onnx


def specialise(model: onnx.ModelProto, resolution: int, batch: int | None) -> bytes:
    """The serialised model for inputs (batch, C, resolution, resolution); batch None is a dynamic dimension.

    `model` is changed in place, and may be specialised again. Only graphs with one image input qualify.
    """
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:4]:
        _set(dim, resolution)
    set_batch(model, batch)
    return bytes(model.SerializeToString(deterministic=True))


def set_batch(model: onnx.ModelProto, batch: int | None) -> None:
    """Declare another batch for every input and output, in place; None is a dynamic dimension."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            _set(dim, batch)
    # Shapes recorded for intermediate tensors belong to the size of the export.
    del model.graph.value_info[:]


def _set(dim: onnx.TensorShapeProto.Dimension, size: int | None) -> None:
    if size is None:
        dim.dim_param = "batch"
    else:
        dim.dim_value = size


def same_graph(model: onnx.ModelProto, other: onnx.ModelProto, resolution: int, batch: int | None) -> bool:
    """Whether both are byte-identical once they are at the same size: then nothing in the graph depends on it."""
    return specialise(model, resolution, batch) == specialise(other, resolution, batch)

"""One exported graph at another resolution or batch: a convolutional network's weights do not know either.

Rewriting the input's dimensions takes microseconds where another export takes seconds. Whether a network allows it
is measured, not assumed: every rewritten graph climbs the ladder at its own size (`journey`), and the tests compare it
with a real export there (`same_graph`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import onnx

from edgekit.headed import Head, Headed

GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"]
INPUT, WEIGHTS = (onnx.GraphProto.DESCRIPTOR.fields_by_name[name] for name in ("input", "initializer"))
GRAPH_TAG = bytes([GRAPH.number << 3 | 2])  # 2: what follows has a length


class Sizes:
    """A graph at any size, without serialising its weights for each: only the declared dimensions are written anew.

    Only graphs with one image input qualify. `model` loses the shapes recorded for its intermediate tensors, which
    belong to the size of the export, and nothing else.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        del model.graph.value_info[:]
        self._interface = onnx.GraphProto(input=model.graph.input, output=model.graph.output)
        self._nodes, self._behind = self._graph(model.graph)
        self._outline = _without_weights(model.graph)
        self._before, self._after = _around_graph(model)
        self._heads: dict[int, Head] = {}

    def at(self, resolution: int, batch: int | None) -> Headed:
        """The serialised model for inputs (batch, C, resolution, resolution); batch None is a dynamic dimension."""
        for dim in self._image:
            _set(dim, resolution)
        rest = self._rest(batch)
        outline = self._start(len(self._outline) + len(rest)) + self._outline + rest + self._after
        return Headed(self._head(len(rest)), rest + self._after, outline, partial(self._opened, batch))

    def _opened(self, batch: int | None) -> bytes:
        """The serialised model for images of any height and width."""
        for dim, name in zip(self._image, ("height", "width"), strict=True):
            dim.dim_param = name
        rest = self._rest(batch)
        return b"".join((self._start(len(self._nodes) + len(rest)), self._nodes, rest, self._after))

    @property
    def _image(self) -> Sequence[onnx.TensorShapeProto.Dimension]:
        """The height and the width of the input."""
        dims: Sequence[onnx.TensorShapeProto.Dimension] = self._interface.input[0].type.tensor_type.shape.dim[2:4]
        return dims

    def _rest(self, batch: int | None) -> bytes:
        """The graph's inputs and outputs, and what stands behind them in it."""
        _set_rows(self._interface, batch)
        return bytes(self._interface.SerializeToString(deterministic=True)) + self._behind

    def same_as(self, other: Sizes) -> bool:
        """Whether both are the same graph but for the declared sizes."""
        ours, theirs = ((sizes._nodes, sizes._behind, sizes._before, sizes._after) for sizes in (self, other))
        return ours == theirs

    def _graph(self, graph: onnx.GraphProto) -> tuple[bytes, bytes]:
        """The serialised graph up to its inputs and outputs, and what follows them."""
        del graph.input[:], graph.output[:]
        whole, behind = bytes(graph.SerializeToString(deterministic=True)), _later(graph, "value_info")
        graph.MergeFrom(self._interface)
        return whole[: len(whole) - len(behind)], behind

    def _head(self, rest: int) -> Head:
        """Everything up to the inputs, the graph's length in bytes included, of which `rest` are still to come."""
        if rest not in self._heads:
            self._heads[rest] = Head(self._start(len(self._nodes) + rest), self._nodes)
        return self._heads[rest]

    def _start(self, length: int) -> bytes:
        """What stands before a graph of so many bytes."""
        return self._before + GRAPH_TAG + _varint(length)


def _without_weights(graph: onnx.GraphProto) -> bytes:
    """The serialised graph up to its inputs and outputs, as if it had no initializers."""
    names = [field.name for field, _ in graph.ListFields() if field.number < INPUT.number and field != WEIGHTS]
    return bytes(
        onnx.GraphProto(**{name: getattr(graph, name) for name in names}).SerializeToString(deterministic=True)
    )


def _around_graph(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """What stands before and behind the graph in the serialised model."""
    after = _later(model, "graph")
    names = [field.name for field, _ in model.ListFields() if field.number < GRAPH.number]
    before = onnx.ModelProto(**{name: getattr(model, name) for name in names})
    return bytes(before.SerializeToString(deterministic=True)), after


def _later(message: onnx.GraphProto | onnx.ModelProto, name: str) -> bytes:
    """The serialised fields behind that one. Fields are serialised in the order of their numbers."""
    first = message.DESCRIPTOR.fields_by_name[name].number
    names = [field.name for field, _ in message.ListFields() if field.number > first]
    later = type(message)(**{name: getattr(message, name) for name in names})
    return bytes(later.SerializeToString(deterministic=True))


def _varint(number: int) -> bytes:
    """A whole number as protobuf writes it: seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def specialise(model: onnx.ModelProto, resolution: int, batch: int | None) -> bytes:
    """One graph of `Sizes`."""
    return bytes(Sizes(model).at(resolution, batch))


def set_batch(model: onnx.ModelProto, batch: int | None) -> None:
    """Declare another batch for every input and output, in place; None is a dynamic dimension."""
    _set_rows(model.graph, batch)
    # Shapes recorded for intermediate tensors belong to the size of the export.
    del model.graph.value_info[:]


def _set_rows(graph: onnx.GraphProto, batch: int | None) -> None:
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            _set(dim, batch)


def _set(dim: onnx.TensorShapeProto.Dimension, size: int | None) -> None:
    if size is None:
        dim.dim_param = "batch"
    else:
        dim.dim_value = size


def same_graph(model: onnx.ModelProto, other: onnx.ModelProto, resolution: int, batch: int | None) -> bool:
    """Whether both are byte-identical once they are at the same size: then nothing in the graph depends on it."""
    return specialise(model, resolution, batch) == specialise(other, resolution, batch)

"""An exported style network in ONNX Runtime, of any size, whose norms can be given a larger picture's statistics.

The file may be anybody's: it is checked, and runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit import manifest
from edgekit.errors import InputUnusable
from edgekit.graph import incoming
from edgekit.preprocessing import PIXELS
from edgekit.runtimes.isolated import IsolatedCpu, IsolatedSession
from edgekit.training.style import residual
from edgekit.training.style.tiles import Array, Layer, Statistics, reach

KIND = "onnx-fp32"
NORM, POOL = "InstanceNormalization", "GlobalAveragePool"
# What else would look at a whole picture, and is not understood here.
GLOBAL = ("ReduceMean", "ReduceMax", "ReduceSum", "GlobalMaxPool", "LayerNormalization", "GroupNormalization")
DEFAULT_EPSILON = 1e-5
OPEN_HINT = "export it for any size: edgekit export se_mobilenet_style --option dynamic_size=true"


class OnnxEngine:
    """See `tiles.Engine`. A context manager: leaving it ends the process."""

    runtime = "onnxruntime-cpu"

    def __init__(self, path: Path) -> None:
        self.path = _graph_in(path)
        self.model = incoming.take(self.path).model
        self.constants = {it.name: numpy_helper.to_array(it) for it in self.model.graph.initializer}
        self.input, self.fixed = _interface(self.model, self.path)
        self.multiple, self.margin = reach(_layers(self.model, self.constants))
        self._cpu = IsolatedCpu()
        self._sessions: dict[str, IsolatedSession] = {}

    def __enter__(self) -> OnnxEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._cpu.close()

    def whole(self, x: Array) -> Array:
        """(1, 3, H, W) to the same shape. Raises InputUnusable for a graph that takes one size only, and not this."""
        if self.fixed in (None, x.shape[-2:]):
            return self._one("as it is", self.model, (), {self.input: x})[0]
        try:
            painted = self._one("opened", _opened(self.model), (), {self.input: x})[0]
        except InputUnusable as error:
            raise self._one_size_only(x, error.got) from error
        if painted.shape != x.shape:
            raise self._one_size_only(x, f"an output of {painted.shape[-1]} x {painted.shape[-2]}")
        return painted

    def _one_size_only(self, x: Array, got: str | None) -> InputUnusable:
        assert self.fixed is not None
        return InputUnusable(
            f"the graph takes pictures of {self.fixed[1]} x {self.fixed[0]} pixels only",
            where=str(self.path),
            got=f"{x.shape[-1]} x {x.shape[-2]} pixels: {got}",
            hint=OPEN_HINT,
        )

    def watched(self, x: Array, statistics: Sequence[Statistics] | None) -> tuple[Array, list[Array]]:
        """The output with these statistics, and what the layers saw that they are for."""
        layers = _whole_picture_layers(self.model, self.constants, self.path)
        seen = tuple(layer.node.input[0] for layer in layers)
        if statistics is None:
            found = self._one("watched", _opened(self.model), seen, {self.input: x})
        else:
            given = zip(layers, statistics, strict=True)
            feed = {self.input: x, **{name: array for pair in given for name, array in _feed(*pair)}}
            found = self._one("pinned", _pinned(_opened(self.model), layers), seen, feed)
        if found[0].shape != x.shape:
            raise self._one_size_only(x, "tiles are of other sizes")
        return found[0], found[1:]

    def _one(self, name: str, model: ModelProto, extra: tuple[str, ...], feed: dict[str, Array]) -> list[Array]:
        """The graph's own output, then the extra ones."""
        if name not in self._sessions:
            self._sessions[name] = self._cpu.load(model.SerializeToString(), extra)
        result = self._sessions[name](feed)
        first = self.model.graph.output[0].name
        return [np.asarray(result[key], np.float32) for key in (first, *extra)]


def is_graph(path: Path) -> bool:
    """Whether the path is an ONNX file, or the folder of an exported variant."""
    return path.suffix.lower() == ".onnx" or (path / manifest.NAME).is_file() or path.name == manifest.NAME


def _graph_in(path: Path) -> Path:
    """The graph itself. Raises InputUnusable for a variant that takes no plain pixels."""
    if path.suffix.lower() == ".onnx":
        return path
    found, folder = manifest.read_verified(path)
    artifact = found.artifact(KIND)
    if artifact is None:
        raise InputUnusable("no graph in float32 was exported", where=str(folder), hint="edgekit export again")
    # A factory's manifest has the contract of classifiers, whatever it makes; this one is known to paint.
    if found.preprocessing != PIXELS and found.source != residual.SOURCE:
        what = "this network does not paint: its input is no picture in 0..1"
        raise InputUnusable(what, where=str(folder), got=found.variant.model, wanted="a style network")
    return folder / artifact.path


def _interface(model: ModelProto, path: Path) -> tuple[str, tuple[int, int] | None]:
    """The input's name, and the height and width if they are fixed."""
    stored = {it.name for it in model.graph.initializer}
    inputs = [it for it in model.graph.input if it.name not in stored]
    shapes = [[it.dim_value for it in value.type.tensor_type.shape.dim] for value in (*inputs, *model.graph.output)]
    sound = len(inputs) == len(model.graph.output) == 1 and all(len(it) == 4 and it[1] in (0, 3) for it in shapes)
    if not sound or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise InputUnusable(
            "this graph does not paint",
            where=str(path),
            got=f"{len(inputs)} inputs, {len(model.graph.output)} outputs of the shapes {shapes}",
            wanted="one float32 image (N, 3, H, W) in, and one out",
        )
    height, width = shapes[0][2:]
    return inputs[0].name, (height, width) if height and width else None


def _opened(model: ModelProto) -> ModelProto:
    """The graph with height and width left open; where a node holds the size, running it will show that."""
    opened = ModelProto()
    opened.CopyFrom(model)
    del opened.graph.value_info[:]
    for value in (*opened.graph.input, *opened.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            dims[2].dim_param, dims[3].dim_param = "height", "width"
    return opened


# --- layers that look at the whole picture


@dataclass(frozen=True, eq=False)
class _Whole:
    """Such a layer; a norm's scale and shift."""

    node: NodeProto
    weight: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    epsilon: float = DEFAULT_EPSILON

    @property
    def names(self) -> tuple[str, str]:
        """The inputs that the pinned graph has for it; a pool needs the first only."""
        output = self.node.output[0]
        return f"{output}/given_factor", f"{output}/given_term"


def _whole_picture_layers(model: ModelProto, constants: dict[str, NDArray[np.generic]], path: Path) -> list[_Whole]:
    layers = []
    for node in model.graph.node:
        if node.op_type in GLOBAL:
            what = "the graph cannot be run in tiles: a node looks at the whole picture"
            raise InputUnusable(what, where=str(path), got=f"{node.op_type} {node.name}", hint="leave --tile out")
        if node.op_type == NORM:
            weight, bias = (np.asarray(constants[name], np.float32) for name in node.input[1:3])
            epsilon = next((it.f for it in node.attribute if it.name == "epsilon"), DEFAULT_EPSILON)
            layers.append(_Whole(node, weight, bias, epsilon))
        elif node.op_type == POOL:
            layers.append(_Whole(node))
    return layers


def _pinned(model: ModelProto, layers: list[_Whole]) -> ModelProto:
    """The graph in which what these layers find out is an input: norms are a product and a sum, pools are given."""
    graph = model.graph
    pinned = {layer.node.output[0]: layer for layer in layers}
    nodes: list[NodeProto] = []
    for node in graph.node:
        layer = pinned.get(node.output[0])
        nodes += [node] if layer is None else list(_replacement(layer))
    del graph.node[:]
    graph.node.extend(nodes)
    for layer in layers:
        for name in layer.names[: 1 if layer.weight is None else 2]:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, 1, 1]))
    return model


def _replacement(layer: _Whole) -> Iterator[NodeProto]:
    factor, term = layer.names
    (output,) = layer.node.output
    if layer.weight is None:
        yield helper.make_node("Identity", [factor], [output])
        return
    yield helper.make_node("Mul", [layer.node.input[0], factor], [f"{output}/product"])
    yield helper.make_node("Add", [f"{output}/product", term], [output])


def _feed(layer: _Whole, given: Statistics) -> Iterator[tuple[str, Array]]:
    factor, term = layer.names
    if layer.weight is None:
        yield factor, _channels(given.mean)
        return
    assert layer.bias is not None
    scale = layer.weight / np.sqrt(given.variance + layer.epsilon)
    yield factor, _channels(scale)
    yield term, _channels(layer.bias - given.mean * scale)


def _channels(values: NDArray[np.floating]) -> Array:
    return np.asarray(values, np.float32).reshape(1, -1, 1, 1)


def _layers(model: ModelProto, constants: dict[str, NDArray[np.generic]]) -> Iterator[Layer]:
    for node in model.graph.node:
        attributes = {it.name: onnx.helper.get_attribute_value(it) for it in node.attribute}
        stride = int(attributes.get("strides", [1])[0])
        if node.op_type in ("Conv", "MaxPool", "AveragePool"):
            kernel = attributes.get("kernel_shape") or constants[node.input[1]].shape[2:]
            yield Layer((int(kernel[0]) - 1) * int(attributes.get("dilations", [1])[0]) + 1, stride)
        elif node.op_type == "ConvTranspose":
            yield Layer(1, 1, stride)
        elif node.op_type in ("Resize", "Upsample"):
            scales = constants.get(node.input[2 if node.op_type == "Resize" else 1])
            yield Layer(3, 1, round(float(scales[2])) if scales is not None and scales.size == 4 else 1)

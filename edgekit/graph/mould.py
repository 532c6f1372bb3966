"""The graph of one network as the mould of others of the same make: the same layers with other widths and weights.

Exporting and simplifying a MobileNet take 0.3 s, filling a mould a hundredth of that. Whether widths change nothing
else is not assumed: layers and settings are compared, every weight must lie in the mould's graphs as it is in the
module, and what comes out climbs the ladder like any other graph (`journey` exports anew where it fails).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgekit.graph.from_torch import Anchor
from edgekit.variant import Variant

WIDTHS = frozenset({"in_channels", "out_channels", "groups", "num_features", "in_features", "out_features"})
SETTINGS = (bool, int, float, str, tuple, type(None))

Make = tuple[tuple[object, ...], ...]


def make_of(module: nn.Module) -> Make:
    """What a module's graph follows from, but for widths and weights: each layer's path, class and settings."""
    return tuple((path, type(layer), _settings(layer)) for path, layer in module.named_modules())


def _settings(layer: nn.Module) -> tuple[tuple[str, object], ...]:
    public = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name not in WIDTHS}
    return tuple(
        (name, value if isinstance(value, SETTINGS) else Itself(value)) for name, value in sorted(public.items())
    )


@dataclass(frozen=True, eq=False)
class Itself:
    """What is no plain value is like nothing but itself: who knows what a layer makes of it."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(frozen=True)
class Cast:
    """What a mould needs to know of a module once its weights are gone: its make, and its weights' names."""

    make: Make
    names: frozenset[str]

    @staticmethod
    def of(folded: nn.Module, raw: onnx.ModelProto) -> Cast | None:
        """None where a weight of the module is not in its graph, bit for bit, under the module's name."""
        held = {tensor.name: tensor for tensor in raw.graph.initializer}
        weights = _weights(folded)
        if not all(
            name in held and held[name].raw_data == _bytes(weight, held[name]) for name, weight in weights.items()
        ):
            return None
        return Cast(make_of(folded), frozenset(weights))

    def is_in(self, raw: onnx.ModelProto, graph: onnx.ModelProto) -> bool:
        """Whether another graph holds the weights of the first, bit for bit or rounded to halves."""
        held = {tensor.name: tensor for tensor in graph.graph.initializer}
        given = (tensor for tensor in raw.graph.initializer if tensor.name in self.names)
        return all(
            tensor.name in held and held[tensor.name].raw_data == _like(tensor, held[tensor.name]) for tensor in given
        )


@dataclass(frozen=True)
class Mould:
    """Graphs without their weights, serialised, and what they were made from: see `Mould.of`.

    `half` is None where there was none. `names` are those of the weights. `anchors` and `long_sums` are what was found
    out about a network of that make.
    """

    made_at: Variant
    exporter: str
    make: Make
    raw: bytes
    simplified: bytes
    half: bytes | None
    names: frozenset[str]
    anchors: tuple[Anchor, ...]
    long_sums: bool

    @staticmethod
    def of(
        cast: Cast,
        made_at: Variant,
        exporter: str,
        anchors: tuple[Anchor, ...],
        long_sums: bool,
        raw: onnx.ModelProto,
        simplified: onnx.ModelProto,
        half: onnx.ModelProto | None,
    ) -> Mould | None:
        """A mould from the graphs of the module that `cast` is of; None where its weights are not in all of them, bit
        for bit, under its names.
        """
        if not all(cast.is_in(raw, graph) for graph in (simplified, half) if graph is not None):
            return None
        graphs = [None if graph is None else _emptied(graph, cast.names) for graph in (raw, simplified, half)]
        assert graphs[0] is not None
        assert graphs[1] is not None
        return Mould(made_at, exporter, cast.make, graphs[0], graphs[1], graphs[2], cast.names, anchors, long_sums)

    def fits(self, folded: nn.Module, variant: Variant) -> bool:
        """Whether `folded`, the network of `variant`, differs from the mould's in widths and weights only."""
        ours, theirs = (replace(one, alpha=None, resolution=None) for one in (self.made_at, variant))
        return ours == theirs and make_of(folded) == self.make

    def filled(self, folded: nn.Module) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """The graph of `folded`, and the simplified one."""
        return _filled(self.raw, folded), _filled(self.simplified, folded)

    def filled_half(self, simplified: onnx.ModelProto) -> onnx.ModelProto | None:
        """The same in half precision as `filled` made it simplified; None where there is none, and where a weight does
        not fit into a half.
        """
        if self.half is None:
            return None
        half = onnx.load_model_from_string(self.half)
        given = {tensor.name: tensor for tensor in simplified.graph.initializer if tensor.name in self.names}
        for tensor in half.graph.initializer:
            if tensor.name in given:
                tensor.dims[:] = given[tensor.name].dims
                tensor.raw_data = _like(given[tensor.name], tensor)
        _set_groups(half, {node.name: _group(node) for node in simplified.graph.node})
        finite = (np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in half.graph.initializer)
        return half if all(finite) else None


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """All that a graph holds of a module; how many batches its norms have seen is not among it."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def _emptied(full: onnx.ModelProto, names: Collection[str]) -> bytes:
    graph = onnx.ModelProto()
    graph.CopyFrom(full)
    del graph.graph.value_info[:]  # shapes of these widths
    for tensor in graph.graph.initializer:
        if tensor.name in names:
            tensor.ClearField("raw_data")
    return bytes(graph.SerializeToString())


def _filled(emptied: bytes, folded: nn.Module) -> onnx.ModelProto:
    graph, weights = onnx.load_model_from_string(emptied), _weights(folded)
    for tensor in graph.graph.initializer:
        if tensor.name in weights:
            tensor.dims[:] = weights[tensor.name].shape
            tensor.raw_data = _bytes(weights[tensor.name], tensor)
    _set_groups(graph, {path: getattr(layer, "groups", None) for path, layer in folded.named_modules()})
    return graph


def _set_groups(graph: onnx.ModelProto, groups: Mapping[str, int | None]) -> None:
    """Depthwise convolutions have as many groups as channels. Nodes bear the paths of their layers."""
    for node in graph.graph.node:
        wanted = groups.get(node.name)
        for attribute in node.attribute:
            if attribute.name == "group" and wanted is not None:
                attribute.i = wanted


def _group(node: onnx.NodeProto) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), None)


def _like(tensor: onnx.TensorProto, other: onnx.TensorProto) -> bytes:
    """An initializer's values in the precision of another's."""
    if tensor.data_type == other.data_type:
        return bytes(tensor.raw_data)
    with np.errstate(over="ignore"):  # what does not fit is looked for afterwards
        return numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(other.data_type)).tobytes()


def _bytes(weight: Tensor, initializer: onnx.TensorProto) -> bytes:
    """The weight as the initializer holds it, in single or half precision."""
    values = weight.detach().contiguous()
    return (values.half() if initializer.data_type == onnx.TensorProto.FLOAT16 else values).numpy().tobytes()


TakeMould = Callable[[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto | None], Mould | None]

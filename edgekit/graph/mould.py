"""The graph of one network as the mould of others of the same make: the same layers with other widths and weights.

Exporting and simplifying a MobileNet take 0.3 s, filling a mould a hundredth of that. Whether widths change nothing
else is not assumed: layers and settings are compared, every weight must lie in the mould's graphs as it is in the
module, and what comes out climbs the ladder like any other graph (`journey` exports anew where it fails).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
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
    """What is no plain value is like nothing but itself: who knows what the layer makes of it."""
    public = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name not in WIDTHS}
    return tuple((name, value if isinstance(value, SETTINGS) else id(value)) for name, value in sorted(public.items()))


@dataclass(frozen=True)
class Mould:
    """Graphs without their weights, serialised, and what they were made from: see `Mould.of`.

    `half` is None where there was none. `anchors` and `long_sums` are what was found out about a network of that make.
    """

    made_at: Variant
    exporter: str
    make: Make
    raw: bytes
    simplified: bytes
    half: bytes | None
    anchors: tuple[Anchor, ...]
    long_sums: bool

    @staticmethod
    def of(
        folded: nn.Module,
        made_at: Variant,
        exporter: str,
        anchors: tuple[Anchor, ...],
        long_sums: bool,
        raw: onnx.ModelProto,
        simplified: onnx.ModelProto,
        half: onnx.ModelProto | None,
    ) -> Mould | None:
        """A mould from the graphs of `folded`; None where its weights are not in all, bit for bit, under its names.

        The graphs lose their weights.
        """
        weights = _weights(folded)
        if not all(_holds(graph, weights) for graph in (raw, simplified, half) if graph is not None):
            return None
        graphs = [None if graph is None else _emptied(graph, weights) for graph in (raw, simplified, half)]
        assert graphs[0] is not None
        assert graphs[1] is not None
        return Mould(made_at, exporter, make_of(folded), graphs[0], graphs[1], graphs[2], anchors, long_sums)

    def fits(self, folded: nn.Module, variant: Variant) -> bool:
        """Whether `folded`, the network of `variant`, differs from the mould's in widths and weights only."""
        ours, theirs = (replace(one, alpha=None, resolution=None) for one in (self.made_at, variant))
        return ours == theirs and make_of(folded) == self.make

    def filled(self, folded: nn.Module) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """The graph of `folded`, and the simplified one."""
        return _filled(self.raw, folded), _filled(self.simplified, folded)

    def filled_half(self, folded: nn.Module) -> onnx.ModelProto | None:
        """The graph in half precision; None where there is none, and where a weight does not fit into a half."""
        fits = all(bool(weight.half().isfinite().all()) for weight in _weights(folded).values())
        return _filled(self.half, folded) if fits and self.half is not None else None


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """All that a graph holds of a module; how many batches its norms have seen is not among it."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def _holds(graph: onnx.ModelProto, weights: Mapping[str, Tensor]) -> bool:
    held = {tensor.name: tensor for tensor in graph.graph.initializer}
    return all(name in held and held[name].raw_data == _bytes(weight, held[name]) for name, weight in weights.items())


def _emptied(graph: onnx.ModelProto, weights: Mapping[str, Tensor]) -> bytes:
    del graph.graph.value_info[:]  # shapes of these widths
    for tensor in graph.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("raw_data")
    return bytes(graph.SerializeToString())


def _filled(emptied: bytes, folded: nn.Module) -> onnx.ModelProto:
    graph, weights = onnx.load_model_from_string(emptied), _weights(folded)
    for tensor in graph.graph.initializer:
        if tensor.name in weights:
            tensor.dims[:] = weights[tensor.name].shape
            tensor.raw_data = _bytes(weights[tensor.name], tensor)
    layers = dict(folded.named_modules())
    for node in graph.graph.node:
        groups = getattr(layers.get(node.name), "groups", None)
        for attribute in node.attribute:
            if attribute.name == "group" and groups is not None:
                attribute.i = groups
    return graph


def _bytes(weight: Tensor, initializer: onnx.TensorProto) -> bytes:
    """The weight as the initializer holds it, in single or half precision."""
    values = weight.detach().contiguous()
    return (values.half() if initializer.data_type == onnx.TensorProto.FLOAT16 else values).numpy().tobytes()

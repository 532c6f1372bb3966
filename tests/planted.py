"""The faults that the ladder must catch, each planted in a copy of a correct export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from subjects import Subject
from torch import nn

from edgekit import sources
from edgekit.graph.from_torch import IMAGE, fold_batch_norms
from edgekit.parity.ladder import largest
from edgekit.parity.metrics import distance
from edgekit.parity.report import Rung
from edgekit.parity.tolerance import Precision, excess, tolerance
from edgekit.preprocessing import CIFAR, IMAGENET, Preprocessing
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.variant import Variant

Array = NDArray[Any]
Plant = Callable[[Subject, onnx.ModelProto, str], None]


@dataclass(frozen=True)
class Fault:
    """`plant` changes the graph at a layer. It shows in that layer's own output, or else in the next one's."""

    name: str
    plant: Plant
    shows_at_once: bool = True

    def graph(self, subject: Subject, layer: str, of: bytes | None = None) -> onnx.ModelProto:
        """The subject's export, or another graph of it, with this fault."""
        graph: onnx.ModelProto = subject.graph() if of is None else onnx.load_model_from_string(of)
        self.plant(subject, graph, layer)
        return graph

    def shows_at(self, subject: Subject, layer: str) -> str:
        """The first compared tensor that differs."""
        return subject.compared_as(layer) if self.shows_at_once else subject.after(layer)


def epsilon(value: float) -> Plant:
    """The layer's batch-norm was folded with another epsilon."""

    def plant(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
        module = copy.deepcopy(subject.module)
        observed = next(anchor.observed for anchor in subject.anchors if anchor.name == layer)
        norm = module.get_submodule(observed)
        assert isinstance(norm, nn.BatchNorm2d)
        norm.eps = value
        folded = fold_batch_norms(module).get_submodule(layer)
        weight, bias = (parameter.numpy() for parameter in folded.parameters())
        _set(graph, layer, weight, bias)

    return plant


def relu_for_relu6(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The activation behind the layer has lost its upper limit."""
    clip = _reader(graph, layer, "Clip")
    clip.op_type = "Relu"
    del clip.input[1:]


def shifted_padding(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The padding of the left and upper border stands on the other side."""
    pads = next(attribute for attribute in _node(graph, layer).attribute if attribute.name == "pads")
    assert list(pads.ints) == [1, 1, 1, 1]
    pads.ints[:] = [0, 0, 2, 2]


def weakest_channel_scaled(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """One output channel is 1 % larger: the one where it shows the least."""
    truth = subject.reference.truth.trace(subject.inputs[0].feeds)[subject.compared_as(layer)]
    channel = int(np.square(truth).mean((0, *range(2, truth.ndim))).argmin())
    values = _by_channel(graph, layer)
    for value in values:
        value[channel] *= 1.01
    _set_by_channel(graph, layer, values)


def two_channels_swapped(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """Two neighbouring output channels have changed places."""
    values = _by_channel(graph, layer)
    for value in values:
        value[[1, 2]] = value[[2, 1]]
    _set_by_channel(graph, layer, values)


def residual_dropped(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The sum behind the layer hands on what came through the layer alone."""
    add = _behind(graph, layer, "Add")
    own = [name for name in add.input if name in _reached(graph, layer)]
    add.op_type = "Identity"
    add.input[:] = own


def concat_reordered(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The new channels stand before the known ones."""
    concat = _behind(graph, layer, "Concat")
    concat.input[:] = reversed(concat.input)


def concat_stale(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """In place of the layer's channels stand those of the same layer one step before."""
    layers = [anchor.name for anchor in subject.anchors if anchor.name.endswith(".new.conv")]
    concat = _behind(graph, layer, "Concat")
    concat.input[list(concat.input).index(layer)] = layers[layers.index(layer) - 1]


def gate_dropped(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The squeeze-and-excitation block that ends in the layer hands on its input as it is."""
    product = _behind(graph, layer, "Mul")
    known = [name for name in product.input if name not in _reached(graph, layer)]
    product.op_type = "Identity"
    product.input[:] = known


def hard_gate(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The gate is the hard sigmoid of MobileNetV3."""
    gate = _behind(graph, layer, "Sigmoid")
    gate.op_type = "HardSigmoid"
    gate.attribute.extend([helper.make_attribute("alpha", 1 / 6), helper.make_attribute("beta", 0.5)])


def zero_padding(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """Zeros in place of the reflection at the layer's border."""
    pad = _before(graph, layer, "Pad")
    mode = next(attribute for attribute in pad.attribute if attribute.name == "mode")
    assert mode.s == b"reflect"
    mode.s = b"constant"


def shifted_reflection(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The reflection of the left and upper border stands on the other side."""
    pads = np.array([0, 0, 0, 0, 0, 0, 2, 2], np.int64)
    graph.graph.initializer.append(numpy_helper.from_array(pads, "shifted"))
    _before(graph, layer, "Pad").input[1] = "shifted"


def epsilon_behind(op_type: str, value: float) -> Plant:
    """The norm that takes the layer's output has another epsilon."""
    return lambda subject, graph, layer: _set_epsilon(_behind(graph, layer, op_type), value)


def epsilon_before(op_type: str, value: float) -> Plant:
    """The norm that the layer's input comes through has another epsilon."""
    return lambda subject, graph, layer: _set_epsilon(_before(graph, layer, op_type), value)


def no_relu_behind(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The ReLU behind the layer is gone."""
    _behind(graph, layer, "Relu").op_type = "Identity"


def no_relu_before(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The ReLU in front of the layer is gone."""
    _before(graph, layer, "Relu").op_type = "Identity"


def relu6_behind(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The activation behind the layer has got an upper limit."""
    _limit(graph, _behind(graph, layer, "Relu"))


def relu6_before(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The activation in front of the layer has got an upper limit."""
    _limit(graph, _before(graph, layer, "Relu"))


def input_channels_reversed(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """BGR for RGB."""
    weight, *bias = _get(graph, layer)
    _set(graph, layer, weight[:, ::-1], *bias)


def weights_of_another_seed(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The layer's weight, and only that, comes from another network of the same shape."""
    _, *bias = _get(graph, layer)
    weight = _other_network(subject.variant).get_submodule(layer).get_parameter("weight").numpy()
    _set(graph, layer, weight if _node(graph, layer).op_type != "MatMul" else weight.T, *bias)


def mean_subtracted(contract: Preprocessing) -> Plant:
    """The graph itself subtracts the contract's mean, in the units of an input that the contract normalised."""

    def plant(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
        again = np.array(contract.mean, np.float32) / np.array(contract.std, np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(again.reshape(1, 3, 1, 1), "mean"))
        first = next(node for node in graph.graph.node if IMAGE in node.input)
        first.input[list(first.input).index(IMAGE)] = "shifted"
        graph.graph.node.insert(0, helper.make_node("Sub", [IMAGE, "mean"], ["shifted"], name="shift"))

    return plant


def nan_weight(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """One weight is not a number."""
    weight, *bias = _get(graph, layer)
    weight.flat[weight.size // 2] = np.nan
    _set(graph, layer, weight, *bias)


EPSILON = Fault("epsilon 1e-3", epsilon(1e-3))
SMALL_EPSILON = Fault("epsilon 2e-5", epsilon(2e-5))
RELU = Fault("ReLU for ReLU6", relu_for_relu6, shows_at_once=False)
PADDING = Fault("padding moved by a pixel", shifted_padding)
SCALED = Fault("a channel scaled by 1 %", weakest_channel_scaled)
SWAPPED = Fault("two channels swapped", two_channels_swapped)
RESIDUAL = Fault("residual dropped", residual_dropped, shows_at_once=False)
REVERSED = Fault("input channels reversed", input_channels_reversed)
SEED = Fault("weights of another seed", weights_of_another_seed)
MEAN = Fault("mean subtracted twice", mean_subtracted(IMAGENET))
NAN = Fault("a NaN weight", nan_weight)

# Where a norm stands in front of its layer, as in a DenseNet.
PRE_EPSILON = Fault("epsilon 1e-3 before", epsilon_before("BatchNormalization", 1e-3))
SMALL_PRE_EPSILON = Fault("epsilon 2e-5 before", epsilon_before("BatchNormalization", 2e-5))
NO_RELU = Fault("no ReLU", no_relu_behind, shows_at_once=False)
NO_RELU_BEFORE = Fault("no ReLU before", no_relu_before)
RELU6 = Fault("ReLU6 for ReLU", relu6_behind, shows_at_once=False)
RELU6_BEFORE = Fault("ReLU6 for ReLU before", relu6_before)
REORDERED = Fault("concatenation in another order", concat_reordered, shows_at_once=False)
STALE = Fault("channels of the layer before", concat_stale, shows_at_once=False)
CIFAR_MEAN = Fault("mean subtracted twice", mean_subtracted(CIFAR))

# Where every layer reflects at its border and has an instance norm behind it, as in the style network.
INSTANCE_EPSILON = Fault("epsilon 1e-3", epsilon_behind("InstanceNormalization", 1e-3), shows_at_once=False)
SMALL_INSTANCE_EPSILON = Fault("epsilon 2e-5", epsilon_behind("InstanceNormalization", 2e-5), shows_at_once=False)
ZEROS = Fault("zeros for the reflection", zero_padding)
REFLECTION = Fault("reflection moved by a pixel", shifted_reflection)
NO_GATE = Fault("gate dropped", gate_dropped, shows_at_once=False)
HARD_GATE = Fault("hard sigmoid", hard_gate, shows_at_once=False)
PIXEL_MEAN = Fault("mean subtracted from raw pixels", mean_subtracted(replace(IMAGENET, std=(1.0, 1.0, 1.0))))


def times_tolerance(found: Rung) -> float:
    """How many tolerances a rung's deciding tensor is away."""
    return np.inf if found.error is None or found.tolerance is None else found.error / found.tolerance


def size_in_tolerances(subject: Subject, faulty: onnx.ModelProto, tensor: str, precision: Precision) -> float:
    """How far the fault alone moves a tensor, in tolerances of that precision: the most over all inputs."""
    session = CpuSession(faulty, [tensor])
    sizes = []
    for given in subject.inputs:
        truth = subject.reference.truth.trace(given.feeds)[tensor]
        runs = subject.reference.floors[precision]
        floor = largest(distance(run.trace(given.feeds)[tensor], truth) for run in runs)
        sizes.append(excess(distance(session(given.feeds)[tensor], truth), tolerance(floor, precision, truth.size)))
    return max(sizes)


def _node(graph: onnx.ModelProto, layer: str) -> onnx.NodeProto:
    node: onnx.NodeProto = next(node for node in graph.graph.node if node.name == layer)
    return node


def _reader(graph: onnx.ModelProto, layer: str, op_type: str) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = [node for node in graph.graph.node if node.op_type == op_type]
    return next(node for node in nodes if layer in node.input)


def _reached(graph: onnx.ModelProto, layer: str) -> set[str]:
    """The tensors that depend on the layer's output, and that itself."""
    reached = set(_node(graph, layer).output)
    for node in graph.graph.node:  # in topological order
        if reached.intersection(node.input):
            reached.update(node.output)
    return reached


def _behind(graph: onnx.ModelProto, layer: str, op_type: str) -> onnx.NodeProto:
    """The first such node that the layer's output reaches."""
    reached = _reached(graph, layer)
    nodes: list[onnx.NodeProto] = [node for node in graph.graph.node if node.op_type == op_type]
    return next(node for node in nodes if reached.intersection(node.input))


def _before(graph: onnx.ModelProto, layer: str, op_type: str) -> onnx.NodeProto:
    """The nearest such node that the layer's input comes through, along the first inputs."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    node = makers[_node(graph, layer).input[0]]
    while node.op_type != op_type:
        node = makers[node.input[0]]
    return node


def _set_epsilon(norm: onnx.NodeProto, value: float) -> None:
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = value


def _limit(graph: onnx.ModelProto, relu: onnx.NodeProto) -> None:
    limits = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in limits.items())
    relu.op_type = "Clip"
    relu.input.extend(limits)


def _values(graph: onnx.ModelProto, layer: str) -> list[str]:
    """The initializers of the layer's weight and bias, also where an Identity stands between."""
    aliases = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "Identity"}
    return [aliases.get(name, name) for name in _node(graph, layer).input[1:]]


def _get(graph: onnx.ModelProto, layer: str) -> list[Array]:
    """The weight, and the bias where there is one."""
    held = {tensor.name: tensor for tensor in graph.graph.initializer}
    return [numpy_helper.to_array(held[name]).copy() for name in _values(graph, layer)]


def _set(graph: onnx.ModelProto, layer: str, *values: Array) -> None:
    """Give the layer values of its own: what it had may be another layer's, too."""
    names = [f"{layer} {place}" for place, _ in enumerate(values)]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(it), name) for name, it in zip(names, values, strict=True)]
    graph.graph.initializer.extend(tensors)
    _node(graph, layer).input[1:] = names


def _by_channel(graph: onnx.ModelProto, layer: str) -> list[Array]:
    """The weight and the bias with the output channels along the first axis."""
    weight, *bias = _get(graph, layer)
    return [np.moveaxis(weight, _channel_axis(_node(graph, layer)), 0), *bias]


def _set_by_channel(graph: onnx.ModelProto, layer: str, values: list[Array]) -> None:
    _set(graph, layer, np.moveaxis(values[0], 0, _channel_axis(_node(graph, layer))), *values[1:])


def _channel_axis(node: onnx.NodeProto) -> int:
    """Where the weight of an ungrouped layer has its output channels."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


@cache
def _other_network(variant: Variant) -> nn.Module:
    return fold_batch_norms(sources.network(variant, sources.SeedWeights(1)))

"""The faults that the ladder must catch, each planted in a copy of a correct export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
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
from edgekit.preprocessing import IMAGENET
from edgekit.variant import Variant

Array = NDArray[Any]
Plant = Callable[[Subject, onnx.ModelProto, str], None]


@dataclass(frozen=True)
class Fault:
    """`plant` changes the graph at a layer. It shows in that layer's own output, or else in the next one's."""

    name: str
    plant: Plant
    shows_at_once: bool = True

    def graph(self, subject: Subject, layer: str) -> onnx.ModelProto:
        """The subject's export with this fault."""
        graph: onnx.ModelProto = subject.graph()
        self.plant(subject, graph, layer)
        return graph

    def shows_at(self, subject: Subject, layer: str) -> str:
        """The first compared tensor that differs."""
        return layer if self.shows_at_once else subject.after(layer)


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
    truth = subject.reference.truth.trace(subject.inputs[0].feeds)[layer]
    channel = int(np.square(truth).mean((0, 2, 3)).argmin())
    weight, bias = _get(graph, layer)
    weight[channel] *= 1.01
    bias[channel] *= 1.01
    _set(graph, layer, weight, bias)


def two_channels_swapped(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """Two neighbouring output channels have changed places."""
    weight, bias = _get(graph, layer)
    weight[[1, 2]], bias[[1, 2]] = weight[[2, 1]], bias[[2, 1]]
    _set(graph, layer, weight, bias)


def residual_dropped(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The sum behind the layer hands on the layer's output alone."""
    add = _reader(graph, layer, "Add")
    add.op_type = "Identity"
    add.input[:] = [layer]


def input_channels_reversed(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """BGR for RGB."""
    weight, bias = _get(graph, layer)
    _set(graph, layer, weight[:, ::-1], bias)


def weights_of_another_seed(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The layer's weight, and only that, comes from another network of the same shape."""
    _, bias = _get(graph, layer)
    weight = _other_network(subject.variant).get_submodule(layer).get_parameter("weight")
    _set(graph, layer, weight.numpy(), bias)


def mean_subtracted_twice(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """The graph normalises an input that is normalised already."""
    again = np.array(IMAGENET.mean, np.float32) / np.array(IMAGENET.std, np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(again.reshape(1, 3, 1, 1), "mean"))
    _node(graph, layer).input[0] = "shifted"
    graph.graph.node.insert(0, helper.make_node("Sub", [IMAGE, "mean"], ["shifted"], name="shift"))


def nan_weight(subject: Subject, graph: onnx.ModelProto, layer: str) -> None:
    """One weight is not a number."""
    weight, bias = _get(graph, layer)
    weight.flat[weight.size // 2] = np.nan
    _set(graph, layer, weight, bias)


EPSILON = Fault("epsilon 1e-3", epsilon(1e-3))
SMALL_EPSILON = Fault("epsilon 2e-5", epsilon(2e-5))
RELU = Fault("ReLU for ReLU6", relu_for_relu6, shows_at_once=False)
PADDING = Fault("padding moved by a pixel", shifted_padding)
SCALED = Fault("a channel scaled by 1 %", weakest_channel_scaled)
SWAPPED = Fault("two channels swapped", two_channels_swapped)
RESIDUAL = Fault("residual dropped", residual_dropped, shows_at_once=False)
REVERSED = Fault("input channels reversed", input_channels_reversed)
SEED = Fault("weights of another seed", weights_of_another_seed)
MEAN = Fault("mean subtracted twice", mean_subtracted_twice)
NAN = Fault("a NaN weight", nan_weight)


def _node(graph: onnx.ModelProto, layer: str) -> onnx.NodeProto:
    node: onnx.NodeProto = next(node for node in graph.graph.node if node.name == layer)
    return node


def _reader(graph: onnx.ModelProto, layer: str, op_type: str) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = [node for node in graph.graph.node if node.op_type == op_type]
    return next(node for node in nodes if layer in node.input)


def _tensors(graph: onnx.ModelProto, layer: str) -> list[onnx.TensorProto]:
    held = {tensor.name: tensor for tensor in graph.graph.initializer}
    return [held[name] for name in _node(graph, layer).input[1:]]


def _get(graph: onnx.ModelProto, layer: str) -> tuple[Array, Array]:
    weight, bias = (numpy_helper.to_array(tensor).copy() for tensor in _tensors(graph, layer))
    return weight, bias


def _set(graph: onnx.ModelProto, layer: str, *values: Array) -> None:
    for tensor, value in zip(_tensors(graph, layer), values, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))


@cache
def _other_network(variant: Variant) -> nn.Module:
    return fold_batch_norms(sources.network(variant, sources.SeedWeights(1)))

"""What a graph costs is what the network that it was exported from costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper
from subjects import Subject
from torch import nn

from edgekit.graph.counting import count
from edgekit.graph.fp16 import to_fp16
from edgekit.models import _counting

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]


def model_of(
    nodes: list[NodeProto], weights: dict[str, tuple[int, ...]], *shapes: tuple[int | str, ...], outputs: str = "y"
) -> onnx.ModelProto:
    """A graph of inputs x0, x1, ... and of weights of these shapes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def macs(
    op: str, inputs: list[str], weights: dict[str, tuple[int, ...]], *shapes: tuple[int, ...], **given: int
) -> int:
    return count(model_of([helper.make_node(op, inputs, ["y"], **given)], weights, *shapes)).macs


@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2"])
def test_an_export_costs_what_the_network_does(network: Network, model: str) -> None:
    subject = network(model)
    wanted = _counting.count(subject.module, subject.variant.resolution or 0)
    found = count(subject.graph())
    assert found.macs == wanted.macs > 1e6
    costs = [(layer.macs, layer.output_shape) for layer in wanted.layers if layer.macs]
    assert [(layer.macs, layer.output_shape) for layer in found.layers if layer.macs] == costs


@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2"])
def test_its_parameters_are_the_networks_with_norms_folded(network: Network, model: str) -> None:
    """Each batch norm's weight and bias become one bias of its convolution."""
    subject = network(model)
    folded = sum(layer.num_features for layer in subject.module.modules() if isinstance(layer, nn.BatchNorm2d))
    wanted = _counting.count(subject.module, subject.variant.resolution or 0).params
    limits = sum(tensor.dims == [] for tensor in subject.graph().graph.initializer)  # of ReLU6, stored as numbers
    assert count(subject.graph()).params == wanted - folded + limits


def test_half_precision_costs_the_same(network: Network) -> None:
    graph = network("mobilenet_v2").graph()
    half, single = count(to_fp16(graph)), count(graph)
    assert (half.macs, half.params) == (single.macs, single.params)


def test_the_layers_add_up(network: Network) -> None:
    found = count(network("mobilenet_v2").graph())
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert sum(layer.params for layer in found.layers) == found.params
    assert len(found.layers) == len(network("mobilenet_v2").graph().graph.node)


# By hand


@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 9))
def test_a_gemm(batch: int, inner: int, outer: int) -> None:
    weights = {"w": (inner, outer)}
    assert macs("Gemm", ["x0", "w"], weights, (batch, inner)) == inner * outer
    assert macs("Gemm", ["x0", "w"], {"w": (outer, inner)}, (batch, inner), transB=1) == inner * outer
    assert macs("Gemm", ["x0", "w"], weights, (inner, batch), transA=1) == inner * outer


def test_a_gemm_with_its_bias() -> None:
    node = helper.make_node("Gemm", ["x0", "w", "b"], ["y"], name="fc")
    [layer] = count(model_of([node], {"w": (5, 3), "b": (3,)}, (2, 5))).layers
    assert (layer.name, layer.kind, layer.output_shape, layer.params, layer.macs) == ("fc", "Gemm", (3,), 18, 15)


@pytest.mark.parametrize(
    ("shape", "weight", "wanted"),
    [
        ((1, 5), (5, 3), 15),
        ((4, 5), (5, 3), 15),  # of one row
        ((2, 7, 5), (5, 3), 7 * 15),
        ((2, 6, 7, 5), (5, 3), 6 * 7 * 15),
        ((2, 7, 5), (5,), 7 * 5),
    ],
)
def test_a_matmul_with_weights(shape: tuple[int, ...], weight: tuple[int, ...], wanted: int) -> None:
    assert macs("MatMul", ["x0", "w"], {"w": weight}, shape) == wanted


def test_a_matmul_of_two_activations() -> None:
    """Attention: every query against every key, in every head."""
    assert macs("MatMul", ["x0", "x1"], {}, (2, 4, 10, 8), (2, 4, 8, 12)) == 4 * 10 * 12 * 8


@pytest.mark.parametrize(
    ("weight", "given", "wanted"),
    [
        ((8, 3, 3, 3), {"pads": [1] * 4}, 8 * 36 * 27),
        ((8, 3, 3, 3), {}, 8 * 16 * 27),
        ((8, 3, 3, 3), {"pads": [1] * 4, "strides": [2, 2]}, 8 * 9 * 27),
        ((8, 3, 3, 3), {"pads": [2] * 4, "dilations": [2, 2]}, 8 * 36 * 27),
        ((6, 1, 3, 3), {"pads": [1] * 4, "group": 3}, 6 * 36 * 9),
    ],
)
def test_a_convolution(weight: tuple[int, ...], given: dict[str, object], wanted: int) -> None:
    node = helper.make_node("Conv", ["x0", "w"], ["y"], **given)
    assert count(model_of([node], {"w": weight}, (2, 3, 6, 6))).macs == wanted


@pytest.mark.parametrize(
    ("weight", "given", "wanted"),
    [((3, 8, 2, 2), {"strides": [2, 2]}, 3 * 36 * 8 * 4), ((3, 2, 3, 3), {"group": 3}, 3 * 36 * 2 * 9)],
)
def test_a_transposed_convolution(weight: tuple[int, ...], given: dict[str, object], wanted: int) -> None:
    """Every input goes to each of its outputs."""
    node = helper.make_node("ConvTranspose", ["x0", "w"], ["y"], **given)
    assert count(model_of([node], {"w": weight}, (2, 3, 6, 6))).macs == wanted


def test_nothing_else_costs_anything() -> None:
    nodes = [helper.make_node("Add", ["x0", "b"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    found = count(model_of(nodes, {"b": (3, 1, 1)}, (1, 3, 4, 4)))
    assert (found.macs, found.params, found.training_only) == (0, 3, 0)
    assert [layer.params for layer in found.layers] == [3, 0]


def test_weights_that_two_nodes_read_are_counted_once() -> None:
    nodes = [helper.make_node("MatMul", ["x0", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    found = count(model_of(nodes, {"w": (4, 4)}, (1, 4)))
    assert [(layer.params, layer.macs) for layer in found.layers] == [(16, 16), (0, 16)]
    assert (found.params, found.macs) == (16, 32)


def test_shapes_and_indices_are_no_parameters() -> None:
    model = model_of([helper.make_node("Reshape", ["x0", "shape"], ["y"])], {}, (1, 4))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 2]), "shape"))
    assert count(model).params == 0


def test_what_depends_on_an_open_axis_costs_nothing_known() -> None:
    nodes = [helper.make_node("MatMul", ["x0", "w"], ["y"], name="open")]
    [layer] = count(model_of(nodes, {"w": (4, 4)}, (1, "steps", 4))).layers
    assert (layer.name, layer.macs, layer.params) == ("open", 0, 16)

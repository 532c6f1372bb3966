"""Half precision that stands in the graph: every weight the nearest half, floats outside, and nothing bent to fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from subjects import Subject

from edgekit.errors import GateFailed, InputUnusable
from edgekit.graph.fp16 import LARGEST_HALF, check_types, to_fp16
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
NETWORKS = ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"]
Floats = NDArray[np.float32]


def scaling(**weights: Floats) -> onnx.ModelProto:
    """The input (1, n), multiplied by each of the weights (n,) in turn."""
    nodes, last = [], "input"
    for name in weights:
        nodes.append(helper.make_node("Mul", [last, name], [f"{name}.out"], name=f"{name}.mul"))
        last = f"{name}.out"
    nodes.append(helper.make_node("Identity", [last], ["logits"], name="end"))
    size = [1, len(next(iter(weights.values())))]
    graph = helper.make_graph(
        nodes,
        "scaling",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, size)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def held(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-65519, 65519, width=32)))
def test_every_weight_becomes_the_nearest_half(weights: Floats) -> None:
    """Also what is below the smallest normal half, and what lies between the largest half and its rounding border."""
    converted = held(to_fp16(scaling(w=weights)))["w"]
    assert converted.dtype == np.float16
    assert np.array_equal(converted, weights.astype(np.float16))
    assert np.isfinite(converted).all()


@pytest.mark.parametrize("value", [1e-8, 3e-8, 6e-8, -6e-8, 6.1e-5, 65504.0, 65519.0, -65519.0, -0.0])
def test_no_weight_is_clamped_to_a_range(value: float) -> None:
    converted = held(to_fp16(scaling(w=np.array([value], np.float32))))["w"]
    assert converted.tobytes() == np.array([value], np.float32).astype(np.float16).tobytes()


@pytest.mark.parametrize("value", [65520.0, -65520.0, 1e30, np.inf])
def test_a_weight_that_does_not_fit_is_refused_by_name(value: float) -> None:
    fits, large = np.ones(2, np.float32), np.array([1.0, value], np.float32)
    with pytest.raises(GateFailed, match="do not fit in FP16") as refused:
        to_fp16(scaling(fits=fits, large=large, larger=large))
    assert refused.value.where == "large, larger"
    assert f"{LARGEST_HALF:.0f}" in (refused.value.got or "")
    assert refused.value.hint is not None


def test_a_nan_stays_one_for_the_ladder_to_find() -> None:
    converted = held(to_fp16(scaling(w=np.array([1.0, np.nan], np.float32))))["w"]
    assert np.array_equal(np.isnan(converted), [False, True])


@pytest.mark.parametrize("model", NETWORKS)
def test_a_network_is_half_inside_and_float_outside(network: Network, model: str) -> None:
    subject = network(model)
    converted = to_fp16(subject.graph())
    onnx.checker.check_model(converted, full_check=True)
    for value, name in ((converted.graph.input[0], "input"), (converted.graph.output[0], "logits")):
        assert (value.name, value.type.tensor_type.elem_type) == (name, TensorProto.FLOAT)
    types = {
        info.name: info.type.tensor_type.elem_type
        for info in onnx.shape_inference.infer_shapes(converted).graph.value_info
    }
    assert {types[anchor.name] for anchor in subject.anchors if not anchor.is_output} == {TensorProto.FLOAT16}
    weights = held(subject.graph())
    for name, half in held(converted).items():
        assert half.dtype == np.float16 or weights[name].dtype == np.int64
    assert [node.name for node in converted.graph.node if node.op_type == "Conv"] == [
        anchor.name for anchor in subject.anchors if not anchor.is_output
    ]


@pytest.mark.parametrize("model", NETWORKS)
def test_every_weight_of_a_network_is_the_nearest_half(network: Network, model: str) -> None:
    subject = network(model)
    converted = held(to_fp16(subject.graph()))
    floats = {name: value for name, value in held(subject.graph()).items() if value.dtype == np.float32}
    assert len(floats) > 50
    for name, value in floats.items():
        assert np.array_equal(converted[name], value.astype(np.float16))


def test_the_source_stays_as_it_is(network: Network) -> None:
    graph = network("mobilenet_v2").graph()
    before = graph.SerializeToString(deterministic=True)
    to_fp16(graph)
    assert graph.SerializeToString(deterministic=True) == before


def test_a_graph_that_is_half_already_is_refused(network: Network) -> None:
    converted = to_fp16(network("mobilenet_v1").graph())
    with pytest.raises(InputUnusable, match="cannot be converted to FP16"):
        to_fp16(converted)


def test_the_arithmetic_is_half(network: Network) -> None:
    """1 + 1/4096 is 1 in half precision: the sum of inputs that a float could tell apart."""
    one = scaling(w=np.ones(1, np.float32))
    feeds = {"input": np.array([[1 + 1 / 4096]], np.float32)}
    assert float(CpuSession(one)(feeds)["logits"][0, 0]) != 1.0
    assert float(CpuSession(to_fp16(one))(feeds)["logits"][0, 0]) == 1.0


def making(maker: onnx.NodeProto, weight: Floats) -> onnx.ModelProto:
    """The input (2, 2), plus what the maker makes of a shape or a square, times a weight."""
    nodes = [
        maker,
        helper.make_node("Add", ["input", "made"], ["sum"], name="add"),
        helper.make_node("Mul", ["sum", "w"], ["logits"], name="mul"),
    ]
    held = [numpy_helper.from_array(np.array([2, 2]), "shape"), numpy_helper.from_array(np.ones((2, 2)), "square")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("input", "logits")]
    weights = [numpy_helper.from_array(weight, "w"), *held]
    graph = helper.make_graph(nodes, "making", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


SEVEN = numpy_helper.from_array(np.array([7], np.float32))
MAKERS = {
    "zeros that nobody mentions": helper.make_node("ConstantOfShape", ["shape"], ["made"], name="zeros"),
    "sevens": helper.make_node("ConstantOfShape", ["shape"], ["made"], name="sevens", value=SEVEN),
    "eye": helper.make_node("EyeLike", ["square"], ["made"], name="eye", dtype=TensorProto.FLOAT, k=1),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("keep", [False, True])
def test_nodes_that_make_floats_of_none_make_halves(maker: onnx.NodeProto, keep: bool) -> None:
    model = making(maker, np.full((2, 2), 1.5, np.float32))
    converted = to_fp16(model, [maker.name] if keep else [])
    check_types(converted)
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    wanted, found = (CpuSession(one.SerializeToString())({"input": x})["logits"] for one in (model, converted))
    assert np.array_equal(found, wanted)  # all of it fits in a half


def test_zeros_of_another_kind_stay_what_they_are() -> None:
    maker = helper.make_node("ConstantOfShape", ["shape"], ["whole"], value=numpy_helper.from_array(np.array([3])))
    model = making(maker, np.ones((2, 2), np.float32))
    model.graph.node.insert(1, helper.make_node("Cast", ["whole"], ["made"], name="cast", to=TensorProto.FLOAT))
    converted = to_fp16(model)
    check_types(converted)
    made = next(node for node in converted.graph.node if node.op_type == "ConstantOfShape")
    assert made.attribute[0].t.data_type == TensorProto.INT64

"""A float32 graph in which every tensor is a half: what half precision does to it, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from subjects import Subject

from edgekit.graph.halves import element_types, round_to_half
from edgekit.parity.metrics import distance
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.runtimes.torch_eager import half_precision

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
Floats = NDArray[np.float32]
FINE = np.float32(1 + 2.0**-12)  # lies between two halves, and rounds to 1


def model_of(
    nodes: list[NodeProto],
    inputs: dict[str, list[int]],
    outputs: dict[str, int],
    weights: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A graph of float32 inputs by shape, outputs by element type, and weights by value."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def chain(*ops: str) -> onnx.ModelProto:
    """Unary nodes one after the other, named as their tensors: t0, t1, ..."""
    names = ["x", *(f"t{i}" for i in range(len(ops)))]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]], name=names[i + 1]) for i, op in enumerate(ops)]
    return model_of(nodes, {"x": [1, 8]}, {names[-1]: TensorProto.FLOAT})


def run(model: onnx.ModelProto, extra: Collection[str] = (), **feeds: np.ndarray) -> dict[str, np.ndarray]:
    return dict(CpuSession(model, list(extra), optimise=False)(feeds))


def is_half(array: np.ndarray) -> bool:
    return bool(np.array_equal(to_half(array), array, equal_nan=True))


def to_half(array: np.ndarray) -> Floats:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2"])
def test_every_float_of_a_network_is_a_half(network: Network, model: str) -> None:
    subject = network(model)
    rounded, feeds = round_to_half(subject.graph()), subject.inputs[0].feeds
    names = [anchor.name for anchor in subject.anchors]
    found = run(rounded, names, **feeds)
    assert len(found) == len(names)
    assert all(map(is_half, found.values()))
    assert not all(map(is_half, run(subject.graph(), names, **feeds).values()))
    weights = [numpy_helper.to_array(tensor) for tensor in rounded.graph.initializer]
    assert all(is_half(array) for array in weights if array.dtype == np.float32)
    onnx.checker.check_model(rounded, full_check=True)


def test_names_of_nodes_inputs_and_outputs_stay(network: Network) -> None:
    before = network("mobilenet_v2").graph()
    after = round_to_half(before)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert [tensor.name for tensor in after.graph.initializer] == [t.name for t in before.graph.initializer]
    kept = [(node.name, node.op_type) for node in after.graph.node if node.op_type != "Cast"]
    assert kept == [(node.name, node.op_type) for node in before.graph.node]
    made = {name for node in after.graph.node for name in node.output}
    assert {name for node in before.graph.node for name in node.output} <= made


def test_the_source_stays_as_it_is(network: Network) -> None:
    graph = network("mobilenet_v2").graph()
    before = graph.SerializeToString(deterministic=True)
    round_to_half(graph)
    assert graph.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2"])
def test_it_costs_as_much_as_half_precision_costs_the_module(network: Network, model: str) -> None:
    """The two round in the same places but for sums, which are no layers of a module."""
    subject = network(model)
    feeds = subject.inputs[0].feeds
    with torch.inference_mode():
        x = torch.from_numpy(feeds["input"])
        truth = subject.module.double()(x.double()).numpy()
        module = half_precision(subject.folded)(x).numpy()
    subject.module.float()
    graph = run(round_to_half(subject.graph()), **feeds)["logits"]
    ours, theirs = distance(graph, truth), distance(module, truth)
    assert theirs.overall > 1e-4
    assert 0.5 < ours.overall / theirs.overall < 2
    assert distance(graph, module).overall < 1.5 * theirs.overall


@given(st.lists(st.sampled_from(["Exp", "Tanh", "Sigmoid", "Neg", "Sqrt"]), min_size=1, max_size=4), st.integers(0, 99))
def test_each_node_computes_in_float_from_halves_to_a_half(ops: list[str], seed: int) -> None:
    x = np.random.default_rng(seed).random((1, 8), np.float32)
    names = [f"t{i}" for i in range(len(ops))]
    found = run(round_to_half(chain(*ops)), names, x=x)
    before = to_half(x)
    for name, op in zip(names, ops, strict=True):
        exact = run(chain(op), x=before)["t0"]
        np.testing.assert_array_equal(found[name], to_half(exact))
        before = to_half(exact)


def test_what_is_too_large_for_a_half_is_infinite() -> None:
    x = np.full((1, 8), 12.0, np.float32)
    assert np.isinf(run(round_to_half(chain("Exp")), x=x)["t0"]).all()
    scaled = model_of(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        {"x": [1, 2]},
        {"y": TensorProto.FLOAT},
        {"w": np.array([65504, 1e6], np.float32)},
    )
    [weight] = round_to_half(scaled).graph.initializer
    assert numpy_helper.to_array(weight).tolist() == [65504.0, np.inf]


def test_an_input_that_several_read_is_rounded_for_each_of_them() -> None:
    doubled = model_of(
        [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Sub", ["x", "y"], ["z"])],
        {"x": [1]},
        {"y": TensorProto.FLOAT, "z": TensorProto.FLOAT},
    )
    found = run(round_to_half(doubled), x=np.array([FINE]))
    assert found["y"].tolist() == [2.0]
    assert found["z"].tolist() == [-1.0]


def test_whole_numbers_are_left_alone() -> None:
    """70,000 and 2,049 are no halves; a shape or an index of that size must not become one."""
    counting = model_of(
        [
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
            helper.make_node("Add", ["i", "n"], ["j"]),
            helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
            helper.make_node("ArgMax", ["x"], ["a"], axis=1, keepdims=0),
        ],
        {"x": [1, 3]},
        {"j": TensorProto.INT64, "m": TensorProto.FLOAT, "a": TensorProto.INT64},
        {"n": np.array([70000, 2049, -70001])},
    )
    rounded = round_to_half(counting)
    assert numpy_helper.to_array(rounded.graph.initializer[0]).tolist() == [70000, 2049, -70001]
    found = run(rounded, x=np.array([[1, 2, 4]], np.float32))
    assert (found["j"].dtype, found["j"].tolist()) == (np.int64, [[70001, 2051, -69997]])
    assert found["m"] == 4.0
    assert found["a"].tolist() == [2]


def test_constants_in_nodes_are_rounded_too() -> None:
    value = numpy_helper.from_array(np.array([FINE]))
    nodes = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Mul", ["x", "c"], ["y"])]
    rounded = round_to_half(model_of(nodes, {"x": [1]}, {"y": TensorProto.FLOAT}))
    assert run(rounded, ["c"], x=np.array([4096], np.float32)) == {"y": [4096.0], "c": [1.0]}


def test_float64_and_float16_are_left_alone() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["d", "w"], ["e"]),
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
    ]
    fine = np.array([1 + 2.0**-40])
    outputs = {"e": TensorProto.DOUBLE, "h": TensorProto.FLOAT16}
    rounded = round_to_half(model_of(nodes, {"x": [1]}, outputs, {"w": fine}))
    assert run(rounded, x=np.ones(1, np.float32))["e"].tolist() == fine.tolist()


def test_a_branch_hands_out_halves() -> None:
    def branch(op: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(f"{op}.y", TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node(op, ["t"], [value.name])], op, [], [value])

    nodes = [
        helper.make_node("Identity", ["x"], ["t"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Exp"), else_branch=branch("Tanh")),
    ]
    rounded = round_to_half(model_of(nodes, {"x": [1]}, {"y": TensorProto.FLOAT}, {"c": np.array(True)}))
    found = run(rounded, x=np.array([FINE]))["y"]
    np.testing.assert_array_equal(found, to_half(np.exp(np.ones(1, np.float32))))


# Nodes that stay in FP32


def test_what_passes_between_kept_nodes_is_not_rounded() -> None:
    """e**12 is no half; its logarithm is one that no rounding disturbs."""
    model, x = chain("Exp", "Log", "Identity"), np.full((1, 8), 12.0, np.float32)
    assert np.isinf(run(round_to_half(model), x=x)["t2"]).all()
    found = run(round_to_half(model, ["t0", "t1"]), ["t0"], x=x)
    assert not is_half(found["t0"])
    assert found["t2"].tolist() == x.tolist()


def test_what_leaves_kept_nodes_is_rounded() -> None:
    model, x = chain("Exp", "Neg", "Neg"), np.linspace(0.1, 1, 8, dtype=np.float32)[None]
    found = run(round_to_half(model, ["t0", "t1"]), ["t0", "t1", "t2"], x=x)
    assert [is_half(found[name]) for name in ("t0", "t1", "t2")] == [False, True, True]


def test_an_output_of_the_graph_is_a_half_even_of_a_kept_node() -> None:
    model, x = chain("Exp", "Neg"), np.linspace(0.1, 1, 8, dtype=np.float32)[None]
    assert is_half(run(round_to_half(model, ["t0", "t1"]), x=x)["t1"])


def test_what_others_read_too_is_rounded() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"], name="e"),
        helper.make_node("Neg", ["e"], ["n"], name="n"),
        helper.make_node("Abs", ["e"], ["a"], name="a"),
    ]
    model = model_of(nodes, {"x": [1, 8]}, {"n": TensorProto.FLOAT, "a": TensorProto.FLOAT})
    x = np.linspace(0.1, 1, 8, dtype=np.float32)[None]
    assert is_half(run(round_to_half(model, ["e", "n"]), ["e"], x=x)["e"])


def test_weights_that_only_kept_nodes_read_are_not_rounded() -> None:
    """In the graph that is delivered they are in FP32."""
    nodes = [
        helper.make_node("Mul", ["x", "large"], ["m"], name="up"),
        helper.make_node("Mul", ["m", "small"], ["y"], name="down"),
        helper.make_node("Mul", ["y", "shared"], ["z"], name="last"),
        helper.make_node("Mul", ["y", "shared"], ["k"], name="kept too"),
    ]
    weights = {"large": np.array([1e6], np.float32), "small": np.array([1e-6], np.float32), "shared": np.array([FINE])}
    outputs = dict.fromkeys(("z", "k"), TensorProto.FLOAT)
    model = model_of(nodes, {"x": [1]}, outputs, weights)
    rounded = round_to_half(model, ["up", "down", "kept too"])
    held = {tensor.name: numpy_helper.to_array(tensor)[0] for tensor in rounded.graph.initializer}
    assert held == {"large": np.float32(1e6), "small": np.float32(1e-6), "shared": np.float32(1)}
    assert run(rounded, x=np.array([3], np.float32))["z"].tolist() == [3.0]


def test_nodes_without_a_name_are_not_kept_by_an_empty_one() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Neg", ["e"], ["n"])]
    model = model_of(nodes, {"x": [1, 8]}, {"n": TensorProto.FLOAT})
    x = np.linspace(0.1, 1, 8, dtype=np.float32)[None]
    assert is_half(run(round_to_half(model, [""]), ["e"], x=x)["e"])


# Element types


def test_element_types_are_told_for_inputs_weights_and_what_nodes_make() -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Mul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"x": [1]}, {"y": TensorProto.FLOAT}, {"w": np.ones(1, np.float32)})
    types = element_types(model)
    assert types["x"] == types["w"] == types["y"] == TensorProto.FLOAT
    assert types["s"] == TensorProto.INT64


def test_a_graph_whose_shapes_contradict_each_other_still_has_the_types_that_it_declares() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Neg", ["m"], ["y"])]
    model = model_of(nodes, {"x": [1, 3]}, {"y": TensorProto.FLOAT}, {"w": np.ones((2, 2), np.float32)})
    types = element_types(model)
    assert types["x"] == types["w"] == types["y"] == TensorProto.FLOAT

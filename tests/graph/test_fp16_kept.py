"""What half precision cannot hold stays in FP32, is declared so, and meets the rest of the graph without a clash."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgekit.engines.receipt import KEPT_FP32_KEY
from edgekit.errors import GateFailed, InputUnusable
from edgekit.graph.fp16 import SQUARING, WITHOUT_HALF, check_types, kept_fp32, to_fp16
from edgekit.runtimes.onnxruntime_cpu import CpuSession

FLOAT, FLOAT16, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
Floats = NDArray[np.float32]


def model_of(
    nodes: list[NodeProto],
    outputs: Collection[str] = ("y",),
    weights: dict[str, np.ndarray] | None = None,
    shape: Collection[int] = (1, 4),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def node(op: str, inputs: Collection[str], output: str, **attributes: object) -> NodeProto:
    """A node that is named as what it makes."""
    return helper.make_node(op, list(inputs), [output], name=f"{output} node", **attributes)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every tensor, as ONNX infers it."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    held = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    return {value.name: value.type.tensor_type.elem_type for value in values} | held


def computed_in(model: onnx.ModelProto, name: str) -> int:
    """The type of what the node of that name makes."""
    found = types(model)
    (made,) = [found[output] for one in model.graph.node if one.name == name for output in one.output]
    return made


def converted(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """The graph in FP16, with what must hold of any: it is sound, and its outputs are FP32."""
    half = to_fp16(model, keep)
    check_types(half)
    onnx.checker.check_model(half, full_check=True)
    assert [(value.name, value.type.tensor_type.elem_type) for value in half.graph.output] == [
        (value.name, FLOAT) for value in model.graph.output
    ]
    return half


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    return dict(CpuSession(model, optimise=False)({"x": x}))


# Which nodes stay


def normed() -> onnx.ModelProto:
    weights = {"s": np.ones(2, np.float32), "b": np.zeros(2, np.float32), "w": np.ones((2, 3, 1, 1), np.float32)}
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("InstanceNormalization", ["c", "s", "b"], "n"),
        node("Relu", ["n"], "y"),
    ]
    return model_of(nodes, weights=weights, shape=(1, 3, 8, 8))


def test_instance_norm_stays_in_fp32_and_is_declared() -> None:
    half = converted(normed())
    assert kept_fp32(half) == {"n node"}
    assert {entry.key: entry.value for entry in half.metadata_props} == {KEPT_FP32_KEY: "n node"}
    assert computed_in(half, "n node") == FLOAT
    assert computed_in(half, "c node") == computed_in(half, "y node") == FLOAT16
    held = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert held == {"s": FLOAT, "b": FLOAT, "w": FLOAT16}


@pytest.mark.parametrize(
    "make",
    [
        node("ReduceL2", ["a"], "n", axes=[2]),
        node("ReduceSumSquare", ["a"], "n", axes=[2]),
        node("LpNormalization", ["a"], "n"),
        node("LRN", ["a"], "n", size=3),
        node("GlobalLpPool", ["a"], "n"),
        node("LpPool", ["a"], "n", kernel_shape=[2, 2]),
    ],
    ids=lambda made: made.op_type,
)
def test_whatever_sums_squares_stays_in_fp32(make: NodeProto) -> None:
    nodes = [node("Relu", ["x"], "a"), make, node("Relu", ["n"], "y")]
    half = converted(model_of(nodes, shape=(1, 3, 4, 4)))
    assert make.op_type in SQUARING
    assert kept_fp32(half) == {"n node"}
    assert computed_in(half, "n node") == FLOAT


def test_operators_without_a_half_stay_in_fp32_and_are_declared() -> None:
    nodes = [node("Relu", ["x"], "a"), node("CumSum", ["a", "axis"], "n"), node("Relu", ["n"], "y")]
    half = converted(model_of(nodes, weights={"axis": np.array(1)}))
    assert "CumSum" in WITHOUT_HALF
    assert kept_fp32(half) == {"n node"}


def test_a_graph_in_which_nothing_stays_declares_nothing() -> None:
    half = converted(model_of([node("Relu", ["x"], "y")]))
    assert kept_fp32(half) == frozenset()
    assert not half.metadata_props


def test_nodes_are_kept_by_name_and_no_others() -> None:
    nodes = [node("Relu", ["x"], "a"), node("Exp", ["a"], "b"), node("Neg", ["b"], "y")]
    half = converted(model_of(nodes), ["b node", "nobody's"])
    assert kept_fp32(half) == {"b node"}
    assert [computed_in(half, f"{name} node") for name in ("a", "b", "y")][:2] == [FLOAT16, FLOAT]


def test_other_metadata_stay() -> None:
    model = normed()
    helper.set_model_props(model, {"author": "somebody"})
    props = {entry.key: entry.value for entry in converted(model).metadata_props}
    assert props == {"author": "somebody", KEPT_FP32_KEY: "n node"}


# What large activations do


def largest_norm(x: Floats) -> Floats:
    """Instance norm in half arithmetic: every intermediate, and so every sum of squares, is a half."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = x.astype(np.float16)
        squares = np.add.accumulate((half * half).reshape(*x.shape[:2], -1), axis=2)[..., -1:, None]
        sums = np.add.accumulate(half.reshape(*x.shape[:2], -1), axis=2)[..., -1:, None]
        mean, count = sums / np.float16(x[0, 0].size), np.float16(x[0, 0].size)
        variance = squares / count - mean * mean
        return ((half - mean) / np.sqrt(variance + np.float16(1e-5))).astype(np.float32)


def test_instance_norm_of_activations_of_a_thousand_comes_out_right() -> None:
    """On 64 x 64 pixels. In half arithmetic it does not, which is why it stays in FP32."""
    weights = {"s": np.ones(2, np.float32), "b": np.zeros(2, np.float32), "k": np.array(1000, np.float32)}
    nodes = [
        node("Mul", ["x", "k"], "large"),
        node("InstanceNormalization", ["large", "s", "b"], "n"),
        node("Relu", ["n"], "y"),
    ]
    model = model_of(nodes, ["y"], weights, (1, 2, 64, 64))
    x = np.random.default_rng(0).standard_normal((1, 2, 64, 64)).astype(np.float32)
    wanted, found = run(model, x)["y"], run(converted(model), x)["y"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted, atol=4e-3)
    assert not np.isfinite(largest_norm(1000 * x)).all()
    np.testing.assert_allclose(np.maximum(largest_norm(x / 100), 0), wanted, atol=0.3)  # it is the norm, elsewhere


# Inputs, outputs and weights at the border


@pytest.mark.parametrize("keep", [[], ["b node"], ["a node"], ["a node", "b node"]])
def test_outputs_are_fp32_whatever_makes_them(keep: list[str]) -> None:
    model = model_of([node("Exp", ["x"], "a"), node("Neg", ["a"], "b")], ["b"])
    x = np.full((1, 4), 0.3, np.float32)
    half = converted(model, keep)
    np.testing.assert_allclose(run(half, x)["b"], run(model, x)["b"], rtol=2e-3)


@pytest.mark.parametrize("keep", [[], ["a node"], ["b node"], ["c node"], ["a node", "b node"], ["a node", "c node"]])
def test_an_output_that_nodes_read_too_is_fp32_outside_and_half_inside(keep: list[str]) -> None:
    """The weights of those that read it are halves: one type for both would not fit."""
    nodes = [node("MatMul", ["x", "w"], "a"), node("MatMul", ["a", "w"], "b"), node("MatMul", ["a", "v"], "c")]
    weights = {"w": np.eye(4, dtype=np.float32), "v": 2 * np.eye(4, dtype=np.float32)}
    model = model_of(nodes, ["a", "b", "c"], weights)
    x = np.array([[1, 2, 3, 4]], np.float32)
    half = converted(model, keep)
    for name, wanted in run(model, x).items():
        np.testing.assert_array_equal(run(half, x)[name], wanted)
    for one in half.graph.node:
        if one.op_type == "MatMul":
            assert computed_in(half, one.name) == (FLOAT if one.name in keep else FLOAT16)


def test_weights_that_kept_nodes_and_others_read_are_there_in_both_types() -> None:
    """Each node computes with its own: neither is rounded on the way to the other."""
    fine = np.array([1 + 2.0**-12, 2, 3, 4], np.float32)
    nodes = [node("Mul", ["x", "w"], "a"), node("Mul", ["a", "w"], "y")]
    model = model_of(nodes, weights={"w": fine})
    half = converted(model, ["a node"])
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    assert sorted(array.dtype.name for array in held.values()) == ["float16", "float32"]
    for array in held.values():
        assert np.array_equal(array, fine.astype(array.dtype))
    assert computed_in(half, "a node") == FLOAT
    assert model.graph.initializer == [numpy_helper.from_array(fine, "w")]


def test_several_kept_nodes_share_one_copy() -> None:
    nodes = [node("Mul", ["x", "w"], "a"), node("Mul", ["a", "w"], "b"), node("Mul", ["b", "w"], "y")]
    half = converted(model_of(nodes, weights={"w": np.ones(4, np.float32)}), ["a node", "b node"])
    assert len(half.graph.initializer) == 2


def test_a_weight_that_only_kept_nodes_read_may_be_larger_than_any_half() -> None:
    large = {"w": np.array([1e6], np.float32)}
    converted(model_of([node("Mul", ["x", "w"], "y")], weights=large), ["y node"])
    nodes = [node("Mul", ["x", "w"], "a"), node("Mul", ["a", "w"], "y")]
    with pytest.raises(GateFailed, match="do not fit in FP16"):
        to_fp16(model_of(nodes, weights=large), ["a node"])


def test_nodes_without_a_name_are_told_apart() -> None:
    """The converter names what it inserts after the nodes; these two read the same input."""
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Abs", ["x"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    assert run(converted(model_of(nodes)), np.ones((1, 4), np.float32))["y"].tolist() == [[0.0] * 4]


def test_kept_nodes_without_a_name_get_one_to_be_declared_by() -> None:
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["a"]), helper.make_node("CumSum", ["a", "axis"], ["y"])]
    half = converted(model_of(nodes, weights={"axis": np.array(1)}))
    kept = kept_fp32(half)
    assert len(kept) == 2
    assert kept == {one.name for one in half.graph.node if one.op_type == "CumSum"}


# The graph's own casts


def test_the_graphs_own_cast_to_fp32_goes_to_half_like_everything_that_reads_it() -> None:
    nodes = [
        node("Cast", ["x"], "i", to=INT64),
        node("Cast", ["i"], "f", to=FLOAT),
        node("MatMul", ["f", "w"], "y"),
    ]
    model = model_of(nodes, weights={"w": np.eye(4, dtype=np.float32)})
    half = converted(model)
    assert computed_in(half, "f node") == FLOAT16
    assert run(half, np.array([[1.5, 2, 3, 4]], np.float32))["y"].tolist() == [[1, 2, 3, 4]]


def test_the_graphs_own_cast_stays_where_it_is_kept() -> None:
    nodes = [node("Cast", ["x"], "i", to=INT64), node("Cast", ["i"], "f", to=FLOAT), node("Neg", ["f"], "y")]
    half = converted(model_of(nodes), ["f node"])
    assert run(half, np.array([[1, 2, 3, 4]], np.float32))["y"].tolist() == [[-1, -2, -3, -4]]


# Types


def test_a_graph_in_which_two_types_meet_is_refused_with_the_node() -> None:
    mixed = model_of([node("Mul", ["x", "w"], "y")], weights={"w": np.ones(4, np.float16)})
    with pytest.raises(InputUnusable, match="cannot be converted to FP16") as refused:
        check_types(mixed)
    assert "Mul" in str(refused.value.got)


def test_a_sound_graph_passes() -> None:
    check_types(normed())
    check_types(to_fp16(normed()))


@given(st.lists(st.sampled_from(["Exp", "Neg", "Abs", "Sqrt"]), min_size=1, max_size=5), st.data())
def test_any_chain_is_carried_whatever_is_kept_and_handed_out(ops: list[str], data: st.DataObject) -> None:
    names = [f"t{i}" for i in range(len(ops))]
    nodes = [node(op, [before], name) for op, before, name in zip(ops, ["x", *names], names, strict=False)]
    keep = data.draw(st.sets(st.sampled_from([made.name for made in nodes])))
    outputs = sorted({*data.draw(st.sets(st.sampled_from(names))), names[-1]})
    half = converted(model_of(nodes, outputs), keep)
    assert kept_fp32(half) == keep
    for one in half.graph.node:
        if one.op_type != "Cast":
            assert computed_in(half, one.name) == (FLOAT if one.name in keep else FLOAT16)


@pytest.mark.parametrize("count", [1, 2])
def test_what_passes_between_kept_nodes_is_never_a_half(count: int) -> None:
    """A million is none. It must reach every kept node that reads it, be it one or several."""
    weights = {"up": np.array([1e6], np.float32), "down": np.array([1e-6], np.float32)}
    readers = [node("Mul", ["m", "down"], f"r{i}") for i in range(count)]
    model = model_of([node("Mul", ["x", "up"], "m"), *readers], [f"r{i}" for i in range(count)], weights)
    half = converted(model, ["m node", *(reader.name for reader in readers)])
    for found in run(half, np.full((1, 4), 3, np.float32)).values():
        np.testing.assert_allclose(found, 3.0, rtol=1e-3)


def test_what_a_kept_node_hands_out_is_not_rounded() -> None:
    model = model_of([node("Mul", ["x", "up"], "y")], weights={"up": np.array([1e6], np.float32)})
    x = np.full((1, 4), 3, np.float32)
    assert run(converted(model, ["y node"]), x)["y"].tolist() == [[3e6] * 4]


@pytest.mark.parametrize("outputs", [["f"], ["f", "y"]])
def test_the_graphs_own_cast_may_make_an_output(outputs: list[str]) -> None:
    nodes = [node("Cast", ["x"], "i", to=INT64), node("Cast", ["i"], "f", to=FLOAT)]
    nodes += [node("MatMul", ["f", "w"], "y")] if "y" in outputs else []
    model = model_of(nodes, outputs, {"w": np.eye(4, dtype=np.float32)} if "y" in outputs else None)
    x = np.array([[1, 2, 3, 4]], np.float32)
    half = converted(model)
    for name, wanted in run(model, x).items():
        np.testing.assert_array_equal(run(half, x)[name], wanted)


def test_a_branch_reads_halves_from_outside() -> None:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph(
            [node(op, ["t"], f"{op}.y")], op, [], [helper.make_tensor_value_info(f"{op}.y", FLOAT, None)]
        )

    nodes = [
        node("Neg", ["x"], "t"),
        node("If", ["c"], "y", then_branch=branch("Exp"), else_branch=branch("Neg")),
    ]
    model, x = model_of(nodes, weights={"c": np.array(False)}), np.array([[1, 2, 3, 4]], np.float32)
    assert run(converted(model), x)["y"].tolist() == x.tolist()

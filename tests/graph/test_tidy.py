"""Tidying changes the bytes of a graph and nothing that can be computed with it."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit.errors import InputUnusable
from edgekit.graph.tidy import (
    constants_to_initializers,
    drop_dead_nodes,
    drop_provenance,
    drop_stale_value_info,
    drop_unused_initializers,
    merge_equal_initializers,
    sort_nodes,
    tidy,
)

SHAPE = [2, 3]


def value(name: str, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE if shape is None else shape)


def weight(name: str, fill: float, shape: tuple[int, ...] = (2, 3)) -> TensorProto:
    return numpy_helper.from_array(np.full(shape, fill, np.float32), name)


def model_of(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto] | None = None,
    outputs: tuple[str, ...] = ("y",),
    infos: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x")],
        [value(name) for name in outputs],
        initializers or [],
        value_info=[value(name) for name in infos],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constant(name: str, fill: float) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=weight("v", fill))


def run(model: onnx.ModelProto) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    x = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)
    results = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(results, list)
    return results


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Graphs with equal and unused weights, Constant nodes, dead ends, and nodes in any order."""
    fills = st.sampled_from([0.0, -0.0, 1.0, 2.5])
    initializers = [weight(f"w{i}", draw(fills)) for i in range(draw(st.integers(0, 4)))]
    nodes = [constant(f"c{i}", draw(fills)) for i in range(draw(st.integers(0, 4)))]
    known = ["x", *(t.name for t in initializers), *(n.output[0] for n in nodes)]
    for i in range(draw(st.integers(1, 8))):
        op = draw(st.sampled_from(["Add", "Mul", "Sub", "Relu", "Identity"]))
        inputs = [draw(st.sampled_from(known)) for _ in range(2 if op in ("Add", "Mul", "Sub") else 1)]
        nodes.append(helper.make_node(op, inputs, [f"t{i}"], name=f"n{i}", doc_string="from there"))
        known.append(f"t{i}")
    outputs = draw(st.lists(st.sampled_from([n.output[0] for n in nodes]), min_size=1, max_size=3, unique=True))
    random.Random(draw(st.integers(0, 99))).shuffle(nodes)
    return model_of(nodes, initializers, tuple(outputs), tuple(draw(st.permutations(known))[:3]))


@given(models())
def test_tidying_keeps_results_interface_and_validity(model: onnx.ModelProto) -> None:
    in_order = onnx.ModelProto()
    in_order.CopyFrom(model)
    sort_nodes(in_order)  # the evaluator runs nodes as they stand
    wanted = run(in_order)
    tidy(model)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == [o.name for o in in_order.graph.output]
    for got, expected in zip(run(model), wanted, strict=True):
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@given(models())
def test_tidying_twice_changes_nothing(model: onnx.ModelProto) -> None:
    tidy(model)
    once = model.SerializeToString(deterministic=True)
    tidy(model)
    assert model.SerializeToString(deterministic=True) == once


@given(models())
def test_nothing_is_left_over(model: onnx.ModelProto) -> None:
    tidy(model)
    graph = model.graph
    outputs = {o.name for o in graph.output}
    read = {name for node in graph.node for name in node.input} | outputs
    assert {t.name for t in graph.initializer} <= read
    assert all(read & set(node.output) for node in graph.node)
    assert all(outputs & set(node.output) for node in graph.node if node.op_type == "Constant")
    assert {v.name for v in graph.value_info} <= {name for node in graph.node for name in node.output}
    contents = [(t.data_type, tuple(t.dims), numpy_helper.to_array(t).tobytes()) for t in graph.initializer]
    assert len(set(contents)) == len(contents)


def test_a_cycle_is_named() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("Relu", ["b"], ["y"]))
    with pytest.raises(InputUnusable, match="cycle") as caught:
        sort_nodes(model_of(nodes))
    assert caught.value.where == "Add first"


def test_sorting_leaves_a_sorted_graph_alone() -> None:
    nodes = [helper.make_node("Relu", ["x"], [name], name=name) for name in ("b", "a", "y")]
    model = model_of(nodes)
    sort_nodes(model)
    assert [node.name for node in model.graph.node] == ["b", "a", "y"]


def test_provenance_goes_and_foreign_metadata_stays() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], doc_string="File secret.py, line 3")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File secret.py, line 3")
    model = model_of([node])
    model.doc_string = model.graph.doc_string = model.graph.input[0].doc_string = "secret"
    model.metadata_props.add(key="onnxsim.removed_nodes", value="many")
    model.metadata_props.add(key="author", value="someone")
    drop_provenance(model)
    assert b"secret" not in model.SerializeToString()
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("author", "someone")]


@pytest.mark.parametrize(
    ("attribute", "held", "dtype", "shape"),
    [
        ("value_float", 1.5, np.float32, ()),
        ("value_floats", [1.5, 2.5], np.float32, (2,)),
        ("value_int", 3, np.int64, ()),
        ("value_ints", [3, 4, 5], np.int64, (3,)),
        ("value_string", "a", np.object_, ()),
        ("value_strings", ["a", "b"], np.object_, (2,)),
    ],
)
def test_every_kind_of_constant_becomes_an_initializer(
    attribute: str, held: float | list[float], dtype: type, shape: tuple[int, ...]
) -> None:
    maker = helper.make_node("Constant", [], ["c"])
    maker.attribute.append(helper.make_attribute(attribute, held))
    model = model_of([maker, helper.make_node("Relu", ["x"], ["y"])])
    constants_to_initializers(model)
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    tensor = model.graph.initializer[0]
    array = numpy_helper.to_array(tensor)
    assert tensor.name == "c"
    assert array.dtype == np.dtype(dtype)
    assert array.shape == shape
    assert array.tolist() == held


def test_a_constant_that_is_an_output_stays() -> None:
    model = model_of([constant("y", 1.0)])
    tidy(model)
    assert [node.op_type for node in model.graph.node] == ["Constant"]


def test_weights_of_the_interface_are_neither_merged_nor_dropped() -> None:
    model = model_of(
        [helper.make_node("Add", ["x", "a"], ["y"])], [weight("a", 1), weight("b", 1), weight("unused", 1)]
    )
    model.graph.input.extend([value("b"), value("unused")])  # defaults that a caller may override
    tidy(model)
    assert [t.name for t in model.graph.initializer] == ["a", "b", "unused"]


def test_equal_weights_merge_however_they_are_encoded_and_differing_bits_do_not() -> None:
    plain = helper.make_tensor("b", TensorProto.FLOAT, SHAPE, [0.0] * 6)  # float_data, where the others are raw
    weights = [weight("a", 0.0), plain, weight("c", -0.0), weight("d", 0.0, (3, 2))]
    nodes = [helper.make_node("Sum", ["x", "a", "b", "c"], ["s"]), helper.make_node("MatMul", ["s", "d"], ["y"])]
    model = model_of(nodes, weights)
    merge_equal_initializers(model)
    assert [t.name for t in model.graph.initializer] == ["a", "c", "d"]
    assert list(model.graph.node[0].input) == ["x", "a", "a", "c"]


def test_what_a_subgraph_reads_from_outside_survives_under_its_new_name() -> None:
    def branch(name: str, used: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node("Add", ["x", used], [f"{name}_y"])], name, [], [value(f"{name}_y")])

    flag = numpy_helper.from_array(np.array(True), "flag")
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch("then", "a"), else_branch=branch("else", "b"))
    maker = helper.make_node("Relu", ["x"], ["only_inside"])
    model = model_of([maker, node], [flag, weight("a", 3), weight("b", 3)])
    wanted = run(model)
    tidy(model)
    assert [t.name for t in model.graph.initializer] == ["flag", "a"]
    assert [n.op_type for n in model.graph.node] == ["If"]
    np.testing.assert_array_equal(run(model)[0], wanted[0])


def test_each_pass_does_its_own_work_only() -> None:
    nodes = [constant("c", 1.0), helper.make_node("Relu", ["x"], ["dead"]), helper.make_node("Add", ["x", "c"], ["y"])]
    model = model_of(nodes, [weight("unused", 1.0)], infos=("dead", "gone"))
    drop_dead_nodes(model)
    assert [node.op_type for node in model.graph.node] == ["Constant", "Add"]
    assert len(model.graph.initializer) == 1
    drop_unused_initializers(model)
    assert len(model.graph.initializer) == 0
    assert [info.name for info in model.graph.value_info] == ["dead", "gone"]
    drop_stale_value_info(model)
    assert len(model.graph.value_info) == 0

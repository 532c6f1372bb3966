"""What is no sound graph is refused by name; what is only unusual is told."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, helper
from tiny import function, graph, model, node, value

from edgekit.errors import InputUnusable
from edgekit.graph.structure import MAX_NODES, OLDEST_OPSET, check_graph, check_structure, in_order, signature
from edgekit.profile import MAX_OPSET


def refusal(made: ModelProto) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        check_structure(made, "m.onnx")
    assert caught.value.exit_code == 4
    assert str(caught.value.where).startswith("m.onnx")
    assert caught.value.wanted
    return caught.value


def condition(then: onnx.GraphProto, other: onnx.GraphProto | None = None) -> ModelProto:
    """An If that reads c, whose branches make y."""
    chosen = node("If", "c", "y", then_branch=then, else_branch=other or branch("x"))
    return model([chosen], [value("x"), value("c", (), onnx.TensorProto.BOOL)])


def branch(reads: str, makes: str = "b") -> onnx.GraphProto:
    return graph([node("Neg", reads, makes)], outputs=[makes], name="branch")


def test_a_sound_model_is_told_what_it_is() -> None:
    traits = check_structure(model([node("Relu", "x", "h"), node("Neg", "h", "y")]), "m.onnx")
    assert (traits.opset, traits.nodes, traits.subgraphs) == (17, 2, 0)
    assert traits.notes() == ()


# --- the model as a whole


@pytest.mark.parametrize("part", ["nodes", "outputs"])
def test_a_graph_that_computes_nothing(part: str) -> None:
    made = model([node("Relu", "x", "y")])
    made.graph.ClearField("node" if part == "nodes" else "output")
    assert f"has no {part}" in refusal(made).what


@pytest.mark.parametrize("version", [0, 2, onnx.IR_VERSION + 1])
def test_another_version_of_the_format(version: int) -> None:
    made = model([node("Relu", "x", "y")])
    made.ir_version = version
    assert refusal(made).got == f"IR version {version}"


@pytest.mark.parametrize("opset", [-1, MAX_OPSET + 1, 99])
def test_opsets_out_of_range(opset: int) -> None:
    error = refusal(model([node("Relu", "x", "y")], opset=opset))
    assert (error.got, error.wanted) == (f"opset {opset}", f"opset {OLDEST_OPSET} to {MAX_OPSET}")


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 13, MAX_OPSET])
def test_opsets_in_range(opset: int) -> None:
    assert check_structure(model([node("Relu", "x", "y")], opset=opset), "m.onnx").opset == opset


def test_no_opset_for_operators_that_are_used() -> None:
    made = model([node("Relu", "x", "y")])
    made.opset_import[0].domain = "elsewhere"
    assert refusal(made).got == "no opset for ONNX's own operators"


def test_two_opsets_for_one_domain() -> None:
    made = model([node("Relu", "x", "y")])
    made.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    assert "twice" in refusal(made).what


def test_too_many_nodes_are_refused_at_once() -> None:
    made = ModelProto(ir_version=8)
    made.graph.output.append(value("y"))
    made.graph.node.extend([node("Relu", "x", "y")] * 100_000)
    start = time.perf_counter()
    assert refusal(made).got == "100000 nodes"
    assert time.perf_counter() - start < 1


def test_nodes_inside_nodes_count() -> None:
    many = graph([node("Neg", f"t{i}" if i else "x", f"t{i + 1}") for i in range(MAX_NODES)], outputs=["t1"])
    assert "too many nodes" in refusal(condition(many)).what


# --- functions


def calling(*names: str) -> ModelProto:
    tensors = ["x", *(f"t{i}" for i in range(1, len(names))), "y"]
    nodes = [node(name, tensors[i], tensors[i + 1], domain="own") for i, name in enumerate(names)]
    return model(nodes, domains=["own"])


def test_functions_are_taken_and_named() -> None:
    made = calling("Twice")
    made.functions.append(function("Twice", [node("Add", "x x", "y")]))
    traits = check_structure(made, "m.onnx")
    assert traits.functions == ("Twice",)
    assert "Twice" in traits.notes()[0]


def test_a_function_that_calls_itself_by_way_of_another() -> None:
    made = calling("A")
    made.functions.append(function("A", [node("B", "x", "y", domain="own")]))
    made.functions.append(function("B", [node("A", "x", "y", domain="own")]))
    error = refusal(made)
    assert error.what == "a function calls itself"
    assert "function A" in str(error.where)


def test_functions_that_unfold_without_measure() -> None:
    """Thirty bodies of two calls each are a billion nodes."""
    made = calling("F30")
    for i in range(1, 31):
        inner = [node(f"F{i - 1}", "x", "h", domain="own"), node(f"F{i - 1}", "h", "y", domain="own")]
        made.functions.append(function(f"F{i}", inner))
    made.functions.append(function("F0", [node("Neg", "x", "y")]))
    assert refusal(made).got == f"{2**30} nodes"


def test_functions_that_are_called_often_count_as_often() -> None:
    made = calling("F", "F", "F")
    made.functions.append(function("F", [node("Neg", "x", "h"), node("Neg", "h", "y")]))
    assert check_structure(made, "m.onnx").nodes == 6


def test_a_function_defined_twice() -> None:
    made = calling("F")
    made.functions.extend([function("F", [node("Neg", "x", "y")])] * 2)
    assert "defined twice" in refusal(made).what


def test_what_a_function_reads_must_be_its_own() -> None:
    made = calling("F")
    made.functions.append(function("F", [node("Add", "x outside", "y")]))
    assert "'outside'" in str(refusal(made).got)


# --- names


def test_an_initializer_that_is_missing() -> None:
    error = refusal(model([node("Conv", "x w", "y", name="stem")]))
    assert error.what == "the model reads a tensor that nothing makes"
    assert error.got == "'w', read by node stem"


def test_an_output_that_nothing_makes() -> None:
    assert "the outputs of the graph" in str(refusal(model([node("Relu", "x", "h")])).got)


def test_a_cycle() -> None:
    error = refusal(model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Neg", "b", "y")]))
    assert error.what == "the graph has a cycle"
    assert "node a" in str(error.got)


def test_a_node_that_reads_what_it_makes() -> None:
    assert "cycle" in refusal(model([node("Add", "x y", "y")])).what


def test_a_cycle_through_a_graph_inside_a_node() -> None:
    made = condition(branch("later"))
    made.graph.node.append(node("Neg", "y", "later"))
    assert "cycle" in refusal(made).what


def test_nodes_in_another_order_are_no_cycle() -> None:
    assert check_structure(model([node("Neg", "h", "y"), node("Relu", "x", "h")]), "m.onnx").nodes == 2


@pytest.mark.parametrize(
    "made",
    [
        model([node("Relu", "x", "y"), node("Neg", "x", "y")]),
        model([node("Relu", "x", "x"), node("Neg", "x", "y")]),
        model([node("Relu", "x", "w"), node("Add", "x w", "y")], weights={"w": np.zeros(3, np.float32)}),
        model([node("Relu", "x", "y")], [value("x"), value("x")]),
        condition(branch("x", "x")),
        condition(graph([node("Neg", "i", "b")], [value("c", ())], ["b"])),
    ],
    ids=["two nodes", "node and input", "node and weight", "two inputs", "inner node", "inner input"],
)
def test_names_that_stand_for_two_things(made: ModelProto) -> None:
    assert "same name" in refusal(made).what


def test_two_weights_of_one_name() -> None:
    made = model([node("Add", "x w", "y")], weights={"w": np.zeros(3, np.float32)})
    made.graph.initializer.append(made.graph.initializer[0])
    assert refusal(made).got == "'w', defined twice"


def test_an_initializer_may_be_the_default_of_an_input() -> None:
    made = model([node("Add", "x w", "y")], [value("x"), value("w")], weights={"w": np.zeros((1, 3), np.float32)})
    assert check_structure(made, "m.onnx").nodes == 1


def test_branches_may_use_the_same_names() -> None:
    assert check_structure(condition(branch("x"), branch("x")), "m.onnx").subgraphs == 2


def test_inner_graphs_see_outer_names_and_not_the_other_way_round() -> None:
    made = condition(branch("x"))
    made.graph.node.append(node("Neg", "b", "z"))
    assert "'b'" in str(refusal(made).got)


@pytest.mark.parametrize("word", [b"hidden", b"LeakyRelu", b"alpha"])
def test_a_name_that_is_no_text(word: bytes) -> None:
    data = model([node("LeakyRelu", "x", "hidden", alpha=0.5), node("Neg", "hidden", "y")]).SerializeToString()
    broken = onnx.load_model_from_string(data.replace(word, b"\xff" * len(word)))
    assert "not UTF-8" in refusal(broken).what


# --- operators


@pytest.mark.parametrize(
    ("op", "domain", "hint"),
    [
        ("Frobnicate", "", "ONNX's own operators"),
        ("Frobnicate", "own", "ONNX's own operators"),
        ("HardSwish", "", "a newer one"),
        ("Scaler", "ai.onnx.ml", "does not import that domain"),
    ],
)
def test_an_operator_that_nobody_knows(op: str, domain: str, hint: str) -> None:
    made = model([node(op, "x", "y", domain=domain, name="culprit")], opset=13, domains=["own"])
    error = refusal(made)
    assert error.what == "the model has an operator that nobody knows"
    assert "culprit" in str(error.where)
    assert f"{op} of {domain or 'ai.onnx'}" in str(error.got)
    assert hint in str(error.hint)


def test_what_only_onnx_runtime_knows_is_told() -> None:
    made = model([node("Gelu", "x", "y", domain="com.microsoft")], domains=["com.microsoft"])
    traits = check_structure(made, "m.onnx")
    assert traits.foreign == ("com.microsoft::Gelu",)
    assert "no target takes" in traits.notes()[0]


@pytest.mark.parametrize(
    ("made", "got"),
    [
        (node("Relu", "x x", "y"), "2 inputs"),
        (node("Conv", "x", "y"), "1 inputs"),
        (node("Relu", "x", "y z"), "2 outputs"),
        (node("Concat", "x x", "y"), "no attribute axis"),
        (node("Concat", "x x", "y", axis="0"), "attribute axis of type string"),
        (node("Relu", "x", "y", slope=0.5), "an attribute slope"),
    ],
)
def test_an_operator_used_in_another_way(made: onnx.NodeProto, got: str) -> None:
    assert got in str(refusal(model([made])).got)


def test_an_operator_that_was_taken_out() -> None:
    scales = {"s": np.ones(2, np.float32)}
    upsample = [node("Upsample", "x s", "y")]
    assert check_structure(model(upsample, weights=scales, opset=9), "m.onnx").nodes == 1
    assert "taken out" in str(refusal(model(upsample, weights=scales, opset=10)).got)


def test_what_a_graph_inside_a_node_does_counts_as_well() -> None:
    made = condition(graph([node("Frobnicate", "x", "b", name="deep")], outputs=["b"]))
    assert "y/then_branch/deep" in str(refusal(made).where)


def test_operators_are_nobodys_business_but_check_structures() -> None:
    assert check_graph(model([node("Frobnicate", "x", "y")], opset=99), "m.onnx")[1] == 1


def test_what_is_unusual_is_told() -> None:
    made = model([node("RandomUniformLike", "x", "r"), node("Add", "x r", "y")])
    made.training_info.add()
    traits = check_structure(made, "m.onnx")
    assert (traits.random, traits.training) == (("RandomUniformLike",), True)
    assert len(traits.notes()) == 2


def test_a_signature_is_that_of_the_version() -> None:
    older, newer = signature("Clip", 6, ""), signature("Clip", 11, "")
    assert older is not None
    assert newer is not None
    assert set(older.attributes) == {"min", "max"}
    assert (newer.inputs, set(newer.attributes)) == ((1, 3), set())
    assert signature("Frobnicate", 17, "") is None


# --- order


@given(st.dictionaries(st.integers(0, 12), st.sets(st.integers(0, 12), max_size=3), max_size=12))
def test_an_order_has_everything_behind_what_it_waits_for(edges: dict[int, set[int]]) -> None:
    waits_for = {key: {other for other in needed if other in edges} for key, needed in edges.items()}
    order = in_order(waits_for)
    assert len(set(order)) == len(order)
    for place, key in enumerate(order):
        assert waits_for[key] <= set(order[:place])
    stuck = set(waits_for) - set(order)
    assert all(waits_for[key] & stuck for key in stuck)  # each waits for another that is stuck

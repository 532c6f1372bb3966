"""A tensor that is folded into another is set apart from it, and said to be gone; what is as before is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from subjects import Subject

from edgekit.graph.folded import FOLDED_KEY, folded, set_folded_apart
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
SCALE = np.array([2, 3], np.float32).reshape(1, 2, 1, 1)
WEIGHT = np.arange(1, 7, dtype=np.float32).reshape(2, 3, 1, 1)


def model_of(nodes: list[NodeProto], weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(SCALE, "s")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def conv(output: str = "c") -> NodeProto:
    return helper.make_node("Conv", ["x", "w"], [output], name="conv")


def scaled() -> onnx.ModelProto:
    """A convolution, its Mul, and a Relu that reads that."""
    return model_of(
        [
            conv(),
            helper.make_node("Mul", ["c", "s"], ["m"], name="mul"),
            helper.make_node("Relu", ["m"], ["y"], name="relu"),
        ]
    )


def without_its_mul() -> onnx.ModelProto:
    """The same with the scale in the weights: under the convolution's name is now what was the Mul's."""
    nodes = [conv(), helper.make_node("Relu", ["c"], ["y"], name="relu")]
    return model_of(nodes, WEIGHT * SCALE.reshape(2, 1, 1, 1))


def props(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def test_a_tensor_whose_name_means_something_else_is_renamed_and_declared() -> None:
    changed = without_its_mul()
    set_folded_apart(scaled(), changed, ["c"])
    assert [list(node.output) for node in changed.graph.node] == [["c:folded"], ["y"]]
    assert list(changed.graph.node[1].input) == ["c:folded"]
    assert folded(props(changed)) == {"c"}


def test_the_graph_computes_what_it_did() -> None:
    changed, x = without_its_mul(), np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    set_folded_apart(scaled(), changed, ["c"])
    onnx.checker.check_model(changed, full_check=True)
    np.testing.assert_allclose(CpuSession(changed)({"x": x})["y"], CpuSession(scaled())({"x": x})["y"], rtol=1e-6)


def test_the_declaration_survives_the_file() -> None:
    changed = without_its_mul()
    set_folded_apart(scaled(), changed, ["c"])
    assert folded(CpuSession(changed.SerializeToString()).metadata) == {"c"}


def test_other_metadata_stay() -> None:
    changed = without_its_mul()
    helper.set_model_props(changed, {"author": "somebody"})
    set_folded_apart(scaled(), changed, ["c"])
    assert props(changed) == {"author": "somebody", FOLDED_KEY: "c"}


def test_an_unchanged_graph_is_left_alone() -> None:
    changed = scaled()
    set_folded_apart(scaled(), changed, ["c", "m"])
    assert changed == scaled()
    assert folded(props(changed)) == frozenset()


def test_tensors_that_nobody_asks_for_are_left_alone() -> None:
    changed = without_its_mul()
    set_folded_apart(scaled(), changed, ["x", "m", "nothing"])
    assert changed == without_its_mul()


def test_what_is_gone_for_good_needs_no_other_name() -> None:
    """The Mul's own tensor is not in the changed graph at all: the ladder finds it missing by itself."""
    changed = without_its_mul()
    set_folded_apart(scaled(), changed, ["c", "m"])
    assert folded(props(changed)) == {"c"}


def test_every_reader_follows_the_new_name() -> None:
    def graph(*, multiplied: bool) -> onnx.ModelProto:
        last = "m" if multiplied else "c"
        scale = [helper.make_node("Mul", ["c", "s"], ["m"], name="mul")] if multiplied else []
        readers = [helper.make_node(op, [last], [op], name=op) for op in ("Relu", "Abs")]
        joined = helper.make_node("Add", ["Relu", "Abs"], ["y"], name="add")
        return model_of([conv(), *scale, *readers, joined])

    changed = graph(multiplied=False)
    set_folded_apart(graph(multiplied=True), changed, ["c"])
    assert [list(node.input) for node in changed.graph.node] == [
        ["x", "w"],
        ["c:folded"],
        ["c:folded"],
        ["Relu", "Abs"],
    ]


def test_an_export_compared_with_itself_has_nothing_folded(network: Network) -> None:
    subject = network("mobilenet_v2")
    changed = subject.graph()
    set_folded_apart(subject.graph(), changed, [anchor.name for anchor in subject.anchors])
    assert changed == subject.graph()


def test_no_metadata_declare_nothing() -> None:
    assert folded({}) == folded({FOLDED_KEY: ""}) == frozenset()
    assert folded({FOLDED_KEY: "a\nb"}) == {"a", "b"}

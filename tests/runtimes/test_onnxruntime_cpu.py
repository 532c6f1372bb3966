"""ONNX Runtime on the CPU: outputs by name, intermediates on request, one clear error for a graph that will not do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from subjects import Subject

from edgekit.errors import InputUnusable
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
THREE = np.array([[-1.0, 0.0, 2.0]], np.float32)
FEEDS = {"input": THREE}


def chain(*operators: str, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The operators one after the other on a float input (1, 3), each output named for its operator."""
    nodes, last = [], "input"
    for operator in operators:
        nodes.append(helper.make_node(operator, [last], [operator]))
        if operator == "Cast":
            nodes[-1].attribute.append(helper.make_attribute("to", dtype))
        last = operator
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info(last, dtype, [1, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("serialised", [True, False])
def test_outputs_come_by_name(serialised: bool) -> None:
    model = chain("Relu", "Neg")
    session = CpuSession(model.SerializeToString() if serialised else model)
    assert (session.inputs, session.outputs) == (["input"], ["Neg"])
    found = session(FEEDS)
    assert set(found) == {"Neg"}
    assert np.array_equal(found["Neg"], [[0.0, 0.0, -2.0]])


@pytest.mark.parametrize("serialised", [True, False])
def test_intermediate_tensors_come_on_request_and_the_model_stays_as_it_is(serialised: bool) -> None:
    model = chain("Abs", "Neg", "Exp")
    before = model.SerializeToString()
    found = CpuSession(before if serialised else model, ["Neg", "Abs"])(FEEDS)
    assert set(found) == {"Exp", "Neg", "Abs"}
    assert np.array_equal(found["Abs"], [[1.0, 0.0, 2.0]])
    assert np.array_equal(found["Neg"], [[-1.0, 0.0, -2.0]])
    assert model.SerializeToString() == before


def difference_and_sum() -> onnx.ModelProto:
    """Two inputs, a float one and a whole one, and two outputs."""
    nodes = [
        helper.make_node("Cast", ["whole"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["real", "cast"], ["difference"]),
        helper.make_node("Add", ["real", "cast"], ["sum"]),
    ]
    made = helper.make_graph(
        nodes,
        "two",
        [
            helper.make_tensor_value_info("real", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("whole", TensorProto.INT64, [1, 3]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("difference", "sum")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_several_inputs_and_outputs_go_by_name() -> None:
    session = CpuSession(difference_and_sum())
    assert (session.inputs, session.outputs) == (["real", "whole"], ["difference", "sum"])
    feeds = {"whole": np.array([[1, 2, 3]]), "real": THREE}
    found = session(feeds)
    assert list(found) == ["difference", "sum"]
    assert np.array_equal(found["difference"], [[-2.0, -2.0, -1.0]])
    assert np.array_equal(found["sum"], [[0.0, 2.0, 5.0]])
    assert list(session(feeds, wanted=["sum"])) == ["sum"]
    assert np.array_equal(session(feeds, wanted=["sum"])["sum"], found["sum"])


@pytest.mark.parametrize(
    ("feeds", "said"), [({"real": THREE}, "whole"), ({}, "whole"), ({"real": THREE, "whole": THREE}, "int64")]
)
def test_an_input_that_is_missing_or_of_another_type_is_refused(
    feeds: dict[str, NDArray[np.float32]], said: str
) -> None:
    with pytest.raises(InputUnusable, match="cannot run the graph") as refused:
        CpuSession(difference_and_sum())(feeds)
    assert said in (refused.value.got or "")


def test_a_tensor_that_is_not_there_is_not_handed_back() -> None:
    """The ladder names it; a session does not guess."""
    assert set(CpuSession(chain("Abs", "Neg"), ["elsewhere"])(FEEDS)) == {"Neg"}


def test_half_precision_tensors_come_back_as_float32() -> None:
    found = CpuSession(chain("Cast", "Relu", dtype=TensorProto.FLOAT16), ["Cast"])({"input": THREE / 3})
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert np.array_equal(found["Cast"], (THREE / 3).astype(np.float16).astype(np.float32))


def test_every_layer_of_a_network_can_be_seen(network: Network) -> None:
    subject = network("mobilenet_v2")
    names = [anchor.name for anchor in subject.anchors if not anchor.is_output]
    for model in (subject.exported, subject.fp16):
        found = CpuSession(model, names)(subject.inputs[0].feeds)
        assert set(found) == {"logits", *names}
        assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_looking_at_the_layers_hardly_moves_the_outputs(network: Network) -> None:
    """Fusions end where a tensor is asked for; what is compared must still be what is deployed."""
    subject = network("mobilenet_v2")
    names = [anchor.name for anchor in subject.anchors if not anchor.is_output]
    feeds = subject.inputs[0].feeds
    plain, watched = (
        CpuSession(subject.exported)(feeds)["logits"],
        CpuSession(subject.exported, names)(feeds)["logits"],
    )
    assert np.abs(plain - watched).max() < 1e-5 * np.abs(plain).max()


@pytest.mark.parametrize("model", [b"", b"no model at all", b"\x08\x07" * 50])
def test_what_is_no_graph_is_refused(model: bytes) -> None:
    with pytest.raises(InputUnusable, match="cannot load the graph") as refused:
        CpuSession(model)
    assert refused.value.got


def test_an_operator_that_nobody_knows_is_refused_at_once() -> None:
    with pytest.raises(InputUnusable, match="cannot load the graph") as refused:
        CpuSession(chain("Relu", "Frobnicate"))
    assert "Frobnicate" in (refused.value.got or "")


def test_another_shape_is_refused_with_what_was_found(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputUnusable, match="cannot run the graph") as refused:
        CpuSession(chain("Relu"))({"input": np.zeros((1, 5), np.float32)})
    assert "5" in (refused.value.got or "")
    assert capfd.readouterr() == ("", "")  # it is raised, and not printed too

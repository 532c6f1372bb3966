"""What a graph does with numbers that it is given."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto
from tiny import graph, model, node, value

from edgekit.graph.indices import Meaning, is_parameter, meaning

WEIGHTS = {
    "table": np.zeros((50, 4), np.float32),
    "small": np.zeros((7, 4), np.float32),
    "depth": np.array(9),
    "values": np.array([0.0, 1.0], np.float32),
    "rate": np.array(16000),
    "shape": np.array([1, -1]),
}


def of(*nodes: NodeProto) -> ModelProto:
    return model(nodes, [value("i", (1, 4), TensorProto.INT64), value("x")], weights=WEIGHTS)


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([node("Gather", "table i", "y")], Meaning(below=50)),
        ([node("Gather", "table i", "y", axis=1)], Meaning(below=4)),
        ([node("Gather", "table i", "y", axis=-2)], Meaning(below=50)),
        ([node("Cast", "i", "c", to=6), node("Reshape", "c shape", "r"), node("Gather", "table r", "y")], Meaning(50)),
        ([node("Gather", "table i", "y"), node("Gather", "small i", "z")], Meaning(below=7)),
        ([node("OneHot", "i depth values", "y")], Meaning(below=9)),
        ([node("Equal", "i rate", "y")], Meaning(choices=(16000,))),
        ([node("Equal", "rate i", "y")], Meaning(choices=(16000,))),
        ([node("Reshape", "x i", "y")], Meaning(parameter=True)),
        ([node("Tile", "x i", "y")], Meaning(parameter=True)),
        ([node("Add", "i i", "y")], Meaning()),
        ([node("Gather", "x i", "y")], Meaning()),
        ([node("Gather", "table x", "y")], Meaning()),
    ],
)
def test_what_the_numbers_mean(nodes: list[NodeProto], found: Meaning) -> None:
    assert meaning(of(*nodes), "i") == found


def test_numbers_are_followed_into_graphs_inside_nodes() -> None:
    inner = graph([node("Gather", "table i", "b")], outputs=["b"])
    made = of(node("If", "c", "y", then_branch=inner, else_branch=inner))
    assert meaning(made, "i").below == 50


def test_constants_in_nodes_count() -> None:
    constant = node("Constant", "", "k", value_int=3)
    tensor = node("Constant", "", "t", value=of().graph.initializer[4])
    assert meaning(of(constant, tensor, node("Equal", "i t", "y")), "i").choices == (16000,)


@pytest.mark.parametrize(("op", "place", "yes"), [("Resize", 2, True), ("Resize", 0, False), ("ReduceMean", 1, True)])
def test_parameters(op: str, place: int, yes: bool) -> None:
    assert is_parameter(node(op, "x a b", "y"), place) is yes

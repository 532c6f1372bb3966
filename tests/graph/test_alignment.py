"""Which tensor of a changed graph is which of the original."""

from __future__ import annotations

from onnx import ModelProto, NodeProto
from tiny import model, node

from edgekit.graph.alignment import align


def of(*nodes: NodeProto, outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    return model(nodes, outputs=outputs)


ORIGINAL = of(
    node("Conv", "x w", "c"),
    node("BatchNormalization", "c s b m v", "n"),
    node("Relu", "n", "r"),
    node("Conv", "r w2", "y"),
)


def test_a_graph_is_like_itself() -> None:
    assert align(ORIGINAL, ORIGINAL) == {name: name for name in "cnry"}


def test_a_folded_norm_is_found_under_the_convolutions_name() -> None:
    folded = of(node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("Conv", "r w2", "y"))
    assert align(ORIGINAL, folded) == {"c": "n", "r": "r", "y": "y"}


def test_a_node_that_fell_away_is_found_under_the_name_that_took_its_place() -> None:
    """Whether it may fall away is not for this to say: the values will."""
    shorter = of(node("Conv", "x w", "c"), node("BatchNormalization", "c s b m v", "n"), node("Conv", "n w2", "y"))
    assert align(ORIGINAL, shorter) == {"c": "c", "n": "r", "y": "y"}


def test_a_name_that_means_something_else_and_is_read_by_nobody_known_is_left_out() -> None:
    other = of(node("Add", "x x", "r"), node("Neg", "r", "y"))
    assert align(ORIGINAL, other) == {"y": "y"}


def test_outputs_are_what_they_are_called() -> None:
    swapped = of(node("Neg", "x", "y"))
    assert align(ORIGINAL, swapped) == {"y": "y"}


def test_readers_that_contradict_each_other_say_nothing() -> None:
    before = of(node("Neg", "x", "a"), node("Exp", "a", "b"), node("Relu", "a", "p"), node("Abs", "b", "y"))
    after = of(node("Neg", "x", "a"), node("Relu", "a", "p"), node("Abs", "a", "y"))
    assert "a" not in align(before, after)


def test_the_order_of_a_sum_means_nothing() -> None:
    before = of(node("Neg", "x", "a"), node("Exp", "x", "b"), node("Add", "a b", "y"))
    after = of(node("Neg", "x", "a"), node("Exp", "x", "b"), node("Add", "b a", "y"))
    assert align(before, after) == {"a": "a", "b": "b", "y": "y"}


def test_the_order_of_a_difference_does() -> None:
    before = of(node("Neg", "x", "a"), node("Exp", "x", "b"), node("Sub", "a b", "y"))
    after = of(node("Neg", "x", "a"), node("Exp", "x", "b"), node("Sub", "b a", "y"))
    assert align(before, after) == {"a": "b", "b": "a", "y": "y"}


def test_a_cast_in_between_stands_for_what_it_casts() -> None:
    half = of(
        node("Conv", "x w", "c"),
        node("BatchNormalization", "c s b m v", "n"),
        node("Relu", "n", "r"),
        node("Cast", "r", "r_cast", to=10),
        node("Conv", "r_cast w2", "y"),
    )
    assert align(ORIGINAL, half) == {"c": "c", "n": "n", "r": "r", "r_cast": "r", "y": "y"}

"""The inputs that a graph wants, and sizes for the axes that it leaves open."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from tiny import Axes, model, node, value

from edgekit.errors import InputUnusable, UsageError
from edgekit.graph.interface import ALTERNATIVES, Slot, Usual, sized, slots


def of(*axes: Axes, kind: int = TensorProto.FLOAT) -> ModelProto:
    """A model with an input for each, named a, b, c..."""
    inputs = [value(chr(97 + i), wanted, kind) for i, wanted in enumerate(axes)]
    return model([node("Relu", "a", "y")], inputs)


def shapes(made: ModelProto, usual: Usual = ALTERNATIVES[0], **sizes: int) -> list[tuple[int, ...]]:
    named = {key.replace("__", "."): size for key, size in sizes.items()}
    return [slot.shape for slot in sized(slots(made), named, usual)]


def test_inputs_that_are_initializers_are_not_fed() -> None:
    made = model([node("Add", "x w", "y")], [value("x"), value("w")], weights={"w": np.zeros((1, 3), np.float32)})
    assert [slot.name for slot in slots(made)] == ["x"]


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ((1, 3, 32, 48), (1, 3, 32, 48)),
        ((None, 3, None, None), (1, 3, 224, 224)),
        (("batch", 1, "height", "width"), (1, 1, 224, 224)),
        (("N", None, None, 3), (1, 224, 224, 3)),
        (("N", 3, 48, None), (1, 3, 48, 224)),
        ((None, None), (1, 32)),
        (("sequence_length", 576), (32, 576)),
        (("batch", "sequence", 64), (1, 32, 64)),
        ((2, None, 128), (2, 1, 128)),
        ((None, None, None), (1, 32, 32)),
        ((0, 4), (0, 4)),
        ((), ()),
    ],
)
def test_open_axes_get_usual_sizes(axes: Axes, shape: tuple[int, ...]) -> None:
    assert shapes(of(axes)) == [shape]


def test_a_negative_size_is_an_open_axis() -> None:
    made = of((1, 3, 8, 8))
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert shapes(made, batch=4) == [(4, 3, 8, 8)]


def test_axes_of_one_name_have_one_size() -> None:
    made = of(("batch", "tokens"), ("batch", "tokens"), ("batch", 1, "tokens", "tokens"))
    assert shapes(made, batch=2, tokens=7) == [(2, 7), (2, 7), (2, 1, 7, 7)]


@given(st.integers(1, 64), st.integers(1, 64))
def test_axes_are_set_by_name_and_by_place(name: int, place: int) -> None:
    assert shapes(of((None, "tokens", None)), tokens=name, a__2=place) == [(1, name, place)]


def test_a_question_mark_is_no_name() -> None:
    assert shapes(of(("?", 3, "?", "?")), a__2=48) == [(1, 3, 48, 224)]


@pytest.mark.parametrize("key", ["tokns", "a.1", "b.0", "c"])
def test_sizes_of_no_open_axis(key: str) -> None:
    with pytest.raises(UsageError, match="no such axis") as caught:
        sized(slots(of(("batch", 3, "tokens"))), {key: 4})
    assert caught.value.got == key
    assert caught.value.hint


def test_a_misspelt_axis_is_told_the_right_one() -> None:
    with pytest.raises(UsageError) as caught:
        sized(slots(of(("batch", "tokens"))), {"tokns": 4})
    assert caught.value.hint == "did you mean tokens?"


def test_a_size_of_nothing() -> None:
    with pytest.raises(UsageError, match="that size"):
        sized(slots(of(("batch", 3))), {"batch": 0})


@pytest.mark.parametrize(
    ("axes", "kind", "channels"),
    [
        ((1, 3, 8, 8), TensorProto.FLOAT, 1),
        ((1, 1, 8, 8), TensorProto.FLOAT16, 1),
        ((1, 8, 8, 3), TensorProto.UINT8, 3),
        ((1, 8, 8, 8), TensorProto.FLOAT, None),
        ((1, 3, 8, 8), TensorProto.INT64, None),
        ((3, 8, 8), TensorProto.FLOAT, None),
    ],
)
def test_what_is_taken_for_an_image(axes: Axes, kind: int, channels: int | None) -> None:
    assert slots(of(axes, kind=kind))[0].channels == channels


def test_open_channels_are_those_of_the_convolution() -> None:
    weights = {"w": np.zeros((8, 2, 3, 3), np.float32)}
    made = model([node("Conv", "x w", "y", group=2)], [value("x", (None, None, None, None))], weights=weights)
    assert sized(slots(made), {})[0].shape == (1, 4, 32, 32)


def test_another_choice_of_sizes_can_be_asked_for() -> None:
    made = of((None, 3, None, None), (None, None))
    assert shapes(made, Usual(48, 320, 128)) == [(1, 3, 48, 320), (1, 128)]
    assert shapes(of((None, None, None, 3)), Usual(48, 320, 128)) == [(1, 48, 320, 3)]


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, 999])
def test_types_that_cannot_be_fed(kind: int) -> None:
    with pytest.raises(InputUnusable, match="cannot be fed") as caught:
        slots(of((1, 3), kind=kind))
    assert caught.value.where == "input a"


def test_what_is_no_tensor_cannot_be_fed() -> None:
    made = of((1, 3))
    sequence = helper.make_sequence_type_proto(made.graph.input[0].type)
    made.graph.input[0].type.CopyFrom(sequence)
    with pytest.raises(InputUnusable) as caught:
        slots(made)
    assert caught.value.got == "sequence"


def test_an_input_of_unknown_rank_has_to_be_given() -> None:
    [slot] = slots(of(None))
    assert slot == Slot("a", TensorProto.FLOAT, None)
    with pytest.raises(InputUnusable, match="how many axes") as caught:
        sized([slot], {})
    assert ".npz" in str(caught.value.hint)


def test_inputs_that_would_not_fit_in_memory() -> None:
    with pytest.raises(InputUnusable, match="too large") as caught:
        sized(slots(of((1, 3, 1 << 20, 1 << 20))), {})
    assert str(caught.value.got).startswith("1x3x1048576x1048576")

"""Whatever a module returns becomes tensors with names."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgekit.errors import InputUnusable
from edgekit.sources.outputs import FLAT_PREFIX, Flat, form_of, leaves, name_outputs

Pair = namedtuple("Pair", "boxes scores")


@dataclass
class Result:
    logits: Tensor
    loss: None
    hidden: tuple[Tensor, ...]


class ModelOutput(OrderedDict[str, Tensor]):
    """As other libraries return results: a mapping whose entries are attributes, too."""


def t(*shape: int) -> Tensor:
    return torch.zeros(*(shape or (1, 4)))


def names(value: object, images: bool = True) -> tuple[str, ...]:
    found = list(leaves(value))
    return name_outputs(found, form_of(found, images))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (t(1, 10), ("logits",)),
        ((t(1, 10),), ("logits",)),
        ([t(1, 10), None], ("logits",)),
        (t(1, 3, 8, 8), ("output",)),
        (t(1, 10, 4), ("output",)),
        (torch.zeros(1, 10, dtype=torch.int64), ("output",)),
        ((t(), t()), ("output_0", "output_1")),
        ({"out": t(1, 10)}, ("out",)),
        ({"out": t(), "aux": t()}, ("out", "aux")),
        (Pair(t(), t()), ("boxes", "scores")),
        (Result(t(), None, (t(), t())), ("logits", "hidden_0", "hidden_1")),
        (ModelOutput(logits=t(), state=t()), ("logits", "state")),
        ((t(), {"a": t(), "b": [t(), None, t()]}), ("output_0", "output_1_a", "output_1_b_0", "output_1_b_2")),
        ({"a b/c": t(), "1": t()}, ("a_b_c", "output_1")),
        ({"": t(), "²": t()}, ("output_", "_")),
        ({"a b": t(), "a_b": t(), "x": t()}, ("a_b", "a_b_2", "x")),
    ],
)
def test_outputs_are_named_by_the_way_to_them(value: object, expected: tuple[str, ...]) -> None:
    assert names(value) == expected


def test_what_does_not_come_from_an_image_is_no_classifier() -> None:
    assert names(t(1, 10), images=False) == ("output",)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"loss": 3.0}, "loss is a float"),
        ((t(), "cat"), "output_1 is a str"),
        (3, "its result is a int"),
        ({"a": [object()]}, "a_0 is a object"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a is sparse_coo"),
    ],
)
def test_anything_else_is_refused_by_its_name(value: object, says: str) -> None:
    with pytest.raises(InputUnusable) as caught:
        list(leaves(value))
    assert says in str(caught.value)


trees = st.recursive(
    st.one_of(st.none(), st.just("tensor")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3), st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@given(trees)
def test_every_name_is_another_and_fit_for_a_graph(tree: object) -> None:
    def planted(node: object) -> object:
        if isinstance(node, dict):
            return {key: planted(child) for key, child in node.items()}
        if isinstance(node, list | tuple):
            return [planted(child) for child in node]
        return t() if node == "tensor" else None

    found = names(planted(tree))
    assert len(set(found)) == len(found)
    assert all(name.isidentifier() for name in found)


class Returns(nn.Module):
    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(4, 4), make

    def forward(self, x: Tensor, scale: Tensor | None = None) -> object:
        y = self.layer(x)
        return self.make(y if scale is None else y * scale)


def test_a_flat_module_returns_what_the_other_does_as_tensors() -> None:
    inner = Returns(lambda y: {"a": y, "b": (None, [y + 1])})
    flat, x = Flat(inner, ("a", "b_1_0")), torch.randn(2, 4)
    a, b = flat(x)
    assert torch.equal(a, inner.layer(x))
    assert torch.equal(b, a + 1)
    assert set(flat.state_dict()) == {FLAT_PREFIX + name for name in inner.state_dict()}


def test_a_flat_module_of_one_output_returns_it() -> None:
    x = torch.randn(2, 4)
    assert torch.is_tensor(Flat(Returns(lambda y: (y, None)), ("output",))(x))


def test_inputs_can_go_in_by_keyword() -> None:
    inner, x, scale = Returns(lambda y: {"y": y}), torch.randn(2, 4), torch.tensor(3.0)
    flat = Flat(inner, ("y",), keywords=("scale", "x"))
    assert torch.equal(flat(scale, x), inner.layer(x) * 3.0)


def test_a_module_that_returns_another_number_of_tensors_is_found_out() -> None:
    with pytest.raises(RuntimeError, match="2 tensors, and 1 before"):
        Flat(Returns(lambda y: (y, y)), ("output",))(torch.randn(1, 4))

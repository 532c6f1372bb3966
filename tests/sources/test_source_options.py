"""`--option KEY=VALUE` for code that is not ours."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.sources import options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1e-3", 1e-3),
        ("True", True),
        ("true", True),
        ("FALSE", False),
        ("None", None),
        ("none", "none"),
        ("relu", "relu"),
        ("'12'", "12"),
        ("[1, 2]", "[1, 2]"),
        ("1+2", "1+2"),
        ("__import__('os')", "__import__('os')"),
        ("007", "007"),
    ],
)
def test_values_are_read_as_python_reads_literals(text: str, value: object) -> None:
    found = options.parse_literal(text)
    assert found == value
    assert type(found) is type(value)


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none(), st.text()))
def test_what_python_writes_is_read_back(value: object) -> None:
    assert options.parse_literal(repr(value)) == value


@given(st.text(max_size=50))
def test_any_text_is_a_value(text: str) -> None:
    value = options.parse_literal(text)
    assert value is None or isinstance(value, bool | int | float | str)
    assert not (isinstance(value, float) and math.isnan(value))


def test_what_has_an_option_of_its_own_is_refused() -> None:
    with pytest.raises(UsageError, match="use --alpha"):
        options.parse({"width_mult": "0.5"}, {"width_mult": "use --alpha"})


def f(a: int, /, b: int, *, c: int = 0, **rest: int) -> None: ...


def test_the_names_that_can_be_given_are_known() -> None:
    assert options.keywords(options.parameters(f) or []) == ["b", "c"]
    assert options.parameters(3) is None  # type: ignore[arg-type]


def call(**given: object) -> None:
    def inner(block: int, layers: int = 3) -> None: ...

    with options.refusing("net", given, ["layers"]):
        inner(0, **given)  # type: ignore[arg-type]


def test_a_call_that_does_not_take_an_option_says_which_it_takes() -> None:
    call(layers=2)
    with pytest.raises(UsageError, match="did you mean layers"):
        call(layer=2)
    with pytest.raises(UsageError, match="sets block itself"):
        call(block=2)


def test_a_type_error_of_another_kind_is_left_alone() -> None:
    with pytest.raises(TypeError, match="wrong"), options.refusing("net", {"a": 1}, []):
        raise TypeError("something else is wrong")
    with pytest.raises(TypeError, match="unexpected"), options.refusing("net", {"a": 1}, []):
        raise TypeError("g() got an unexpected keyword argument 'other'")

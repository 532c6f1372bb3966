"""Reading plain data into dataclasses: what fits, what does not, and that every mistake is told at once."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.schema import Problem, Rules, SchemaError, check, read, to_json
from edgekit.variant import Variant


def _ends_in_order(first: int, last: int) -> Iterator[Problem]:
    if first > last:
        yield Problem("last", str(last), f"at least {first}")


@dataclass(frozen=True)
class Span:
    first: int
    last: int
    note: str | None = None
    rules: ClassVar[Rules] = (_ends_in_order,)


def _is_even(value: int) -> bool:
    return value % 2 == 0


@dataclass(frozen=True)
class Machine:
    name: str
    kind: Literal["small", "large", 3]
    scale: float
    on: bool
    spans: tuple[Span, ...]
    pair: tuple[int, str]
    sizes: dict[str, float]
    best: Span | None
    either: int | str
    even: int = field(default=2, metadata={"check": _is_even, "wanted": "an even number"})
    tags: tuple[str, ...] = field(default_factory=tuple)


GOOD: dict[str, object] = {
    "name": "a",
    "kind": "small",
    "scale": 1,
    "on": True,
    "spans": [{"first": 1, "last": 2}],
    "pair": [1, "x"],
    "sizes": {"a.b": 2},
    "best": None,
    "either": "x",
}


def problems_of(data: object, kind: type = Machine) -> dict[str, Problem]:
    with pytest.raises(SchemaError) as caught:
        read(kind, data)
    return {problem.key: problem for problem in caught.value.problems}


def test_good_data_become_the_dataclass_with_its_defaults() -> None:
    machine = read(Machine, GOOD)
    assert machine == Machine("a", "small", 1.0, True, (Span(1, 2),), (1, "x"), {"a.b": 2.0}, None, "x", 2, ())
    assert isinstance(machine.scale, float)


@pytest.mark.parametrize(
    ("change", "key", "got", "wanted"),
    [
        ({"name": 3}, "name", "3", "text"),
        ({"name": None}, "name", "null", "text"),
        ({"kind": "smal"}, "kind", '"smal"', 'one of "small", "large", 3'),
        ({"kind": 3.0}, "kind", "3.0", 'one of "small", "large", 3'),
        ({"scale": math.nan}, "scale", "nan", "a number"),
        ({"scale": 10**400}, "scale", "a whole number of 1329 bits", "a number"),
        ({"scale": True}, "scale", "true", "a number"),
        ({"scale": "1"}, "scale", '"1"', "a number"),
        ({"on": 1}, "on", "1", "true or false"),
        ({"spans": {}}, "spans", "a table", "a list, each a table with the keys first, last, note"),
        ({"spans": [3]}, "spans[0]", "3", "a table with the keys first, last, note"),
        ({"spans": [{"first": 1, "last": True}]}, "spans[0].last", "true", "a whole number"),
        ({"pair": [1]}, "pair", "[1]", "a list of 2: a whole number, text"),
        ({"pair": [1, 2]}, "pair[1]", "2", "text"),
        ({"sizes": {"a.b": "x"}}, 'sizes."a.b"', '"x"', "a number"),
        ({"sizes": {1: 1.0}}, "sizes", "a table", "a table, each value a number"),
        ({"best": {"first": 1}}, "best.last", "nothing", "a whole number"),
        ({"best": 5}, "best", "5", "a table with the keys first, last, note"),
        ({"either": []}, "either", "[]", "a whole number or text"),
        ({"even": 3}, "even", "3", "an even number"),
        ({"even": "x"}, "even", '"x"', "an even number"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found_and_wanted(
    change: dict[str, object], key: str, got: str, wanted: str
) -> None:
    assert problems_of(GOOD | change) == {key: Problem(key, got, wanted, problems_of(GOOD | change)[key].hint)}


def test_a_misspelt_option_and_a_misspelt_key_get_a_suggestion() -> None:
    found = problems_of({**GOOD, "kind": "smal", "naem": 1})
    assert found["kind"].hint == "did you mean small?"
    assert found["naem"].got == "an unknown key"
    assert found["naem"].hint is not None
    assert "did you mean name" in found["naem"].hint


def test_every_mistake_is_told_at_once_rules_included() -> None:
    spans = [{"first": 5, "last": 1}, {"first": "x", "last": 1}]
    found = problems_of({"name": 1, "spans": spans, "extra": 0, "even": 1})
    assert {"name", "spans[0].last", "spans[1].first", "extra", "even", "kind", "pair", "best"} <= set(found)
    assert found["spans[0].last"].wanted == "at least 5"
    assert found["kind"].got == "nothing"


def test_a_rule_runs_although_an_unrelated_field_is_wrong_but_not_on_a_wrong_field() -> None:
    assert set(problems_of({"first": 3, "last": 1, "note": 7}, Span)) == {"last", "note"}
    assert set(problems_of({"first": "3", "last": 1}, Span)) == {"first"}


def test_what_a_constructor_refuses_is_a_problem_too() -> None:
    data = {"model": "m", "alpha": -1.0, "resolution": 160}
    [problem] = problems_of({"first": data}, Holder).values()
    assert problem.key == "first"
    assert problem.got == "-1.0"
    assert problem.hint == "alpha is not a usable width multiplier"


@dataclass(frozen=True)
class Holder:
    first: Variant


@dataclass(frozen=True)
class Checked:
    even: int = field(metadata={"check": _is_even, "wanted": "an even number"})
    more: int | None = field(default=None, metadata={"check": _is_even, "wanted": "an even number"})

    def __post_init__(self) -> None:
        check(self)


def test_check_holds_an_instance_made_by_hand_to_the_same_checks() -> None:
    assert Checked(2).more is None
    with pytest.raises(SchemaError) as caught:
        Checked(3, 5)
    assert [problem.key for problem in caught.value.problems] == ["even", "more"]
    assert set(problems_of({"even": 4, "more": 5}, Checked)) == {"more"}


@pytest.mark.parametrize("data", [None, 3, "x", [], True])
def test_something_else_than_a_table_is_one_problem(data: object) -> None:
    [problem] = problems_of(data).values()
    assert str(problem).startswith("the whole: found ")


def test_an_annotation_that_is_not_supported_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="no rule for reading"):
        read(bytes, b"x")


def test_many_mistakes_are_shown_short_and_found_fast() -> None:
    data = {f"key{i}": i for i in range(20_000)}
    with pytest.raises(SchemaError) as caught:
        read(Span, data)
    assert len(caught.value.problems) == 20_002
    assert str(caught.value).endswith("and 19982 more")
    assert len(str(caught.value)) < 5000
    assert sum(problem.hint is not None for problem in caught.value.problems) < 20


@dataclass(frozen=True)
class Derived:
    side: int
    area: int = field(init=False, default=0)


def test_a_field_that_is_computed_is_neither_read_nor_written() -> None:
    assert to_json(read(Derived, {"side": 2})) == {"side": 2}
    assert set(problems_of({"side": 2, "area": 4}, Derived)) == {"area"}


def test_control_characters_and_long_values_are_not_passed_on_to_a_terminal() -> None:
    found = problems_of({**GOOD, "kind": "\x1b[31m" + "x" * 1000, "\x1b]0;": 1})
    text = "\n".join(map(str, found.values()))
    assert {c for c in text if not c.isprintable()} == {"\n"}
    assert len(text) < 600


def test_the_error_survives_a_process_border() -> None:
    error = SchemaError([Problem("a", "1", "2", "three")])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
    assert str(error) == "a: found 1, wanted 2 (three)"


def test_to_json_keeps_the_order_of_the_fields_and_refuses_what_is_not_data() -> None:
    assert to_json(Span(1, 2)) == {"first": 1, "last": 2, "note": None}
    assert list(to_json(Span(1, 2)) or ()) == ["first", "last", "note"]  # type: ignore[arg-type] # a dict, as just seen
    with pytest.raises(TypeError, match=r"a\[1\]: bytes"):
        to_json({"a": [1, b"x"]})
    with pytest.raises(SchemaError, match=r"a: found nan"):
        to_json({"a": math.nan})


numbers = st.floats(allow_nan=False)
texts = st.text(max_size=20)
spans = st.builds(lambda a, b, note: Span(min(a, b), max(a, b), note), st.integers(), st.integers(), st.none() | texts)
machines = st.builds(
    Machine,
    name=texts,
    kind=st.sampled_from(["small", "large", 3]),
    scale=numbers,
    on=st.booleans(),
    spans=st.lists(spans, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), texts),
    sizes=st.dictionaries(texts, numbers, max_size=3),
    best=st.none() | spans,
    either=st.integers() | texts,
    even=st.integers().map(lambda n: 2 * n),
    tags=st.lists(texts, max_size=3).map(tuple),
)


@given(machines)
def test_data_survive_a_trip_through_strict_json(machine: Machine) -> None:
    text = json.dumps(to_json(machine), allow_nan=False)
    assert read(Machine, json.loads(text)) == machine
    assert read(Machine, to_json(machine)) == machine


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "even", "tags", "other"]), anything))
def test_any_data_at_all_are_read_or_refused_in_words(changes: dict[str, object]) -> None:
    try:
        machine = read(Machine, {**GOOD, **changes})
    except SchemaError as error:
        told = [bool(problem.key and problem.got and problem.wanted) for problem in error.problems]
    else:
        told = [read(Machine, to_json(machine)) == machine]
    assert told
    assert all(told)


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, edgekit.schema, edgekit.profile; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "onnx", "numpy", "typer", "rich", "onnxruntime"} & set(loaded)

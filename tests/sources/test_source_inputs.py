"""`NAME:DTYPE:SHAPE`."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.manifest import TensorSpec
from edgekit.sources import parse_input_spec, parse_input_specs
from edgekit.sources.inputs import DTYPES, describe

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
dims = st.integers(1, 2**31 - 1)
shapes = st.one_of(st.lists(dims, max_size=5).map(tuple), st.lists(dims, max_size=4).map(lambda rest: ("batch", *rest)))
specs = st.builds(TensorSpec, names, st.sampled_from(DTYPES), shapes)


@given(specs)
def test_what_is_described_is_read_back(spec: TensorSpec) -> None:
    assert parse_input_spec(describe((spec,))) == spec


def test_spaces_do_no_harm() -> None:
    assert parse_input_spec("ids : int64 : batch, 128") == TensorSpec("ids", "int64", ("batch", 128))
    assert parse_input_spec("t:float32:") == TensorSpec("t", "float32", ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ids", "NAME:DTYPE:SHAPE"),
        ("ids:int64", "NAME:DTYPE:SHAPE"),
        ("a:b:c:d", "NAME:DTYPE:SHAPE"),
        (":int64:3", "the name of an input"),
        ("1x:int64:3", "the name of an input"),
        ("ids:int46:3", "did you mean int64"),
        ("ids:string:3", "unknown type"),
        ("ids:int64:3,batch", "the first dimension"),
        ("ids:int64:0", "dimension 0"),
        ("ids:int64:batch,-1", "dimension 1"),
        ("ids:int64:batch,", "dimension 1"),
        ("ids:int64:batch,1.5", "dimension 1"),
        ("ids:int64:n,3", "or batch"),
        ("ids:int64:batch,99999999999", "dimension 1"),
        ("ids:int64:٣", "dimension 0"),
    ],
)
def test_a_mistake_is_named(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_input_spec(text)
    assert says in str(caught.value)
    assert caught.value.where == "--input"


@given(st.text(max_size=60))
def test_any_text_is_an_input_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_input_spec(text).dtype in DTYPES


def test_one_name_is_one_input() -> None:
    assert len(parse_input_specs(["a:int64:3", "b:int64:3"])) == 2
    with pytest.raises(UsageError, match="twice"):
        parse_input_specs(["a:int64:3", "a:float32:4"])

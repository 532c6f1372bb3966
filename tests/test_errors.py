"""Errors say what they know, survive the way from one process to another, and carry the exit code."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, GateFailed, InputUnusable, MachineLacks, UsageError, did_you_mean

KINDS = (EdgekitError, GateFailed, UsageError, MachineLacks, InputUnusable)
NETWORKS = ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"]
DETAILS = st.none() | st.text()


@pytest.mark.parametrize(
    ("kind", "code"), [(EdgekitError, 1), (GateFailed, 1), (UsageError, 2), (MachineLacks, 3), (InputUnusable, 4)]
)
def test_the_class_decides_the_exit_code(kind: type[EdgekitError], code: int) -> None:
    assert kind("it went wrong").exit_code == code
    assert issubclass(kind, EdgekitError)


@given(st.sampled_from(KINDS), st.text(), DETAILS, DETAILS, DETAILS, DETAILS)
def test_an_error_crosses_a_process_border_unchanged(
    kind: type[EdgekitError], what: str, where: str | None, got: str | None, wanted: str | None, hint: str | None
) -> None:
    error = kind(what, where=where, got=got, wanted=wanted, hint=hint)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.what, copy.where, copy.got, copy.wanted, copy.hint) == (what, where, got, wanted, hint)
    assert str(copy) == str(error)


def test_the_details_are_told_in_the_order_in_which_they_are_read() -> None:
    error = EdgekitError("no", hint="do that", wanted="a number", got="a word", where="--alpha")
    assert error.details() == [
        ("where", "--alpha"),
        ("found", "a word"),
        ("wanted", "a number"),
        ("do", "do that"),
    ]
    assert str(error) == "no\n  where: --alpha\n  found: a word\n  wanted: a number\n  do: do that"


@pytest.mark.parametrize("nothing", [None, ""])
def test_what_is_not_known_is_not_mentioned(nothing: str | None) -> None:
    error = EdgekitError("no", where=nothing, got="7", wanted=nothing, hint=nothing)
    assert str(error) == "no\n  found: 7"
    assert str(EdgekitError("no")) == "no"


@given(st.sampled_from(NETWORKS), st.data())
def test_a_slip_of_one_letter_is_recognised(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.sampled_from("abcxyz019_"))
    assume(letter != name[place])
    hint = did_you_mean(name[:place] + letter + name[place + 1 :], NETWORKS)
    assert hint is not None
    assert hint.startswith("did you mean ")
    assert name in hint


def test_capitals_do_not_hide_the_name() -> None:
    assert did_you_mean("MobileNet_V1", NETWORKS) == "did you mean mobilenet_v1 or mobilenet_v2 or c_mobilenet_v2?"


def test_a_word_unlike_any_other_gets_the_whole_list() -> None:
    assert did_you_mean("zzz", ["cpu", "rtx"]) == "one of: cpu, rtx"


def test_no_more_than_three_are_suggested() -> None:
    hint = did_you_mean("net", ["net1", "net2", "net3", "net4", "net5"])
    assert hint is not None
    assert hint.count("net") == 3


def test_where_nothing_is_known_nothing_is_suggested() -> None:
    assert did_you_mean("zzz", []) is None

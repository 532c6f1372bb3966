"""Lists, numbers and choices as people type them; what cannot be meant is refused by the name of its option."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.cli import parse
from edgekit.errors import UsageError

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
SPACES = st.sampled_from(["", " ", "  "])


def refused(call: Callable[[], object]) -> UsageError:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.exit_code == 2
    return caught.value


# --- lists


@given(st.lists(st.lists(WORDS, min_size=1, max_size=4), max_size=4), SPACES)
def test_commas_and_repeats_mean_the_same(given_lists: list[list[str]], space: str) -> None:
    flat = [word for words in given_lists for word in words]
    joined = [f"{space},{space}".join(words) for words in given_lists]
    assert parse.words(joined) == parse.words(flat) == tuple(dict.fromkeys(flat))


@pytest.mark.parametrize("values", [["a,,b"], ["a,b,"], [",a", "b"], [" a ", "", "b"]])
def test_empty_places_are_skipped(values: list[str]) -> None:
    assert parse.words(values) == ("a", "b")


# --- numbers


# Plus 0.0, as -0.0 and 0.0 are two words and one number.
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0), min_size=1, max_size=5)
)
def test_numbers_are_read_exactly(values: list[float]) -> None:
    assert parse.numbers("--alpha", [",".join(map(repr, values))]) == tuple(dict.fromkeys(values))


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=5))
def test_whole_numbers_are_read_exactly(values: list[int]) -> None:
    found = parse.whole_numbers("--res", list(map(str, values)))
    assert found == tuple(dict.fromkeys(values))
    assert all(type(number) is int for number in found)


@pytest.mark.parametrize(("word", "number"), [("1e3", 1000), ("1e9", 10**9), ("224.0", 224), ("-7", -7), ("+5", 5)])
def test_a_whole_number_may_be_written_in_other_ways(word: str, number: int) -> None:
    assert parse.whole_numbers("--res", [word]) == (number,)


@pytest.mark.parametrize("word", ["160.5", "1e-3", "nan", "inf", "-inf", "1e400"])
def test_what_is_no_whole_number_is_refused(word: str) -> None:
    error = refused(lambda: parse.whole_numbers("--res", ["224", word]))
    assert (error.what, error.where, error.got) == ("not a whole number", "--res", word)


@pytest.mark.parametrize("word", ["wide", "0x10", "1.2.3", "1/2", "50%", "--res", "½"])
@pytest.mark.parametrize("read", [parse.numbers, parse.whole_numbers])
def test_what_is_no_number_is_refused(read: Callable[[str, list[str]], object], word: str) -> None:
    error = refused(lambda: read("--alpha", ["1", word]))
    assert (error.what, error.where, error.got) == ("not a number", "--alpha", word)


@pytest.mark.parametrize("read", [parse.numbers, parse.whole_numbers])
def test_an_option_that_was_not_given_is_an_empty_list(read: Callable[[str, list[str] | None], object]) -> None:
    assert read("--alpha", None) == ()


@pytest.mark.parametrize("values", [[], [""], [","], [" , "], ["", ""]])
def test_an_option_that_was_given_without_a_value_is_refused(values: list[str]) -> None:
    assert refused(lambda: parse.numbers("--alpha", values)).where == "--alpha"
    assert refused(lambda: parse.whole_numbers("--res", values)).where == "--res"
    assert refused(lambda: parse.choices("--precision", values, ["fp32"])).where == "--precision"


# --- pairs


@given(st.dictionaries(WORDS, st.text(min_size=1, max_size=8), max_size=4))
def test_the_order_of_options_means_nothing(options: dict[str, str]) -> None:
    typed = [f"{key}={value}" for key, value in options.items()]
    assert parse.pairs("--option", typed) == parse.pairs("--option", typed[::-1]) == tuple(sorted(options.items()))


def test_a_value_may_hold_an_equals_sign_and_commas() -> None:
    assert parse.pairs("--option", ["a=b=c", "d=1,2"]) == (("a", "b=c"), ("d", "1,2"))
    assert parse.pairs("--option", None) == ()


@pytest.mark.parametrize("value", ["round", "=divisible8", "round=", "=", ""])
def test_half_an_option_is_refused(value: str) -> None:
    error = refused(lambda: parse.pairs("--option", [value]))
    assert (error.where, error.got, error.wanted) == ("--option", value, "KEY=VALUE")


def test_the_same_option_twice_is_refused() -> None:
    error = refused(lambda: parse.pairs("--option", ["round=a", "x=1", "round=b"]))
    assert (error.what, error.got) == ("the same option twice", "round")


# --- choices


@given(st.lists(WORDS, min_size=1, max_size=5, unique=True), st.data())
def test_a_known_choice_is_taken_and_any_other_is_refused(allowed: list[str], choice: st.DataObject) -> None:
    word = choice.draw(st.sampled_from(allowed) | WORDS)
    if word in allowed:
        assert parse.choice("--parity", word, allowed) == word
        return
    error = refused(lambda: parse.choice("--parity", word, allowed))
    assert (error.where, error.got, error.wanted) == ("--parity", word, ", ".join(allowed))


def test_a_mistyped_choice_is_recognised() -> None:
    error = refused(lambda: parse.choice("--exporter", "torchscrip", ["auto", "torchscript", "dynamo"]))
    assert error.hint == "did you mean torchscript?"


@given(st.lists(st.sampled_from(["fp32", "fp16", "int8"]), min_size=1, max_size=6))
def test_choices_come_in_the_order_of_what_is_allowed_and_once(values: list[str]) -> None:
    found = parse.choices("--precision", [",".join(values)], ["fp32", "fp16", "int8"])
    assert found == tuple(word for word in ("fp32", "fp16", "int8") if word in values)


def test_one_wrong_choice_among_right_ones_is_refused() -> None:
    assert refused(lambda: parse.choices("--precision", ["fp32,fp17"], ["fp32", "fp16"])).got == "fp17"


# --- jobs


def test_by_default_there_is_a_job_for_every_core_that_may_be_used() -> None:
    assert parse.jobs(None) == len(os.sched_getaffinity(0))


@given(st.integers())
def test_a_number_of_jobs_is_taken_exactly_within_its_limits(value: int) -> None:
    if 1 <= value <= 1024:
        assert parse.jobs(value) == value
    else:
        assert refused(lambda: parse.jobs(value)).where == "--jobs"


@pytest.mark.parametrize(("value", "fits"), [(0, False), (1, True), (1024, True), (1025, False)])
def test_the_limits_of_jobs(value: int, fits: bool) -> None:
    if fits:
        assert parse.jobs(value) == value
    else:
        refused(lambda: parse.jobs(value))

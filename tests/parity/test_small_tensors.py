"""A tensor of few numbers has few roundings behind it, and is allowed more; larger ones are not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.parity.metrics import Distance
from edgekit.parity.tolerance import DEVIATIONS, FACTOR, FEW, UNIT_ROUNDOFF, Precision, tolerance

PRECISIONS: st.SearchStrategy[Precision] = st.sampled_from(("fp32", "fp16"))
DISTANCES = st.builds(Distance, st.floats(0, 10), st.floats(0, 10))
ENOUGH = 17  # numbers from which on a channel's factor leaves room for chance


@given(DISTANCES, PRECISIONS, st.integers(ENOUGH, FEW))
def test_few_numbers_are_allowed_as_much_as_a_channel(floor: Distance, precision: Precision, size: int) -> None:
    allowed, unit = tolerance(floor, precision, size), UNIT_ROUNDOFF[precision]
    assert allowed.overall == FACTOR[precision].channel * max(floor.overall, unit)
    assert allowed.channel == FACTOR[precision].channel * max(floor.channel, unit)


@given(DISTANCES, PRECISIONS, st.integers(1, FEW))
def test_very_few_are_allowed_what_chance_makes_of_them(floor: Distance, precision: Precision, size: int) -> None:
    allowed, unit = tolerance(floor, precision, size), UNIT_ROUNDOFF[precision]
    factor = max(FACTOR[precision].channel, math.exp(DEVIATIONS / math.sqrt(size)))
    assert allowed.overall == pytest.approx(factor * max(floor.overall, unit))
    assert allowed.channel == pytest.approx(factor * max(floor.channel, unit))


@given(DISTANCES, PRECISIONS, st.one_of(st.none(), st.just(0), st.integers(FEW + 1)))
def test_many_numbers_or_none_are_not(floor: Distance, precision: Precision, size: int | None) -> None:
    assert tolerance(floor, precision, size) == tolerance(floor, precision)


@given(DISTANCES, PRECISIONS, st.integers(1), st.integers(0))
def test_a_larger_tensor_is_never_allowed_more(floor: Distance, precision: Precision, size: int, more: int) -> None:
    larger, smaller = tolerance(floor, precision, size + more), tolerance(floor, precision, size)
    assert larger.overall <= smaller.overall
    assert larger.channel <= smaller.channel


@pytest.mark.parametrize(("size", "factor"), [(17, 4.0), (96, 4.0), (256, 4.0), (257, 2.0), (None, 2.0)])
def test_in_half_precision_few_are_allowed_twice_as_much(size: int | None, factor: float) -> None:
    assert tolerance(Distance(0.01, 0.01), "fp16", size).overall == factor * 0.01


@pytest.mark.parametrize("size", [17, 256, 257, None])
def test_in_single_precision_it_is_the_same_for_few_and_many(size: int | None) -> None:
    assert tolerance(Distance(1e-6, 1e-6), "fp32", size).overall == 8 * 1e-6

"""A tolerance follows from the noise floor by a stated factor, and is never unlimited."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.parity.metrics import FAR, Distance
from edgekit.parity.tolerance import FACTOR, UNIT_ROUNDOFF, Precision, excess, tolerance, trust_in_fp32

PRECISIONS: st.SearchStrategy[Precision] = st.sampled_from(("fp32", "fp16"))
SHARES = st.floats(0, 10)
DISTANCES = st.builds(Distance, SHARES, SHARES)


def test_the_unit_roundoff_is_that_of_the_format() -> None:
    assert UNIT_ROUNDOFF["fp32"] == np.finfo(np.float32).eps / 2
    assert UNIT_ROUNDOFF["fp16"] == np.finfo(np.float16).eps / 2


def test_the_factors_are_those_that_were_measured() -> None:
    """They are derived in docs/decisions/0003-tolerances.md, and not to be widened for the sake of a green run."""
    assert {"fp32": Distance(8.0, 8.0), "fp16": Distance(2.0, 4.0)} == FACTOR


@given(DISTANCES, PRECISIONS)
def test_the_tolerance_is_the_floor_times_its_factor(floor: Distance, precision: Precision) -> None:
    unit, factor = UNIT_ROUNDOFF[precision], FACTOR[precision]
    allowed = tolerance(floor, precision)
    assert allowed.overall == factor.overall * max(floor.overall, unit)
    assert allowed.channel == factor.channel * max(floor.channel, unit)


@given(DISTANCES, PRECISIONS)
def test_what_is_at_the_floor_passes_and_what_is_ten_floors_away_does_not(
    floor: Distance, precision: Precision
) -> None:
    real = Distance(max(floor.overall, 1e-3), max(floor.channel, 1e-3))
    allowed = tolerance(real, precision)
    assert excess(real, allowed) <= 1
    assert excess(Distance(10 * real.overall, 0), allowed) > 1
    assert excess(Distance(0, 10 * real.channel), allowed) > 1


@given(DISTANCES, DISTANCES)
def test_both_figures_must_be_within_their_tolerance(found: Distance, allowed: Distance) -> None:
    allowed = Distance(allowed.overall + 1e-6, allowed.channel + 1e-6)
    within = found.overall <= allowed.overall and found.channel <= allowed.channel
    assert (excess(found, allowed) <= 1) == within


@pytest.mark.parametrize("found", [FAR, Distance(math.nan, math.nan), Distance(0.0, math.inf)])
def test_what_is_not_finite_is_outside_every_tolerance(found: Distance) -> None:
    assert excess(found, tolerance(Distance(1.0, 1.0), "fp16")) == math.inf
    assert excess(found, tolerance(FAR, "fp16")) == math.inf


@pytest.mark.parametrize("found", [Distance(0.0, 0.0), Distance(5.0, 5.0)])
def test_a_floor_without_limit_allows_nothing(found: Distance) -> None:
    """Where the precision itself overflows, every result would pass: nothing can be proven there."""
    assert excess(found, tolerance(FAR, "fp16")) == math.inf


def test_float32_is_trusted_while_two_thousand_roundings_would_explain_it() -> None:
    allowed = trust_in_fp32()
    assert allowed.overall == pytest.approx(2.0**-13)
    assert allowed.channel == pytest.approx(2.0**-10)

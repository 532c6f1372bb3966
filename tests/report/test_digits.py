"""Figures carry the digits that their intervals carry, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.report import digits


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (4.2371, 4.19, 4.29, "4.24"),
        (4.2371, 4.21, 4.27, "4.24"),
        (4.2371, 4.2351, 4.2391, "4.2371"),
        (4.2371, 3.2, 5.2, "4.2"),
        (4.2371, 1.0, 9.0, "4"),
        (1234.5, 1200.0, 1270.0, "1234"),
        (0.0123, 0.0121, 0.0125, "0.01230"),
        (5.0, 5.0, 5.0, "5.00"),
    ],
)
def test_the_interval_decides(value: float, low: float, high: float, text: str) -> None:
    assert digits.figure(value, low, high) == text


@given(st.floats(1e-4, 1e4), st.floats(1e-4, 0.5))
def test_rounding_stays_well_inside_the_interval(value: float, share: float) -> None:
    low, high = value * (1 - share), value * (1 + share)
    shown = float(digits.figure(value, low, high))
    assert abs(shown - value) <= max((high - low) / 2 * 0.51, 0.51e-6)


@given(st.floats(1e-4, 1e4), st.floats(1e-2, 0.5))
def test_no_digit_is_finer_than_a_tenth_of_the_half_width(value: float, share: float) -> None:
    low, high = value * (1 - share), value * (1 + share)
    assert 10.0 ** -digits.decimals(low, high) >= min(1.0, (high - low) / 2) / 31 or digits.decimals(low, high) == 0


def test_an_interval_has_one_form() -> None:
    assert digits.interval(4.19, 4.29) == "4.19–4.29"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (6_705_328, "6.71 MB"), (25.3e9, "25.3 GB")]
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert digits.size(count) == text


def test_counts_are_in_millions_or_billions() -> None:
    assert digits.millions(56_286_128) == "56.3 M"
    assert digits.millions(5_713_000_000) == "5.71 G"


def test_errors_are_dashes_zeros_or_powers() -> None:
    assert [digits.scientific(it) for it in (None, 0.0, 1.234e-5)] == ["–", "0", "1.2e-05"]

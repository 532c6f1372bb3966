"""Distances and figures: what counts as near, far, the same class, and alive."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.parity.metrics import (
    FAR,
    WEAKEST_CHANNEL,
    AnyArray,
    Distance,
    distance,
    figures,
    spread,
    top1_agreement,
)

SHAPES = st.sampled_from([(1, 4), (3, 5), (1, 1), (2, 3, 4, 4), (1, 2, 7, 3), (6,)])
VALUES = st.floats(-1000, 1000, width=32).map(lambda value: value if abs(value) > 1e-3 else 1.0)


def arrays(shape: tuple[int, ...]) -> st.SearchStrategy[AnyArray]:
    return hnp.arrays(np.float32, shape, elements=VALUES)


ARRAYS = SHAPES.flatmap(arrays)


def noise(*shape: int, seed: int = 0) -> AnyArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- distance


@given(ARRAYS)
def test_an_array_is_at_no_distance_from_itself(values: AnyArray) -> None:
    assert distance(values, values.copy()) == Distance(0.0, 0.0)


@given(ARRAYS, st.floats(1e-6, 0.5), st.sampled_from([1.0, -1.0]))
def test_scaling_everything_is_a_distance_of_that_share(values: AnyArray, share: float, sign: float) -> None:
    truth = values.astype(np.float64)
    assert distance(truth * (1 + sign * share), truth).overall == pytest.approx(share, rel=1e-6)


@given(ARRAYS, st.floats(1e-3, 1e3))
def test_distances_do_not_depend_on_the_unit(values: AnyArray, unit: float) -> None:
    truth = values.astype(np.float64)
    actual = truth + 0.1 * np.cos(np.arange(truth.size)).reshape(truth.shape)
    here, there = distance(actual, truth), distance(actual * unit, truth * unit)
    assert there.overall == pytest.approx(here.overall, rel=1e-9)
    assert there.channel == pytest.approx(here.channel, rel=1e-9)


@given(SHAPES.flatmap(lambda shape: st.tuples(arrays(shape), arrays(shape))))
def test_a_distance_is_zero_only_for_equal_arrays(pair: tuple[AnyArray, AnyArray]) -> None:
    found = distance(*pair)
    assert (found == Distance(0.0, 0.0)) == bool(np.array_equal(*pair))
    assert found.overall >= 0
    assert found.channel >= 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 4, 4), (5,)])
def test_a_value_that_is_not_finite_is_infinitely_far(bad: float, shape: tuple[int, ...]) -> None:
    truth = noise(*shape)
    broken = truth.copy()
    broken.flat[1] = bad
    assert distance(broken, truth) == FAR
    assert distance(truth, broken) == FAR
    assert distance(broken, broken) == FAR


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 1), (6,), (1, 2, 3), (2, 4)])
def test_another_shape_is_infinitely_far(shape: tuple[int, ...]) -> None:
    assert distance(np.ones(shape, np.float32), np.ones((2, 3), np.float32)) == FAR


def test_a_truth_of_zeros_takes_zeros_only() -> None:
    zeros = np.zeros((1, 3, 2, 2), np.float32)
    assert distance(zeros, zeros) == Distance(0.0, 0.0)
    assert distance(zeros + np.float32(1e-30), zeros) == FAR


def test_one_wrong_channel_stands_out_in_its_own_size() -> None:
    truth = noise(1, 64, 8, 8).astype(np.float64)
    wrong = truth.copy()
    wrong[:, 5] *= 1.01
    found = distance(wrong, truth)
    assert found.channel == pytest.approx(0.01, rel=1e-6)
    assert found.overall == pytest.approx(0.01 / 8, rel=0.3)


def test_a_weak_channel_is_judged_against_a_share_of_the_whole() -> None:
    truth = np.ones((1, 2, 4, 4))
    truth[:, 1] = 1e-6
    wrong = truth.copy()
    wrong[:, 1] = 2e-6
    whole = math.sqrt(0.5 * (1 + 1e-12))
    assert distance(wrong, truth).channel == pytest.approx(1e-6 / (whole * WEAKEST_CHANNEL))


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1)])
def test_single_numbers_are_judged_one_by_one_against_the_whole_row(shape: tuple[int, ...]) -> None:
    truth = np.array([3.0, 4.0, 0.0, 0.0]).reshape(shape)
    wrong = truth + np.array([0.0, 0.0, 0.1, 0.0]).reshape(shape)
    assert distance(wrong, truth).channel == pytest.approx(0.1 / 2.5)
    assert distance(wrong, truth).overall == pytest.approx(0.05 / 2.5)


def test_the_channel_figure_is_the_worst_over_all_rows_of_the_batch() -> None:
    truth = np.ones((4, 3, 2, 2))
    wrong = truth.copy()
    wrong[2, 1] = 1.5
    assert distance(wrong, truth).channel == pytest.approx(math.sqrt(0.25 / 4))


def test_the_sums_of_float16_and_float32_tensors_are_taken_in_float64() -> None:
    large = np.full((1, 2, 16, 16), 60000.0, np.float16)
    assert distance(large, large) == Distance(0.0, 0.0)
    assert distance(large.astype(np.float64) * 1.01, large).overall == pytest.approx(0.01)
    huge = np.full((1, 2, 4, 4), 1e30, np.float32)
    assert distance(huge.astype(np.float64) * 1.01, huge).overall == pytest.approx(0.01)


# --- figures


def test_the_figures_of_a_known_pair() -> None:
    found = figures(np.array([[3.0, 4.5]]), np.array([[3.0, 4.0]]))
    assert found.max_abs == pytest.approx(0.5)
    assert found.max_rel == pytest.approx(0.5 / 4)
    assert found.snr_db == pytest.approx(10 * math.log10(25 / 0.25))
    assert found.cosine == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))


@given(ARRAYS)
def test_equal_arrays_have_no_noise_at_all(values: AnyArray) -> None:
    found = figures(values, values.copy())
    assert (found.max_abs, found.max_rel, found.snr_db) == (0.0, 0.0, None)
    assert found.cosine == pytest.approx(1.0)
    assert found.cosine <= 1.0


@given(SHAPES.flatmap(lambda shape: st.tuples(arrays(shape), arrays(shape))))
def test_figures_stay_in_their_range(pair: tuple[AnyArray, AnyArray]) -> None:
    found = figures(*pair)
    assert found.max_abs == np.abs(np.subtract(*pair, dtype=np.float64)).max()
    assert -1.0 - 1e-12 <= found.cosine <= 1.0


def test_silence_is_silence_and_anything_else_is_far_from_it() -> None:
    zeros, ones = np.zeros((1, 3)), np.ones((1, 3))
    silent = figures(zeros, zeros)
    assert (silent.max_abs, silent.max_rel, silent.cosine, silent.snr_db) == (0.0, 0.0, 1.0, None)
    loud = figures(ones, zeros)
    assert (loud.max_abs, loud.max_rel, loud.cosine, loud.snr_db) == (1.0, math.inf, 0.0, -math.inf)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_figures_of_what_is_not_finite_never_look_good(bad: float) -> None:
    good, broken = np.ones((1, 3)), np.array([[1.0, bad, 1.0]])
    for pair in ((broken, good), (good, broken), (broken, broken)):
        found = figures(*pair)
        assert (found.max_abs, found.max_rel, found.cosine, found.snr_db) == (math.inf, math.inf, 0.0, -math.inf)


def test_figures_of_unlike_sizes_never_look_good() -> None:
    assert figures(np.ones((1, 3)), np.ones((1, 4))).cosine == 0.0


# --- the largest class


def test_agreement_counts_the_rows_with_a_clear_winner_only() -> None:
    truth = np.array([[5.0, 1.0, 0.0], [2.0, 1.99, 0.0], [0.0, 1.0, 4.0]])
    actual = np.array([[5.0, 1.0, 0.0], [1.99, 2.0, 0.0], [4.0, 1.0, 0.0]])
    assert top1_agreement(actual, truth, margin=0.1) == pytest.approx(1 / 2)
    assert top1_agreement(actual, truth, margin=0.001) == pytest.approx(1 / 3)
    assert top1_agreement(truth, truth, margin=0.001) == 1.0


def test_a_lead_of_exactly_the_margin_decides_nothing() -> None:
    truth = np.array([[2.0, 1.0]])
    assert top1_agreement(truth[:, ::-1], truth, margin=1.0) is None
    assert top1_agreement(truth[:, ::-1], truth, margin=0.99) == 0.0


@pytest.mark.parametrize("shape", [(2, 1), (2, 3, 4, 4), (6,)])
def test_only_rows_of_scores_have_a_largest_class(shape: tuple[int, ...]) -> None:
    values = noise(*shape)
    assert top1_agreement(values, values, margin=0.0) is None


def test_rows_of_another_number_of_classes_do_not_agree() -> None:
    assert top1_agreement(noise(2, 3), noise(2, 4), margin=0.0) is None


@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 99))
def test_agreement_does_not_depend_on_scale_or_offset(rows: int, classes: int, seed: int) -> None:
    truth, actual = noise(rows, classes, seed=seed), noise(rows, classes, seed=seed + 1000)
    expected = top1_agreement(actual, truth, margin=0.0)
    assert top1_agreement(actual * 3 + 1, truth, margin=0.0) == expected


# --- life


def test_outputs_that_ignore_their_inputs_have_no_spread() -> None:
    assert spread(np.tile(noise(1, 10), (5, 1))) == pytest.approx(0.0, abs=1e-12)
    assert spread(np.zeros((3, 4))) == 0.0


def test_spread_is_the_share_of_the_size_that_varies() -> None:
    assert spread(np.array([[1.0, 1.0], [3.0, 3.0]])) == pytest.approx(1 / math.sqrt(5))
    assert spread(np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(math.sqrt(0.5))


@given(st.floats(1e-3, 1e3))
def test_spread_has_no_unit(unit: float) -> None:
    outputs = noise(4, 3, 2, 2).astype(np.float64)
    assert spread(outputs * unit) == pytest.approx(spread(outputs))

"""Distances and figures: what counts as near, far, the same class, and alive."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.parity import metrics
from edgekit.parity.metrics import (
    FAR,
    SSIM_WINDOW,
    WEAKEST_CHANNEL,
    AnyArray,
    Distance,
    ImageFigures,
    distance,
    figures,
    image_figures,
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


EMPTY = [(0, 4), (1, 0), (0,), (2, 0, 3), (1, 3, 0, 5)]


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("shape", EMPTY)
def test_a_tensor_without_values_is_at_no_distance_from_another_one(
    shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    """What a detector hands back where it has found nothing."""
    nothing = np.zeros(shape, dtype)
    assert distance(nothing, nothing) == Distance(0.0, 0.0)
    assert distance(np.zeros((1, *shape), dtype), nothing) == FAR
    assert distance(np.zeros((3, 4), dtype), nothing) == FAR


# --- whole numbers

WHOLE = st.sampled_from([np.int64, np.int32, np.uint8, np.bool_])


@given(st.data(), SHAPES, WHOLE)
def test_whole_numbers_are_apart_by_the_share_that_differs(
    data: st.DataObject, shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    truth, actual = (data.draw(hnp.arrays(dtype, shape)) for _ in range(2))
    share = sum(a != t for a, t in zip(actual.flat, truth.flat, strict=True)) / truth.size
    found = distance(actual, truth)
    assert found.overall == found.channel == pytest.approx(share)
    assert distance(truth, truth) == Distance(0.0, 0.0)


def test_how_far_whole_numbers_are_from_each_other_does_not_matter() -> None:
    truth = np.arange(1000).reshape(10, 100)
    near, far = truth.copy(), truth.copy()
    near[3, 4] += 1
    far[3, 4] += 1_000_000
    assert distance(near, truth) == distance(far, truth) == Distance(1e-3, 1e-3)


def test_whole_numbers_that_a_float_cannot_tell_apart_are_told_apart() -> None:
    truth = np.full((1, 2), 2**53, np.int64)
    assert distance(truth + np.array([[0, 1]]), truth) == Distance(0.5, 0.5)


def test_class_numbers_that_a_graph_hands_back_as_floats_are_compared_as_numbers() -> None:
    truth = np.array([[3, 1, 2, 0]])
    assert distance(truth.astype(np.float32), truth) == Distance(0.0, 0.0)
    assert distance(truth + np.float32(1e-6) * np.array([[1, 0, 0, 0]]), truth) == Distance(0.25, 0.25)
    assert distance(np.full((1, 4), math.nan), truth) == Distance(1.0, 1.0)


def test_whole_numbers_of_another_shape_are_infinitely_far() -> None:
    assert distance(np.zeros((2, 3), np.int64), np.zeros((3, 2), np.int64)) == FAR


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(1, 10), (3, 10), (1, 3, 4, 4), (10,), ()])
def test_outputs_that_ignore_their_inputs_have_no_spread(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    row = (10 * noise(*shape[1:])).astype(dtype) if shape[1:] else np.array(7).astype(dtype)
    always = np.broadcast_to(row, shape)
    assert spread([always] * 5) == pytest.approx(0.0, abs=1e-7)
    assert spread([np.zeros(shape, dtype)] * 3) == 0.0


def test_spread_is_the_share_of_the_size_that_varies() -> None:
    assert spread([np.array([[1.0, 1.0]]), np.array([[3.0, 3.0]])]) == pytest.approx(1 / math.sqrt(5))
    assert spread([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])]) == pytest.approx(math.sqrt(0.5))
    assert spread([np.array(1.0), np.array(3.0)]) == pytest.approx(1 / math.sqrt(5))


@given(st.integers(1, 5), st.integers(0, 99))
def test_rows_of_one_input_vary_like_rows_of_many(cut: int, seed: int) -> None:
    together = noise(6, 3, 2, seed=seed)
    apart = [together[:cut], together[cut:]]
    assert spread(apart) == pytest.approx(spread([together])) == pytest.approx(spread(list(together[:, None])))


def test_the_spread_of_whole_numbers_is_the_share_that_is_not_the_same_for_all() -> None:
    labels = [np.array([[1, 2, 3, 4]]), np.array([[1, 2, 3, 9]]), np.array([[1, 7, 3, 4]])]
    assert spread(labels) == 0.5
    assert spread([label == 2 for label in labels]) == 0.25


def test_outputs_of_unlike_shapes_vary_by_themselves() -> None:
    assert spread([np.zeros((1, 3, 4)), np.zeros((1, 2, 4))]) == 1.0
    assert spread([np.zeros((1, 3), np.int64), np.zeros((1, 2), np.int64)]) == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("shape", EMPTY)
def test_nothing_does_not_vary(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    assert spread([np.zeros(shape, dtype)] * 3) == 0.0


@given(st.floats(1e-3, 1e3))
def test_spread_has_no_unit(unit: float) -> None:
    outputs = noise(4, 3, 2, 2).astype(np.float64)
    assert spread([outputs * unit]) == pytest.approx(spread([outputs]))


# --- images


def picture(rows: int = 2, channels: int = 3, height: int = 20, width: int = 17, seed: int = 0) -> AnyArray:
    """Smooth, with noise on it: means, variances and covariances all count."""
    y, x = np.mgrid[:height, :width] / 5
    waves = np.stack([np.sin(y + k) + np.cos(x * (k + 1) / 2) for k in range(rows * channels)])
    return waves.reshape(rows, channels, height, width) + 0.3 * noise(rows, channels, height, width, seed=seed)


IMAGES = st.builds(
    picture, st.integers(1, 2), st.integers(1, 3), st.integers(8, 21), st.integers(8, 21), seed=st.integers(0, 999)
)


def ssim_by_hand(actual: AnyArray, truth: AnyArray, window: int) -> float:
    """The mean over all windows of Wang et al. 2004, equation 13, written down as it is there."""
    peak = np.ptp(truth)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    shape = (window, window)
    a, t = (np.lib.stride_tricks.sliding_window_view(values, shape, (2, 3)) for values in (actual, truth))
    found = []
    for x, y in zip(a.reshape(-1, window**2), t.reshape(-1, window**2), strict=True):
        ((var_x, shared), (_, var_y)) = np.cov(x, y, bias=True)
        luminance = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
        found.append(luminance * (2 * shared + c2) / (var_x + var_y + c2))
    return float(np.mean(found))


def test_an_image_is_like_itself() -> None:
    assert image_figures(picture(), picture()) == ImageFigures(None, 1.0)


@settings(max_examples=10, deadline=None)
@given(IMAGES, st.floats(0.01, 2.0), st.integers(0, 99))
def test_structural_similarity_is_the_papers(truth: AnyArray, level: float, seed: int) -> None:
    actual = truth + level * noise(*truth.shape, seed=seed)
    found = image_figures(actual, truth)
    assert found is not None
    assert found.ssim == pytest.approx(ssim_by_hand(actual, truth, SSIM_WINDOW), abs=1e-9)


@pytest.mark.parametrize("window", [7, 11])
@pytest.mark.parametrize("level", [0.01, 0.3, 2.0])
def test_structural_similarity_is_scikit_images(window: int, level: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose windows have a middle: theirs are odd."""
    from skimage.metrics import structural_similarity

    monkeypatch.setattr(metrics, "SSIM_WINDOW", window)
    truth = picture().astype(np.float64)
    actual = truth + level * noise(*truth.shape, seed=1)
    found = image_figures(actual, truth)
    settings_of_the_paper = {"win_size": window, "gaussian_weights": False, "use_sample_covariance": False}
    wanted = [
        structural_similarity(one, other, channel_axis=0, data_range=np.ptp(truth), **settings_of_the_paper)
        for one, other in zip(actual, truth, strict=True)
    ]
    assert found is not None
    assert found.ssim == pytest.approx(np.mean(wanted), abs=1e-9)


@settings(deadline=None)
@given(IMAGES, st.floats(0.01, 2.0))
def test_the_peak_signal_to_noise_ratio_is_scikit_images(truth: AnyArray, level: float) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    actual = truth + level * noise(*truth.shape, seed=2)
    found = image_figures(actual, truth)
    assert found is not None
    assert found.psnr_db == pytest.approx(peak_signal_noise_ratio(truth, actual, data_range=np.ptp(truth)))


def test_an_error_of_a_tenth_of_the_range_everywhere_is_twenty_decibels() -> None:
    truth = 5 + picture()
    found = image_figures(truth + 0.1 * np.ptp(truth), truth)
    assert found is not None
    assert found.psnr_db == pytest.approx(20.0)
    assert 0.98 < found.ssim < 1.0  # another brightness, the same structure


@given(IMAGES, st.floats(0.02, 1.0))
def test_more_noise_is_less_alike(truth: AnyArray, level: float) -> None:
    less, more = (image_figures(truth + factor * level * noise(*truth.shape, seed=3), truth) for factor in (1, 3))
    assert less is not None
    assert more is not None
    assert less.psnr_db is not None
    assert more.psnr_db == pytest.approx(less.psnr_db - 20 * math.log10(3), abs=1e-3)
    assert -1.0 <= more.ssim < less.ssim < 1.0


def test_a_negative_is_the_opposite_of_alike() -> None:
    truth = 5 + picture()
    found = image_figures(truth.min() + truth.max() - truth, truth)
    assert found is not None
    assert found.ssim < -0.8


@given(IMAGES, st.floats(1e-3, 1e3))
def test_images_are_judged_in_their_own_range(truth: AnyArray, unit: float) -> None:
    actual = truth + 0.2 * noise(*truth.shape, seed=4)
    here, there = image_figures(actual, truth), image_figures(actual * unit, truth * unit)
    assert here is not None
    assert there is not None
    assert there.ssim == pytest.approx(here.ssim, abs=1e-6)
    assert there.psnr_db == pytest.approx(here.psnr_db)


@pytest.mark.parametrize(
    "shape", [(2, 10), (3, 20, 17), (6,), (1, 3, SSIM_WINDOW - 1, 20), (1, 3, 20, SSIM_WINDOW - 1)]
)
def test_what_is_no_image_has_no_figures_of_one(shape: tuple[int, ...]) -> None:
    values = noise(*shape)
    assert image_figures(values + 1, values) is None


def test_the_smallest_image_is_one_window() -> None:
    truth = noise(1, 1, SSIM_WINDOW, SSIM_WINDOW)
    found = image_figures(truth + 0.1, truth)
    assert found is not None
    assert found.ssim == pytest.approx(ssim_by_hand(truth + 0.1, truth, SSIM_WINDOW))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_images_that_are_not_finite_or_of_another_size_have_no_figures(bad: float) -> None:
    truth, broken = picture(), picture()
    broken[0, 0, 3, 3] = bad
    assert image_figures(broken, truth) is None
    assert image_figures(truth, broken) is None
    assert image_figures(truth[:, :, 1:], truth) is None


def test_an_image_of_one_colour_has_no_range_to_judge_by() -> None:
    flat = np.full((1, 3, 16, 16), 0.5)
    assert image_figures(flat + 0.1, flat) is None

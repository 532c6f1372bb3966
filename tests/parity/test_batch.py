"""Batch consistency: a graph that mixes its rows in any way is caught, one that does not is let through."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.parity.batch import BatchRun, check_batch
from edgekit.parity.metrics import AnyArray, Distance
from edgekit.parity.tolerance import tolerance

ALLOWED = tolerance(Distance(0.0, 0.0), "fp32")
WEIGHT = np.random.default_rng(1).standard_normal((3 * 4 * 4, 5)).astype(np.float32)
BATCHES = [None, 2, 3, 4, 5, 8]


def images(count: int = 2) -> AnyArray:
    return np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)


def network(values: AnyArray) -> AnyArray:
    """Scores (N, 5) of images (N, 3, 4, 4), each row computed on its own."""
    return np.stack([row.ravel() @ WEIGHT for row in values])


def turned_round(values: AnyArray) -> AnyArray:
    return network(values)[::-1]


def shifted(values: AnyArray) -> AnyArray:
    return np.roll(network(values), 1, axis=0)


def averaged(values: AnyArray) -> AnyArray:
    return network(values - 0.01 * values.mean(axis=0))


def first_row_for_all(values: AnyArray) -> AnyArray:
    return np.repeat(network(values)[:1], len(values), axis=0)


def last_row_lost(values: AnyArray) -> AnyArray:
    scores = network(values)
    if len(scores) > 1:
        scores[-1] = 0
    return scores


def growing_with_the_place(values: AnyArray) -> AnyArray:
    return network(values) * (1 + 1e-3 * np.arange(len(values))[:, None]).astype(np.float32)


def scaled_by_the_largest(values: AnyArray) -> AnyArray:
    return np.asarray(network(values) / np.abs(values).max())


FAULTS: list[Callable[[AnyArray], AnyArray]] = [
    turned_round,
    shifted,
    averaged,
    first_row_for_all,
    last_row_lost,
    growing_with_the_place,
    scaled_by_the_largest,
]


def fixed(run: BatchRun, batch: int | None) -> BatchRun:
    """`run` as a graph with a fixed batch: it takes no other."""

    def strict(values: AnyArray) -> AnyArray:
        assert batch is None or len(values) == batch
        return run(values)

    return strict


@pytest.mark.parametrize("batch", [*BATCHES, 1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_that_stand_on_their_own_pass(batch: int | None, count: int) -> None:
    found = check_batch("onnx", fixed(network, batch), images(count), batch, ALLOWED)
    assert (found.name, found.passed, found.reason) == ("onnx", True, None)
    assert found.error == 0.0
    assert found.tolerance == ALLOWED.overall


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_depend_on_each_other_are_caught(fault: BatchRun, count: int, batch: int | None) -> None:
    found = check_batch("onnx", fixed(fault, batch), images(count), batch, ALLOWED)
    assert found.passed is False
    assert found.error is not None
    assert found.error > ALLOWED.overall
    assert found.reason == "a row's result depends on the other rows of its batch"


def test_an_open_batch_is_tried_with_one_row_and_with_more_rows_than_there_are() -> None:
    sizes: list[int] = []

    def run(values: AnyArray) -> AnyArray:
        sizes.append(len(values))
        return network(values)

    check_batch("onnx", run, images(2), None, ALLOWED)
    assert sizes[:2] == [1, 1]
    assert max(sizes) > 2


def test_a_difference_within_the_tolerance_is_let_through() -> None:
    def other_rounding(values: AnyArray) -> AnyArray:
        return network(values) * np.float32(1 + 2e-7 * (len(values) > 1))

    assert check_batch("onnx", other_rounding, images(), None, ALLOWED).passed is True


def test_a_difference_just_beyond_the_tolerance_is_not() -> None:
    beyond = 1 + 1.5 * ALLOWED.overall

    def slightly_off(values: AnyArray) -> AnyArray:
        return network(values).astype(np.float64) * (beyond if len(values) > 1 else 1.0)

    found = check_batch("onnx", slightly_off, images(), None, ALLOWED)
    assert found.passed is False
    assert found.error == pytest.approx(1.5 * ALLOWED.overall, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_in_company_are_caught(bad: float) -> None:
    def broken(values: AnyArray) -> AnyArray:
        return network(values) if len(values) == 1 else np.full((len(values), 5), bad, np.float32)

    found = check_batch("fp16", broken, images(), None, ALLOWED)
    assert (found.passed, found.error) == (False, None)


@given(st.integers(-3, 3).filter(bool))
def test_rows_that_are_lost_or_added_are_caught(change: int) -> None:
    def uneven(values: AnyArray) -> AnyArray:
        scores = network(values)
        return scores if len(scores) == 1 else np.resize(scores, (len(scores) + change, 5))

    assert check_batch("onnx", uneven, images(3), None, ALLOWED).passed is False

"""Batch consistency: a graph that mixes its rows in any way is caught, one that does not is let through."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.parity.batch import BatchRun, check_batch, stack
from edgekit.parity.metrics import AnyArray, Distance, Feeds
from edgekit.parity.tolerance import tolerance

TIGHT = tolerance(Distance(0.0, 0.0), "fp32")
ALLOWED = {"scores": TIGHT}
WEIGHT = np.random.default_rng(1).standard_normal((3 * 4 * 4, 5)).astype(np.float32)
BATCHES = [None, 2, 3, 4, 5, 8]


Rows = Callable[[AnyArray], AnyArray]


def images(count: int = 2) -> list[Feeds]:
    """Rows of a network with one input."""
    values = np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)
    return [{"image": image[None]} for image in values]


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


FAULTS: list[Rows] = [
    turned_round,
    shifted,
    averaged,
    first_row_for_all,
    last_row_lost,
    growing_with_the_place,
    scaled_by_the_largest,
]


def graph(run: Rows, batch: int | None = None) -> BatchRun:
    """`run` as a graph; with a fixed batch it takes no other."""

    def strict(feeds: Feeds) -> Mapping[str, AnyArray]:
        assert batch is None or len(feeds["image"]) == batch
        return {"scores": run(feeds["image"])}

    return strict


@pytest.mark.parametrize("batch", [*BATCHES, 1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_that_stand_on_their_own_pass(batch: int | None, count: int) -> None:
    found = check_batch("onnx", graph(network, batch), images(count), batch, ALLOWED)
    assert (found.name, found.passed, found.reason) == ("onnx", True, None)
    assert found.error == 0.0
    assert found.tolerance == TIGHT.overall


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_depend_on_each_other_are_caught(fault: Rows, count: int, batch: int | None) -> None:
    found = check_batch("onnx", graph(fault, batch), images(count), batch, ALLOWED)
    assert found.passed is False
    assert found.error is not None
    assert found.error > TIGHT.overall
    assert found.reason == "a row's result depends on the other rows of its batch"


def test_an_open_batch_is_tried_with_one_row_and_with_more_rows_than_there_are() -> None:
    sizes: list[int] = []

    def run(values: AnyArray) -> AnyArray:
        sizes.append(len(values))
        return network(values)

    check_batch("onnx", graph(run), images(2), None, ALLOWED)
    assert sizes[:2] == [1, 1]
    assert max(sizes) > 2


def test_a_difference_within_the_tolerance_is_let_through() -> None:
    def other_rounding(values: AnyArray) -> AnyArray:
        return network(values) * np.float32(1 + 2e-7 * (len(values) > 1))

    assert check_batch("onnx", graph(other_rounding), images(), None, ALLOWED).passed is True


def test_a_difference_just_beyond_the_tolerance_is_not() -> None:
    beyond = 1 + 1.5 * TIGHT.overall

    def slightly_off(values: AnyArray) -> AnyArray:
        return network(values).astype(np.float64) * (beyond if len(values) > 1 else 1.0)

    found = check_batch("onnx", graph(slightly_off), images(), None, ALLOWED)
    assert found.passed is False
    assert found.error == pytest.approx(1.5 * TIGHT.overall, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_in_company_are_caught(bad: float) -> None:
    def broken(values: AnyArray) -> AnyArray:
        return network(values) if len(values) == 1 else np.full((len(values), 5), bad, np.float32)

    found = check_batch("fp16", graph(broken), images(), None, ALLOWED)
    assert (found.passed, found.error) == (False, None)


@given(st.integers(-3, 3).filter(bool))
def test_rows_that_are_lost_or_added_are_caught(change: int) -> None:
    def uneven(values: AnyArray) -> AnyArray:
        scores = network(values)
        return scores if len(scores) == 1 else np.resize(scores, (len(scores) + change, 5))

    assert check_batch("onnx", graph(uneven), images(3), None, ALLOWED).passed is False


# --- the results of single rows, where they are known


@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_were_run_alone_already_are_not_run_again(fault: Rows) -> None:
    sizes: list[int] = []

    def counted(values: AnyArray) -> AnyArray:
        sizes.append(len(values))
        return fault(values)

    rows = images(2)
    alone = [graph(fault)(row) for row in rows]
    found = check_batch("onnx", graph(counted), rows, None, ALLOWED, alone)
    assert len(sizes) == 1
    assert found == check_batch("onnx", graph(fault), rows, None, ALLOWED)
    assert found.passed is False


def test_what_is_known_of_single_rows_is_believed() -> None:
    """Results that come from elsewhere, such as the ladder's own: with others the same rows would fail."""
    rows = images(2)
    alone = [graph(network)(row) for row in rows]
    assert check_batch("onnx", graph(network), rows, None, ALLOWED, alone).passed is True
    assert check_batch("onnx", graph(network), rows, None, ALLOWED, alone[::-1]).passed is False


# --- several inputs and outputs


def pairs(count: int = 3) -> list[Feeds]:
    """Rows of a network with an image and a row of whole numbers."""
    rng = np.random.default_rng(2)
    return [{**row, "ids": rng.integers(0, 9, (1, 5))} for row in images(count)]


def two_sided(feeds: Feeds) -> dict[str, AnyArray]:
    """Both outputs look at both inputs."""
    scores = network(feeds["image"])
    return {"scores": scores * feeds["ids"].astype(np.float32), "largest": (feeds["ids"] + scores).argmax(axis=1)}


BOTH = {"scores": TIGHT, "largest": TIGHT}


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([np.float32, np.int64]))
def test_feeds_are_stacked_name_by_name(count: int, rows: int, dtype: type[np.generic]) -> None:
    feeds: list[Feeds] = [
        {"a": np.full((rows, 2), n, dtype), "b": np.full((rows, 3, 1), -n, dtype)} for n in range(count)
    ]
    found = stack(feeds)
    assert list(found) == ["a", "b"]
    assert (found["a"].shape, found["b"].shape) == ((count * rows, 2), (count * rows, 3, 1))
    assert found["a"].dtype == found["b"].dtype == np.dtype(dtype)
    assert np.array_equal(found["a"][:, 0], np.repeat(np.arange(count), rows).astype(dtype))
    assert np.array_equal(found["b"][:, 0, 0], np.repeat(-np.arange(count), rows).astype(dtype))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_network_of_several_inputs_and_outputs_passes(count: int, batch: int | None) -> None:
    found = check_batch("onnx", two_sided, pairs(count), batch, BOTH)
    assert (found.passed, found.error, found.reason) == (True, 0.0, None)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ["image", "ids"])
def test_one_input_whose_rows_are_mixed_up_is_enough(name: str, batch: int | None) -> None:
    def mixed(feeds: Feeds) -> dict[str, AnyArray]:
        return two_sided({**feeds, name: feeds[name][::-1]})

    assert check_batch("onnx", mixed, pairs(), batch, BOTH).passed is False


@pytest.mark.parametrize("name", ["scores", "largest"])
def test_one_output_whose_rows_are_mixed_up_is_enough(name: str) -> None:
    def mixed(feeds: Feeds) -> dict[str, AnyArray]:
        found = two_sided(feeds)
        return found | {name: found[name][::-1]}

    found = check_batch("onnx", mixed, pairs(), None, BOTH)
    assert found.passed is False
    assert found.reason == "a row's result depends on the other rows of its batch"
    assert check_batch("onnx", mixed, pairs(), None, {key: TIGHT for key in BOTH if key != name}).passed is True


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("grid", [np.arange(14.0).reshape(7, 2), np.array(7.0)], ids=["grid", "number"])
def test_an_output_without_a_row_for_each_image_must_be_the_same_in_any_company(
    grid: AnyArray, batch: int | None
) -> None:
    def steady(feeds: Feeds) -> dict[str, AnyArray]:
        return {"scores": network(feeds["image"]), "grid": grid}

    def moved(feeds: Feeds) -> dict[str, AnyArray]:
        return {"scores": network(feeds["image"]), "grid": grid + feeds["image"].mean()}

    allowed = {"scores": TIGHT, "grid": TIGHT}
    assert check_batch("onnx", steady, images(3), batch, allowed).passed is True
    assert check_batch("onnx", moved, images(3), batch, allowed).passed is False


def test_the_output_that_uses_most_of_its_tolerance_is_reported() -> None:
    """By its tolerance: the larger error may be the smaller trouble."""

    def drifting(feeds: Feeds) -> dict[str, AnyArray]:
        one = network(feeds["image"]).astype(np.float64)
        many = len(one) > 1
        return {"wide": one * (1.01 if many else 1.0), "narrow": one * (1.001 if many else 1.0)}

    wide, narrow = Distance(0.1, 0.1), Distance(0.002, 0.002)
    for allowed in ({"wide": wide, "narrow": narrow}, {"narrow": narrow, "wide": wide}):
        found = check_batch("onnx", drifting, images(), None, allowed)
        assert (found.passed, found.tolerance) == (True, 0.002)
        assert found.error == pytest.approx(0.001)
    strict = {"wide": wide, "narrow": Distance(0.0005, 0.0005)}
    assert check_batch("onnx", drifting, images(), None, strict).passed is False

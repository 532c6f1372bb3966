"""Inputs for any graph: given ones first, and what is made up is realistic, different, and the same every time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from tiny import Axes, model, node, value

from edgekit.errors import InputUnusable
from edgekit.graph.feeds import Feed, feeds, fitting_feeds

Values = Mapping[str, NDArray[Any]]
KINDS = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT64: np.int64,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.BOOL: np.bool_,
}


def of(axes: Axes, kind: int = TensorProto.FLOAT, name: str = "x") -> ModelProto:
    return model([node("Identity", name, "y")], [value(name, axes, kind)])


def names(found: list[Feed]) -> list[str]:
    return [feed.name for feed in found]


def same(one: Values, other: Values) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 1 << 40))
def test_every_input_has_its_type_and_shape_and_is_the_same_every_time(kind: int, axes: list[int], seed: int) -> None:
    first, again = (feeds(of(axes, kind), 2, seed) for _ in range(2))
    for feed, other in zip(first, again, strict=True):
        assert feed.values["x"].dtype == KINDS[kind]
        assert feed.values["x"].shape == tuple(axes)
        assert same(feed.values, other.values)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_sets_of_inputs_differ(kind: int) -> None:
    found = feeds(of((2, 32), kind), 3)
    arrays = [feed.values["x"] for feed in found]
    assert len({array.tobytes() for array in arrays}) == len(arrays)


def test_two_inputs_of_one_set_differ() -> None:
    made = model([node("Add", "a b", "y")], [value("a"), value("b")])
    assert not np.array_equal(*feeds(made, 1)[0].values.values())


def test_floats_come_once_more_and_eight_times_as_large() -> None:
    made = model([node("Gather", "a b", "y")], [value("a", (4, 3)), value("b", (2,), TensorProto.INT64)])
    found = feeds(made, 2)
    assert names(found) == ["made-0", "made-1", "saturating"]
    assert [feed.ordinary for feed in found] == [True, True, False]
    np.testing.assert_array_equal(found[2].values["a"], 8 * found[0].values["a"])
    np.testing.assert_array_equal(found[2].values["b"], found[0].values["b"])


def test_without_floats_there_is_nothing_to_enlarge() -> None:
    assert names(feeds(of((2, 9), TensorProto.INT64), 2)) == ["made-0", "made-1"]


def test_a_graph_without_inputs_is_run_once() -> None:
    made = model([node("Constant", "", "y", value_float=1.0)], [])
    assert feeds(made) == [Feed("nothing", {})]


# --- images


@pytest.mark.parametrize("axes", [(2, 3, 40, 24), (2, 40, 24, 3), (1, 1, 24, 40), (1, 3, 1, 1)])
def test_images_are_natural_ones_normalised(axes: tuple[int, ...]) -> None:
    found = feeds(of(axes), 2)
    assert names(found) == ["made-0", "made-1", "letterbox", "saturating"]
    assert all(abs(feed.values["x"]).max() <= 2 for feed in found[:3])


def test_images_are_smooth_and_lie_the_right_way() -> None:
    """White noise has no likeness between neighbours; and the colours of one pixel are alike."""
    flat, deep = (feeds(of(axes), 1)[0].values["x"] for axes in ((1, 3, 64, 64), (1, 64, 64, 3)))
    np.testing.assert_array_equal(flat, np.moveaxis(deep, 3, 1))
    along = np.corrcoef(flat[0, 0, :, 1:].ravel(), flat[0, 0, :, :-1].ravel())[0, 1]
    assert along > 0.5


def test_large_images_repeat_what_is_made() -> None:
    found = feeds(of((1, 3, 8, 1100)), 1)[0].values["x"]
    assert found.shape == (1, 3, 8, 1100)
    np.testing.assert_array_equal(found[..., 1024:], found[..., 1023:947:-1])


def test_images_of_bytes_are_not_normalised() -> None:
    values = feeds(of((1, 32, 32, 3), TensorProto.UINT8), 1)[0].values["x"]
    assert values.dtype == np.uint8
    assert values.std() > 10


@pytest.mark.parametrize(("axes", "black"), [((1, 3, 32, 8), -2.0), ((1, 32, 8, 3), -2.0)])
def test_black_bars_lie_above_and_below(axes: tuple[int, ...], black: float) -> None:
    letterbox = next(feed for feed in feeds(of(axes), 1) if feed.name == "letterbox").values["x"]
    rows = np.moveaxis(letterbox, 2 if axes[1] == 3 else 1, 0).reshape(32, -1)
    assert (rows[:8] == black).all()
    assert (rows[-8:] == black).all()
    assert not (rows[8:-8] == black).all()


# --- numbers that mean something


def test_indices_stay_below_what_they_index() -> None:
    table = {"t": np.zeros((7, 4), np.float32)}
    made = model([node("Gather", "t x", "y")], [value("x", (1000,), TensorProto.INT64)], weights=table)
    values = feeds(made, 1)[0].values["x"]
    assert set(values.tolist()) == set(range(7))


def test_a_sample_rate_is_one_that_the_graph_knows() -> None:
    made = model([node("Equal", "x r", "y")], [value("x", (), TensorProto.INT64)], weights={"r": np.array(16000)})
    assert all(feed.values["x"] == 16000 for feed in feeds(made, 3))


def test_numbers_of_no_known_meaning_are_small() -> None:
    assert set(feeds(of((100,), TensorProto.INT64), 1)[0].values["x"].tolist()) == {0, 1}


def test_masks_are_ones_with_an_end_of_zeros() -> None:
    values = feeds(of((50, 16), TensorProto.INT64, "attention_mask"), 1)[0].values["attention_mask"]
    assert (np.diff(values, axis=1) <= 0).all()
    assert (values[:, :8] == 1).all()
    assert len(set(values.sum(axis=1).tolist())) > 1


def test_parameters_are_ones_and_the_same_in_every_set() -> None:
    scales = value("s", (2,))
    made = model([node("Resize", "x - s", "y")], [value("x", (1, 3)), scales])
    for feed in feeds(made, 2):
        assert feed.values["s"].tolist() == [1, 1]


def test_text_has_to_be_given() -> None:
    with pytest.raises(InputUnusable, match="cannot be made up") as caught:
        feeds(of((2,), TensorProto.STRING))
    assert caught.value.where == "input x"
    assert ".npz" in str(caught.value.hint)


# --- given inputs


def test_given_inputs_come_first_and_others_are_like_them(tmp_path: Path) -> None:
    shown = np.random.default_rng(0).normal(5, 0.1, (4, 3)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=shown)
    found = feeds(of(("batch", 3)), 3, given=tmp_path / "in.npz")
    assert names(found) == ["in.npz", "like-0", "like-1", "saturating"]
    np.testing.assert_array_equal(found[0].values["x"], shown)
    for feed in found[1:3]:
        assert feed.values["x"].shape == (4, 3)
        assert abs(feed.values["x"].mean() - 5) < 0.2
    assert [feed.made_up for feed in found] == [False, True, True, True]


def test_a_given_input_that_is_the_same_everywhere_is_varied_all_the_same(tmp_path: Path) -> None:
    """Test data is often all ones; sets that are all alike would prove nothing."""
    np.savez(tmp_path / "in.npz", x=np.ones((4, 3), np.float32))
    found = feeds(of(("batch", 3)), 3, given=tmp_path / "in.npz")
    assert all(feed.values["x"].std() > 0.3 for feed in found[1:3])
    assert not np.array_equal(found[1].values["x"], found[2].values["x"])


def test_all_given_inputs_are_taken(tmp_path: Path) -> None:
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.full((1, 3), number, np.float32))
    assert names(feeds(of((1, 3)), 2, given=tmp_path))[:4] == ["0.npy", "1.npy", "2.npy", "3.npy"]


def test_whole_numbers_like_given_ones_are_the_same_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(50))
    [_, other] = feeds(of((50,), TensorProto.INT64), 2, given=tmp_path / "x.npy")
    assert sorted(other.values["x"].tolist()) == list(range(50))
    assert other.values["x"].tolist() != list(range(50))


def test_nothing_is_added_to_text(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(["a", "b"]))
    assert names(feeds(of((2,), TensorProto.STRING), 3, given=tmp_path / "x.npy")) == ["x.npy"]


# --- inputs that the graph takes


def only(*shape: int) -> Any:
    """A graph that runs on one shape."""

    def run(values: Values) -> None:
        if values["x"].shape != shape:
            raise InputUnusable("it does not run", got=str(values["x"].shape))

    return run


def test_the_usual_sizes_are_kept_where_they_run() -> None:
    assert fitting_feeds(of((1, 3, None, None)), only(1, 3, 224, 224), 1)[0].values["x"].shape == (1, 3, 224, 224)


def test_other_sizes_are_tried_where_they_do_not() -> None:
    assert fitting_feeds(of((1, 3, None, None)), only(1, 3, 48, 320), 1)[0].values["x"].shape == (1, 3, 48, 320)
    assert fitting_feeds(of((1, None)), only(1, 512), 1)[0].values["x"].shape == (1, 512)


def test_when_no_size_runs_the_first_refusal_counts() -> None:
    with pytest.raises(InputUnusable) as caught:
        fitting_feeds(of((1, 3, None, None)), only(1, 3, 7, 7))
    assert caught.value.got == "(1, 3, 224, 224)"


def test_a_graph_of_fixed_size_is_tried_once() -> None:
    tries = []

    def run(values: Values) -> None:
        tries.append(values)
        raise InputUnusable("never")

    with pytest.raises(InputUnusable, match="never"):
        fitting_feeds(of((1, 3, 8, 8)), run)
    assert len(tries) == 1


def test_given_inputs_have_to_run_and_others_may_be_left_out(tmp_path: Path) -> None:
    shown = np.array([[1, 2, 3]], np.float32)
    np.save(tmp_path / "x.npy", shown)

    def run(values: Values) -> None:
        if not np.array_equal(values["x"], shown):
            raise InputUnusable("only as given")

    assert names(fitting_feeds(of((1, 3)), run, given=tmp_path / "x.npy")) == ["x.npy"]
    with pytest.raises(InputUnusable, match="not even that"):
        fitting_feeds(of((1, 3)), not_even_that, given=tmp_path / "x.npy")


def not_even_that(_values: Values) -> None:
    raise InputUnusable("not even that")

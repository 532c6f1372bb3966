"""The ladder's inputs: as many as promised, different from one another, and saturating where that is their task."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.parity.inputs import SATURATING_GAIN, ladder_inputs
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import AnyArray
from edgekit.preprocessing import IMAGENET, Preprocessing

SIZES = st.sampled_from([1, 7, 32, 33, 64])


def photo(value: float, resolution: int = 32) -> AnyArray:
    return np.full((1, 3, resolution, resolution), value, np.float32)


def image(given_input: Input, name: str = "input") -> AnyArray:
    """What the network's one input is fed."""
    assert list(given_input.feeds) == [name]
    return given_input.feeds[name]


@settings(max_examples=25)
@given(SIZES, st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_every_input_has_the_networks_shape_and_type(resolution: int, batch: int, photos: int, quick: bool) -> None:
    given_photos = [photo(0.1 * n, resolution) for n in range(photos)]
    found = ladder_inputs(IMAGENET, resolution, batch, given_photos, quick)
    assert {image(it).shape for it in found} == {(batch, 3, resolution, resolution)}
    assert {image(it).dtype for it in found} == {np.dtype(np.float32)}
    assert all(np.isfinite(image(it)).all() for it in found)
    assert len({it.name for it in found}) == len(found)
    assert sum(it.ordinary for it in found) >= 2


def test_a_full_climb_has_an_ordinary_input_a_letterbox_and_a_saturating_one() -> None:
    found = ladder_inputs(IMAGENET, 32, 1)
    assert [(it.name, it.ordinary) for it in found] == [
        ("natural-0", True),
        ("letterbox", True),
        ("saturating", False),
    ]


def test_for_a_network_that_adapts_to_contrast_the_extreme_is_a_spot_in_the_dark() -> None:
    found = ladder_inputs(IMAGENET, 64, 2, adapting=True)
    assert [(it.name, it.ordinary) for it in found] == [("natural-0", True), ("letterbox", True), ("spot", False)]
    for row in image(found[-1]):
        bright = row > row.max((1, 2), keepdims=True) - 1e-6
        assert bright.sum((1, 2)).tolist() == [4, 4, 4]  # white, and brighter than anything else
        shown = (row - row.mean((1, 2), keepdims=True)) / row.std((1, 2), keepdims=True)
        assert shown.max((1, 2)).min() > 6  # what an instance norm makes of it
    assert not np.array_equal(*image(found[-1]))


def test_a_quick_climb_of_such_a_network_has_ordinary_ones_only() -> None:
    assert all(it.ordinary for it in ladder_inputs(IMAGENET, 32, 1, quick=True, adapting=True))


def test_a_quick_climb_has_the_three_ordinary_ones() -> None:
    assert [it.name for it in ladder_inputs(IMAGENET, 32, 1, quick=True)] == ["natural-0", "natural-1", "natural-2"]


@pytest.mark.parametrize(
    ("photos", "names"),
    [
        (1, ["image-0", "natural-0", "natural-1"]),
        (3, ["image-0", "image-1", "image-2"]),
        (5, ["image-0", "image-1", "image-2", "image-3", "image-4"]),
    ],
)
def test_photos_take_the_places_of_synthetic_images(photos: int, names: list[str]) -> None:
    found = ladder_inputs(IMAGENET, 32, 2, [photo(float(n)) for n in range(photos)], quick=True)
    assert [it.name for it in found] == names
    for number in range(photos):
        assert (image(found[number]) == number).all()


def test_the_networks_input_may_have_another_name() -> None:
    renamed = ladder_inputs(IMAGENET, 32, 1, name="pixels")
    for one, other in zip(ladder_inputs(IMAGENET, 32, 1), renamed, strict=True):
        assert one.name == other.name
        assert np.array_equal(image(one), image(other, "pixels"))


def test_the_same_inputs_every_time() -> None:
    for one, other in zip(ladder_inputs(IMAGENET, 32, 2), ladder_inputs(IMAGENET, 32, 2), strict=True):
        assert np.array_equal(image(one), image(other))


def test_all_rows_of_all_ordinary_inputs_differ() -> None:
    found = ladder_inputs(IMAGENET, 16, 4, quick=True)
    rows = [row.tobytes() for it in found for row in image(it)]
    assert len(set(rows)) == len(rows) == 12


def test_the_letterbox_has_bars_of_what_black_becomes_and_an_image_between() -> None:
    contract = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    letterbox = next(image(it) for it in ladder_inputs(contract, 16, 2) if it.name == "letterbox")
    bars = np.concatenate([letterbox[:, :, :4], letterbox[:, :, -4:]], axis=2)
    assert [set(bars[:, channel].ravel()) for channel in range(3)] == [{-1.0}, {-1.0}, {0.0}]
    assert letterbox[:, :, 4:-4].std() > 0.1
    assert not np.array_equal(letterbox[0], letterbox[1])


def test_the_saturating_input_has_many_times_the_contrast_of_an_ordinary_one() -> None:
    found = {it.name: image(it) for it in ladder_inputs(IMAGENET, 32, 1)}
    assert np.array_equal(found["saturating"], found["natural-0"] * np.float32(SATURATING_GAIN))
    assert np.abs(found["saturating"]).max() > 3 * max(np.abs(found[name]).max() for name in ("natural-0", "letterbox"))

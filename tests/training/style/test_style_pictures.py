"""Pictures in and out: whole, upright, with their transparency; what is no picture is refused by name."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from style_parts import photo, save_photo

from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.training.style import pictures
from edgekit.training.style.pictures import Picture


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1"])
def test_every_kind_of_image_becomes_three_colours(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.fromarray(photo(0, 6, 9)).convert(mode).save(path)
    found = pictures.read(path)
    assert (found.size, found.pixels.shape, found.alpha) == ((6, 9), (6, 9, 3), None)
    if mode == "L":
        assert np.ptp(found.pixels, axis=2).max() == 0


def test_transparency_is_kept_through_png_and_lies_on_white_in_jpeg(tmp_path):
    colours, alpha = photo(0, 20, 20), np.zeros((20, 20), np.uint8)
    alpha[:, :10] = 255
    pictures.write(Picture(colours, alpha), tmp_path / "x.png")
    found = pictures.read(tmp_path / "x.png")
    assert np.array_equal(found.alpha, alpha)
    assert np.array_equal(found.pixels, colours)
    pictures.write(found, tmp_path / "x.jpg")
    flat = pictures.read(tmp_path / "x.jpg")
    assert flat.alpha is None
    assert flat.pixels[:, 14:].min() > 240


def test_a_photo_that_lies_on_its_side_is_put_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(0, 10, 20)).save(tmp_path / "x.png", exif=exif)
    found = pictures.read(tmp_path / "x.png")
    assert np.array_equal(found.pixels, np.rot90(photo(0, 10, 20), -1))


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_deep_images_are_refused_by_their_name(tmp_path, mode):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.zeros((4, 4), np.uint16 if mode == "I;16" else np.float32)).save(path)
    with pytest.raises(InputUnusable, match="more than 8 bits") as caught:
        pictures.read(path)
    assert str(path) in str(caught.value)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    for path in (tmp_path / "x.png", tmp_path / "gone.png"):
        with pytest.raises(InputUnusable, match="cannot read the image"):
            pictures.read(path)


def test_a_cut_photo_is_refused(tmp_path):
    path = save_photo(tmp_path / "x.jpg", 0, 200, 200)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputUnusable, match="cannot read the image"):
        pictures.read(path)


@given(height=st.integers(1, 40), width=st.integers(1, 40), longer=st.integers(1, 50))
def test_shrinking_keeps_the_shape_and_never_enlarges(height, width, longer):
    found = pictures.within(Picture(np.zeros((height, width, 3), np.uint8)), longer)
    assert max(found.size) == min(longer, max(height, width))
    for extent, before in zip(found.size, (height, width), strict=True):
        assert abs(extent - max(1, before * min(1, longer / max(height, width)))) <= 0.5 + 1e-9


def test_a_tensor_there_and_back_is_the_same_picture():
    picture = Picture(photo(0, 5, 7))
    assert np.array_equal(pictures.from_tensor(picture.tensor()).pixels, picture.pixels)
    assert pictures.from_tensor(picture.tensor() * 9 - 4).pixels.max() == 255


def test_targets_that_cannot_be_are_refused_before_any_work(tmp_path):
    save_photo(tmp_path / "there.png", 0)
    for path, words in ((tmp_path / "x.gif", "PNG or JPEG"), (tmp_path / "there.png", "there already")):
        with pytest.raises(UsageError, match=words):
            pictures.check_target(path, force=False)
    pictures.check_target(tmp_path / "there.png", force=True)


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = save_photo(tmp_path / "x.png", 0)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MachineLacks, match="disk is full"):
        pictures.write(Picture(photo(1, 5, 5)), path)
    assert path.read_bytes() == before
    assert [it.name for it in tmp_path.iterdir()] == ["x.png"]


def test_folders_are_searched_and_empty_ones_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    a, b = save_photo(tmp_path / "d" / "a.png", 0), save_photo(tmp_path / "d" / "e" / "b.jpg", 1)
    assert pictures.find([tmp_path / "d", a]) == [a, b]
    for path, words in ((tmp_path / "empty", "no images"), (tmp_path / "gone", "no such image")):
        with pytest.raises(InputUnusable, match=words):
            pictures.find([path])

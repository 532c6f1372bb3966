"""Image files become exactly the tensors of the preprocessing contract, or are refused with their name."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from edgekit.errors import InputUnusable
from edgekit.images import IMAGE_SUFFIXES, find_images, load_image, normalise
from edgekit.parity.metrics import AnyArray
from edgekit.preprocessing import IMAGENET, Preprocessing

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop=1.0)
photo: Callable[[], AnyArray] = data.chelsea
PHOTO = photo()  # 300 x 451 RGB


def saved(path: Path, pixels: AnyArray) -> Path:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO[:40, :60]).save(buffer, kind)
    return buffer.getvalue()


# --- pixels


@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.data())
def test_normalising_takes_each_channels_own_mean_and_deviation(
    channels: int, height: int, width: int, choice: st.DataObject
) -> None:
    means = tuple(choice.draw(st.lists(st.floats(-1, 1), min_size=channels, max_size=channels)))
    deviations = tuple(choice.draw(st.lists(st.floats(0.1, 2), min_size=channels, max_size=channels)))
    pixels = np.random.default_rng(0).random((channels, height, width)).astype(np.float32)
    found = normalise(pixels, Preprocessing(mean=means, std=deviations))
    assert found.shape == (1, channels, height, width)
    assert found.dtype == np.dtype(np.float32)
    assert found.flags["C_CONTIGUOUS"]
    for channel in range(channels):
        wanted = (pixels[channel].astype(np.float64) - means[channel]) / deviations[channel]
        assert found[0, channel] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_an_image_of_the_right_size_keeps_its_pixels_and_their_order(tmp_path: Path) -> None:
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    found = load_image(saved(tmp_path / "x.png", pixels), PLAIN, 32)
    assert found.shape == (1, 3, 32, 32)
    assert found.dtype == np.dtype(np.float32)
    assert found[0] == pytest.approx(pixels.transpose(2, 0, 1) / 255)


def test_the_contract_decides_the_scale_and_the_share_that_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = 200
    raw = Preprocessing(scale=1.0, mean=(100.0, 0.0, 0.0), std=(1.0, 2.0, 1.0), crop=0.5)
    found = load_image(saved(tmp_path / "x.png", pixels), raw, 32)
    assert [np.unique(found[0, channel]).tolist() for channel in range(3)] == [[100.0], [100.0], [200.0]]


@pytest.mark.parametrize("resolution", [224, 160, 129, 96])
@pytest.mark.parametrize("turned", [False, True])
def test_photos_come_out_as_torchvision_prepares_them(tmp_path: Path, resolution: int, turned: bool) -> None:
    from torchvision import transforms as T

    path = saved(tmp_path / "x.png", PHOTO.transpose(1, 0, 2) if turned else PHOTO)
    reference = T.Compose(
        [
            T.Resize(round(resolution / 0.875)),
            T.CenterCrop(resolution),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with Image.open(path) as image:
        wanted = reference(image)[None].numpy()
    assert load_image(path, IMAGENET, resolution) == pytest.approx(wanted, abs=2e-6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 70), st.sampled_from([0.5, 0.875, 1.0]))
def test_any_size_becomes_the_size_asked_for(
    tmp_path: Path, width: int, height: int, resolution: int, crop: float
) -> None:
    pixels = np.full((height, width, 3), 51, np.uint8)
    contract = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop=crop)
    found = load_image(saved(tmp_path / "x.png", pixels), contract, resolution)
    assert found.shape == (1, 3, resolution, resolution)
    assert found == pytest.approx(0.2)  # nothing from beyond the image's edge, which would be black


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_camera_s_rotation_is_applied(tmp_path: Path, kind: str) -> None:
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32] = 255
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    stored.save(tmp_path / "x", format=kind, exif=exif)
    found = load_image(tmp_path / "x", PLAIN, 64)[0]
    assert found[:, :28].min() > 0.9
    assert found[:, 36:].max() < 0.1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr"])
def test_images_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.zeros((32, 32, 3), np.uint8)
    grey[:, 16:] = 255
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    Image.fromarray(grey).convert(mode).save(tmp_path / "x", format=kind)
    found = load_image(tmp_path / "x", PLAIN, 32)
    assert found[0] == pytest.approx(grey.transpose(2, 0, 1) / 255, abs=0.02)


def test_a_transparent_palette_is_no_cause_for_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO[:32, :32]).convert("P")
    image.save(tmp_path / "x.png", transparency=b"\x00\x80\xff")
    wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1) / 255
    assert load_image(tmp_path / "x.png", PLAIN, 32)[0] == pytest.approx(wanted)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deeper_images_are_refused_instead_of_turning_white(tmp_path: Path, kind: type[np.generic]) -> None:
    path = saved(tmp_path / "x.tiff", np.linspace(0, 60000, 1024).reshape(32, 32).astype(kind))
    with pytest.raises(InputUnusable, match="more than 8 bits"):
        load_image(path, PLAIN, 32)


# --- files that are no images


def refused(path: Path) -> None:
    with pytest.raises(InputUnusable) as caught:
        load_image(path, IMAGENET, 32)
    assert caught.value.exit_code == 4
    assert caught.value.where == str(path)
    assert caught.value.got


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", bytes(range(256)) * 8])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    refused(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "PPM"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_an_image_that_was_cut_off_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    whole = encoded(kind)
    (tmp_path / "x").write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / "x")


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    refused(tmp_path)
    refused(tmp_path / "missing.png")


def test_an_image_made_to_exhaust_the_memory_is_refused(tmp_path: Path) -> None:
    header = bytearray(encoded("BMP"))
    header[18:26] = (60000).to_bytes(4, "little") * 2
    (tmp_path / "x.bmp").write_bytes(header)
    refused(tmp_path / "x.bmp")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "PPM"]), st.data())
def test_a_damaged_image_is_read_or_refused_but_never_a_crash(tmp_path: Path, kind: str, choice: st.DataObject) -> None:
    content = bytearray(encoded(kind))
    for _ in range(choice.draw(st.integers(1, 3))):
        content[choice.draw(st.integers(0, min(len(content), 400) - 1))] = choice.draw(st.integers(0, 255))
    (tmp_path / "x").write_bytes(content[: choice.draw(st.integers(1, len(content)))])
    with contextlib.suppress(InputUnusable), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the person at the terminal is told of it
        assert load_image(tmp_path / "x", IMAGENET, 16).shape == (1, 3, 16, 16)


# --- folders


def test_images_are_found_at_any_depth_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "c/d.webp", "c/a.jpeg", "notes.txt", "png", "e.onnx"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, 10)]
    assert found == ["a.JPG", "b.png", "c/a.jpeg", "c/d.webp"]
    assert find_images(tmp_path, 2) == [tmp_path / "a.JPG", tmp_path / "b.png"]


def test_only_files_count_as_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    os.mkfifo(tmp_path / "b.png")  # reading it would wait for ever
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d.png").write_bytes(b"")
    assert find_images(tmp_path, 10) == [tmp_path / "d.png"]


def test_a_single_file_is_taken_by_its_word(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"")
    assert find_images(tmp_path / "photo", 3) == [tmp_path / "photo"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(InputUnusable) as caught:
        find_images(tmp_path, 3)
    assert caught.value.where == str(tmp_path)
    assert all(suffix in (caught.value.wanted or "") for suffix in IMAGE_SUFFIXES)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable) as caught:
        find_images(tmp_path / "nowhere", 3)
    assert caught.value.where == str(tmp_path / "nowhere")

"""Labelled images are the pixels that export and bench see; data that cannot be learnt from is refused by name."""

from __future__ import annotations

import gzip
import io
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labelled_folders import folder_of, noise
from PIL import Image

from edgekit import images
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.preprocessing import CIFAR, IMAGENET, PIXELS
from edgekit.training import labelled
from edgekit.training.augment import normalise
from edgekit.training.labelled import DIGITS, FASHION, Splits, _divided, open_data
from edgekit.training.sources import DataSource, parse_data


def opened(root: Path, side: int = 24, val_share: float = 0.25, seed: int = 0) -> Splits:
    return open_data(parse_data(str(root)), side, contract=None, val_share=val_share, seed=seed)


def refused(root: Path) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        opened(root)
    return caught.value


def names(splits: Splits) -> tuple[list[str], list[str]]:
    train, val = ([part.where(i) for i in range(len(part))] for part in (splits.train, splits.val))
    return train, val


# --- pixels


@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_pixels_are_exactly_those_of_export_and_bench(tmp_path: Path, crop: float) -> None:
    contract = IMAGENET if crop == 0.875 else CIFAR
    data = open_data(parse_data(str(folder_of(tmp_path, {"a": 3, "b": 3}))), 20, contract=contract).train
    for i in range(len(data)):
        pixels, label = data[i]
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 20, 20))
        wanted = images.load_image(Path(data.where(i)), contract, 20)
        assert np.array_equal(normalise(pixels[None], contract).numpy(), wanted)
        assert Path(data.where(i)).parent.name == "ab"[label]


def test_held_images_are_what_a_file_of_theirs_would_give(tmp_path: Path) -> None:
    data = open_data(parse_data("digits"), 32, contract=None)
    native = open_data(parse_data("digits"), 8, contract=None)
    assert data.contract == DIGITS
    for i in (0, 100):
        Image.fromarray(native.train[i][0][0].numpy()).save(tmp_path / "x.png")
        wanted = images.load_image(tmp_path / "x.png", DIGITS, 32)
        assert np.array_equal(normalise(data.train[i][0][None], DIGITS).numpy(), wanted)
        assert data.train.where(i) == f"digits, image {i}"


def test_what_takes_too_much_memory_is_resized_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_data(parse_data("digits"), 16, contract=None)
    monkeypatch.setattr(labelled, "MOST_HELD_BYTES", 10_000)
    lazy = open_data(parse_data("digits"), 16, contract=None)
    part = [3, 1, 17]
    assert torch.equal(whole.val.stacked(part), lazy.val.stacked(part))
    assert torch.equal(whole.val.stacked(part), torch.stack([lazy.val[i][0] for i in part]))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_images_of_any_mode_are_taken(tmp_path: Path, mode: str) -> None:
    folder_of(tmp_path, {"a": 2, "b": 2})
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), (200, 200, 200)).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    (tmp_path / "a" / "000.jpg").write_bytes(buffer.getvalue())
    data = opened(tmp_path, 8)
    found = next(part[i][0] for part in (data.train, data.val) for i in range(len(part)) if "a/000" in part.where(i))
    assert found.shape == (3, 8, 8)


def test_one_pixel_is_an_image_like_any_other(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a": 2, "b": 2})
    for path in tmp_path.rglob("*.jpg"):
        Image.new("RGB", (1, 1), (10, 100, 200)).save(path, "PNG")
    found = opened(tmp_path, 8).train[0][0]
    assert found[:, 3, 3].tolist() == [10, 100, 200]
    assert torch.equal(found, found[:, :1, :1].expand(-1, 8, 8))


@pytest.mark.parametrize(("kind", "word"), [(np.uint16, "8 bits"), (np.uint8, "narrow")])
def test_images_that_would_not_be_what_they_show_are_refused_by_name(
    tmp_path: Path, kind: type[np.generic], word: str
) -> None:
    folder_of(tmp_path, {"a": 2, "b": 2})
    path = Path(opened(tmp_path).train.where(0))
    shape = (1, 30_000) if word == "narrow" else (20, 20)
    Image.fromarray(np.full(shape, 200, kind)).save(path, "PNG")
    with pytest.raises(InputUnusable) as caught:
        opened(tmp_path).train[0]
    assert caught.value.where == str(path)
    assert word in f"{caught.value.what} {caught.value.wanted}"


# --- folders


def test_a_folder_of_classes_is_divided_class_by_class_by_the_seed(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 8, "dog": 20, "eel": 2})
    first, again, other = (opened(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first.classes == ("cat", "dog", "eel")
    assert Counter(first.val.labels) == {0: 2, 1: 5, 2: 1}
    assert Counter(first.train.labels) == {0: 6, 1: 15, 2: 1}
    assert names(first) == names(again)
    assert names(first) != names(other)
    assert sorted(names(first)[0] + names(first)[1]) == sorted(names(other)[0] + names(other)[1])
    assert first.contract == IMAGENET


@pytest.mark.parametrize("name", ["val", "valid", "test"])
def test_train_and_validation_folders_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path / "train", {"cat": 3, "dog": 4})
    folder_of(tmp_path / name, {"cat": 1, "dog": 2})
    data = opened(tmp_path)
    assert (len(data.train), len(data.val)) == (7, 3)
    assert data.classes == ("cat", "dog")
    assert all(f"/{name}/" in where for where in names(data)[1])


def test_train_alone_is_divided_and_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder_of(tmp_path / "one" / "train", {"cat": 4, "dog": 4})
    assert opened(tmp_path / "one").classes == ("cat", "dog")
    folder_of(tmp_path / "two", {"car": 4, "train": 4, "test": 4})
    assert opened(tmp_path / "two").classes == ("car", "test", "train")


def test_images_are_found_at_any_depth_and_hidden_or_other_files_are_not(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a": 2, "b": 2, ".cache": 3})
    (tmp_path / "a" / "more").mkdir()
    (tmp_path / "a" / "more" / "x.JPEG").write_bytes(noise(5))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._x.jpg").write_text("what some systems leave behind")
    data = opened(tmp_path)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.val) == 5


def test_an_empty_class_is_refused_by_name(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 2, "dog": 0})
    assert refused(tmp_path).what == "the class dog is empty"
    assert refused(tmp_path).where == str(tmp_path / "dog")


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 2})
    assert refused(tmp_path).what == "there is only one class"


@pytest.mark.parametrize("what", ["nothing", "images without classes"])
def test_no_classes_are_refused(tmp_path: Path, what: str) -> None:
    if what != "nothing":
        (tmp_path / "x.jpg").write_bytes(noise(1))
    assert refused(tmp_path).what == "there are no classes"


def test_a_class_of_one_image_cannot_be_divided(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 2, "dog": 1})
    assert refused(tmp_path).what == "the class dog is too small to be divided"


def test_a_class_that_is_in_one_split_only_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"cat": 2, "dog": 2})
    folder_of(tmp_path / "val", {"cat": 1, "dgo": 1})
    assert refused(tmp_path).got == "without dog; also dgo"


def test_an_empty_class_to_validate_with_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"cat": 2, "dog": 2})
    folder_of(tmp_path / "val", {"cat": 1, "dog": 0})
    assert refused(tmp_path).where == str(tmp_path / "val" / "dog")


def test_the_digest_tells_data_apart_and_knows_nothing_of_the_split(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 4, "dog": 4})
    before = opened(tmp_path).digest
    assert opened(tmp_path, side=32, seed=5, val_share=0.5).digest == before
    (tmp_path / "dog" / "more.jpg").write_bytes(noise(77))
    assert opened(tmp_path).digest != before
    assert open_data(parse_data("digits"), 8, contract=None, seed=1).digest == (
        open_data(parse_data("digits"), 16, contract=PIXELS).digest
    )


@given(st.lists(st.integers(2, 30), min_size=2, max_size=6), st.floats(0.01, 0.95), st.integers(0, 3))
def test_every_class_is_on_either_side_and_every_image_once(counts: list[int], share: float, seed: int) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    train, val = _divided(labels, [str(label) for label in range(len(counts))], share, seed)
    assert sorted(train + val) == list(range(len(labels)))
    for part in (train, val):
        assert {labels[i] for i in part} == set(range(len(counts)))
    for label, count in enumerate(counts):
        assert abs(sum(labels[i] == label for i in val) - share * count) <= 1


def test_a_new_class_leaves_the_division_of_the_others_alone(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 8, "dog": 8})
    before = set(names(opened(tmp_path))[1])
    folder_of(tmp_path, {"ape": 8})
    assert before < set(names(opened(tmp_path))[1])


# --- the others


def idx_folder(root: Path, count: int = 40) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    for split in ("train", "t10k"):
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (root / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return root


def test_fashion_mnist_from_a_folder(tmp_path: Path) -> None:
    data = open_data(parse_data(f"fashion-mnist:{idx_folder(tmp_path)}"), 32, contract=None)
    assert (len(data.train), len(data.val)) == (40, 40)
    assert data.contract == FASHION
    assert data.classes[9] == "Ankle boot"
    pixels, label = data.val[7]
    assert (pixels.shape, label) == ((3, 32, 32), 7)
    assert torch.equal(pixels[0], pixels[2])


def test_small_data_are_taken_whole_whatever_the_contract() -> None:
    data = open_data(parse_data("digits"), 8, contract=IMAGENET)
    assert data.contract.crop == 1.0
    assert data.contract.mean == IMAGENET.mean
    assert len(data.train) + len(data.val) == 1797


def test_data_that_are_not_installed_come_with_the_command_that_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineLacks) as caught:
        open_data(DataSource("fashion-mnist", Path("/nowhere/at/all"), "fashion-mnist"), 32, contract=None)
    assert "dataset-fashion-mnist" in (caught.value.hint or "")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MachineLacks) as caught:
        open_data(parse_data("digits"), 32, contract=None)
    assert "pip install" in (caught.value.hint or "")


@pytest.mark.parametrize(("side", "share"), [(0, 0.1), (5000, 0.1), (32, 0.0), (32, 1.0), (32, float("nan"))])
def test_sizes_and_shares_that_make_no_sense_are_refused(side: int, share: float) -> None:
    with pytest.raises(UsageError):
        open_data(parse_data("digits"), side, contract=None, val_share=share)

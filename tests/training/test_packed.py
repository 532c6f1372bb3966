"""idx files and CIFAR-10's pickles are read, or refused by name; a pickle runs nothing."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import InputUnusable
from edgekit.training.packed import CIFAR_TRAIN, Bytes, read_cifar, read_idx


def idx(array: Bytes) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def images(count: int = 20, side: int = 6) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, (count, side, side), np.uint8)


def labels(count: int = 20, classes: int = 4) -> Bytes:
    return np.arange(count, dtype=np.uint8) % classes


def saved(folder: Path, pixels: bytes, targets: bytes, zipped: bool = True) -> Path:
    for name, data in (("train-images-idx3-ubyte", pixels), ("train-labels-idx1-ubyte", targets)):
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(data) if zipped else data)
    return folder


def refused(folder: Path, name: str) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        read_idx(folder, "train", 4)
    assert name in (caught.value.where or "") + (caught.value.wanted or "")
    return caught.value


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_read_zipped_or_not(tmp_path: Path, zipped: bool) -> None:
    found = read_idx(saved(tmp_path, idx(images()), idx(labels()), zipped), "train", 4)
    assert np.array_equal(found.pixels, images())
    assert found.labels == tuple(labels().tolist())


def test_labels_that_are_not_as_many_as_the_images_are_refused(tmp_path: Path) -> None:
    error = refused(saved(tmp_path, idx(images(20)), idx(labels(19))), "train-labels")
    assert "do not match" in error.what
    assert (error.got, (error.wanted or "")[:2]) == ("19 labels", "20")


def test_a_label_out_of_range_is_refused_with_its_place(tmp_path: Path) -> None:
    targets = labels()
    targets[7] = 9
    assert "label 7" in (refused(saved(tmp_path, idx(images()), idx(targets)), "train-labels").where or "")


def test_an_empty_class_is_refused_by_its_number(tmp_path: Path) -> None:
    targets = labels()
    targets[targets == 2] = 1
    assert refused(saved(tmp_path, idx(images()), idx(targets)), "train-labels").what == "the class 2 is empty"


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path, idx(labels()), idx(labels())), "train-images")
    refused(saved(tmp_path, idx(images()), idx(images())), "train-labels")
    refused(saved(tmp_path, b"\x00\x00\x0d\x03" + idx(images())[4:], idx(labels())), "train-images")  # floats
    refused(saved(tmp_path, idx(images()[:, :4]), idx(labels())), "train-images")  # not square
    refused(saved(tmp_path, idx(images()) + b"x", idx(labels())), "train-images")
    refused(saved(tmp_path, b"", idx(labels())), "train-images")


def test_a_file_that_announces_more_than_there_can_be_is_refused_at_once(tmp_path: Path) -> None:
    head = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**16, 2**16)
    refused(saved(tmp_path, head + b"x" * 100, idx(labels())), "train-images")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    saved(tmp_path, idx(images()), idx(labels()), zipped)
    path = next(tmp_path.glob("train-images*"))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(tmp_path, "train-images")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    refused(tmp_path, "train-images-idx3-ubyte")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.booleans())
def test_damaged_files_are_read_or_refused_but_never_a_crash(tmp_path: Path, choice: st.DataObject, zip: bool) -> None:
    for left in tmp_path.iterdir():
        left.unlink()
    saved(tmp_path, idx(images()), idx(labels()), zip)
    path = choice.draw(st.sampled_from(sorted(tmp_path.iterdir())))
    content = bytearray(path.read_bytes())
    for _ in range(choice.draw(st.integers(1, 3))):
        content[choice.draw(st.integers(0, min(len(content), 60) - 1))] = choice.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(InputUnusable):
        read_idx(tmp_path, "train", 4)


# --- CIFAR-10


def cifar(folder: Path, protocol: int = 2, **changes: object) -> Path:
    """A folder as CIFAR-10's archive unpacks to, with ten images a batch."""
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    for number, name in enumerate([*CIFAR_TRAIN, "test_batch"]):
        pixels = np.random.default_rng(number).integers(0, 256, (10, 3072), np.uint8)
        content = {b"data": pixels, b"labels": list(range(10)), b"batch_label": name.encode()} | {
            key.encode(): value for key, value in changes.items()
        }
        (inner / name).write_bytes(pickle.dumps(content, protocol))
    return folder


def refused_cifar(folder: Path, name: str) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        read_cifar(folder)
    assert Path(caught.value.where or "").name == name
    return caught.value


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("inner", ["", "cifar-10-batches-py"])
def test_cifar_is_read_with_its_planes_in_place(tmp_path: Path, protocol: int, inner: str) -> None:
    train, test, classes = read_cifar(cifar(tmp_path, protocol) / inner)
    assert train.pixels.shape == (50, 32, 32, 3)
    assert test.pixels.shape == (10, 32, 32, 3)
    assert train.labels == tuple(range(10)) * 5
    assert classes[3] == "cat"
    stored = np.random.default_rng(1).integers(0, 256, (10, 3072), np.uint8)  # the second batch
    assert train.pixels[10, 0, 5].tolist() == [stored[0, 5], stored[0, 1024 + 5], stored[0, 2048 + 5]]


class Hostile:
    """What a pickle can do: here, make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("key", ["data", "labels", "more"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(tmp_path: Path, key: str) -> None:
    cifar(tmp_path, **{key: Hostile(tmp_path / "was here")})
    error = refused_cifar(tmp_path, "data_batch_1")
    assert "mkdir" in (error.got or "")
    assert "refused" in (error.got or "")
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"data": np.zeros((10, 3071), np.uint8)},
        {"data": np.zeros((10, 3072), np.float32)},
        {"data": [1, 2]},
        {"labels": list(range(9))},
        {"labels": [*range(9), 10]},
        {"labels": [*range(9), -1]},
        {"labels": "abcdefghij"},
        {"labels": []},
    ],
)
def test_batches_that_are_none_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    refused_cifar(cifar(tmp_path, **changes), "data_batch_1")


def test_missing_and_damaged_batches_are_named(tmp_path: Path) -> None:
    batch = cifar(tmp_path) / "cifar-10-batches-py" / "data_batch_4"
    content = batch.read_bytes()
    for data in (content[:1000], b"", b"not a pickle", pickle.dumps([1])):
        batch.write_bytes(data)
        refused_cifar(tmp_path, "data_batch_4")
    batch.unlink()
    assert refused_cifar(tmp_path, "data_batch_4").what == "a file is missing"

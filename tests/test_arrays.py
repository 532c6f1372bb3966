"""The list of an archive's arrays is right, and a broken or dangerous archive is refused without unpacking it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.arrays import ArraySpec, list_arrays
from edgekit.errors import InputUnusable


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "arrays.npz"
    np.savez(path, **arrays)
    return path


def member(folder: Path, data: bytes) -> Path:
    path = folder / "arrays.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", data)
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_every_array_is_listed_with_its_type_and_shape(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.zeros((2, 3, 4), np.float32), flags=np.array([True]), names=np.array(["a", "bcd"]))
    assert list_arrays(path) == [
        ArraySpec("x", "float32", (2, 3, 4), 96),
        ArraySpec("flags", "bool", (1,), 1),
        ArraySpec("names", "text", (2,), 24),
    ]


@given(
    shape=st.lists(st.integers(0, 5), max_size=4).map(tuple),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8", "int64", "bool"]),
    compressed=st.booleans(),
)
def test_any_array_is_listed_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], dtype: str, compressed: bool
) -> None:
    array = np.zeros(shape, dtype)
    path = tmp_path_factory.getbasetemp() / "any.npz"
    (np.savez_compressed if compressed else np.savez)(path, a=array)
    assert list_arrays(path) == [ArraySpec("a", dtype, shape, array.nbytes)]


def test_python_objects_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    path = saved(tmp_path, a=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(InputUnusable, match="broken") as caught:
        list_arrays(path)
    assert "pickled" in str(caught.value.got)


BROKEN = {
    "no array": b"hello",
    "cut in the header": npy(np.zeros(3))[:20],
    "cut in the values": npy(np.zeros(3))[:-1],
    "bytes behind the values": npy(np.zeros(3)) + b"more",
    "a version to come": b"\x93NUMPY\x09\x00" + npy(np.zeros(3))[8:],
    "empty": b"",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_array_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputUnusable) as caught:
        list_arrays(member(tmp_path, data))
    assert caught.value.exit_code == 4
    assert caught.value.got


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, a=np.zeros(100))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputUnusable):
        list_arrays(path)
    with pytest.raises(InputUnusable):
        list_arrays(tmp_path / "nothing.npz")

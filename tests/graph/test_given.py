"""Inputs that came with a network are taken as they are, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edgekit.errors import InputUnusable
from edgekit.graph import given
from edgekit.graph.given import beside, read_given
from edgekit.graph.interface import Slot

X = Slot("x", TensorProto.FLOAT, (None, 3))
IDS = Slot("ids", TensorProto.INT64, (2,))
TEXT = Slot("text", TensorProto.STRING, (2,))
THREE = np.array([[1, 2, 3]], np.float32)


def protobuf(folder: Path, number: int, array: NDArray[Any], name: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"input_{number}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())


def refusal(path: Path, *wanted: Slot) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        read_given(path, wanted)
    assert str(path) in str(caught.value.where)
    return caught.value


def test_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=THREE, ids=np.array([4, 5]))
    [(name, arrays)] = read_given(tmp_path / "in.npz", [X, IDS])
    assert name == "in.npz"
    np.testing.assert_array_equal(arrays["x"], THREE)
    np.testing.assert_array_equal(arrays["ids"], [4, 5])


def test_an_array_for_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "any.npy", THREE)
    [(_, arrays)] = read_given(tmp_path / "any.npy", [X])
    np.testing.assert_array_equal(arrays["x"], THREE)


def test_a_folder_of_arrays_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        np.save(tmp_path / f"{number}.npy", THREE * number)
    assert [arrays["x"][0, 0] for _, arrays in read_given(tmp_path, [X])] == [1, 2, 10]


def test_test_data_of_the_model_zoo(tmp_path: Path) -> None:
    for number in (0, 1):
        protobuf(tmp_path / f"test_data_set_{number}", 0, THREE * number)
        protobuf(tmp_path / f"test_data_set_{number}", 1, np.array([number, 7]))
    found = read_given(tmp_path, [X, IDS])
    assert [name for name, _ in found] == ["test_data_set_0", "test_data_set_1"]
    np.testing.assert_array_equal(found[1][1]["ids"], [1, 7])
    assert beside(tmp_path / "model.onnx") == tmp_path
    assert beside(tmp_path / "test_data_set_0" / "model.onnx") is None


def test_a_tensor_that_bears_an_inputs_name_is_that_one(tmp_path: Path) -> None:
    protobuf(tmp_path, 0, np.array([1, 2]), "ids")
    protobuf(tmp_path, 1, THREE, "x")
    [(_, arrays)] = read_given(tmp_path, [X, IDS])
    np.testing.assert_array_equal(arrays["x"], THREE)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_floats_of_another_width_are_converted(tmp_path: Path, dtype: type) -> None:
    np.savez(tmp_path / "in.npz", x=THREE.astype(dtype))
    assert read_given(tmp_path / "in.npz", [X])[0][1]["x"].dtype == np.float32


def test_whole_numbers_of_another_width_are_converted_when_they_fit(tmp_path: Path) -> None:
    small = Slot("ids", TensorProto.INT8, (2,))
    np.savez(tmp_path / "in.npz", ids=np.array([-4, 5]))
    assert read_given(tmp_path / "in.npz", [small])[0][1]["ids"].dtype == np.int8
    np.savez(tmp_path / "in.npz", ids=np.array([-4, 300]))
    assert "does not fit" in refusal(tmp_path / "in.npz", small).what


def test_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", text=np.array(["ab", "c"]))
    assert read_given(tmp_path / "in.npz", [TEXT])[0][1]["text"].tolist() == ["ab", "c"]


@pytest.mark.parametrize(
    ("arrays", "got"),
    [
        ({"x": np.zeros((1, 4), np.float32)}, "1x4"),
        ({"x": np.zeros(3, np.float32)}, "3"),
        ({"x": np.zeros((1, 3), np.int64)}, "values of int64"),
        ({"y": THREE}, "y"),
        ({}, "none"),
        ({"x": THREE, "more": THREE}, "more, x"),
    ],
)
def test_arrays_that_are_not_the_graphs(tmp_path: Path, arrays: dict[str, Any], got: str) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    assert refusal(tmp_path / "in.npz", X).got == got


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 and no more"])
def test_what_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    for name in ("in.npz", "in.npy"):
        (tmp_path / name).write_bytes(data)
        assert refusal(tmp_path / name, X).got


def test_an_archive_that_unfolds_to_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "in.npz", x=np.zeros((1 << 20, 3), np.float32))
    assert (tmp_path / "in.npz").stat().st_size < 1 << 16
    monkeypatch.setattr(given, "MAX_FEED_BYTES", 1 << 20)
    assert refusal(tmp_path / "in.npz", X).got == f"{12 << 20} bytes"


def test_pickled_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", allow_pickle=True, text=np.array(["ab", None], object))
    assert "pickled" in str(refusal(tmp_path / "in.npz", TEXT).got)


def test_a_folder_without_inputs(tmp_path: Path) -> None:
    assert refusal(tmp_path, X).what == "there are no inputs"


@pytest.mark.parametrize("data", [b"\xff\xff", b"", b"\x0a\x02ab"])
def test_a_protobuf_that_is_no_tensor(tmp_path: Path, data: bytes) -> None:
    """Sequences and optionals look like this."""
    (tmp_path / "input_0.pb").write_bytes(data)
    assert "tensor" in refusal(tmp_path, X).what

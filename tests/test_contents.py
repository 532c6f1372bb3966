"""A file is known by what is in it; anything else is refused with one reason, before anything native sees it."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekit.contents import recognise
from edgekit.errors import InputUnusable


def model_bytes() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor("w", TensorProto.FLOAT, [100], [0.5] * 100)],
    )
    return bytes(helper.make_model(graph, producer_name="tests").SerializeToString())


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, inputs=np.zeros((2, 3)), names=np.array(["a", "b"]))
    return buffer.getvalue()


MODEL = model_bytes()
NPZ = npz()
KINDS = [
    (MODEL, "onnx"),
    (b'{"schema": 1}', "manifest"),
    (b'\n  {"schema": 1}', "manifest"),
    (b"vtrt" + bytes(60), "plan"),
    (b"ftrt" + bytes(60), "plan"),
    (NPZ, "arrays"),
]


def refusal(path: Path) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        recognise(path)
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.parametrize(("data", "kind"), KINDS)
@pytest.mark.parametrize("name", ["file", "model.onnx", "manifest.json", "golden.npz", "a.engine"])
def test_the_content_decides_and_the_name_does_not(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert recognise(path) == kind


def test_a_folder_is_what_its_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert recognise(tmp_path) == "manifest"


def test_a_folder_without_a_manifest_names_the_variants_in_it(tmp_path: Path) -> None:
    assert refusal(tmp_path).what == "the folder has no manifest"
    for name in ("b-r96", "a-r96", ".a-r96.partial-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    hint = refusal(tmp_path).hint
    assert hint is not None
    assert "2 variant folders" in hint
    assert str(tmp_path / "a-r96") in hint


REFUSED = [
    (b"", "empty"),
    (b"#!/bin/sh\nexit 0\n", "not a file that edgekit knows"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a file that edgekit knows"),
    (b"\x7fELF" + bytes(100), "not a file that edgekit knows"),
    (b"\x80\x04\x95" + bytes(100), "not a file that edgekit knows"),
    (bytes(1000), "not a file that edgekit knows"),
    (b"\x08", "not a file that edgekit knows"),
    (b"\x08\x08", "holds no graph"),
    (MODEL[:-1], "truncated"),
    (MODEL[: len(MODEL) // 2], "truncated"),
    (NPZ[:-10], "truncated or broken"),
    (archive({"readme.txt": b"hello"}), "holds no arrays"),
    (archive({}), "not a file that edgekit knows"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED)
def test_what_cannot_be_used_is_refused_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(data)
    error = refusal(path)
    assert reason in error.what
    assert error.where == str(path)


@pytest.mark.parametrize("missing", [1, 17])
def test_a_truncated_model_says_how_much_is_missing(tmp_path: Path, missing: int) -> None:
    model = onnx.load_model_from_string(MODEL)
    model.ClearField("opset_import")  # so that the graph comes last
    data = bytes(model.SerializeToString())
    path = tmp_path / "model.onnx"
    path.write_bytes(data[:-missing])
    assert refusal(path).got == f"bytes missing at the end: {missing}"


def test_a_checkpoint_is_told_from_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(archive({"weights/data.pkl": b"", "weights/data/0": b""}))
    assert "--weights" in str(refusal(path).hint)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing").what == "there is no such file"
    assert refusal(Path("a\0b")).where == "'a\\x00b'"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "ordinary file" in refusal(tmp_path / "pipe").what
    assert "ordinary file" in refusal(Path("/dev/zero")).what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    path.chmod(0)
    assert "cannot be read" in refusal(path).what


@given(data=st.binary(max_size=200))
def test_any_bytes_are_recognised_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    with contextlib.suppress(InputUnusable):
        assert recognise(path) in ("onnx", "plan", "manifest", "arrays")


@given(cut=st.integers(0, len(MODEL) - 1))
def test_a_model_cut_anywhere_is_no_whole_model(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(MODEL[:cut])
    try:
        assert recognise(path) == "onnx"
    except InputUnusable:
        return
    # Cut between two fields, a protobuf is a protobuf: what is left has its graph and lacks what came after it.
    assert onnx.load_model_from_string(MODEL[:cut]).graph.node
    assert not onnx.load_model_from_string(MODEL[:cut]).opset_import


@given(size=st.integers(2**31, 2**64 - 1))
def test_a_field_that_claims_to_be_huge_is_not_followed(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    number = b""
    while size >= 0x80:
        number += bytes([size & 0x7F | 0x80])
        size >>= 7
    path = tmp_path_factory.getbasetemp() / "huge"
    path.write_bytes(b"\x08\x08\x3a" + number + bytes([size]) + b"rest")
    assert "truncated" in refusal(path).what

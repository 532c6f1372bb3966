"""A plan's header says what it is; anything that is no whole plan is refused by what it is instead."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.engines.plan import PlanHeader, read_plan_header
from edgekit.errors import InputUnusable


def plan(magic: bytes = b"vtrt", targets: int = 0b111110, body: int = 100, declared: int | None = None) -> bytes:
    """A file with a header as TensorRT-RTX 1.7.1 writes it (tests/engines/test_rtx.py reads real ones)."""
    size = 36 + body
    return (
        struct.pack("<4sIIIQ", magic, 0, 2, 0, size if declared is None else declared)
        + bytes([1, 7, 1, 116])
        + struct.pack("<4sI", magic, targets)
        + bytes(body)
    )


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(InputUnusable, match="not a usable plan") as caught:
        read_plan_header(path)
    assert caught.value.where == str(path)
    return caught.value.got or ""


def test_an_rtx_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(plan())
    targets = ("sm80", "sm86", "sm89", "sm120", "sm121")
    assert read_plan_header(path) == PlanHeader("tensorrt-rtx", 136, "1.7.1.116", targets)


def test_targets_that_nobody_knows_yet_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(plan(targets=0b1000010))
    assert read_plan_header(path).targets == ()


def test_a_plan_of_full_tensorrt(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    path.write_bytes(plan(b"ftrt", declared=7))
    assert read_plan_header(path) == PlanHeader("tensorrt", 136, "1.7.1.116")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (plan()[:20], "the first 20 bytes of a plan"),
        (plan()[:-1], "a plan cut short: 135 bytes"),
        (plan() + b"x", "a plan with bytes behind its end: 137 bytes"),
        (b"\x08\x08\x12\x07pytorch:" + bytes(100), "most likely an ONNX model"),
        (struct.pack("<I", 17) + b'{"names": "x,y"}x' + plan(b"ftrt"), "a plan with metadata in front of it"),
        (b"PK\x03\x04" + bytes(50), r"a file that begins with b'PK\x03\x04"),
        (plan()[:4] + b"\x01" + plan()[5:], "a plan in serialisation layout 1"),
    ],
    ids=["empty", "head only", "cut short", "too long", "onnx", "metadata", "zip", "layout"],
)
def test_anything_else_is_named(tmp_path: Path, data: bytes, what: str) -> None:
    assert refused(tmp_path / "f", data).startswith(what)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="cannot be read"):
        read_plan_header(tmp_path / "nowhere")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=80)
    | st.builds(lambda cut: plan()[:cut], st.integers(0, 135))
    | st.binary(max_size=60).map(lambda tail: b"vtrt" + tail)
)
def test_no_bytes_do_worse_than_a_refusal(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    try:
        header = read_plan_header(path)
    except InputUnusable:
        return
    assert header.size == len(data)

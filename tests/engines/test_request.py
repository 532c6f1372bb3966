"""A build request that contradicts itself is refused: TensorRT would take most of these without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.engines.request import BuildRequest, capability
from edgekit.errors import UsageError


def request(**changes: Any) -> BuildRequest:
    return BuildRequest(**{"onnx_path": Path("m.onnx"), "out_path": Path("m.engine"), "precision": "fp16", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp8"},
        {"batch": (0, 1, 2)},  # becomes a static batch of 1
        {"batch": (4, 2, 8)},
        {"batch": (1, 9, 8)},
        {"workspace_mib": 0},
        {"optimization_level": -1},  # becomes the default
        {"optimization_level": 6},
        {"targets": ("sm86", "sm86")},  # becomes a plan of six times the size
        {"targets": ("8.6",)},
        {"targets": ("sm86 ",)},
    ],
    ids=str,
)
def test_contradictions_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="cannot be built as asked") as caught:
        request(**changes)
    assert caught.value.where == next(iter(changes))


@given(st.lists(st.integers(-2, 9), min_size=3, max_size=3))
def test_a_batch_is_taken_exactly_when_it_is_in_order(sizes: list[int]) -> None:
    batch = (sizes[0], sizes[1], sizes[2])
    try:
        request(batch=batch)
        taken = True
    except UsageError:
        taken = False
    assert taken == (sizes[0] >= 1 and sizes == sorted(sizes))


def test_capabilities() -> None:
    assert [capability(target) for target in ("sm75", "sm86", "sm120", "sm121")] == [(7, 5), (8, 6), (12, 0), (12, 1)]

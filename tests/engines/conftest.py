"""Builders that a module's tests share: a process per module, not per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgekit.engines import rtx
from edgekit.engines.builder import Builder


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    """TensorRT-RTX, which builds without a GPU."""
    if (reason := rtx.FLAVOUR.missing()) is not None:
        pytest.skip(reason)
    with rtx.builder() as shared:
        yield shared

"""Graphs of opsets that no target takes, converted up by onnx's own converter: native code, in a process of its own.

The converter promises nothing about what a graph computes. Whoever uses it compares (subjects/graph.py).
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

import onnx
from onnx import ModelProto, version_converter

from edgekit.errors import InputUnusable
from edgekit.isolation import Isolated

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class UpgradeRequest:
    """A serialised model, and the opset that it is to have."""

    model: bytes
    opset: int


def upgraded(model: ModelProto, opset: int) -> ModelProto:
    """The model at a newer opset.

    Raises InputUnusable where the converter has no way, and IsolationFailed where it dies or takes too long.
    """
    with Isolated("edgekit.graph.upgrade:serve_request", what="onnx's version converter") as converter:
        reply = converter.call(UpgradeRequest(model.SerializeToString(), opset), TIMEOUT_S)
    assert isinstance(reply, bytes)
    return onnx.load_model_from_string(reply)


def serve_request(request: object) -> bytes:
    """The serialised model of an UpgradeRequest, converted."""
    assert isinstance(request, UpgradeRequest)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    resource.setrlimit(resource.RLIMIT_DATA, (half if hard == resource.RLIM_INFINITY else min(half, hard), hard))
    model = onnx.load_model_from_string(request.model)
    try:
        converted: ModelProto = version_converter.convert_version(model, request.opset)
    except (RuntimeError, ValueError, IndexError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputUnusable(f"the model cannot be converted to opset {request.opset}", got=reason) from error
    return bytes(converted.SerializeToString())

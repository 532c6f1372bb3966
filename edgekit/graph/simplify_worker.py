"""onnxsim on one graph, in a process of its own: `simplify.Simplifier` is the caller's side."""

from __future__ import annotations

import os
import resource
import sys
from inspect import signature
from typing import Any, cast

from edgekit.errors import InputUnusable
from edgekit.graph.simplify import Simplified, SimplifyRequest

# onnxsim imports torch and sympy where they are installed, for features that simplifying never touches: 3 s and
# 600 MB instead of 0.35 s and 110 MB. Both are optional to it; None makes an import fail as if they were not there.
_OPTIONAL = [name for name in ("torch", "sympy") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_OPTIONAL, cast(Any, None)))

import onnx  # noqa: E402
import onnxsim  # noqa: E402
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # noqa: E402

from edgekit.graph.tidy import tidy  # noqa: E402

for _name in _OPTIONAL:
    del sys.modules[_name]

# Folding a Tile or Expand above this size writes the result into the file instead of the few bytes that describe it.
FOLDED_TENSOR_LIMIT = "1MB"
# Copying the schemas of custom operators, of which there are none here, takes newer versions as long as a MobileNet.
_NO_CUSTOM_OPERATORS = (
    {"import_custom_schemas": False} if "import_custom_schemas" in signature(onnxsim.simplify).parameters else {}
)


def serve_request(request: object) -> Simplified:
    """The simplified, tidied graph of a SimplifyRequest. Raises InputUnusable where onnxsim cannot make one."""
    assert isinstance(request, SimplifyRequest)
    _limit_memory()
    model = _parse(request.model_bytes)
    nodes_before = len(model.graph.node)
    # Some constants are small to describe and large to store, whatever the node that makes them is called.
    for fold in (True, False):
        simplified = _simplified(model, fold=fold)
        size = simplified.ByteSize()
        if size <= request.size_limit:
            model_bytes = simplified.SerializeToString(deterministic=True)
            return Simplified(model_bytes, nodes_before, len(simplified.graph.node), constants_folded=fold)
    raise InputUnusable(
        "simplification makes the graph too large",
        got=f"{size} bytes from {len(request.model_bytes)}",
        wanted=f"at most {request.size_limit} bytes",
        hint="export without simplification",
    )


def _limit_memory() -> None:
    """Folding unfolds a Range of 200 bytes to gigabytes; half of the machine's memory is the end of that."""
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (half if hard == resource.RLIM_INFINITY else min(half, hard), hard))


def _parse(model_bytes: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(model_bytes)
    except DecodeError as error:
        raise InputUnusable("this is not an ONNX model", got=str(error), wanted="a serialised ModelProto") from error
    if not model.graph.node or not model.graph.output:
        raise InputUnusable(
            "the ONNX model holds no graph",
            got=f"{len(model.graph.node)} nodes, {len(model.graph.output)} outputs",
            wanted="at least one of each",
        )
    return model


def _simplified(model: onnx.ModelProto, *, fold: bool) -> onnx.ModelProto:
    simplified: onnx.ModelProto
    try:
        simplified, checked = onnxsim.simplify(
            model,
            skip_constant_folding=not fold,
            tensor_size_threshold=FOLDED_TENSOR_LIMIT,
            **_NO_CUSTOM_OPERATORS,
        )
    except MemoryError as error:
        raise InputUnusable("simplifying the graph takes more memory than half of this machine has") from error
    except (ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise InputUnusable("onnxsim cannot simplify this graph", got=str(error).strip() or repr(error)) from error
    if not checked:
        raise InputUnusable("onnxsim made a graph that it does not trust itself")
    tidy(simplified)
    return simplified

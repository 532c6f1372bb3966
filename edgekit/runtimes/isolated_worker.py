"""The process with ONNX Runtime in which strangers' graphs are run: `isolated.IsolatedCpu` is the caller's side."""

from __future__ import annotations

import itertools
import resource

import numpy as np

from edgekit.errors import InputUnusable
from edgekit.parity.metrics import AnyArray
from edgekit.runtimes.isolated import MAX_RESULT_BYTES, DropRequest, Loaded, LoadRequest, RunRequest
from edgekit.runtimes.onnxruntime_cpu import CpuSession

# What ONNX Runtime says when memory is refused to it, in one place or another.
OUT_OF_MEMORY = ("bad_alloc", "bad alloc", "Failed to allocate memory", "bad allocation", "length_error")

_sessions: dict[int, CpuSession] = {}
_numbers = itertools.count()


def serve_request(request: object) -> Loaded | dict[str, AnyArray] | None:
    """Answer a LoadRequest, RunRequest or DropRequest. Raises InputUnusable for what ONNX Runtime refuses."""
    try:
        if isinstance(request, LoadRequest):
            return _load(request)
        if isinstance(request, RunRequest):
            return _run(request)
    except MemoryError as error:
        raise _too_much_memory("a tensor that does not fit") from error
    except InputUnusable as error:
        if error.got and any(words in error.got for words in OUT_OF_MEMORY):
            raise _too_much_memory(error.got) from error
        raise
    assert isinstance(request, DropRequest)
    _sessions.pop(request.number, None)
    return None


def _load(request: LoadRequest) -> Loaded:
    # Not the address space: libraries reserve much more of it than they ever use.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = request.memory_bytes if most == resource.RLIM_INFINITY else min(request.memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    session = CpuSession(request.model, request.extra, optimise=request.optimise, folder=request.folder)
    number = next(_numbers)
    _sessions[number] = session
    return Loaded(number, tuple(session.inputs), tuple(session.outputs))


def _run(request: RunRequest) -> dict[str, AnyArray]:
    found = dict(_sessions[request.number](request.feed))
    size = sum(np.asarray(array).nbytes for array in found.values())
    if size > MAX_RESULT_BYTES:
        largest = max(found, key=lambda name: found[name].nbytes)
        raise InputUnusable(
            "the graph's results are too large",
            where=f"the largest is {largest}, of shape {list(found[largest].shape)}",
            got=f"{size} bytes",
            wanted=f"at most {MAX_RESULT_BYTES}",
            hint="run it on smaller inputs",
        )
    return found


def _too_much_memory(got: str) -> InputUnusable:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return InputUnusable(
        "the graph needs too much memory",
        got=got,
        wanted=f"at most {limit >> 20} MiB",
        hint="run it on smaller inputs, or on a machine with more memory",
    )

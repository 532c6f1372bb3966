"""The fixed reference: the same bytes for ever, a valid graph, and numbers that are no rounding dust."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import onnx

from edgekit.bench import reference
from edgekit.runtimes.onnxruntime_cpu import CpuSession

# Ratios of years rest on this. A graph with other bytes needs another name.
SHA256 = "32485f35d181ab9455b261a5d1dae0a49e20a0fa3a2df3513ee55f11b2292d3a"


def test_it_never_changes(tmp_path):
    path, sha256 = reference.write(tmp_path)
    assert sha256 == SHA256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_a_valid_graph_of_the_size_it_claims():
    graph = reference.graph()
    onnx.checker.check_model(graph, full_check=True)
    side, macs = reference.SIDE, 0
    for shape, stride, _ in reference._convolutions():
        side //= stride
        macs += math.prod(shape) * side * side
    assert round(macs / 1e6, 1) == 64.1
    assert sum(node.op_type == "Conv" for node in graph.graph.node) == 11


def test_its_numbers_are_alive_through_all_layers():
    """Numbers near the end of float32's range are computed slowly on some processors."""
    graph = reference.graph()
    names = [node.output[0] for node in graph.graph.node if node.op_type == "Conv"]
    session = CpuSession(graph, names)
    for values in session(reference.feeds()).values():
        assert 1e-3 < np.abs(values).max() < 1e3

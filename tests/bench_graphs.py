"""Small graphs on disk, to be measured by whatever runtime: a chain of convolutions, and one of another shape."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.bench.runtimes import ArtifactKind, Candidate

CHANNELS = 8
FEED = np.random.default_rng(0).standard_normal((1, CHANNELS, 16, 16), np.float32)
FEEDS = {"input": FEED}


def convolutions(count: int = 2, *, channels: int = CHANNELS, side: int = 16, batch: int | str = 1) -> onnx.ModelProto:
    """`count` convolutions with a ReLU behind each: input (batch, channels, side, side), output "features" alike."""
    numbers = np.random.default_rng(1)
    nodes, weights, last = [], [], "input"
    for number in range(count):
        values = numbers.standard_normal((channels, channels, 3, 3)).astype(np.float32) / (3 * channels**0.5)
        weights.append(numpy_helper.from_array(values, f"w{number}"))
        result = "features" if number == count - 1 else f"r{number}"
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], f"conv{number}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [result], f"relu{number}"))
        last = result
    shape = [batch, channels, side, side]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def candidate(folder: Path, model: onnx.ModelProto | bytes, kind: ArtifactKind = "onnx-fp32") -> Candidate:
    """The graph as a file of `folder`."""
    data = model if isinstance(model, bytes) else bytes(model.SerializeToString())
    path = folder / "model.onnx"
    path.write_bytes(data)
    return Candidate(folder, kind, path, hashlib.sha256(data).hexdigest())

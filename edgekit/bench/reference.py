"""The fixed graph that other graphs' times are multiples of: the same numbers in the same layers, everywhere.

Its layers are MobileNet's, so that another load on the machine slows it as it slows what is measured. It must never
change: a change is a new name. docs/decisions/0006-measuring-latency.md says why it is none of the user's artifacts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

NAME = "reference-1"
INPUT, OUTPUT = "input", "features"
SIDE = 224
OPSET, IR = 13, 8
# (channels, stride of the depthwise convolution): a stem with stride 2, then pairs of depthwise and pointwise.
STEM = 24
BLOCKS = ((48, 1), (64, 2), (64, 1), (96, 2), (96, 1))


def graph() -> ModelProto:
    """The graph: (1, 3, 224, 224) to (1, 96, 28, 28), 11 convolutions, 64.1 million multiply-accumulates."""
    nodes, weights = _layers()
    shapes = ([1, 3, SIDE, SIDE], [1, BLOCKS[-1][0], SIDE // 8, SIDE // 8])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip((INPUT, OUTPUT), shapes, strict=True)
    ]
    body = helper.make_graph(nodes, NAME, ends[:1], ends[1:], weights)
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="edgekit"
    )


def feeds() -> dict[str, NDArray[np.float32]]:
    """What it is run on."""
    return {INPUT: _numbers((1, 3, SIDE, SIDE), seed=1)}


def write(folder: Path) -> tuple[Path, str]:
    """Write it into a folder; its path and sha256."""
    data = graph().SerializeToString(deterministic=True)
    path = folder / f"{NAME}.onnx"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def _layers() -> tuple[list[NodeProto], list[TensorProto]]:
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    value = INPUT
    for number, (shape, stride, groups) in enumerate(_convolutions()):
        name = f"conv{number}"
        scale = 2.0 / math.sqrt(math.prod(shape[1:]))  # keeps the values' size through the layers
        weights.append(numpy_helper.from_array(_numbers(shape, number) * np.float32(scale), f"{name}.weight"))
        pad = shape[2] // 2
        nodes.append(
            helper.make_node(
                "Conv",
                [value, f"{name}.weight"],
                [f"{name}.out"],
                name=name,
                strides=[stride] * 2,
                pads=[pad] * 4,
                group=groups,
            )
        )
        last = number == 2 * len(BLOCKS)
        value = OUTPUT if last else f"relu{number}.out"
        nodes.append(helper.make_node("Relu", [f"{name}.out"], [value], name=f"relu{number}"))
    return nodes, weights


def _convolutions() -> Iterator[tuple[tuple[int, int, int, int], int, int]]:
    """(shape of the weight, stride, groups) of each."""
    yield (STEM, 3, 3, 3), 2, 1
    width = STEM
    for channels, stride in BLOCKS:
        yield (width, 1, 3, 3), stride, width
        yield (channels, width, 1, 1), 1, 1
        width = channels


def _numbers(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Numbers from -1 to 1, the same on every machine: a generator of whole numbers, no library's own.

    Source of the multiplier: Knuth, "The Art of Computer Programming" 3.3.4 (MMIX).
    """
    count = math.prod(shape)
    state = np.arange(1 + seed, count + 1 + seed, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for _ in range(3):
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            state ^= state >> np.uint64(29)
    return ((state >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0).astype(np.float32).reshape(shape)

"""Exported classifiers for the tests of evaluation: the digits at 8 pixels by templates, in one matrix product."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from edgekit.manifest import Artifact, Engine, Manifest, Receipt, Staging, VariantRecord, WeightsRecord
from edgekit.parity.report import Liveness, ParityReport, Rung
from edgekit.preprocessing import Preprocessing
from edgekit.training.labelled import DIGITS

SIDE, CLASSES = 8, 10


@cache
def templates() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (3 * 64, 10) and biases that give each image the class whose mean is nearest: right for about 90 %."""
    pixels, labels = load_digits(return_X_y=True)
    inputs = (np.round(pixels * (255 / 16)) / 255 - DIGITS.mean[0]) / DIGITS.std[0]
    means = np.stack([inputs[labels == label].mean(0) for label in range(CLASSES)])
    weights = np.concatenate([means.T / 3] * 3)
    return weights.astype(np.float32), (-0.5 * (means**2).sum(1)).astype(np.float32)


def classifier(
    *,
    rows: int | None = 1,
    classes: int = CLASSES,
    dtype: type[np.floating] = np.float32,
    scale: float = 1.0,
    softmax: bool = False,
    side: int | None = SIDE,
) -> bytes:
    """The templates as a graph; more `classes` than ten are never chosen. A `scale` of nan spoils all outputs."""
    weights, biases = templates()
    extra = classes - CLASSES
    wide = np.pad(weights * scale, ((0, 0), (0, extra))).astype(dtype)
    low = np.pad(biases * scale, (0, extra), constant_values=-1000).astype(dtype)
    last = "scores" if softmax else "logits"
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "biases"], [last]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", [last], ["logits"], axis=1))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [
        helper.make_tensor_value_info("input", kind, [rows or "batch", 3, side or "height", side or "width"]),
        helper.make_tensor_value_info("logits", kind, [rows or "batch", classes]),
    ]
    tensors = [numpy_helper.from_array(wide, "weights"), numpy_helper.from_array(low, "biases")]
    body = helper.make_graph(nodes, "made", ends[:1], ends[1:], tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def two_inputs() -> bytes:
    """A graph that adds two images: no classifier."""
    shape = [1, 3, SIDE, SIDE]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("one", "other", "sum")]
    body = helper.make_graph([helper.make_node("Add", ["one", "other"], ["sum"])], "made", ends[:2], ends[2:])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def export(
    folder: Path,
    *,
    fp32: bytes | None = None,
    fp16: bytes | None = None,
    contract: Preprocessing | None = DIGITS,
    source: str = "digits_net",
    engine: bool = False,
) -> Path:
    """A folder as an export leaves it, with the templates as its graphs unless others are given."""
    files = {
        "model.onnx": fp32 or classifier(),
        "model.fp16.onnx": fp16 or classifier(dtype=np.float16),
    }
    if engine:
        files["model.rtx.engine"] = b"an engine"
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Staging(folder)
    for name, data in files.items():
        staging.write(name, data)
    staging.commit(_manifest(files, contract, source))
    return folder


def _manifest(files: dict[str, bytes], contract: Preprocessing | None, source: str) -> Manifest:
    kinds = {"model.onnx": "onnx-fp32", "model.fp16.onnx": "onnx-fp16"}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    rung = Rung("simplified", "pytorch-fp64", True, 1e-7, 1e-5, "logits", 1, 1e-7, 1e-7, 1.0, 130.0, None)
    engine = "model.rtx.engine"
    built = Engine(
        "rtx", "tensorrt-rtx", ("sm86",), "built", engine, 9, hashes.get(engine), Receipt("fp16", {"fp16": 1}, True)
    )
    return Manifest(
        key="k" * 64,
        created="2026-01-02T03:04:05+00:00",
        edgekit="0.1.0",
        variant=VariantRecord("digits_net", None, SIDE, 1, CLASSES, {}),
        source=source,
        weights=WeightsRecord("seed", "seed:0", "f" * 64, None, 0),
        params=1930,
        macs=1920,
        opset=13,
        exporter="torchscript",
        preprocessing=contract,
        artifacts=tuple(
            Artifact(kind, name, hashes[name], len(files[name]), "a test", 2) for name, kind in kinds.items()
        ),
        parity=ParityReport(True, "full", (rung,), ("natural-0",), Liveness(0.5, 1e-5, True)),
        engines=(built,) if engine in files else (),
        profiles=(),
        tools={},
        machine={},
        notes=(),
        seconds=1.0,
    )

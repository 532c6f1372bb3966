"""Exported variants for tests, small and without PyTorch: a few convolutions, their true outputs, a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit import golden
from edgekit.bench.record import (
    BenchFile,
    Contract,
    Latency,
    ParityCheck,
    Ratio,
    Reference,
    Result,
    Subject,
    Telemetry,
    Verdict,
)
from edgekit.manifest import Artifact, Manifest, Staging, TensorSpec, VariantRecord, WeightsRecord
from edgekit.parity.ladder import Input
from edgekit.parity.report import Liveness, ParityReport, Rung
from edgekit.preprocessing import PIXELS
from edgekit.runtimes.onnxruntime_cpu import CpuSession

SIDE = 16


def graph(layers: int = 1, channels: int = 8, scale: float = 1.0) -> bytes:
    """(1, 3, 16, 16) to (1, channels, 16, 16) through so many 3 x 3 convolutions."""
    generator = np.random.default_rng(0)
    nodes, weights, value, width = [], [], "input", 3
    for number in range(layers):
        weight = generator.normal(0, 0.1 * scale, (channels, width, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        out = "map" if number == layers - 1 else f"x{number}"
        nodes.append(helper.make_node("Conv", [value, f"w{number}"], [out], f"conv{number}", pads=[1] * 4))
        value, width = out, channels
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, SIDE, SIDE])
        for name, count in (("input", 3), ("map", channels))
    ]
    body = helper.make_graph(nodes, "made", ends[:1], ends[1:], weights)
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8).SerializeToString()


def export(
    folder: Path,
    name: str,
    layers: int = 1,
    *,
    alpha: float = 1.0,
    batch: int | None = 1,
    half: bool = False,
    wrong: bool = False,
) -> Path:
    """A folder as an export leaves it. `half`: with a second graph that stands for an FP16 one; `wrong`: the graph on
    the disk is not the one whose outputs are stored, as a fault in a runtime would show.
    """
    data = graph(layers)
    generator = np.random.default_rng(1)
    feeds = [{"input": generator.normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(2)]
    session = CpuSession(onnx.load_model_from_string(data), ["map"])
    outputs = [dict(session(feed)) for feed in feeds]
    files = {"model.onnx": graph(layers, scale=1.01) if wrong else data}
    if half:
        files["model.fp16.onnx"] = data
    files["golden.npz"] = golden.pack([Input(f"natural-{n}", feed) for n, feed in enumerate(feeds)], outputs)
    staging = Staging(folder / name)
    for file, content in files.items():
        staging.write(file, content)
    staging.commit(_manifest(files, name, layers, alpha, batch))
    return folder / name


def _manifest(files: dict[str, bytes], name: str, layers: int, alpha: float, batch: int | None) -> Manifest:
    kinds = {"model.onnx": "onnx-fp32", "model.fp16.onnx": "onnx-fp16", "golden.npz": "golden"}
    spec = TensorSpec("input", "float32", (1, 3, SIDE, SIDE))
    rungs = [Rung(rung, "pytorch-fp64", True, 1e-7, 1e-5, "map", 1, 1e-7, 1e-7, 1.0, 130.0, None) for rung in RUNGS]
    return Manifest(
        key="k" * 64,
        created="2026-01-02T03:04:05+00:00",
        edgekit="0.1.0",
        variant=VariantRecord(name.partition("-")[0], alpha, SIDE, batch, 10, {}),
        source=name.partition("-")[0],
        weights=WeightsRecord("seed", "seed:0", "f" * 64, None, 0),
        params=layers * 1000,
        macs=layers * 1_000_000,
        opset=13,
        exporter="torchscript",
        preprocessing=PIXELS,
        artifacts=tuple(
            Artifact(kinds[file], file, hashlib.sha256(data).hexdigest(), len(data), "a test", layers, (spec,), ())
            for file, data in files.items()
        ),
        parity=ParityReport(True, "full", tuple(rungs), ("natural-0", "natural-1"), Liveness(0.5, 1e-5, True)),
        engines=(),
        profiles=(),
        tools={},
        machine={},
        notes=(),
        seconds=1.0,
    )


RUNGS = ("pytorch-fp32", "simplified", "fp16")
MACHINE = {"cpu": "a test's", "cores": "2"}
CONTRACT = Contract(
    "onnxruntime-cpu", "host", "none", None, True, 2, 1, "fp32", 10, "synthetic", versions={"onnxruntime": "1"}
)


def result(
    slug: str,
    samples: Sequence[Sequence[float]],
    *,
    kind: str = "onnx-fp32",
    macs: int = 1000,
    contract: Contract = CONTRACT,
    passed: bool = True,
) -> Result:
    """A result with these samples; what is derived from them is made up."""
    variant = VariantRecord(slug, 1.0, 224, 1, 1000, {})
    p50 = float(np.median([seconds for runs in samples for seconds in runs])) * 1e3
    return Result(
        subject=Subject(variant, slug, slug, kind, "a" * 64, 100, 1000, macs),
        contract=contract,
        samples=tuple(tuple(runs) for runs in samples),
        latency=Latency(p50, p50, p50, p50, p50, (p50, p50)),
        ratio=Ratio("reference-1", 1.0, (1.0, 1.0)),
        throughput_per_s=1.0,
        verdict=Verdict(True),
        parity=(ParityCheck("before", passed, 1e-7, 1e-5),),
    )


def rounds(seconds: float, count: int = 40, seed: int = 0, noise: float = 0.01) -> list[list[float]]:
    """Visits of three runs each, around so many seconds."""
    return (seconds * np.exp(np.random.default_rng(seed).normal(0, noise, (count, 3)))).tolist()


def bench_file(
    *results: Result, reference: Sequence[Sequence[float]] | None = None, sha256: str = "r" * 64
) -> BenchFile:
    """A bench file of one process."""
    samples = tuple(tuple(runs) for runs in (reference or rounds(1e-3, len(results[0].samples), seed=99)))
    return BenchFile(
        created="2026-01-02T03:04:05+00:00",
        edgekit="0.1.0",
        command="edgekit bench",
        machine=MACHINE,
        telemetry=Telemetry(1.0, len(samples)),
        results=results,
        references=(Reference("onnxruntime-cpu", "reference-1", sha256, samples, (0,) * len(samples)),),
    )

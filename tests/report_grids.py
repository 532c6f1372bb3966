"""Folders of exported variants and benchmarks for the report's tests. Every figure in them is made up.

The manifests are real ones in form and hash, with files of a few bytes; the latencies are arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.accuracy import Accuracy, Labels, Score, wilson
from edgekit.accuracy import write as write_accuracy
from edgekit.bench.record import (
    BenchFile,
    Contract,
    Latency,
    Memory,
    NotMeasured,
    ParityCheck,
    Ratio,
    Reference,
    Result,
    Subject,
    Telemetry,
    Verdict,
    write,
)
from edgekit.manifest import (
    NAME,
    Artifact,
    Engine,
    Manifest,
    Receipt,
    VariantRecord,
    WeightsRecord,
    encode,
    read,
)
from edgekit.parity.report import BatchCheck, Liveness, ParityReport, Rung
from edgekit.preprocessing import IMAGENET
from edgekit.variant import Variant

ALPHAS = (1.0, 0.75, 0.5, 0.35)
SIZES = (224, 192, 160, 128, 96)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rung(name: str, against: str, error: float, tolerance: float) -> Rung:
    return Rung(
        name,
        against,
        passed=error <= tolerance,
        error=error,
        tolerance=tolerance,
        tensor="logits",
        tensors=53,
        max_abs=error,
        max_rel=error,
        cosine=1.0,
        snr_db=100.0,
        top1_agreement=1.0,
        reason=None if error <= tolerance else f"logits is off by {error:.2g}",
    )


def manifest(variant: Variant, *, note: str = "", error: float = 1e-5) -> Manifest:
    """A manifest of a variant whose files hold its slug and kind; `error` is that of the rung `simplified`."""
    alpha, size = variant.alpha or 1.0, variant.resolution or 224
    made = [("onnx-fp32", "model.onnx"), ("onnx-fp16", "model.fp16.onnx")]
    artifacts = [
        Artifact(kind, path, sha256(content(variant, kind)), len(content(variant, kind)), "a test", 100)
        for kind, path in made
    ]
    rungs = (rung("onnx", "pytorch-fp64", 1e-6, 4e-5), rung("simplified", "pytorch-fp64", error, 4e-5))
    return Manifest(
        key="0" * 64,
        created="2026-01-01T00:00:00+00:00",
        edgekit="0.1.0",
        variant=VariantRecord(
            variant.model, variant.alpha, variant.resolution, variant.batch, 1000, dict(variant.options)
        ),
        source=variant.model,
        weights=WeightsRecord("seed", "seed:0", sha256(b"weights"), seed=0),
        params=int(3.5e6 * alpha**1.5),
        macs=int(300e6 * alpha**1.6 * (size / 224) ** 2),
        opset=17,
        exporter="torchscript",
        preprocessing=None,
        artifacts=tuple(artifacts),
        parity=ParityReport(
            all(it.passed for it in rungs),
            "full",
            rungs,
            ("natural-0",),
            Liveness(0.6, 0.07, passed=True),
            (BatchCheck("simplified", True, 0.0, 1e-5),),
        ),
        engines=(
            Engine(
                "rtx",
                "tensorrt-rtx",
                ("sm86",),
                "built",
                "model.rtx.engine",
                len(content(variant, "engine")),
                sha256(content(variant, "engine")),
                Receipt("fp16", {"fp16": 53}, passed=True),
                builder="1.7",
            ),
        ),
        profiles=(),
        tools={"torch": "2.6"},
        machine={"os": "a test"},
        notes=(note,) if note else (),
        seconds=1.0,
    )


def content(variant: Variant, kind: str) -> bytes:
    return f"{variant.slug} {kind}".encode()


def export(folder: Path, variant: Variant, *, note: str = "", error: float = 1e-5, name: str | None = None) -> Manifest:
    """Write a variant's folder below `folder`."""
    made = manifest(variant, note=note, error=error)
    directory = folder / (name or variant.slug)
    directory.mkdir(parents=True)
    for artifact in made.artifacts:
        (directory / artifact.path).write_bytes(content(variant, artifact.kind))
    (directory / "model.rtx.engine").write_bytes(content(variant, "engine"))
    (directory / NAME).write_bytes(encode(made))
    return made


def result(
    slug: str,
    made: Manifest,
    *,
    runtime: str = "onnxruntime-cpu",
    kind: str = "onnx-fp32",
    milliseconds: float = 5.0,
    reasons: Sequence[str] = (),
    rounds: int = 60,
    spread: float = 0.02,
) -> Result:
    """A measurement whose runs lie evenly within `spread` around the median."""
    artifact = made.artifact(kind)
    assert artifact is not None
    runs = [[milliseconds * 1e-3 * (1 + spread * (i % 10 - 4.5) / 4.5) for i in range(n, n + 4)] for n in range(rounds)]
    near = milliseconds * spread / 4
    return Result(
        subject=Subject(
            made.variant,
            slug,
            slug,
            kind,
            artifact.sha256,
            made.params * (2 if kind == "onnx-fp16" else 4),
            made.params,
            made.macs,
        ),
        contract=Contract(
            runtime, "host", "none", None, True, 1, 1, kind.removeprefix("onnx-"), 10, "synthetic", versions={"a": "1"}
        ),
        samples=tuple(map(tuple, runs)),
        latency=Latency(
            milliseconds,
            milliseconds * (1 + spread * 0.8),
            milliseconds * (1 + spread * 0.9),
            milliseconds * (1 + spread),
            milliseconds,
            (milliseconds - near, milliseconds + near),
        ),
        ratio=Ratio("reference-1", milliseconds, (milliseconds - near, milliseconds + near)),
        throughput_per_s=1e3 / milliseconds,
        verdict=Verdict(not reasons, tuple(reasons)),
        memory=Memory(artifact.bytes, 30_000_000, 80_000_000),
        parity=(ParityCheck("before", True, 1e-6, 1e-4), ParityCheck("after", True, 1e-6, 1e-4)),
        warmup_s=0.1,
        load_s=0.1,
    )


def bench_file(results: Sequence[Result], *, advice: Sequence[str] = (), command: str = "edgekit bench") -> BenchFile:
    rounds = max((len(it.samples) for it in results), default=0)
    runtimes = dict.fromkeys(it.contract.runtime for it in results)
    return BenchFile(
        created="2026-01-02T00:00:00+00:00",
        edgekit="0.1.0",
        command=command,
        machine={"cpu": "made up", "cores": "2"},
        telemetry=Telemetry(15.0, rounds, steal=0.01, round_spread=0.05),
        results=tuple(results),
        not_measured=(NotMeasured("a", "engine", "tensorrt-rtx", "an NVIDIA GPU"),),
        advice=tuple(advice),
        references=tuple(
            Reference(it, "reference-1", sha256(b"reference"), ((0.001,),) * rounds, (0,) * rounds) for it in runtimes
        ),
    )


def milliseconds(made: Manifest, kind: str) -> float:
    """Made up: a little for every layer, more for the work, and half as long again in halves."""
    assert made.macs is not None
    return (0.4 + made.macs / 40e6) * (1.5 if kind == "onnx-fp16" else 1.0)


def grid(
    folder: Path,
    alphas: Sequence[float] = ALPHAS,
    sizes: Sequence[int] = SIZES,
    kinds: Sequence[str] = ("onnx-fp32", "onnx-fp16"),
) -> BenchFile:
    """A whole grid of MobileNet v2 with its bench.json; its smallest variant's measurements are INVALID."""
    results = []
    for alpha in alphas:
        for size in sizes:
            variant = Variant("mobilenet_v2", alpha, size)
            made = export(folder, variant)
            bad = ["the clock changed"] if (alpha, size) == (min(alphas), min(sizes)) else []
            results += [
                result(variant.slug, made, kind=kind, milliseconds=milliseconds(made, kind), reasons=bad)
                for kind in kinds
            ]
    file = bench_file(results, advice=["fp16 is no faster than fp32 on onnxruntime-cpu"])
    write(file, folder / "bench.json")
    return file


def changed(file: BenchFile, name: str, **changes: object) -> BenchFile:
    """The same file with one result, by its name, changed."""
    return replace(file, results=tuple(replace(it, **changes) if it.name == name else it for it in file.results))


def scored(folder: Path, variant: Variant, top1: float, *, digest: str = "d" * 64, kinds: int = 2) -> None:
    """What `edgekit eval` leaves beside a variant's manifest: the same `top1` in per cent for its first artifacts."""
    made = read(folder / variant.slug)
    data = Labels("photos", digest, "val", 0.1, 0, 1000, ("a", "b"))
    right = round(top1 * 10)
    scores = [
        Score(it.kind, it.sha256, 1000, right, right / 1000, wilson(right, 1000), None, 1.0, 0, None, ())
        for it in made.artifacts[:kinds]
    ]
    write_accuracy(folder / variant.slug, Accuracy("now", "0", data, IMAGENET, tuple(scores), (), {}, {}))

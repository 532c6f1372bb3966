"""Parity of what is on disk: the network is made again, and the ladder climbed with the files as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import onnx
import torch

from edgekit import golden, sources, subjects
from edgekit.errors import InputUnusable, UsageError
from edgekit.graph.fp16 import kept_fp32
from edgekit.helpers import Helpers
from edgekit.manifest import Manifest
from edgekit.parity.ladder import Input, largest
from edgekit.parity.metrics import AnyArray, Distance, Target, distance
from edgekit.parity.report import ParityReport
from edgekit.parity.tolerance import excess, tolerance, trust_in_fp32
from edgekit.plan import Plan
from edgekit.proof import AnyReference, Graphs, prove
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.variant import Variant

T = TypeVar("T")

# The truth is float64: made again, it may differ from the stored one by the last bits of its own arithmetic only.
GOLDEN_TOLERANCE = Distance(1e-9, 1e-8)


@dataclass(frozen=True)
class Difference:
    """The first node, in the order of execution, whose output left its tolerance although its inputs had not."""

    node: str
    op_type: str
    tensor: str
    error: float | None
    tolerance: float


def climb_again(manifest: Manifest, folder: Path, weights: sources.Weights | None = None) -> ParityReport:
    """The ladder of a variant on disk, on the inputs stored with it.

    `weights` says where they are now when they have moved. Raises InputUnusable when the network cannot be made
    again, or when the stored outputs are not its own.
    """
    torch.set_num_threads(1)
    with _Again(manifest, weights) as again:
        stored = golden.unpack(folder / _path(manifest, "golden"))
        graphs = Graphs(simplified=_bytes(manifest, folder, "onnx-fp32"), fp16=_bytes(manifest, folder, "onnx-fp16"))
        quick = manifest.parity.mode == "quick"
        reference = again.subject.reference(stored.inputs[0].feeds, quick, graphs.fp16 is not None)
        if graphs.simplified is not None and graphs.fp16 is not None:
            single, half = (onnx.load_model_from_string(bytes(graph)) for graph in (graphs.simplified, graphs.fp16))
            reference.settle(single, kept_fp32(half))
        proof = prove(reference, graphs, stored.inputs, manifest.variant.batch)
    # A file's own truth is float32, and another machine's kernels may sum in another order.
    allowed = trust_in_fp32() if again.source.kind == "onnx" else GOLDEN_TOLERANCE
    if not quick and again.same_weights and not _agree(proof.outputs, stored.outputs, allowed):
        raise InputUnusable("the stored outputs are not this network's", where=str(folder / "golden.npz"))
    return proof.report


def _agree(
    found: Sequence[Mapping[str, AnyArray]], stored: Sequence[Mapping[str, AnyArray]], allowed: Distance
) -> bool:
    """Whether every output is the stored one, infinities and NaN in the same places among them."""
    pairs = [(ours[name], theirs[name]) for ours, theirs in zip(found, stored, strict=True) for name in theirs]
    return all(excess(Target(theirs, gaps=True).distance(ours), allowed) <= 1.0 for ours, theirs in pairs)


class _Again:
    """The network of a manifest, with the weights that it names, made again.

    Raises InputUnusable when a checkpoint is gone or is another one. Weights from a seed may differ in their last
    bits from one machine to another, and are accepted as they are.
    """

    def __init__(self, manifest: Manifest, weights: sources.Weights | None) -> None:
        known = weights or recorded_weights(manifest)
        self.source, plan = source_of(manifest), _plan(manifest, known)
        self.helpers = Helpers((), simplify=False)
        self.variant, self.subject = as_asked(
            manifest, lambda variant: (variant, subjects.make(self.source, variant, plan, self.helpers))
        )
        self.same_weights = self.subject.digest == manifest.weights.sha256
        if not self.same_weights and not isinstance(known, sources.SeedWeights):
            raise InputUnusable(
                "these are not the weights that were exported",
                got=sources.identity(known),
                wanted=manifest.weights.identity,
                hint="name the right file with --weights",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.subject.close()
        self.helpers.close()


def _plan(manifest: Manifest, weights: sources.Weights) -> Plan:
    """What the variant was made by, as far as making its network again goes."""
    fp32 = manifest.artifact("onnx-fp32")
    source = source_of(manifest)
    return Plan(
        weights,
        tuple(record.resolved for record in manifest.profiles),
        precisions=("fp32",),
        sources=(source,),
        inputs=fp32.inputs if fp32 and source.kind in ("factory", "torchscript") else (),
    )


def source_of(manifest: Manifest) -> sources.Source:
    """Where the network came from; its file must still be there."""
    return sources.parse_source(manifest.source)


def recorded_weights(manifest: Manifest) -> sources.Weights:
    """The weights that the manifest names; a checkpoint must still be where it was."""
    record = manifest.weights
    if record.kind == "checkpoint":
        path = record.path or ""
        if not Path(path).exists():
            raise InputUnusable("the checkpoint is gone", where=path, hint="say where it is now with --weights")
        return sources.parse_weights(path, source=source_of(manifest))
    text = "default" if record.kind in ("torchvision", "library") else "none"
    return sources.parse_weights(text, source=source_of(manifest), seed=record.seed or 0)


def variant_of(manifest: Manifest) -> Variant:
    """The variant that the manifest describes."""
    it = manifest.variant
    return Variant(it.model, it.alpha, it.resolution, it.batch, it.num_classes, tuple(sorted(it.options.items())))


def as_asked(manifest: Manifest, make: Callable[[Variant], T]) -> T:
    """What `make` makes of the manifest's variant.

    The manifest has the number of classes that the network was found to have; where the source takes no such number,
    nobody asked for it.
    """
    variant = variant_of(manifest)
    try:
        return make(variant)
    except UsageError as error:
        if error.where != "--num-classes":
            raise
        return make(replace(variant, num_classes=None))


def bisect(manifest: Manifest, folder: Path, weights: sources.Weights | None = None) -> Difference | None:
    """The first node of model.onnx whose output is not that of a fresh export of the same network; None if all agree.

    Every tensor of the two graphs is compared by name, on the stored inputs, in the order of execution.
    """
    torch.set_num_threads(1)
    inputs = golden.unpack(folder / _path(manifest, "golden")).inputs
    suspect_bytes = _bytes(manifest, folder, "onnx-fp32")
    assert suspect_bytes is not None
    suspect = onnx.load_model_from_string(suspect_bytes)
    with _Again(manifest, weights) as again:
        exported = again.subject.export(again.variant, manifest.exporter)
        made = exported.at(again.variant).simplified
        assert made is not None
        fresh = onnx.load_model_from_string(bytes(made))
        floors = _floors(again.subject.reference(inputs[0].feeds, quick=False, fp16=False), inputs)
    names = [name for node in fresh.graph.node for name in node.output]
    ours, theirs = CpuSession(fresh, names), CpuSession(suspect, names)
    found = [
        difference
        for given in inputs
        if (difference := _first_difference(fresh, ours(given.feeds), theirs(given.feeds), floors)) is not None
    ]
    order = [node.name for node in fresh.graph.node]
    return min(found, key=lambda difference: order.index(difference.node), default=None)


def _floors(reference: AnyReference, inputs: Sequence[Input]) -> dict[str, Distance]:
    """The tolerance of each layer's output: the loosest over the inputs."""
    allowed: dict[str, Distance] = {}
    for given in inputs:
        runs = [(part.trace(given.feeds), part.scale) for part in reference.floors["fp32"]]
        for name, wanted in reference.truth.trace(given.feeds).items():
            floor = largest(distance(run[name], wanted).times(scale) for run, scale in runs)
            allowed[name] = tolerance(floor, "fp32", wanted.size).loosest(allowed.get(name))
    return allowed


def _first_difference(
    graph: onnx.ModelProto, ours: Mapping[str, AnyArray], theirs: Mapping[str, AnyArray], floors: Mapping[str, Distance]
) -> Difference | None:
    for node, allowed in _with_tolerance(graph, floors):
        for name in node.output:
            if name not in ours:
                continue
            found = distance(theirs[name], ours[name]) if name in theirs else Distance(np.inf, np.inf)
            if excess(found, allowed) > 1.0:
                error = found.overall if np.isfinite(found.overall) else None
                return Difference(node.name, node.op_type, name, error, allowed.overall)
    return None


def _with_tolerance(
    graph: onnx.ModelProto, floors: Mapping[str, Distance]
) -> Iterator[tuple[onnx.NodeProto, Distance]]:
    """Every node with its tolerance: its own layer's, or that of the layer before it."""
    allowed = tolerance(Distance(0.0, 0.0), "fp32")
    for node in graph.graph.node:
        allowed = next((floors[name] for name in node.output if name in floors), allowed)
        yield node, allowed


def _path(manifest: Manifest, kind: str) -> str:
    artifact = manifest.artifact(kind)
    if artifact is None:
        raise InputUnusable(f"the manifest lists no {kind}", hint="export it again")
    return artifact.path


def _bytes(manifest: Manifest, folder: Path, kind: str) -> bytes | None:
    artifact = manifest.artifact(kind)
    return None if artifact is None else (folder / artifact.path).read_bytes()

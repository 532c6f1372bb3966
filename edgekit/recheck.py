"""Parity of what is on disk: the network is made again, and the ladder climbed with the files as they are now."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from edgekit import checkpoints, sources
from edgekit.errors import InputUnusable
from edgekit.graph.from_torch import Exporter, export_onnx, find_anchors, fold_batch_norms, name_anchors
from edgekit.graph.simplify import Simplifier
from edgekit.graph.specialise import specialise
from edgekit.graph.tidy import tidy
from edgekit.manifest import Manifest
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import AnyArray, Distance, distance
from edgekit.parity.report import ParityReport
from edgekit.parity.tolerance import excess, tolerance
from edgekit.proof import Graphs, Reference, prove
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.variant import Variant

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
    module = rebuild(manifest, weights)
    inputs, golden = read_golden(folder / _path(manifest, "golden"))
    graphs = Graphs(simplified=_bytes(manifest, folder, "onnx-fp32"), fp16=_bytes(manifest, folder, "onnx-fp16"))
    quick = manifest.parity.mode == "quick"
    reference = Reference.of(module, inputs[0].values, quick, graphs.fp16 is not None)
    report, outputs = prove(reference, graphs, inputs, manifest.variant.batch)
    if not quick and excess(distance(outputs, golden), GOLDEN_TOLERANCE) > 1.0 and _same_weights(manifest, module):
        raise InputUnusable("the stored outputs are not this network's", where=str(folder / "golden.npz"))
    return report


def rebuild(manifest: Manifest, weights: sources.Weights | None = None) -> nn.Module:
    """The network of a manifest, with the weights that it names.

    Raises InputUnusable when a checkpoint is gone or is another one. Weights from a seed may differ in their last
    bits from one machine to another, and are accepted as they are.
    """
    known = weights or recorded_weights(manifest)
    module = sources.network(variant_of(manifest), known)
    if not isinstance(known, sources.SeedWeights) and not _same_weights(manifest, module):
        raise InputUnusable(
            "these are not the weights that were exported",
            got=sources.identity(known),
            wanted=manifest.weights.identity,
            hint="name the right file with --weights",
        )
    return module


def recorded_weights(manifest: Manifest) -> sources.Weights:
    """The weights that the manifest names; a checkpoint must still be where it was."""
    record = manifest.weights
    if record.kind == "checkpoint":
        path = record.path or ""
        if not Path(path).exists():
            raise InputUnusable("the checkpoint is gone", where=path, hint="say where it is now with --weights")
        return sources.parse_weights(path, model=manifest.variant.model)
    text = "default" if record.kind == "torchvision" else "none"
    return sources.parse_weights(text, model=manifest.variant.model, seed=record.seed or 0)


def variant_of(manifest: Manifest) -> Variant:
    """The variant that the manifest describes."""
    it = manifest.variant
    return Variant(it.model, it.alpha, it.resolution, it.batch, it.num_classes, tuple(sorted(it.options.items())))


def read_golden(path: Path) -> tuple[list[Input], AnyArray]:
    """The stored inputs, and the truth's outputs (inputs x batch, classes)."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            values, outputs = stored["inputs"], stored["outputs"]
            names, ordinary = stored["names"], stored["ordinary"]
    except (OSError, ValueError, KeyError) as error:
        raise InputUnusable("cannot read the stored inputs", where=str(path), got=str(error)) from error
    inputs = [Input(str(n), v, bool(o)) for n, v, o in zip(names, values, ordinary, strict=True)]
    return inputs, outputs.reshape(-1, *outputs.shape[2:])


def bisect(manifest: Manifest, folder: Path, weights: sources.Weights | None = None) -> Difference | None:
    """The first node of model.onnx whose output is not that of a fresh export of the same network; None if all agree.

    Every tensor of the two graphs is compared by name, on the stored inputs, in the order of execution.
    """
    torch.set_num_threads(1)
    inputs, _ = read_golden(folder / _path(manifest, "golden"))
    suspect_bytes = _bytes(manifest, folder, "onnx-fp32")
    assert suspect_bytes is not None
    suspect = onnx.load_model_from_string(suspect_bytes)
    module = rebuild(manifest, weights)
    fresh = _fresh_export(manifest, module, inputs[0].values)
    floors = _floors(module, inputs)
    names = [name for node in fresh.graph.node for name in node.output]
    ours, theirs = CpuSession(fresh, names), CpuSession(suspect, names)
    found = [
        difference
        for given in inputs
        if (difference := _first_difference(fresh, ours(given.values), theirs(given.values), floors)) is not None
    ]
    order = [node.name for node in fresh.graph.node]
    return min(found, key=lambda difference: order.index(difference.node), default=None)


def _fresh_export(manifest: Manifest, module: nn.Module, values: AnyArray) -> onnx.ModelProto:
    example, folded = torch.from_numpy(values), fold_batch_norms(module)
    exporter: Exporter = "dynamo" if manifest.exporter == "dynamo" else "torchscript"
    raw = export_onnx(folded, example, manifest.opset, exporter, manifest.variant.batch is None)
    graph = onnx.load_model_from_string(raw)
    name_anchors(graph, folded, find_anchors(module, example))
    tidy(graph)
    with Simplifier() as simplifier:
        simplifier.submit(bytes(graph.SerializeToString()))
        simple = onnx.load_model_from_string(simplifier.result().model_bytes)
    return onnx.load_model_from_string(specialise(simple, manifest.variant.resolution, manifest.variant.batch))


def _floors(module: nn.Module, inputs: Sequence[Input]) -> dict[str, Distance]:
    """The tolerance of each layer's output: the loosest over the inputs."""
    reference = Reference.of(module, inputs[0].values, quick=False, fp16=False)
    allowed: dict[str, Distance] = {}
    for given in inputs:
        truth, run = reference.truth.trace(given.values), reference.floors["fp32"](given.values)
        for name, wanted in truth.items():
            here, before = tolerance(distance(run[name], wanted), "fp32"), allowed.get(name, Distance(0.0, 0.0))
            allowed[name] = Distance(max(here.overall, before.overall), max(here.channel, before.channel))
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


def _same_weights(manifest: Manifest, module: nn.Module) -> bool:
    return checkpoints.digest(module.state_dict()) == manifest.weights.sha256


def _path(manifest: Manifest, kind: str) -> str:
    artifact = manifest.artifact(kind)
    if artifact is None:
        raise InputUnusable(f"the manifest lists no {kind}", hint="export it again")
    return artifact.path


def _bytes(manifest: Manifest, folder: Path, kind: str) -> bytes | None:
    artifact = manifest.artifact(kind)
    return None if artifact is None else (folder / artifact.path).read_bytes()

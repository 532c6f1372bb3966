"""One network on its way from PyTorch to proven files: what the pipeline walks when nothing is kept.

A `Journey` holds what does not depend on the resolution: the module, its graphs, its reference. `walk` carries one
variant to its folder.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch

from edgekit import __version__, checkpoints, environment, models, profile, sources
from edgekit.errors import EdgekitError
from edgekit.graph.fp16 import to_fp16
from edgekit.graph.from_torch import Exporter, export_onnx, find_anchors, fold_batch_norms, name_anchors
from edgekit.graph.simplify import Simplified
from edgekit.graph.specialise import specialise
from edgekit.graph.tidy import tidy
from edgekit.helpers import EngineBuilds, Helpers
from edgekit.images import load_image
from edgekit.manifest import (
    Artifact,
    Engine,
    Manifest,
    ProfileRecord,
    Staging,
    TensorSpec,
    VariantRecord,
    WeightsRecord,
)
from edgekit.models._counting import Counts
from edgekit.parity.inputs import ladder_inputs
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import AnyArray
from edgekit.parity.report import ParityReport
from edgekit.plan import Plan, Precision, tool_versions
from edgekit.preprocessing import CONTRACTS
from edgekit.profile import ExportProfile
from edgekit.proof import Graphs, Reference, prove
from edgekit.variant import Variant

Tell = Callable[[str], None]
FP32_FILE, FP16_FILE, GOLDEN_FILE = "model.onnx", "model.fp16.onnx", "golden.npz"
GRAPH_FILES = {"fp32": FP32_FILE, "fp16": FP16_FILE}


class Simplification:
    """A graph on its way through the simplifier, which has its own process: others go on until they need it."""

    def __init__(self, helpers: Helpers, graph: onnx.ModelProto) -> None:
        self.helpers, self.graph = helpers, graph
        self._wait: Callable[[], Simplified] | None = self._begin()

    def result(self) -> onnx.ModelProto:
        """The simplified graph. Raises as `Simplifier.result` does, and then begins anew when it is asked again."""
        wait, self._wait = self._wait or self._begin(), None
        return onnx.load_model_from_string(wait().model_bytes)

    def _begin(self) -> Callable[[], Simplified]:
        return self.helpers.simplify(bytes(self.graph.SerializeToString()))


@dataclass(frozen=True)
class Exported:
    """The graphs of one network, at one resolution until they are specialised."""

    exporter: Exporter
    raw: onnx.ModelProto
    simplify: Callable[[], onnx.ModelProto]
    half: bool
    reference: Reference

    @cached_property
    def simplified(self) -> onnx.ModelProto:
        """The fp32 graph that will be delivered."""
        return self.simplify()

    @cached_property
    def fp16(self) -> onnx.ModelProto | None:
        """The same in half precision, where that is wanted."""
        return to_fp16(self.simplified) if self.half else None

    def at(self, variant: Variant) -> Graphs:
        """The serialised graphs for the variant's resolution and batch."""

        def sized(model: onnx.ModelProto | None) -> bytes | None:
            return None if model is None else specialise(model, variant.resolution, variant.batch)

        simplified = sized(self.simplified)
        # A quick climb looks at what is delivered only; the graph before simplification is no file of its own.
        raw = None if self.reference.quick else sized(self.raw)
        return Graphs(simplified if raw == simplified else raw, simplified, sized(self.fp16))


@dataclass(frozen=True)
class Proven:
    """The graphs that will be delivered, with their report; `notes` say what had to be done to get there."""

    graphs: Graphs
    exporter: Exporter
    report: ParityReport
    outputs: AnyArray
    counts: Counts
    notes: tuple[str, ...] = ()

    @property
    def deployed(self) -> bytes:
        """The fp32 graph that people get."""
        assert self.graphs.simplified is not None
        return self.graphs.simplified


@dataclass(frozen=True)
class Remedy:
    """Another way to make the graphs, for when one of the rungs `mends` fails; `note` tells the user of it."""

    note: str
    mends: tuple[str, ...]
    export: Callable[[], Exported]


class Journey:
    """One network at any resolution. Raises EdgekitError when it cannot be made or exported."""

    def __init__(self, variant: Variant, plan: Plan, helpers: Helpers) -> None:
        # On a busy machine two threads make PyTorch's convolutions up to thirty times slower than one.
        torch.set_num_threads(1)
        models.check_resolution(variant.model, variant.resolution)
        self.plan, self.helpers = plan, helpers
        self.contract = CONTRACTS[models.info(variant.model).preprocessing]
        self.module = sources.network(variant, plan.weights)
        self.weights_digest = checkpoints.digest(self.module.state_dict())
        self.exported_at = variant
        self.exported = self._export(variant, "torchscript" if plan.exporter == "auto" else plan.exporter)

    def walk(self, variant: Variant, tell: Tell) -> tuple[Manifest, Path]:
        """Carry one variant to its folder; returns its manifest and that folder.

        A variant whose gate failed goes to a folder of its own, so that it can be looked at and never be mistaken.
        """
        start = time.perf_counter()
        models.check_resolution(variant.model, variant.resolution)
        staging = Staging(self.plan.folder(variant))
        try:
            inputs = self._inputs(variant)
            tell("parity")
            builds = EngineBuilds(self.helpers, staging.folder, variant.batch, self._engines(), GRAPH_FILES)
            proven = self._prove(variant, inputs, lambda graphs: self._stage(staging, graphs, builds))
            artifacts = self._artifacts(staging, proven, inputs)
            tell("engine")
            # No engine is worth having of a graph that is not the network.
            engines = builds.finish() if proven.report.passed else builds.drop()
            found = self._manifest(variant, proven, artifacts, engines, time.perf_counter() - start)
            if not found.passed:
                staging.final = self.plan.failed_folder(variant)
            staging.commit(found)
            return found, staging.final
        finally:
            staging.discard()

    def _export(self, variant: Variant, exporter: Exporter) -> Exported:
        """The graphs at the variant's own size. Falls back to the other exporter when the plan leaves the choice."""
        inputs = ladder_inputs(self.contract, variant.resolution, variant.batch or 1, quick=True)
        example = torch.from_numpy(inputs[0].values)
        folded = fold_batch_norms(self.module)
        try:
            raw = export_onnx(folded, example, self.plan.opset, exporter, variant.batch is None)
        except EdgekitError:
            if self.plan.exporter != "auto" or exporter == "dynamo":
                raise
            return self._export(variant, "dynamo")
        graph = onnx.load_model_from_string(raw)
        anchors = find_anchors(self.module, example)
        # The reference gets all of them: a layer whose weights the graph does not hold is missing there, by name.
        name_anchors(graph, folded, anchors)
        tidy(graph)
        simplification = Simplification(self.helpers, graph)
        reference = Reference(self.module, folded, anchors, self.plan.quick, self.plan.half)
        return Exported(exporter, graph, simplification.result, self.plan.half, reference)

    def _engines(self) -> list[tuple[ExportProfile, Precision]]:
        """The profiles whose engines are wanted, each with the precision to build."""
        wanted = [(used, self.plan.engine_precision(used)) for used in self.plan.profiles if self.plan.engines]
        return [(used, precision) for used, precision in wanted if precision is not None and used.flavour != "none"]

    def _inputs(self, variant: Variant) -> list[Input]:
        images = [load_image(path, self.contract, variant.resolution) for path in self.plan.images]
        return ladder_inputs(self.contract, variant.resolution, variant.batch or 1, images, self.plan.quick)

    def _prove(self, variant: Variant, inputs: list[Input], stage: Callable[[Graphs], None]) -> Proven:
        """Climb with the graphs at hand; while a rung fails that another way of making it could mend, go that way."""
        proven = self._climb(variant, inputs, self.exported, stage)
        for remedy in self._remedies(variant):
            failure = proven.report.first_failure()
            if failure in remedy.mends:
                reason = next((rung.reason for rung in proven.report.rungs if not rung.passed), None)
                note = f"{remedy.note} (rung {failure} had failed: {reason})"
                proven = replace(self._climb(variant, inputs, remedy.export(), stage), notes=(note,))
        return proven

    def _remedies(self, variant: Variant) -> Iterator[Remedy]:
        """Other ways to make the graphs, the least change first."""
        exporter = self.exported.exporter
        if variant != self.exported_at:
            note = "the graph depends on the resolution and was exported on its own"
            yield Remedy(note, ("onnx", "simplified"), lambda: self._export(variant, exporter))
        yield Remedy(
            "the simplification was rolled back", ("simplified",), lambda: self._unsimplified(variant, exporter)
        )
        if self.plan.exporter == "auto" and exporter == "torchscript":
            note = "exported with dynamo instead of torchscript"
            yield Remedy(note, ("onnx", "simplified"), lambda: self._export(variant, "dynamo"))

    def _unsimplified(self, variant: Variant, exporter: Exporter) -> Exported:
        exported = self.exported if variant == self.exported_at else self._export(variant, exporter)
        return replace(exported, simplify=lambda: exported.raw)

    def _climb(
        self, variant: Variant, inputs: list[Input], exported: Exported, stage: Callable[[Graphs], None]
    ) -> Proven:
        exported.reference.foresee(inputs)
        graphs = exported.at(variant)
        stage(graphs)
        report, outputs = prove(exported.reference, graphs, inputs, variant.batch)
        return Proven(graphs, exported.exporter, report, outputs, exported.reference.counts())

    def _stage(self, staging: Staging, graphs: Graphs, builds: EngineBuilds) -> None:
        """Write the graphs, and let the engines be built while the ladder is climbed."""
        assert graphs.simplified is not None
        staging.write(FP32_FILE, graphs.simplified)
        if graphs.fp16 is not None:
            staging.write(FP16_FILE, graphs.fp16)
        builds.start()

    def _artifacts(self, staging: Staging, proven: Proven, inputs: list[Input]) -> tuple[Artifact, ...]:
        by = f"edgekit {__version__}: torch.onnx ({proven.exporter}), onnxsim"
        made = [("onnx-fp32", FP32_FILE, proven.deployed, by)]
        if proven.graphs.fp16 is not None:
            made.append(("onnx-fp16", FP16_FILE, proven.graphs.fp16, f"{by}, onnxconverter-common"))
        golden = _golden(inputs, proven.outputs)
        staging.write(GOLDEN_FILE, golden)
        graphs = [_graph_artifact(kind, name, staging.digest(name), data, how) for kind, name, data, how in made]
        how = f"edgekit {__version__}: the ladder's inputs, the truth's outputs"
        return (*graphs, Artifact("golden", GOLDEN_FILE, staging.digest(GOLDEN_FILE), len(golden), how))

    def _manifest(
        self,
        variant: Variant,
        proven: Proven,
        artifacts: tuple[Artifact, ...],
        engines: tuple[Engine, ...],
        seconds: float,
    ) -> Manifest:
        weights = self.plan.weights
        return Manifest(
            key=self.plan.key(variant),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            edgekit=__version__,
            variant=VariantRecord(
                variant.model,
                variant.alpha,
                variant.resolution,
                variant.batch,
                int(proven.outputs.shape[-1]),
                dict(variant.options),
            ),
            source="reference",
            weights=WeightsRecord(
                weights.kind,
                self.plan.weights_identity,
                self.weights_digest,
                str(weights.path) if isinstance(weights, sources.CheckpointWeights) else None,
                weights.seed if isinstance(weights, sources.SeedWeights) else None,
            ),
            params=proven.counts.params,
            macs=proven.counts.macs,
            opset=self.plan.opset,
            exporter=proven.exporter,
            preprocessing=self.contract,
            artifacts=artifacts,
            parity=proven.report,
            engines=engines,
            profiles=tuple(ProfileRecord(used.name, profile.digest(used), used) for used in self.plan.profiles),
            tools=tool_versions(),
            machine=environment.stamp(),
            notes=proven.notes,
            seconds=round(seconds, 3),
        )


def _golden(inputs: list[Input], outputs: AnyArray) -> bytes:
    """Inputs (n, batch, 3, H, W) and the truth's outputs (n, batch, classes), with the inputs' names."""
    buffer = io.BytesIO()
    values = np.stack([given.values for given in inputs])
    np.savez(
        buffer,
        names=np.array([given.name for given in inputs]),
        ordinary=np.array([given.ordinary for given in inputs]),
        inputs=values,
        outputs=outputs.reshape(len(inputs), -1, *outputs.shape[1:]),
    )
    return buffer.getvalue()


def _graph_artifact(kind: str, path: str, sha256: str, data: bytes, made_by: str) -> Artifact:
    graph = onnx.load_model_from_string(data).graph
    return Artifact(
        kind,
        path,
        sha256,
        len(data),
        made_by,
        len(graph.node),
        tuple(_spec(value) for value in graph.input),
        tuple(_spec(value) for value in graph.output),
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = tuple(dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)

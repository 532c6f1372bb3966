"""One network on its way to proven files: what the pipeline walks when nothing is kept.

A `Journey` holds what does not depend on the resolution: the subject, its graphs, its reference. `walk` carries one
variant to its folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

import onnx
import torch

from edgekit import __version__, environment, golden, profile, sources, subjects
from edgekit.errors import EdgekitError, GateFailed
from edgekit.graph.mould import Mould
from edgekit.headed import Content, outline
from edgekit.helpers import EngineBuilds, Helpers
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
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import Feeds
from edgekit.parity.report import ParityReport
from edgekit.plan import Plan, Precision, tool_versions
from edgekit.profile import ExportProfile
from edgekit.proof import Graphs, Proof, prove
from edgekit.subjects import Exported
from edgekit.variant import Variant

Tell = Callable[[str], None]
FP32_FILE, FP16_FILE, GOLDEN_FILE = "model.onnx", "model.fp16.onnx", "golden.npz"
AHEAD_BYTES = 64 << 20  # of inputs that are kept until their variant is walked
GRAPH_FILES = {"fp32": FP32_FILE, "fp16": FP16_FILE}


@dataclass(frozen=True)
class Proven:
    """The graphs that will be delivered, with their report; `notes` say what had to be done to get there."""

    graphs: Graphs
    exporter: str
    proof: Proof
    counts: Counts
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> ParityReport:
        """What the ladder said of them."""
        return self.proof.report

    @property
    def deployed(self) -> Content:
        """The fp32 graph that people get."""
        assert self.graphs.simplified is not None
        return self.graphs.simplified


@dataclass(frozen=True)
class Remedy:
    """Another way to make the graphs, for when one of the rungs `mends` fails; `note` tells the user of it.

    `export` is given what there is, and changes that or makes it anew.
    """

    note: str
    mends: tuple[str, ...]
    export: Callable[[Exported], Exported]


class Journey:
    """One network at any size. Raises EdgekitError when it cannot be made or exported."""

    def __init__(self, variant: Variant, plan: Plan, helpers: Helpers) -> None:
        # On a busy machine two threads make PyTorch's convolutions up to thirty times slower than one.
        torch.set_num_threads(1)
        self.plan, self.helpers = plan, helpers
        self.source = plan.source(variant)
        sources.check(variant, plan.weights_of(variant), self.source)
        self.subject = subjects.make(self.source, variant, plan, helpers)
        self.variant = variant
        self._inputs: dict[Variant, list[Input]] = {}

    @cached_property
    def exported(self) -> Exported:
        """Its graphs, from its own export unless `export` was given a mould for them."""
        return self.subject.export(self.variant, self.subject.exporters[0])

    def export(self, moulds: Sequence[Mould]) -> None:
        """Make the graphs, from a mould where one fits. Raises EdgekitError when the network cannot be exported."""
        self.exported = self.subject.export(self.variant, self.subject.exporters[0], moulds)

    def prepare(self) -> None:
        """It will be exported, and something else has to be waited for: do what the export begins with.

        What cannot be done is left to the export, which says why.
        """
        with suppress(RuntimeError, EdgekitError):
            self.subject.prepare()

    def foresee(self, variants: Sequence[Variant]) -> None:
        """These will be walked, and something else has to be waited for: do what can be done before there is a graph.

        What cannot be done is left to the walk, which says why: a stranger's module may raise anything.
        """
        with suppress(Exception):
            for variant in variants:
                if sum(_bytes(inputs) for inputs in self._inputs.values()) > AHEAD_BYTES:
                    break
                self.subject.foresee(self._inputs_of(variant))

    def _inputs_of(self, variant: Variant) -> list[Input]:
        if variant not in self._inputs:
            self._inputs[variant] = self.subject.inputs(variant)
        return self._inputs[variant]

    @cached_property
    def mould(self) -> Mould | None:
        """What networks of the same make can be made from, if anything. Raises EdgekitError where a graph fails."""
        return self.exported.mould()

    def walk(self, variant: Variant, tell: Tell, then: Sequence[Variant] = ()) -> tuple[Manifest, Path]:
        """Carry one variant to its folder; returns its manifest and that folder.

        While the disk is waited for, those that will be walked `then` are foreseen.
        A variant whose gate failed goes to a folder of its own, so that it can be looked at and never be mistaken.
        """
        start = time.perf_counter()
        sources.check(variant, self.plan.weights_of(variant), self.source)
        staging = Staging(self.plan.folder(variant))
        try:
            inputs = self._inputs_of(variant)
            tell("parity")
            builds = EngineBuilds(self.helpers, staging.folder, variant.batch, GRAPH_FILES, self.subject.side(variant))
            proven = self._prove(variant, inputs, lambda graphs: self._stage(staging, graphs, builds))
            artifacts = self._artifacts(staging, proven, inputs)
            tell("engine")
            # No engine is worth having of a graph that is not the network.
            engines = builds.finish() if proven.report.passed else builds.drop()
            found = self._manifest(variant, proven, artifacts, engines, time.perf_counter() - start)
            if not found.passed:
                staging.final = self.plan.failed_folder(variant)
            self.foresee(then)
            staging.commit(found)
            return found, staging.final
        finally:
            staging.discard()
            if variant in self._inputs:
                self.subject.forget(self._inputs.pop(variant))

    def _engines(self, half: bool) -> list[tuple[ExportProfile, Precision]]:
        """The profiles whose engines are wanted, each with the precision to build."""
        wanted = [(used, self.plan.engine_precision(used, half)) for used in self.plan.profiles if self.plan.engines]
        return [(used, precision) for used, precision in wanted if precision is not None and used.flavour != "none"]

    def _prove(self, variant: Variant, inputs: list[Input], stage: Callable[[Graphs], None]) -> Proven:
        """Climb with the graphs at hand; while a rung fails that another way of making it could mend, go that way."""
        if not self.exported.any_size and variant != self.exported.made_at:
            self.exported = self.subject.export(variant, self.exported.exporter)
        made, notes = self.exported, list[str]()
        proven = self._climb(variant, inputs, made, stage)
        for remedy in self._remedies(variant):
            failure = proven.report.first_failure()
            if failure in remedy.mends:
                reason = next((rung.reason for rung in proven.report.rungs if not rung.passed), None)
                try:
                    mended = remedy.export(made)
                    mended.at(variant)
                except EdgekitError:
                    continue  # no remedy, then: what was there before stands, and says why it failed
                made = mended
                notes.append(f"{remedy.note} (rung {failure} had failed: {reason})")
                proven = self._climb(variant, inputs, made, stage, *notes)
        return proven

    def _remedies(self, variant: Variant) -> Iterator[Remedy]:
        """Other ways to make the graphs, the least change first; each starts from what the one before left."""
        first = self.exported
        if variant != first.made_at:
            note = "the graph depends on the resolution or the width, and was exported on its own"
            yield Remedy(note, ("onnx", "simplified"), lambda made: self.subject.export(variant, made.exporter))
        note = "the simplification was rolled back"
        yield Remedy(note, ("simplified",), lambda made: self._unsimplified(variant, made))
        for other in self.subject.exporters:
            if other != first.exporter:
                note = f"exported with {other} instead of {first.exporter}"
                yield Remedy(note, ("onnx", "simplified"), partial(self._anew, variant, other))
        if first.half != "no":
            note = "what leaves the range of half precision stays in FP32"
            yield Remedy(note, ("fp16",), lambda made: self.subject.narrowed(made, variant))

    def _anew(self, variant: Variant, exporter: str, _made: Exported) -> Exported:
        return self.subject.export(variant, exporter)

    def _unsimplified(self, variant: Variant, made: Exported) -> Exported:
        exported = made if variant == made.made_at else self.subject.export(variant, made.exporter)
        return replace(exported, simplify=lambda: exported.raw)

    def _climb(
        self, variant: Variant, inputs: list[Input], exported: Exported, stage: Callable[[Graphs], None], *notes: str
    ) -> Proven:
        exported.reference.foresee(inputs)
        graphs = exported.at(variant)
        stage(graphs)
        proof = prove(exported.reference, graphs, inputs, variant.batch)
        return Proven(graphs, exported.exporter, proof, exported.reference.counts(), (*notes, *exported.notes))

    def _stage(self, staging: Staging, graphs: Graphs, builds: EngineBuilds) -> None:
        """Write the graphs, and let the engines be built while the ladder is climbed."""
        assert graphs.simplified is not None
        staging.write(FP32_FILE, graphs.simplified)
        if graphs.fp16 is not None:
            staging.write(FP16_FILE, graphs.fp16)
        builds.start(self._engines(half=graphs.fp16 is not None))

    def _artifacts(self, staging: Staging, proven: Proven, inputs: list[Input]) -> tuple[Artifact, ...]:
        origin = proven.exporter if self.source.kind == "onnx" else f"torch.onnx ({proven.exporter})"
        by = f"edgekit {__version__}: {origin}, onnxsim"
        made = [("onnx-fp32", FP32_FILE, proven.deployed, by)]
        if proven.graphs.fp16 is not None:
            made.append(("onnx-fp16", FP16_FILE, proven.graphs.fp16, f"{by}, onnxconverter-common"))
        examples = golden.pack(inputs, proven.proof.outputs)
        staging.write(GOLDEN_FILE, examples)
        graphs = [_graph_artifact(kind, name, staging.digest(name), data, how) for kind, name, data, how in made]
        # What a stranger's file says of its outputs is the stranger's own.
        seen = {**inputs[0].feeds, **(proven.proof.outputs[0] if self.exported.known else {})}
        for graph in graphs:
            _check_declared(graph, seen)
        how = f"edgekit {__version__}: the ladder's inputs, the truth's outputs"
        return (*graphs, Artifact("golden", GOLDEN_FILE, staging.digest(GOLDEN_FILE), len(examples), how))

    def _manifest(
        self,
        variant: Variant,
        proven: Proven,
        artifacts: tuple[Artifact, ...],
        engines: tuple[Engine, ...],
        seconds: float,
    ) -> Manifest:
        weights = self.plan.weights_of(variant)
        return Manifest(
            key=self.plan.key(variant),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            edgekit=__version__,
            variant=VariantRecord(
                variant.model,
                variant.alpha,
                variant.resolution,
                variant.batch,
                _classes(proven.proof),
                dict(variant.options),
            ),
            source=self.source.text,
            weights=WeightsRecord(
                weights.kind,
                self.plan.weights_identity(variant),
                self.subject.digest,
                str(weights.path) if isinstance(weights, sources.CheckpointWeights) else None,
                weights.seed if isinstance(weights, sources.SeedWeights | sources.OwnWeights) else None,
            ),
            params=proven.counts.params,
            macs=proven.counts.macs,
            opset=_opset(proven.deployed),
            exporter=proven.exporter,
            preprocessing=self.subject.contract,
            artifacts=artifacts,
            parity=proven.report,
            engines=engines,
            profiles=tuple(ProfileRecord(used.name, profile.digest(used), used) for used in self.plan.profiles),
            tools=tool_versions(),
            machine=environment.stamp(),
            notes=(*self.subject.notes, *proven.notes),
            seconds=round(seconds, 3),
        )


def _bytes(inputs: list[Input]) -> int:
    return sum(values.nbytes for given in inputs for values in given.feeds.values())


def _opset(model: Content) -> int:
    imports = onnx.load_model_from_string(outline(model)).opset_import
    return int(next((used.version for used in imports if used.domain in ("", "ai.onnx")), 0))


def _classes(proof: Proof) -> int | None:
    """As many as a classifier's only output has columns."""
    shapes = [values.shape for values in proof.outputs[0].values()]
    return int(shapes[0][1]) if len(shapes) == 1 and len(shapes[0]) == 2 else None


def _check_declared(graph: Artifact, seen: Feeds) -> None:
    """Raise GateFailed unless the file declares tensors such as it was proven with.

    Rungs need not see what it declares: a graph that is proven for more rows or sizes is run with those left open.
    """
    for spec in (*graph.inputs, *graph.outputs):
        if spec.name in seen and not _can_be(seen[spec.name].shape, spec.shape):
            what = "the graph declares another tensor than it was proven with"
            raise GateFailed(
                what,
                where=f"{graph.path}, {spec.name}",
                got=str(spec.shape),
                wanted=str(seen[spec.name].shape),
                hint="please report it, with the command",
            )


def _can_be(shape: tuple[int, ...], declared: tuple[int | str, ...]) -> bool:
    return len(shape) == len(declared) and all(
        isinstance(dim, str) or dim == size for dim, size in zip(declared, shape, strict=True)
    )


def _graph_artifact(kind: str, path: str, sha256: str, data: Content, made_by: str) -> Artifact:
    graph = onnx.load_model_from_string(outline(data)).graph
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
    return TensorSpec(value.name, dtype, tuple(_dimension(dim) for dim in tensor.shape.dim))


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    """A size, or a name; "?" where the file says nothing."""
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or "?"

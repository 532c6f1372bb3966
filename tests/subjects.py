"""Small networks, exported once and shared: what the tests of the ladder and of the graphs look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import onnx
import torch
from torch import nn

from edgekit import sources
from edgekit.graph.fp16 import to_fp16
from edgekit.graph.from_torch import (
    IMAGE,
    LOGITS,
    Anchor,
    Signature,
    export_onnx,
    find_anchors,
    fold_batch_norms,
    name_anchors,
)
from edgekit.graph.tidy import tidy
from edgekit.parity.inputs import ladder_inputs
from edgekit.parity.ladder import FloorRun, Input, Tracer
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.parity.report import ParityReport, Rung
from edgekit.preprocessing import IMAGENET, Preprocessing
from edgekit.proof import Graphs, Reference, prove
from edgekit.runtimes.long_sums import LONG, LongSums
from edgekit.variant import Variant

RESOLUTION = 96
OPSET = 17


@dataclass(frozen=True)
class Subject:
    """A network with random weights, its export, and the reference to which copies of that export are compared."""

    variant: Variant
    module: nn.Module
    folded: nn.Module
    anchors: list[Anchor]
    exported: bytes
    inputs: list[Input]
    output: str = LOGITS
    long_sums: bool = False

    @cached_property
    def fp16(self) -> bytes:
        """The export in half precision."""
        return half(self.graph())

    @cached_property
    def reference(self) -> Reference:
        """The truth and the floors. They are run once: what differs between two tests is the graph."""
        reference = Reference(
            self.module,
            self.folded,
            self.anchors,
            quick=False,
            fp16=True,
            signature=Signature(outputs=(self.output,)),
            long_sums=self.long_sums,
        )
        reference.truth = replace(reference.truth, trace=remembered(reference.truth.trace))
        reference.floors = {
            precision: [FloorRun(remembered(part.trace), part.scale) for part in parts]
            for precision, parts in reference.floors.items()
        }
        return reference

    def graph(self) -> onnx.ModelProto:
        """A fresh copy of the export, to be changed at will."""
        return onnx.load_model_from_string(self.exported)

    def climb(
        self, onnx: bytes | None = None, simplified: bytes | None = None, fp16: bytes | None = None
    ) -> ParityReport:
        """The full ladder with these graphs."""
        return prove(self.reference, Graphs(onnx, simplified, fp16), self.inputs, 1).report

    def after(self, layer: str) -> str:
        """The anchor that is computed next; the network's output after the last."""
        names = [anchor.name for anchor in self.anchors if not anchor.is_output]
        return [*names, self.output][names.index(layer) + 1]

    def compared_as(self, layer: str) -> str:
        """The name of a layer's own output: that of the network's where it is one."""
        return self.output if any(it.is_output for it in self.anchors if it.name == layer) else layer


def subject(model: str, alpha: float, resolution: int = RESOLUTION) -> Subject:
    """One of the reference networks with seeded weights, exported the way the pipeline does it."""
    variant = Variant(model, alpha, resolution)
    return subject_of(variant, sources.network(variant, sources.SeedWeights(0)))


def loaded_subject(variant: Variant) -> Subject:
    """The same for any reference network: with its own preprocessing and output, and its graph tidied up."""
    loaded = sources.load(sources.parse_source(variant.model), variant, sources.SeedWeights(0))
    assert loaded.preprocessing is not None
    made = subject_of(variant, loaded.module, loaded.preprocessing, *loaded.outputs)
    graph = made.graph()
    tidy(graph)
    return replace(made, exported=bytes(graph.SerializeToString()))


def subject_of(
    variant: Variant, module: nn.Module, contract: Preprocessing = IMAGENET, output: str = LOGITS
) -> Subject:
    """A network with the weights that it has, exported."""
    folded, inputs = fold_batch_norms(module), ladder_inputs(contract, variant.resolution, 1)
    example = torch.from_numpy(inputs[0].feeds[IMAGE])
    graph = onnx.load_model_from_string(export_onnx(folded, example, OPSET, signature=Signature(outputs=(output,))))
    with LongSums() as sums:
        anchors = find_anchors(module, example)
    name_anchors(graph, folded, anchors)
    return Subject(
        variant, module, folded, anchors, graph.SerializeToString(), inputs, output, long_sums=sums.longest > LONG
    )


def reference_of(module: nn.Module, feeds: Feeds, fp16: bool) -> Reference:
    """The reference of a module for a full climb, worked out from nothing but the module."""
    anchors = find_anchors(module, torch.from_numpy(feeds[IMAGE]))
    return Reference(module, fold_batch_norms(module), anchors, quick=False, fp16=fp16)


def half(graph: onnx.ModelProto) -> bytes:
    """The graph in half precision."""
    return bytes(to_fp16(graph).SerializeToString())


def rung(report: ParityReport, name: str) -> Rung:
    """The comparison of that rung with the truth."""
    return next(rung for rung in report.rungs if rung.name == name and rung.against == report.rungs[0].against)


def remembered(run: Tracer) -> Tracer:
    """The same results, computed once for each input."""
    known: dict[tuple[tuple[str, tuple[int, ...], bytes], ...], Mapping[str, AnyArray]] = {}

    def look_up(feeds: Feeds) -> Mapping[str, AnyArray]:
        key = tuple((name, values.shape, values.tobytes()) for name, values in feeds.items())
        if key not in known:
            known[key] = run(feeds)
        return known[key]

    return look_up

"""A PyTorch module on its journey: from any source that gives one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgekit import checkpoints, sources
from edgekit.errors import EdgekitError, InputUnusable
from edgekit.graph.from_torch import (
    Anchor,
    Signature,
    export_onnx,
    find_anchors,
    fold_batch_norms,
    name_anchors,
)
from edgekit.graph.mould import Cast, Mould, TakeMould
from edgekit.graph.tidy import tidy
from edgekit.helpers import Helpers
from edgekit.images import load_image
from edgekit.manifest import TensorSpec
from edgekit.models._blocks import AnySize
from edgekit.models._counting import Counter, Counts
from edgekit.parity.inputs import around, ladder_inputs
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import Feeds
from edgekit.plan import Plan
from edgekit.preprocessing import IMAGENET
from edgekit.proof import QuickTruth, Reference
from edgekit.runtimes.long_sums import LONG, LongSums
from edgekit.sources import Loaded, Source
from edgekit.subjects import Exported, Simplification
from edgekit.variant import Variant


class ModuleSubject:
    """A module with its signature, folded and observed anew for every export."""

    def __init__(self, source: Source, variant: Variant, plan: Plan, helpers: Helpers) -> None:
        self.source, self.plan, self.helpers = source, plan, helpers
        self.loaded: Loaded = sources.load(source, variant, plan.weights_of(variant), plan.inputs)
        open_size = isinstance(self.loaded.module, AnySize) and self.loaded.module.dynamic
        self.signature = Signature(tuple(spec.name for spec in self.loaded.inputs), self.loaded.outputs, open_size)
        self.contract = self.loaded.preprocessing
        self.notes = self.loaded.notes
        self.digest = checkpoints.digest(self.loaded.module.state_dict())
        self._folded: nn.Module | None = None  # made ahead for the next export; it holds all weights once more
        self.truth = QuickTruth(self.loaded.module, self.signature, self.source.is_known) if plan.quick else None
        self.exporters: tuple[str, ...] = ("torchscript", "dynamo") if plan.exporter == "auto" else (plan.exporter,)

    def inputs(self, variant: Variant) -> list[Input]:
        """Images where the module takes one, otherwise values like those of its examples."""
        quick, batch = self.plan.quick, variant.batch or 1
        if self.loaded.resolution is None:
            return around(_rows(self.loaded, batch), quick)
        contract, side = self.contract or IMAGENET, variant.resolution or self.loaded.resolution
        images = [load_image(path, contract, side) for path in self.plan.images]
        inputs = ladder_inputs(contract, side, batch, images, quick, self.signature.inputs[0], adapting=self._adapts)
        if self.signature.open_size:  # what holds at one size need not at another
            (other,) = ladder_inputs(contract, side + side // 4, batch, (), True, self.signature.inputs[0])[:1]
            inputs.insert(-1, Input("other-size", other.feeds, ordinary=False))
        return inputs

    @cached_property
    def _adapts(self) -> bool:
        """Whether it normalises by what is in the image."""
        return any(isinstance(layer, nn.InstanceNorm2d) for layer in self.loaded.module.modules())

    def foresee(self, inputs: list[Input]) -> None:
        """Run the module in a quick climb: that needs no graph."""
        if self.truth is not None:
            self.truth.answers(inputs)

    def prepare(self) -> None:
        """Fold the batch norms."""
        self._folded = fold_batch_norms(self.loaded.module, self._pairs)

    def forget(self, inputs: list[Input]) -> None:
        """Give back what is kept for them."""
        if self.truth is not None:
            self.truth.forget(inputs)

    def export(self, variant: Variant, exporter: str, moulds: Sequence[Mould] = ()) -> Exported:
        """Its graphs at the variant's own size; the next exporter's where this one cannot express the module."""
        folded, self._folded = self._folded or fold_batch_norms(self.loaded.module, self._pairs), None
        for mould in moulds:
            if mould.exporter == exporter and mould.fits(folded, variant):
                return self._from_mould(mould, folded)
        feeds = self.inputs(variant)[0].feeds
        examples = tuple(torch.from_numpy(feeds[name]) for name in self.signature.inputs)
        dynamic = variant.batch is None
        try:
            raw = export_onnx(folded, examples, self.plan.opset, exporter, dynamic, self.signature)
        except EdgekitError:
            if exporter == self.exporters[-1]:
                raise
            return self.export(variant, self.exporters[-1])
        graph = onnx.load_model_from_string(raw)
        anchors, long_sums = self._anchors(*examples)
        named = name_anchors(graph, folded, anchors)
        tidy(graph)
        wanted = self._wanted(anchors, named)
        return Exported(
            exporter=exporter,
            made_at=variant,
            any_size=self._any_size(graph),
            raw=graph,
            simplify=Simplification(self.helpers, graph).result,
            half="no" if not self.plan.half else "yes" if self.source.is_known else self.plan.half_unless_impossible,
            known=self.source.is_known,
            reference=self._reference(folded, wanted, self.plan.quick, self.plan.half, long_sums),
            take_mould=self._take_mould(folded, graph, variant, exporter, tuple(wanted), long_sums),
        )

    def _take_mould(
        self, folded: nn.Module, graph: onnx.ModelProto, variant: Variant, exporter: str, *found: Any
    ) -> TakeMould | None:
        """Only a known network's layers are all there is to it. `folded` itself is not kept: it holds all weights."""
        cast = Cast.of(folded, graph) if self.source.is_known else None
        return None if cast is None else partial(Mould.of, cast, variant, exporter, *found)

    def _from_mould(self, mould: Mould, folded: nn.Module) -> Exported:
        """Graphs that were never exported for this width; `made_at` says for which they were."""
        raw, simplified = mould.filled(folded)
        anchors, long_sums = list(mould.anchors), mould.long_sums
        return Exported(
            exporter=mould.exporter,
            made_at=mould.made_at,
            any_size=True,
            raw=raw,
            simplify=lambda: simplified,
            half="yes" if self.plan.half else "no",
            reference=self._reference(folded, anchors, self.plan.quick, self.plan.half, long_sums),
            halve=lambda: mould.filled_half(simplified),
            take_mould=lambda _raw, _simplified, _half: mould,
            filled=True,
        )

    def side(self, variant: Variant) -> int | None:
        """The variant's resolution, where the module takes any in one graph."""
        return variant.resolution if self.signature.open_size else None

    def close(self) -> None:
        """Nothing: it runs here."""

    def narrowed(self, made: Exported, variant: Variant) -> Exported:
        """Not for modules: the floor of half precision would overflow all the same."""
        raise InputUnusable("FP16 does not hold the values of this network", where=f"{variant.slug} ({made.exporter})")

    def reference(self, feeds: Feeds, quick: bool, fp16: bool) -> Reference:
        """The module itself, with every weighted layer that a graph must have."""
        anchors, long_sums = self._anchors(*(torch.from_numpy(feeds[name]) for name in self.signature.inputs))
        return self._reference(fold_batch_norms(self.loaded.module, self._pairs), anchors, quick, fp16, long_sums)

    def _reference(
        self, folded: nn.Module, anchors: list[Anchor], quick: bool, fp16: bool, long_sums: bool
    ) -> Reference:
        module, truth = self.loaded.module, self.truth if quick else None
        return Reference(module, folded, anchors, quick, fp16, self.signature, self.source.is_known, long_sums, truth)

    def _anchors(self, *examples: Tensor) -> tuple[list[Anchor], bool]:
        """The weighted layers, and whether the module takes means over so many values that their order counts."""
        with LongSums() as sums:
            anchors = find_anchors(self.loaded.module, *examples, pairs=self._pairs)
        return anchors, sums.longest > LONG

    def _wanted(self, anchors: list[Anchor], named: list[Anchor]) -> list[Anchor]:
        """A known network's layer whose weights the graph does not hold is missing there, by name. A stranger's may be
        computed from several, or used as a bare tensor: what has no node of its own is not compared by itself.
        """
        return anchors if self.source.is_known else named

    @property
    def _pairs(self) -> dict[str, str] | None:
        """A stranger's norms, as they were seen to follow its layers; None for what stands one behind the other."""
        return None if self.source.is_known else dict(self.loaded.norm_pairs)

    def _any_size(self, graph: onnx.ModelProto) -> bool:
        """Whether the same graph may be tried at other sizes: one image in, and no image out."""
        flat = all(len(value.type.tensor_type.shape.dim) <= 2 for value in graph.graph.output)
        return self.loaded.any_size and self.loaded.resolution is not None and flat


def _rows(loaded: Loaded, batch: int) -> Feeds:
    """The examples with `batch` rows in every input that has a batch axis."""
    feeds = {}
    for spec, example in zip(loaded.inputs, loaded.examples, strict=True):
        values = example.numpy()
        whole = spec.shape[:1] == (sources.BATCH,)
        feeds[spec.name] = np.repeat(values[:1], batch, axis=0) if whole else values
    return feeds


def count(source: Source, variant: Variant, inputs: tuple[TensorSpec, ...]) -> Counts:
    """The parameters and multiply-accumulates of a source's module, on one row of its examples."""
    loaded = sources.load(source, variant, sources.parse_weights("none", source=source), inputs)
    counter = Counter(loaded.module)
    with torch.inference_mode():
        loaded.module(*(torch.from_numpy(values) for values in _rows(loaded, 1).values()))
    return counter.counts()

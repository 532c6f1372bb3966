"""What a journey carries: a PyTorch module or an ONNX graph, behind one face.

A subject knows how to make graphs of itself for a variant, what to feed them, and what they must agree with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import onnx

from edgekit.errors import EdgekitError
from edgekit.graph.folded import set_folded_apart
from edgekit.graph.fp16 import check_types, kept_fp32, to_fp16
from edgekit.graph.mould import Mould, TakeMould
from edgekit.graph.simplify import Simplified
from edgekit.graph.specialise import Sizes
from edgekit.helpers import Helpers
from edgekit.manifest import TensorSpec
from edgekit.models._counting import Counts
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import Feeds
from edgekit.plan import Plan
from edgekit.preprocessing import Preprocessing
from edgekit.proof import AnyReference, Graphs
from edgekit.sources import Source
from edgekit.variant import Variant


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
    """The graphs of one network, made at the size of `made_at`. `exporter` says by what.

    `any_size` says that nothing in them but the declared dimensions of input and outputs depends on the size. `half` is
    whether there is to be a graph in half precision: "try" does without where it cannot be made. `known` graphs are
    this package's own; others are looked at more closely. The nodes named in `keep` stay in FP32. `halve` makes the
    graph in half precision where that is simpler than converting it, and `take_mould` a mould of all three;
    `filled` ones are from a mould themselves.
    """

    exporter: str
    made_at: Variant
    any_size: bool
    raw: onnx.ModelProto
    simplify: Callable[[], onnx.ModelProto]
    half: Literal["yes", "no", "try"]
    reference: AnyReference
    known: bool = True
    keep: frozenset[str] = frozenset()
    halve: Callable[[], onnx.ModelProto | None] | None = None
    take_mould: TakeMould | None = None
    filled: bool = False

    def mould(self) -> Mould | None:
        """What the graphs of other widths can be made from, where that is so."""
        if self.take_mould is None or not self.any_size or self.notes:
            return None
        return self.take_mould(self.raw, self.simplified, self.fp16)

    @cached_property
    def _simplified(self) -> tuple[onnx.ModelProto, str | None]:
        try:
            simplified = self.simplify()
            if self.known:
                set_folded_apart(self.raw, simplified, self.reference.tensors)
            else:
                self.reference.open(simplified.SerializeToString(), one_row=False)  # it must be a graph still
            return simplified, None
        except EdgekitError as error:
            if self.known:
                raise
            return self.raw, f"it is not simplified: {_reason(error)}"

    @cached_property
    def _fp16(self) -> tuple[onnx.ModelProto | None, str | None]:
        if self.half == "no":
            return None, None
        try:
            return self._converted(), None
        except EdgekitError as error:
            if self.half == "yes":
                raise
            return None, f"there is no FP16 graph: {_reason(error)}"

    def _converted(self) -> onnx.ModelProto:
        given = self.halve() if self.halve and not self.keep else None
        converted = to_fp16(self.simplified, self.keep) if given is None else given
        if not self.known:
            check_types(converted)
        self.reference.settle(self.simplified, kept_fp32(converted))
        return converted

    @property
    def simplified(self) -> onnx.ModelProto:
        """The fp32 graph that will be delivered."""
        return self._simplified[0]

    @property
    def fp16(self) -> onnx.ModelProto | None:
        """The same in half precision, where that is wanted and can be made."""
        return self._fp16[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be done."""
        return tuple(note for _, note in (self._simplified, self._fp16) if note)

    def at(self, variant: Variant) -> Graphs:
        """The serialised graphs for the variant's resolution and batch."""
        if self.any_size and variant.resolution is not None:
            return self._sized(variant.resolution, variant.batch)
        simplified, raw, half = (self._serialised(model) for model in (self.simplified, self._raw_rung, self.fp16))
        return Graphs(simplified if raw == simplified else raw, simplified, half)

    def _sized(self, resolution: int, batch: int | None) -> Graphs:
        deployed, before, half = self._sizes
        simplified = deployed.at(resolution, batch)
        raw = simplified if before is deployed else before.at(resolution, batch) if before else None
        return Graphs(raw, simplified, half.at(resolution, batch) if half else None)

    @cached_property
    def _sizes(self) -> tuple[Sizes, Sizes | None, Sizes | None]:
        """The deployed graph at any size, the one before simplification (the same where that changed nothing), FP16."""
        deployed = Sizes(self.simplified)
        raw = None if self._raw_rung is None else Sizes(self._raw_rung)
        half = None if self.fp16 is None else Sizes(self.fp16)
        return deployed, deployed if raw is not None and raw.same_as(deployed) else raw, half

    @property
    def _raw_rung(self) -> onnx.ModelProto | None:
        """Where only what is delivered is looked at, the graph before simplification is no file of its own."""
        return self.raw if self.reference.raw_is_a_rung else None

    @staticmethod
    def _serialised(model: onnx.ModelProto | None) -> bytes | None:
        return None if model is None else bytes(model.SerializeToString(deterministic=True))


class Subject(Protocol):
    """A network from one source, ready to be exported.

    `digest` is the hash of its weights. `contract` is how images become its input, None where nobody has said.
    `exporters` are the ways to make its graph, the first choice first. `notes` are for the user.
    """

    digest: str
    contract: Preprocessing | None
    exporters: tuple[str, ...]
    notes: tuple[str, ...]

    def inputs(self, variant: Variant) -> list[Input]:
        """What to feed the network on its ladder, at the variant's size and batch."""

    def foresee(self, inputs: list[Input]) -> None:
        """These inputs will be asked for, and there is no graph yet: what can be done now may be done."""

    def prepare(self) -> None:
        """It will be exported: what that begins with may be done now."""

    def forget(self, inputs: list[Input]) -> None:
        """They will not be asked for again."""

    def side(self, variant: Variant) -> int | None:
        """The side of its images where the graph leaves that open."""

    def reference(self, feeds: Feeds, quick: bool, fp16: bool) -> AnyReference:
        """What graphs of it that are there already must agree with."""

    def export(self, variant: Variant, exporter: str, moulds: Sequence[Mould] = ()) -> Exported:
        """Its graphs at the variant's own size, from the first mould that they fit.

        Raises InputUnusable where this exporter cannot express it.
        """

    def close(self) -> None:
        """Let go of whatever it runs in."""

    def narrowed(self, made: Exported, variant: Variant) -> Exported:
        """The same with everything in FP32 that leaves the range of a half. Raises InputUnusable where nothing does."""


def _reason(error: EdgekitError) -> str:
    details = [f"{label}: {text}" for label, text in error.details() if label != "do"]
    return "; ".join([error.what, *details])


def make(source: Source, variant: Variant, plan: Plan, helpers: Helpers) -> Subject:
    """The subject of a source. Raises what loading it raises."""
    if source.kind == "onnx":
        from edgekit.subjects.graph import GraphSubject

        return GraphSubject(source, variant, plan, helpers)
    from edgekit.subjects.module import ModuleSubject

    return ModuleSubject(source, variant, plan, helpers)


def counts(source: Source, variant: Variant, inputs: tuple[TensorSpec, ...] = ()) -> Counts:
    """What a network of any source costs on one image or example, layer by layer. Raises what loading it raises."""
    if source.kind == "onnx":
        from edgekit.subjects.graph import count

        return count(source, variant)
    from edgekit.subjects.module import count as count_module

    return count_module(source, variant, inputs)

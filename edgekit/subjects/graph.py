"""An ONNX graph on its journey: the file as it came is the truth.

Whatever runs a stranger's graph runs in a process of its own, with limits on time and memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from edgekit.engines.screen import MIN_OPSET as BUILT_FROM
from edgekit.errors import InputUnusable, UsageError
from edgekit.graph import alignment, counting, given, incoming
from edgekit.graph.feeds import Feed, fitting_feeds
from edgekit.graph.fp16 import LARGEST_HALF, name_nodes
from edgekit.graph.halves import element_types, round_to_half
from edgekit.graph.interface import Slot, sized
from edgekit.graph.interface import slots as incoming_slots
from edgekit.graph.mould import Mould
from edgekit.graph.tidy import tidy
from edgekit.graph.upgrade import upgraded
from edgekit.headed import Content
from edgekit.helpers import Helpers
from edgekit.models._counting import Counts
from edgekit.parity.ladder import FloorRun, Floors, Input, Rules, Step, Tracer
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.parity.report import Saturation
from edgekit.plan import Plan
from edgekit.preprocessing import Preprocessing
from edgekit.profile import MAX_OPSET, MIN_OPSET
from edgekit.runtimes.isolated import IsolatedCpu, IsolatedSession
from edgekit.sources import Source
from edgekit.subjects import Exported, Simplification
from edgekit.variant import Variant

ORIGINAL = "original"
OUT_OF_RANGE = "the model's opset is out of range"
QUICK_FEEDS, FULL_FEEDS = 3, 2
HALF_IN_SINGLE = 2.0**-13  # the unit roundoff of float32 over that of float16


# What is compared besides the outputs: as in modules, the layers with weights, before anything is cut off or squashed.
WEIGHTED = {"BatchNormalization", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}


class GraphSubject:
    """A graph from a file, with every open axis closed but, where that is asked for, the batch."""

    contract: Preprocessing | None = None
    exporters: tuple[str, ...] = (ORIGINAL,)

    def __init__(self, source: Source, variant: Variant, plan: Plan, helpers: Helpers) -> None:
        assert source.path is not None
        self.path, self.plan, self.helpers = source.path, plan, helpers
        self.open_batch = variant.batch is None
        taken = incoming.take(self.path)
        self.original = taken.model
        self.notes = taken.traits.notes()
        self.digest = hashlib.sha256(self.original.SerializeToString(deterministic=True)).hexdigest()
        self.runtime = IsolatedCpu()
        self._feeds: dict[tuple[int | None, int | None], list[Feed]] = {}
        if 0 < taken.traits.opset < BUILT_FROM:
            self._raise_opset(variant, taken.traits.opset)

    def _raise_opset(self, variant: Variant, opset: int) -> None:
        """Go on with the file at the plan's opset, where it computes the very same there.

        Raises InputUnusable for a file that is too old for every target and cannot be converted.
        """
        try:
            raised = upgraded(self.original, self.plan.opset)
            self._check_raised(variant, raised)
        except InputUnusable as error:
            if opset < MIN_OPSET:
                got = f"opset {opset}, and converting it to {self.plan.opset} fails: {_told(error)}"
                wanted = f"opset {MIN_OPSET} to {MAX_OPSET}"
                hint = "export it again at opset 17"
                raise InputUnusable(OUT_OF_RANGE, where=str(self.path), got=got, wanted=wanted, hint=hint) from error
        else:
            self.original = raised
            self.notes += (f"converted from opset {opset} to {self.plan.opset}: every output is the same, bit for bit",)

    def _check_raised(self, variant: Variant, raised: onnx.ModelProto) -> None:
        """Raise InputUnusable unless the file and `raised` give the same bits for all inputs."""
        old, new = (self.runtime.load(one.SerializeToString(), optimise=False) for one in (self.original, raised))
        for feed in self._fed(variant):
            before, after = old(feed.values), new(feed.values)
            changed = [name for name in before if name not in after or not _same_bits(before[name], after[name])]
            if changed:
                raise InputUnusable("it computes something else", got=f"output {changed[0]}")
        old.close()
        new.close()

    def inputs(self, variant: Variant) -> list[Input]:
        """What came with the graph, or was made up for it."""
        return [Input(feed.name, feed.values, feed.ordinary) for feed in self._fed(variant)]

    def foresee(self, inputs: list[Input]) -> None:
        """Nothing: the graph is there from the start."""

    def prepare(self) -> None:
        """Nothing: the graph is there from the start."""

    def forget(self, inputs: list[Input]) -> None:
        """Nothing: they are kept as feeds."""

    def _fed(self, variant: Variant) -> list[Feed]:
        key = variant.resolution, variant.batch
        if key not in self._feeds:
            session = self.runtime.load(self.original.SerializeToString(), optimise=False)
            count = QUICK_FEEDS if self.plan.quick else FULL_FEEDS
            found = fitting_feeds(
                self.original, session, count, sizes=_sizes(self.original, variant), given=given.beside(self.path)
            )
            session.close()
            self._feeds[key] = [feed for feed in found if feed.ordinary or not self.plan.quick]
        return self._feeds[key]

    def export(self, variant: Variant, exporter: str, moulds: Sequence[Mould] = ()) -> Exported:  # noqa: ARG002  # no use
        """The file's own graph, closed at the sizes of its inputs, tidied and simplified."""
        feeds = self._fed(variant)[0].values
        raw = self._closed(feeds)
        half = self.plan.half and not self._stays_single
        simplification = Simplification(self.helpers, raw)
        return Exported(
            exporter=exporter,
            made_at=variant,
            any_size=False,
            raw=raw,
            simplify=lambda: _named(simplification.result()),
            half=self.plan.half_unless_impossible if half else "no",
            reference=GraphReference(self.original, raw, self.runtime, self.plan.quick),
            known=False,
        )

    def reference(self, feeds: Feeds, quick: bool, fp16: bool) -> GraphReference:  # noqa: ARG002  # see `settle`
        """The graph as it came."""
        return GraphReference(self.original, self._closed(feeds), self.runtime, quick)

    def side(self, variant: Variant) -> int | None:  # noqa: ARG002
        """Every graph is closed."""
        return None

    def close(self) -> None:
        """End the process that runs the graph."""
        self.runtime.close()

    def narrowed(self, made: Exported, variant: Variant) -> Exported:
        """Nodes that make or take values which no half holds, on ordinary inputs, stay in FP32."""
        inputs = [given for given in self.inputs(variant) if given.ordinary]
        hot = self._hot(made.simplified, inputs)
        keep = frozenset(node.name for node in made.simplified.graph.node if hot & {*node.input, *node.output})
        if not keep:
            raise InputUnusable("nothing in the graph leaves the range of half precision", where=str(self.path))
        return replace(made, simplify=lambda: made.simplified, keep=keep)

    def _hot(self, model: onnx.ModelProto, inputs: Sequence[Input]) -> set[str]:
        """The tensors that come near the largest half, or beyond it."""
        session = self.runtime.load(model.SerializeToString(), _floats(model, element_types(model)), optimise=False)
        traces = [session(one.feeds) for one in inputs]
        session.close()
        return {name for trace in traces for name, array in trace.items() if _is_hot(array)}

    def _closed(self, feeds: Feeds) -> onnx.ModelProto:
        """The graph at the sizes of what it is fed, with its constants where weights belong."""
        closed = onnx.ModelProto()
        closed.CopyFrom(self.original)
        _close(closed, feeds, open_batch=self.open_batch)
        _declare_outputs(closed)
        try:
            self.runtime.load(closed.SerializeToString()).close()
        except InputUnusable:  # a branch that is not taken would have it otherwise
            closed.CopyFrom(self.original)
        tidy(closed)
        return _named(closed)

    @property
    def _stays_single(self) -> bool:
        """Whether there is nothing to make FP16 of, or it is done: the graph has no float32 tensor."""
        return onnx.TensorProto.FLOAT not in element_types(self.original).values()


class GraphReference:
    """A graph as ONNX Runtime runs it when it changes nothing: the truth for everything made of it.

    No runtime has float64 for all operators. The floor of half precision is a run in which every tensor is rounded to
    half; that of float32 is the same in its own unit roundoff, or what ONNX Runtime's optimised run differs by,
    whichever is larger (docs/decisions/0005).
    """

    raw_is_a_rung = False

    def __init__(self, model: onnx.ModelProto, closed: onnx.ModelProto, runtime: IsolatedCpu, quick: bool) -> None:
        self.model, self.closed, self.runtime, self.quick = model, closed, runtime, quick
        held = {tensor.name for tensor in closed.graph.initializer}
        self.checks_batches = all(_is_open(value) for value in closed.graph.input if value.name not in held)
        self.outputs = tuple(value.name for value in model.graph.output)
        self.rules = Rules(floor_rung=None, one_floor=quick, strict=False, gaps=True)
        self.tensors = [] if quick else _floats(model, element_types(model), WEIGHTED)
        self.truth = Step(ORIGINAL, self._load(model, optimise=False), "fp32")
        self.floors: Floors = {"fp32": [FloorRun(self._load(model, optimise=True)), *self._rounded()]}

    def _rounded(self) -> list[FloorRun]:
        """The graph with every tensor rounded to half, scaled; nothing where its inner graphs do not take that."""
        try:
            half = self._load(round_to_half(self.model), optimise=False)
        except InputUnusable:
            return []
        return [FloorRun(half, HALF_IN_SINGLE)]

    def settle(self, simplified: onnx.ModelProto, keep: Collection[str]) -> None:
        """The floor of half precision is that of the graph it is made of: simplifying takes roundings away."""
        rounded = self._open(round_to_half(simplified, keep), simplified, optimise=False)
        self.floors = {**self.floors, "fp16": [FloorRun(rounded)]}

    def _load(self, model: onnx.ModelProto, *, optimise: bool) -> IsolatedSession:
        return self.runtime.load(model.SerializeToString(), self.tensors, optimise=optimise)

    def answers(self, inputs: Sequence[Input]) -> Tracer:  # noqa: ARG002
        """The original, run on them one by one."""
        return self.truth.trace

    def together(self, floors: Floors, inputs: Sequence[Input]) -> Floors:  # noqa: ARG002
        """As they are: a stranger's first axis may be anything."""
        return floors

    def foresee(self, inputs: Sequence[Input]) -> None:
        """Nothing: its process has one thing in hand at a time."""

    def open(self, model: Content, *, one_row: bool) -> Tracer:  # noqa: ARG002
        """The graph, with every tensor that stands for one of the original's under that one's name."""
        changed = onnx.load_model_from_string(bytes(model))
        return self._open(changed, changed, optimise=True)

    def _open(self, model: onnx.ModelProto, named: onnx.ModelProto, *, optimise: bool) -> Tracer:
        """A graph whose tensors are those of `named`."""
        names = alignment.align(self.model, named) if self.tensors else {}
        wanted = {ours: theirs for ours, theirs in names.items() if theirs in self.tensors}
        return _Renamed(self.runtime.load(model.SerializeToString(), list(wanted), optimise=optimise), wanted)

    def counts(self) -> Counts:
        """What shape inference can tell, at the sizes of the inputs, and of one row where the batch is open."""
        one_row = onnx.ModelProto()
        one_row.CopyFrom(self.closed)
        for value in filter(_is_open, (*one_row.graph.input, *one_row.graph.output)):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        return counting.count(one_row)

    def saturation(self) -> Saturation | None:
        """Nobody knows what is driven where."""
        return None


def _same_bits(one: AnyArray, other: AnyArray) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other)) if one.dtype.kind == "O" else one.tobytes() == other.tobytes()


def _told(error: InputUnusable) -> str:
    return f"{error.what}: {error.got}" if error.got else error.what


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """What becomes of a node in FP16 is told by its name."""
    name_nodes(model)
    return model


def _is_hot(array: AnyArray) -> bool:
    numbers = array[np.isfinite(array)] if array.dtype.kind == "f" else np.empty(0)
    return bool(np.abs(numbers).max(initial=0) > LARGEST_HALF / 2)


class _Renamed:
    """A session whose tensors go by the names that they have in another graph."""

    def __init__(self, session: IsolatedSession, names: Mapping[str, str]) -> None:
        self.session, self.names = session, names

    def __call__(self, feeds: Feeds) -> Mapping[str, AnyArray]:
        found = self.session(feeds)
        return {self.names.get(name, name): array for name, array in found.items()}


def _floats(model: onnx.ModelProto, types: Mapping[str, int], ops: Collection[str] = ()) -> list[str]:
    """The float tensors that nodes of the main graph make, but for the outputs; with `ops`, only those nodes."""
    outputs = {value.name for value in model.graph.output}
    made = (name for node in model.graph.node if not ops or node.op_type in ops for name in node.output)
    return [name for name in made if types.get(name) == onnx.TensorProto.FLOAT and name not in outputs]


def _sizes(model: onnx.ModelProto, variant: Variant) -> dict[str, int]:
    """Sizes for open axes, as the variant has them. Raises UsageError for one that the graph has closed."""
    sizes, found = {"batch": variant.batch or 1}, incoming_slots(model)
    _check_batch(found, variant.batch)
    if variant.resolution is None:
        return sizes
    for slot in found:
        if slot.channels is None or slot.axes is None:
            continue
        for axis in (2, 3) if slot.channels == 1 else (1, 2):
            if not isinstance(slot.axes[axis], int):
                sizes[f"{slot.name}.{axis}"] = variant.resolution
            elif slot.axes[axis] != variant.resolution:
                raise _fixed("size", "--res", str(variant.resolution), str(slot.axes[axis]))
    return sizes


def _check_batch(found: Sequence[Slot], batch: int | None) -> None:
    """Raise UsageError where no input has room for a batch that somebody asks for."""
    rows = {slot.axes[0] for slot in found if slot.axes}
    if batch != 1 and batch not in rows and all(isinstance(size, int) for size in rows):
        option, got = ("--dynamic-batch", "any") if batch is None else ("--batch", str(batch))
        raise _fixed("batch", option, got, ", ".join(map(str, rows)) or "none: there are no inputs")


def _fixed(what: str, option: str, got: str, wanted: str) -> UsageError:
    return UsageError(
        f"the {what} of this graph is fixed", where=option, got=got, wanted=wanted, hint=f"leave {option} out"
    )


def _close(model: onnx.ModelProto, feeds: Feeds, *, open_batch: bool) -> None:
    """Write the sizes of what is fed into the graph's inputs; the first axis stays open with `open_batch`."""
    known: dict[str, int] = {}
    rows = set()  # what the file calls the batch
    for value in model.graph.input:
        if value.name not in feeds or not value.type.tensor_type.HasField("shape"):
            continue
        dims = value.type.tensor_type.shape.dim
        for axis, (dim, size) in enumerate(zip(dims, feeds[value.name].shape, strict=True)):
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                continue
            if open_batch and axis == 0:
                rows.add(dim.dim_param)
                dim.dim_param = "batch"
                continue
            known[dim.dim_param] = size
            dim.dim_value = size
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param") and dim.dim_param in rows:
                dim.dim_param = "batch"
            elif dim.HasField("dim_param") and dim.dim_param in known:
                dim.dim_value = known[dim.dim_param]


def _declare_outputs(model: onnx.ModelProto) -> None:
    """Say what shapes outputs have whose file does not: onnxsim takes no others."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
    except onnx.shape_inference.InferenceError:
        return
    for value, found in zip(model.graph.output, inferred, strict=True):
        if not value.type.tensor_type.HasField("shape") and found.type.tensor_type.HasField("shape"):
            value.CopyFrom(found)


def _is_open(value: onnx.ValueInfoProto) -> bool:
    return any(dim.dim_param == "batch" for dim in value.type.tensor_type.shape.dim[:1])


def count(source: Source, variant: Variant) -> Counts:
    """The parameters and multiply-accumulates of a file's graph, with its open axes closed."""
    assert source.path is not None
    model = incoming.take(source.path).model
    found = incoming_slots(model)
    feeds = {slot.name: np.empty(slot.shape) for slot in sized(found, _sizes(model, variant))}
    _close(model, feeds, open_batch=False)
    tidy(model)
    return counting.count(model)

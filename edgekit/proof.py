"""The ladder for real: PyTorch and ONNX Runtime as its rungs.

`Reference` is the PyTorch side, made once per network; `prove` climbs with the graphs of one variant.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import onnx
import torch
from torch import nn

from edgekit.errors import InputUnusable
from edgekit.graph.folded import folded
from edgekit.graph.from_torch import WEIGHTED, Anchor, Folded, Signature
from edgekit.graph.specialise import set_batch
from edgekit.headed import Content, Headed
from edgekit.models._counting import Counter, Counts
from edgekit.parity.batch import check_batch, stack
from edgekit.parity.ladder import QUICK, Climb, FloorRun, Floors, Input, Rules, Step, Tracer, climb
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.parity.report import BatchCheck, ParityReport, Saturation
from edgekit.parity.tolerance import Precision
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.runtimes.torch_eager import ClipCounter, TorchTracer, half_precision

BATCH_ROWS = 2
ROOM = 32 << 20  # bytes of one tracer's tensors in memory at a time, where one input does not take more


@dataclass(frozen=True)
class Graphs:
    """The graphs of one variant, as files hold them; any may be missing."""

    onnx: Content | None = None
    simplified: Content | None = None
    fp16: Content | None = None

    def rungs(self) -> list[tuple[str, Content, Precision]]:
        """(name, serialised model, precision) in the order of the climb."""
        chain: list[tuple[str, Content | None, Precision]] = [
            ("onnx", self.onnx, "fp32"),
            ("simplified", self.simplified, "fp32"),
            ("fp16", self.fp16, "fp16"),
        ]
        return [(name, model, precision) for name, model, precision in chain if model is not None]


Sessions = Mapping[int, Tracer]  # by the identity of the serialised graph: hashing 14 MB takes as long as a rung


class AnyReference(Protocol):
    """What graphs must agree with: a network's truth, and the noise floors that its arithmetic sets.

    `outputs` are the names of the network's outputs, `tensors` of what else is compared. With `raw_is_a_rung` the graph
    before simplification is one, too; with `checks_batches` the graphs must treat every row of a batch alike.
    """

    quick: bool
    outputs: tuple[str, ...]
    tensors: list[str]
    rules: Rules
    raw_is_a_rung: bool
    checks_batches: bool
    truth: Step
    floors: Floors

    def answers(self, inputs: Sequence[Input]) -> Tracer:
        """The truth on these inputs."""

    def together(self, floors: Floors, inputs: Sequence[Input]) -> Floors:
        """The floors' runs on these inputs."""

    def foresee(self, inputs: Sequence[Input]) -> None:
        """These inputs will be asked for, and the graph is still being made: what can be done now may be done."""

    def settle(self, simplified: onnx.ModelProto, keep: Collection[str]) -> None:
        """This is the graph that half precision is made of, with these nodes in FP32. Raises InputUnusable where its
        floor cannot be had.
        """

    def open(self, model: Content, *, one_row: bool) -> Tracer:
        """A serialised graph, ready to be run and to name its tensors as the truth does.

        With `one_row` it holds for one row only, and is to be opened for any number if that can be done.
        """

    def counts(self) -> Counts:
        """Parameters and multiply-accumulates at the size of the latest inputs."""

    def saturation(self) -> Saturation | None:
        """How many clipped activations the inputs so far drove to their limit; None where nobody knows of any."""


class QuickTruth:
    """What a quick climb is held against: the network in float32, run before there is any graph to compare it with."""

    def __init__(
        self,
        module: nn.Module,
        signature: Signature = Signature(),  # noqa: B008  # frozen
        strict: bool = True,
    ) -> None:
        self.trace = TorchTracer(module, [], channels_last=True, copies=not strict, signature=signature)
        self._counter = Counter(self.trace.module)
        self._foreseen: list[tuple[Sequence[Input], _Together, Counts]] = []

    def answers(self, inputs: Sequence[Input], trace: Tracer | None = None) -> tuple[_Together, Counts]:
        """Its answers to all these inputs, run together, and what it costs at their size; kept until `forget`.

        Another list of the same inputs is another question: what is in them may have changed.
        """
        for known, answers, counts in self._foreseen:
            if known is inputs:
                return answers, counts
        answers = _Together(trace or self.trace, inputs, None)
        answers(inputs[0].feeds)
        self._foreseen.append((inputs, answers, self._counter.counts()))
        return answers, self._counter.counts()

    def forget(self, inputs: Sequence[Input]) -> None:
        """They will not be asked for again."""
        self._foreseen = [known for known in self._foreseen if known[0] is not inputs]


class Reference:
    """A network as PyTorch runs it: the truth, and the noise floors that its arithmetic sets.

    In full mode the truth is float64 and every weighted layer is compared; in quick mode the truth is float32 and
    its floor is what folding the batch norms changes: the same sums, rounded elsewhere. Where there are few to fold, it
    is the distance to float64. With `long_sums` the floor has a second run, where they are added in sequence.
    `quick_truth` is that truth where it is there already.
    """

    def __init__(
        self,
        module: nn.Module,
        folded: nn.Module,
        anchors: list[Anchor],
        quick: bool,
        fp16: bool,
        signature: Signature = Signature(),  # noqa: B008  # frozen
        strict: bool = True,
        long_sums: bool = False,
        quick_truth: QuickTruth | None = None,
    ) -> None:
        # A layer that makes an output is compared under the output's name.
        self.anchors = [] if quick else [anchor for anchor in anchors if not anchor.is_output]
        self.tensors = [anchor.name for anchor in self.anchors]
        self.quick, self.signature, self.outputs = quick, signature, signature.outputs
        self.rules = QUICK if quick else Rules(strict=strict)
        self.raw_is_a_rung, self.checks_batches = not quick, True
        tracer = partial(TorchTracer, anchors=self.anchors, channels_last=quick, copies=not strict, signature=signature)
        self._quick = (quick_truth or QuickTruth(module, signature, strict)) if quick else None
        truth = self._quick.trace if self._quick else tracer(module, dtype=torch.float64)
        self.truth = Step("pytorch-fp32" if quick else "pytorch-fp64", truth, "fp32")
        lower = folded if quick else module
        first = tracer(module, dtype=torch.float64) if quick and not _mostly_folded(folded) else tracer(lower)
        runs = [first, tracer(lower, sequential=True)] if long_sums else [first]
        self.floors: Floors = {"fp32": [FloorRun(run) for run in runs]}
        if fp16:
            self.floors["fp16"] = [FloorRun(tracer(half_precision(folded), channels_last=False))]
        self.clips = None if quick else ClipCounter(truth.module)
        self.room = _Room()
        self._counter = None if quick else Counter(truth.module)
        self._counts: Counts | None = None
        self._of_any_size: tuple[bytes, CpuSession] | None = None  # what the graphs share, and that graph

    def together(self, floors: Floors, inputs: Sequence[Input]) -> Floors:
        """The floors' runs on these inputs, together where there is room."""
        return {
            precision: [FloorRun(_Together(part.trace, inputs, self.room), part.scale) for part in parts]
            for precision, parts in floors.items()
        }

    def answers(self, inputs: Sequence[Input]) -> Tracer:
        """The truth on these inputs, run together where there is room."""
        if self._quick is None:
            return _Together(self.truth.trace, inputs, self.room)
        answers, self._counts = self._quick.answers(inputs, self.truth.trace)
        return answers

    def foresee(self, inputs: Sequence[Input]) -> None:
        """Run the truth in a quick climb now: these inputs will be asked for, and the graph is still being made."""
        if self._quick is not None:
            self._quick.answers(inputs, self.truth.trace)

    def settle(self, simplified: onnx.ModelProto, keep: Collection[str]) -> None:
        """Nothing new: the module itself sets the floor."""

    def open(self, model: Content, *, one_row: bool) -> CpuSession:
        """The graph under ONNX Runtime, with the layers that are compared among its outputs.

        In a quick climb files that differ in nothing but the size that they declare are one graph, which is loaded once
        with its size left open: loading takes longer than three runs.
        """
        if one_row:
            return _session_for_more(bytes(model), self.tensors)
        if not (self.quick and isinstance(model, Headed)):
            return CpuSession(bytes(model), self.tensors)
        nodes = model.head.parts[-1]
        if self._of_any_size is None or self._of_any_size[0] is not nodes:
            self._of_any_size = nodes, CpuSession(model.opened(), self.tensors)
        return self._of_any_size[1]

    def counts(self) -> Counts:
        """Parameters and multiply-accumulates at the size of the latest inputs."""
        if self._counter is not None:
            return self._counter.counts()
        assert self._counts is not None
        return self._counts

    def saturation(self) -> Saturation | None:
        """How many clipped activations were driven to their limit by the inputs run so far."""
        if self.clips is None or not self.clips.clips:
            return None
        return Saturation(len(self.clips.clips), len(self.clips.exercised))


def _mostly_folded(folded: nn.Module) -> bool:
    """Whether most of the weighted layers have taken up a norm, and so round elsewhere than before."""
    layers = list(folded.modules())
    return 2 * sum(isinstance(it, Folded) for it in layers) > sum(isinstance(it, WEIGHTED) for it in layers)


@dataclass(frozen=True)
class Proof:
    """What a climb showed; `outputs` are the truth's, by name, for each input."""

    report: ParityReport
    outputs: Sequence[Mapping[str, AnyArray]]


def prove(reference: AnyReference, graphs: Graphs, inputs: Sequence[Input], batch: int | None) -> Proof:
    """Climb the ladder with these graphs."""
    wants_batches = reference.checks_batches and not (reference.quick and batch == 1)
    one_row = wants_batches and batch == 1
    # Simplification often changes nothing; the same graph is run once, and is every rung that it is.
    models = {id(model): model for _, model, _ in graphs.rungs()}
    sessions = {key: reference.open(model, one_row=one_row) for key, model in models.items()}
    result = _climb(reference, graphs, inputs, sessions)
    checks = _batch_checks(graphs, inputs, batch, result, sessions) if wants_batches else ()
    return Proof(_report(reference, inputs, result, checks), result.outputs[result.truth])


def _in_short(text: str | None, limit: int = 160) -> str:
    """ONNX Runtime's words from where they say something."""
    words = (text or "").rpartition("Status Message: ")[2].rpartition(") ")[2]
    return words if len(words) <= limit else f"{words[:limit]}..."


def _session_for_more(model: bytes, tensors: Sequence[str]) -> CpuSession:
    """The graph for one row as what it could be with more: only so can it be seen whether its nodes mix rows.

    Nothing in it changes but the batch that it declares. One that cannot be run so is run as it is.
    """
    graph = onnx.load_model_from_string(model)
    set_batch(graph, None)
    try:
        return CpuSession(graph, tensors)
    except InputUnusable:
        return CpuSession(model, tensors)


def _climb(reference: AnyReference, graphs: Graphs, inputs: Sequence[Input], sessions: Sessions) -> Climb:
    steps = [
        Step(name, sessions[id(model)], precision, _absent(sessions[id(model)]))
        for name, model, precision in graphs.rungs()
    ]
    truth = Step(reference.truth.name, reference.answers(inputs), reference.truth.precision)
    floors = reference.floors
    if not reference.rules.one_floor:
        floors = reference.together(floors, inputs)
    return climb(truth, floors, steps, inputs, reference.outputs, reference.rules)


def _absent(session: Tracer) -> frozenset[str]:
    return folded(session.metadata) if isinstance(session, CpuSession) else frozenset()


class _Room:
    """How many inputs a tracer takes at once: as many as `ROOM` holds the traces of, and one before that is known."""

    def __init__(self) -> None:
        self._growth: dict[Tracer, float] = {}  # bytes of a trace for each of its input

    def count(self, run: Tracer, feeds: Feeds) -> int:
        """How many feeds like these to run together."""
        if run not in self._growth:
            return 1
        return max(1, int(ROOM / max(self._growth[run] * _bytes(feeds), 1)))

    def learn(self, run: Tracer, feeds: Feeds, size: int) -> None:
        """Remember how large the trace was, in bytes. It grows with the area, and so serves other sizes as well."""
        self._growth[run] = size / max(_bytes(feeds), 1)


def _bytes(arrays: Mapping[str, AnyArray]) -> int:
    return sum(array.nbytes for array in arrays.values())


class _Together:
    """A tracer that runs the inputs to come in one batch: as many as there is `room` for, all where it is None.

    At 96 pixels two fifths of PyTorch's time are spent per call: in float64 43 ms for one row, 25 each for five.
    """

    def __init__(self, run: Tracer, inputs: Sequence[Input], room: _Room | None) -> None:
        self.run, self.inputs, self.room = run, inputs, room
        self.ahead: dict[int, Mapping[str, AnyArray]] = {}

    def __call__(self, feeds: Feeds) -> Mapping[str, AnyArray]:
        if id(feeds) not in self.ahead:
            first = next(number for number, given in enumerate(self.inputs) if given.feeds is feeds)
            count = self.room.count(self.run, feeds) if self.room else len(self.inputs)
            self._run([given.feeds for given in self.inputs[first : first + count]])
        return self.ahead.pop(id(feeds)) if self.room else self.ahead[id(feeds)]

    def _run(self, chunk: list[Feeds]) -> None:
        """Run them together where every input and every tensor has its rows along the first axis, else one by one."""
        if len(chunk) > 1 and _stackable(chunk):
            together = stack(chunk)
            parts = _parts(self.run(together), [_height(feeds) for feeds in chunk])
            if parts is not None:
                self._learn(together, parts)
                self.ahead |= {id(feeds): part for feeds, part in zip(chunk, parts, strict=True)}
                return
        for feeds in chunk:
            self.ahead[id(feeds)] = self.run(feeds)
            self._learn(feeds, [self.ahead[id(feeds)]])

    def _learn(self, feeds: Feeds, parts: list[Mapping[str, AnyArray]]) -> None:
        if self.room:
            self.room.learn(self.run, feeds, sum(map(_bytes, parts)))


def _stackable(chunk: Sequence[Feeds]) -> bool:
    """Whether every input has its rows along the first axis, as many as the others, and is alike in all else."""
    rows = [{len(values) if values.ndim else None for values in feeds.values()} for feeds in chunk]
    shapes = [{name: values.shape[1:] for name, values in feeds.items()} for feeds in chunk]
    return all(len(counts) == 1 and None not in counts for counts in rows) and all(it == shapes[0] for it in shapes)


def _height(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))


def _parts(trace: Mapping[str, AnyArray], heights: Sequence[int]) -> list[Mapping[str, AnyArray]] | None:
    """The rows of each; None where a tensor has others than there are rows."""
    if any(array.ndim == 0 or len(array) != sum(heights) for array in trace.values()):
        return None
    cuts = list(itertools.accumulate(heights, initial=0))
    return [{name: array[begin:end] for name, array in trace.items()} for begin, end in itertools.pairwise(cuts)]


def _report(
    reference: AnyReference, inputs: Sequence[Input], result: Climb, checks: tuple[BatchCheck, ...]
) -> ParityReport:
    passed = all(rung.passed for rung in result.rungs) and result.liveness.passed
    saturation = reference.saturation()
    dead = result.dead if result.liveness.passed else ()
    notes = [f"output {output} varies by no more than its noise: nothing is proven of it" for output in dead]
    if saturation and saturation.exercised < saturation.clips:
        notes.append(f"{saturation.clips - saturation.exercised} clipped activations were never driven to their limit")
    return ParityReport(
        passed=passed and all(check.passed is not False for check in checks),
        mode="quick" if reference.quick else "full",
        rungs=result.rungs,
        inputs=tuple(given.name for given in inputs),
        liveness=result.liveness,
        batch=checks,
        saturation=saturation,
        notes=tuple(notes),
    )


def _batch_checks(
    graphs: Graphs, inputs: Sequence[Input], batch: int | None, result: Climb, sessions: Sessions
) -> tuple[BatchCheck, ...]:
    """The last fp32 graph, and the fp16 one: what is deployed."""
    deployed = {precision: (name, sessions[id(model)]) for name, model, precision in graphs.rungs()}
    return tuple(
        _batch_check(name, session, inputs, batch, result, precision) for precision, (name, session) in deployed.items()
    )


def _batch_check(
    name: str, session: Tracer, inputs: Sequence[Input], batch: int | None, result: Climb, precision: Precision
) -> BatchCheck:
    numbers = [number for number, given in enumerate(inputs) if given.ordinary][:BATCH_ROWS]
    rows = [{key: values[:1] for key, values in inputs[number].feeds.items()} for number in numbers]
    alone = [result.outputs[name][number] for number in numbers] if batch == 1 else None
    length, allowed = None if batch == 1 else batch, result.tolerances[precision]
    try:
        run = session
        if isinstance(session, CpuSession):  # which need not hand out more than is compared
            run = partial(session, wanted=[output for output in allowed if output in session.outputs])
        return check_batch(name, run, rows, length, allowed, alone)
    except InputUnusable as error:
        if batch != 1:
            raise
        return BatchCheck(name, None, None, None, f"the graph holds for one row only: {_in_short(error.got)}")

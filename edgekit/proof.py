"""The ladder for real: PyTorch and ONNX Runtime as its rungs.

`Reference` is the PyTorch side, made once per network; `prove` climbs with the graphs of one variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import nn

from edgekit.errors import InputUnusable
from edgekit.graph.from_torch import OUTPUT, Anchor, find_anchors, fold_batch_norms
from edgekit.graph.specialise import set_batch
from edgekit.models._counting import Counter, Counts
from edgekit.parity.batch import check_batch
from edgekit.parity.ladder import Climb, Input, Step, Tracer, climb
from edgekit.parity.metrics import AnyArray
from edgekit.parity.report import BatchCheck, ParityReport, Saturation
from edgekit.parity.tolerance import Precision
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.runtimes.torch_eager import ClipCounter, TorchTracer, half_precision

BATCH_ROWS = 2
ROOM = 48 << 20  # bytes of one tracer's tensors in memory at a time, where one input does not take more


@dataclass(frozen=True)
class Graphs:
    """The graphs of one variant, as files hold them; any may be missing."""

    onnx: bytes | None = None
    simplified: bytes | None = None
    fp16: bytes | None = None

    def rungs(self) -> list[tuple[str, bytes, Precision]]:
        """(name, serialised model, precision) in the order of the climb."""
        chain: list[tuple[str, bytes | None, Precision]] = [
            ("onnx", self.onnx, "fp32"),
            ("simplified", self.simplified, "fp32"),
            ("fp16", self.fp16, "fp16"),
        ]
        return [(name, model, precision) for name, model, precision in chain if model is not None]


Sessions = Mapping[bytes, CpuSession]


class Reference:
    """A network as PyTorch runs it: the truth, and the noise floors that its arithmetic sets.

    In full mode the truth is float64 and every weighted layer is compared; in quick mode the truth is float32 and
    its floor is what folding the batch norms changes: the same sums, rounded elsewhere.
    """

    def __init__(self, module: nn.Module, folded: nn.Module, anchors: list[Anchor], quick: bool, fp16: bool) -> None:
        # The layer that makes the output is compared under the output's name.
        self.anchors = [] if quick else [anchor for anchor in anchors if not anchor.is_output]
        self.quick = quick
        self.floors: dict[Precision, Tracer]
        if quick:
            truth = TorchTracer(module, [], channels_last=True)
            self.floors = {"fp32": TorchTracer(folded, [], channels_last=True)}
            self.clips = None
        else:
            truth = TorchTracer(module, self.anchors, torch.float64)
            self.floors = {"fp32": TorchTracer(module, self.anchors)}
            self.clips = ClipCounter(truth.module)
        if fp16:
            self.floors["fp16"] = TorchTracer(half_precision(folded), self.anchors)
        self.truth = Step("pytorch-fp32" if quick else "pytorch-fp64", truth, "fp32")
        self.room = _Room()
        self._counter = Counter(truth.module)
        self._foreseen: _Together | None = None

    @classmethod
    def of(cls, module: nn.Module, example: AnyArray, quick: bool, fp16: bool) -> Reference:
        """The reference of a module that is not being exported: folding and anchors are worked out here."""
        anchors = find_anchors(module, torch.from_numpy(example))
        return cls(module, fold_batch_norms(module), anchors, quick, fp16)

    def answers(self, inputs: Sequence[Input]) -> Tracer:
        """The truth on these inputs, run together where there is room."""
        if self._foreseen is not None and self._foreseen.inputs is inputs:
            return self._foreseen
        return _Together(self.truth.trace, inputs, None if self.quick else self.room)

    def foresee(self, inputs: Sequence[Input]) -> None:
        """Run the truth in a quick climb now: these inputs will be asked for, and the graph is still being made."""
        if self.quick:
            self._foreseen = _Together(self.truth.trace, inputs, None)
            self._foreseen(inputs[0].values)

    def counts(self) -> Counts:
        """Parameters and multiply-accumulates at the size of the latest inputs."""
        return self._counter.counts()

    def saturation(self) -> Saturation | None:
        """How many clipped activations were driven to their limit by the inputs run so far."""
        if self.clips is None or not self.clips.clips:
            return None
        return Saturation(len(self.clips.clips), len(self.clips.exercised))


def prove(
    reference: Reference, graphs: Graphs, inputs: Sequence[Input], batch: int | None
) -> tuple[ParityReport, AnyArray]:
    """Climb the ladder with these graphs; returns the report and the truth's outputs (inputs x batch, classes)."""
    wants_batches = not (reference.quick and batch == 1)
    sessions = _sessions(reference, graphs, one_row=wants_batches and batch == 1)
    result = _climb(reference, graphs, inputs, sessions)
    checks = _batch_checks(graphs, inputs, batch, result, sessions) if wants_batches else ()
    return _report(reference, inputs, result, checks), result.outputs


def _sessions(reference: Reference, graphs: Graphs, one_row: bool) -> Sessions:
    """One for each graph: simplification often changes nothing, and then two rungs are the same graph."""
    tensors = [anchor.name for anchor in reference.anchors]
    make = _session_for_more if one_row else CpuSession
    return {model: make(model, tensors) for model in {model for _, model, _ in graphs.rungs()}}


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


def _climb(reference: Reference, graphs: Graphs, inputs: Sequence[Input], sessions: Sessions) -> Climb:
    runs = {model: _Latest(session) for model, session in sessions.items()}
    steps = [Step(name, runs[model], precision) for name, model, precision in graphs.rungs()]
    truth = Step(reference.truth.name, reference.answers(inputs), reference.truth.precision)
    floors = reference.floors
    if not reference.quick:  # which wants them on the first input only
        floors = {used: _Together(run, inputs, reference.room) for used, run in floors.items()}
    return climb(truth, floors, steps, inputs, OUTPUT, reference.quick)


class _Latest:
    """A tracer that remembers its latest trace."""

    def __init__(self, run: Tracer) -> None:
        self.run = run
        self.latest: tuple[AnyArray, Mapping[str, AnyArray]] | None = None

    def __call__(self, values: AnyArray) -> Mapping[str, AnyArray]:
        if self.latest is None or self.latest[0] is not values:
            self.latest = None  # its memory is needed now
            self.latest = values, self.run(values)
        return self.latest[1]


class _Room:
    """How many inputs a tracer takes at once: as many as `ROOM` holds the traces of, and one before that is known."""

    def __init__(self) -> None:
        self._growth: dict[Tracer, float] = {}  # bytes of a trace for each of its input

    def rows(self, run: Tracer, values: AnyArray) -> int:
        """How many arrays like `values` to run together."""
        return max(1, int(ROOM / (self._growth[run] * values.nbytes))) if run in self._growth else 1

    def learn(self, run: Tracer, values: AnyArray, trace: Mapping[str, AnyArray]) -> None:
        """Remember how large the trace of `values` was. It grows with the area, and so serves other sizes as well."""
        self._growth[run] = sum(array.nbytes for array in trace.values()) / values.nbytes


class _Together:
    """A tracer that runs the inputs to come in one batch: as many as there is `room` for, all where it is None.

    At 96 pixels two fifths of PyTorch's time are spent per call: in float64 43 ms for one row, 25 each for five.
    """

    def __init__(self, run: Tracer, inputs: Sequence[Input], room: _Room | None) -> None:
        self.run, self.inputs, self.room = run, inputs, room
        self.ahead: dict[int, Mapping[str, AnyArray]] = {}

    def __call__(self, values: AnyArray) -> Mapping[str, AnyArray]:
        if id(values) not in self.ahead:
            first = next(number for number, given in enumerate(self.inputs) if given.values is values)
            count = self.room.rows(self.run, values) if self.room else len(self.inputs)
            self._run([given.values for given in self.inputs[first : first + count]])
        return self.ahead.pop(id(values)) if self.room else self.ahead[id(values)]

    def _run(self, chunk: list[AnyArray]) -> None:
        together = np.concatenate(chunk)
        trace = self.run(together)
        if self.room:
            self.room.learn(self.run, together, trace)
        rows = chunk[0].shape[0]
        for number, values in enumerate(chunk):
            here = slice(number * rows, (number + 1) * rows)
            self.ahead[id(values)] = {name: array[here] for name, array in trace.items()}


def _report(
    reference: Reference, inputs: Sequence[Input], result: Climb, checks: tuple[BatchCheck, ...]
) -> ParityReport:
    passed = all(rung.passed for rung in result.rungs) and result.liveness.passed
    saturation = reference.saturation()
    notes = []
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
    deployed = {precision: (name, sessions[model]) for name, model, precision in graphs.rungs()}
    return tuple(
        _batch_check(name, session, inputs, batch, result, precision) for precision, (name, session) in deployed.items()
    )


def _batch_check(
    name: str, session: CpuSession, inputs: Sequence[Input], batch: int | None, result: Climb, precision: Precision
) -> BatchCheck:
    numbers = [number for number, given in enumerate(inputs) if given.ordinary][:BATCH_ROWS]
    rows = np.concatenate([inputs[number].values[:1] for number in numbers])
    known = result.by_rung[name]
    alone = np.concatenate([known[number] for number in numbers]) if batch == 1 else None
    allowed = result.output_tolerance[precision]
    length = None if batch == 1 else batch
    try:
        return check_batch(name, lambda values: session(values)[OUTPUT], rows, length, allowed, alone)
    except InputUnusable as error:
        if batch != 1:
            raise
        return BatchCheck(name, None, None, None, f"the graph holds for one row only: {error.got}")

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
from edgekit.graph.specialise import specialise
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
            self.truth = Step("pytorch-fp32", TorchTracer(module, []), "fp32")
            self.floors = {"fp32": TorchTracer(folded, [])}
            self.clips = None
        else:
            exact = TorchTracer(module, self.anchors, torch.float64)
            self.clips = ClipCounter(exact.module)
            self.truth = Step("pytorch-fp64", exact, "fp32")
            self.floors = {"fp32": TorchTracer(module, self.anchors)}
        if fp16:
            self.floors["fp16"] = TorchTracer(half_precision(folded), self.anchors)

    @classmethod
    def of(cls, module: nn.Module, example: AnyArray, quick: bool, fp16: bool) -> Reference:
        """The reference of a module that is not being exported: folding and anchors are worked out here."""
        anchors = find_anchors(module, torch.from_numpy(example))
        return cls(module, fold_batch_norms(module), anchors, quick, fp16)

    def saturation(self) -> Saturation | None:
        """How many clipped activations were driven to their limit by the inputs run so far."""
        if self.clips is None or not self.clips.clips:
            return None
        return Saturation(len(self.clips.clips), len(self.clips.exercised))


def prove(
    reference: Reference, graphs: Graphs, inputs: Sequence[Input], batch: int | None
) -> tuple[ParityReport, AnyArray]:
    """Climb the ladder with these graphs; returns the report and the truth's outputs (inputs x batch, classes)."""
    result = _climb(reference, graphs, inputs)
    checks = () if reference.quick and batch == 1 else _batch_checks(graphs, inputs, batch, result)
    return _report(reference, inputs, result, checks), result.outputs


def _climb(reference: Reference, graphs: Graphs, inputs: Sequence[Input]) -> Climb:
    tensors = [anchor.name for anchor in reference.anchors]
    # Simplification often changes nothing; the same graph is run once, and is every rung that it is.
    runs = {model: _Latest(CpuSession(model, tensors)) for model in {model for _, model, _ in graphs.rungs()}}
    steps = [Step(name, runs[model], precision) for name, model, precision in graphs.rungs()]
    everything = reference.quick  # outputs take no room worth counting
    truth = Step(reference.truth.name, _Together(reference.truth.trace, inputs, everything), reference.truth.precision)
    floors: dict[Precision, Tracer] = {
        used: _Together(run, inputs, everything) for used, run in reference.floors.items()
    }
    return climb(truth, floors, steps, inputs, OUTPUT, floor_is_a_rung=not reference.quick)


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


class _Together:
    """A tracer that runs the inputs to come in one batch: `everything`, or as many as `ROOM` holds the traces of.

    At 96 pixels two fifths of PyTorch's time are spent per call: in float64 43 ms for one row, 25 each for five.
    """

    def __init__(self, run: Tracer, inputs: Sequence[Input], everything: bool) -> None:
        self.run, self.inputs = run, [given.values for given in inputs]
        self.ahead: dict[int, Mapping[str, AnyArray]] = {}
        self.count = len(inputs) if everything else 1

    def __call__(self, values: AnyArray) -> Mapping[str, AnyArray]:
        if id(values) not in self.ahead:
            self._run_from(next(i for i, given in enumerate(self.inputs) if given is values))
        return self.ahead.pop(id(values))

    def _run_from(self, first: int) -> None:
        chunk = self.inputs[first : first + self.count]
        trace = self.run(np.concatenate(chunk))
        self.count = max(1, ROOM * len(chunk) // sum(array.nbytes for array in trace.values()))
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


def _batch_checks(graphs: Graphs, inputs: Sequence[Input], batch: int | None, result: Climb) -> tuple[BatchCheck, ...]:
    """The last fp32 graph, and the fp16 one: what is deployed."""
    rows = np.concatenate([given.values[:1] for given in inputs if given.ordinary][:BATCH_ROWS])
    deployed = {precision: (name, model) for name, model, precision in graphs.rungs()}
    return tuple(
        _batch_check(name, model, rows, batch, result, precision) for precision, (name, model) in deployed.items()
    )


def _batch_check(
    name: str, model: bytes, rows: AnyArray, batch: int | None, result: Climb, precision: Precision
) -> BatchCheck:
    resolution = rows.shape[-1]
    allowed = result.output_tolerance[precision]
    try:
        # A graph for one row is judged as what it could be with more: its nodes must not mix rows either way.
        free = model if batch != 1 else specialise(onnx.load_model_from_string(model), resolution, None)
        session = CpuSession(free)
        return check_batch(name, lambda values: session(values)[OUTPUT], rows, None if batch == 1 else batch, allowed)
    except InputUnusable as error:
        if batch != 1:
            raise
        reason = f"the graph holds for one row only: {error.got}"
        return BatchCheck(name, None, None, None, reason)

"""The parity ladder: every rung against the truth and against the rung before it, tensor by tensor.

A network's outputs alone cannot show every fault: a wrong epsilon drowns in the noise that forty layers add to it.
Right behind the layer where it happens the same fault stands thousands of times above the floor, so every weighted
layer's output is compared, on several inputs, each with the tolerance of its own noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.parity.metrics import AnyArray, Distance, Target, distance, figures, spread, top1_agreement
from edgekit.parity.report import Liveness, Rung
from edgekit.parity.tolerance import Precision, excess, tolerance, trust_in_fp32

Tracer = Callable[[AnyArray], Mapping[str, AnyArray]]
LIVE = 3.0  # outputs must vary from input to input by this many tolerances


@dataclass(frozen=True)
class Input:
    """One input batch and what it is for. `ordinary` inputs are those the network is made for; others are extremes."""

    name: str
    values: AnyArray
    ordinary: bool = True


@dataclass(frozen=True)
class Step:
    """A rung: its name, how to run it, and whose noise floor is its tolerance.

    `trace` maps an input to named tensors: the network's outputs and, in a full climb, its intermediates.
    """

    name: str
    trace: Tracer
    precision: Precision


@dataclass
class _Tally:
    """What one comparison has seen so far: the first tensor over its tolerance, or else the nearest to it."""

    name: str
    against: str
    tensors: set[str] = field(default_factory=set)
    used: float = -1.0
    tensor: str | None = None
    found: Distance | None = None
    allowed: Distance | None = None
    reason: str | None = None

    def add(self, name: str, found: Distance, allowed: Distance) -> None:
        self.tensors.add(name)
        used = excess(found, allowed)
        # Tensors come in the order of execution: the first one out of tolerance is where the fault is.
        if self.used <= 1.0 and not used <= self.used:
            self.used, self.tensor, self.found, self.allowed = used, name, found, allowed

    def missing(self, name: str) -> None:
        if self.used > 1.0:
            return
        self.used, self.tensor, self.found, self.allowed = math.inf, name, None, None
        self.reason = f"tensor {name} is missing from {self.name}"


@dataclass(frozen=True)
class Climb:
    """The rungs, whether the network is alive, and what later gates need: outputs, and their tolerance.

    `outputs` are the truth's; `by_rung` has every rung's, one array for each input.
    """

    rungs: tuple[Rung, ...]
    liveness: Liveness
    outputs: AnyArray
    by_rung: Mapping[str, Sequence[AnyArray]]
    output_tolerance: Mapping[Precision, Distance]


def climb(
    truth: Step,
    floors: Mapping[Precision, Tracer],
    steps: Sequence[Step],
    inputs: Sequence[Input],
    output: str,
    quick: bool = False,
) -> Climb:
    """Compare every step with the truth on every input, and its outputs with the step before.

    `floors` run the truth's own module in each precision that the steps use. Every input has its own floor, and the
    fp32 run is itself the first rung; in a `quick` climb the first input's floor serves all, and is no rung. All
    tracers must name the network's output `output`.
    """
    ascent = _Ascent(truth, floors, steps, output, quick)
    for given in inputs:
        ascent.take(given)
    return ascent.finish()


class _Ascent:
    """One input is run through every rung before the next, so that only one input's tensors are in memory."""

    def __init__(
        self,
        truth: Step,
        floors: Mapping[Precision, Tracer],
        steps: Sequence[Step],
        output: str,
        quick: bool,
    ) -> None:
        self.truth, self.floors, self.steps, self.output, self.quick = truth, floors, steps, output, quick
        self.base = [] if quick else [Step("pytorch-fp32", floors["fp32"], "fp32")]
        names = [truth.name, *(step.name for step in [*self.base, *steps])]
        self.tallies = {(name, names[0]): _Tally(name, names[0]) for name in names[1:]}
        self.tallies |= {
            pair: _Tally(*pair) for pair in zip(names[1:], names[:-1], strict=True) if pair not in self.tallies
        }
        self.outputs: dict[str, list[AnyArray]] = {name: [] for name in names}
        self.ordinary: list[bool] = []
        self.at_output: dict[Precision, Distance] = {}
        self.allowed: dict[Precision, dict[str, Distance]] = {}  # on the latest input

    def take(self, given: Input) -> None:
        """Run one input through every rung."""
        truth = self.truth.trace(given.values)
        self.ordinary.append(given.ordinary)
        self._keep(self.truth.name, truth)
        targets = {name: Target(values) for name, values in truth.items()}
        if not (self.quick and self.allowed):
            self._take_floors(given, targets)
        self._take_steps(given, targets)

    def _take_floors(self, given: Input, targets: Mapping[str, Target]) -> None:
        """The tolerance of every tensor in each precision, from runs of the truth's own module."""
        for precision, run in self.floors.items():
            trace = run(given.values)
            floor = {name: target.distance(trace[name]) for name, target in targets.items()}
            self.allowed[precision] = self._allow(precision, floor, given.ordinary)
            if precision == "fp32" and self.base:
                self._keep(self.base[0].name, trace)
                self._judge(self.base[0].name, floor, dict.fromkeys(floor, trust_in_fp32()))

    def _take_steps(self, given: Input, targets: Mapping[str, Target]) -> None:
        previous = (self.base[0] if self.base else self.truth).name
        latest: Mapping[str, AnyArray] | None = None
        found: dict[str, Distance | None] = {}
        for step in self.steps:
            trace = step.trace(given.values)
            self._keep(step.name, trace)
            if trace is not latest:  # two steps may share a trace: when they are the same graph
                found = {name: t.distance(trace[name]) if name in trace else None for name, t in targets.items()}
            latest = trace
            self._judge(step.name, found, self.allowed[step.precision])
            self._compare_outputs(step.name, previous, self.allowed[step.precision])
            previous = step.name

    def _allow(self, precision: Precision, floor: Mapping[str, Distance], ordinary: bool) -> dict[str, Distance]:
        """The tolerance of every tensor; at the output, the loosest over the ordinary inputs is remembered."""
        allowed = {name: tolerance(found, precision) for name, found in floor.items()}
        if ordinary:
            here, before = allowed[self.output], self.at_output.get(precision, Distance(0.0, 0.0))
            self.at_output[precision] = Distance(max(here.overall, before.overall), max(here.channel, before.channel))
        return allowed

    def _judge(self, name: str, found: Mapping[str, Distance | None], allowed: Mapping[str, Distance]) -> None:
        """Hold a step's tensors against their tolerances; None stands for a tensor that it does not have."""
        tally = self.tallies[name, self.truth.name]
        for tensor, away in found.items():
            if away is None:
                tally.missing(tensor)
            else:
                tally.add(tensor, away, allowed[tensor])

    def _compare_outputs(self, name: str, previous: str, allowed: Mapping[str, Distance]) -> None:
        ours, before = self.outputs[name], self.outputs[previous]
        # An output that is missing is named where the rung is compared with the truth.
        if previous != self.truth.name and len(ours) == len(before) == len(self.ordinary):
            self.tallies[name, previous].add(self.output, distance(ours[-1], before[-1]), allowed[self.output])

    def _keep(self, name: str, trace: Mapping[str, AnyArray]) -> None:
        if self.output in trace:
            self.outputs[name].append(np.array(trace[self.output]))

    def finish(self) -> Climb:
        truth = np.concatenate(self.outputs[self.truth.name])
        rungs = tuple(self._rung(tally) for tally in self._in_order())
        return Climb(rungs, self._liveness(truth), truth, self.outputs, self.at_output)

    def _in_order(self) -> list[_Tally]:
        order = [step.name for step in [*self.base, *self.steps]]
        return sorted(
            self.tallies.values(), key=lambda tally: (order.index(tally.name), tally.against != self.truth.name)
        )

    def _rung(self, tally: _Tally) -> Rung:
        actual, wanted = (self._stacked(name) for name in (tally.name, tally.against))
        seen = figures(actual, wanted) if actual is not None and wanted is not None else None
        agreement = self._agreement(tally, actual, wanted)
        by_channel = _channel_decides(tally)
        passed = 0.0 <= tally.used <= 1.0 and agreement in (None, 1.0)
        return Rung(
            name=tally.name,
            against=tally.against,
            passed=passed,
            error=_deciding(tally.found, by_channel),
            tolerance=_deciding(tally.allowed, by_channel),
            tensor=tally.tensor,
            tensors=len(tally.tensors),
            max_abs=_finite(seen.max_abs) if seen else None,
            max_rel=_finite(seen.max_rel) if seen else None,
            cosine=seen.cosine if seen else None,
            snr_db=_finite(seen.snr_db) if seen else None,
            top1_agreement=agreement,
            reason=None if passed else tally.reason or _why(tally, by_channel, agreement),
        )

    def _agreement(self, tally: _Tally, actual: AnyArray | None, wanted: AnyArray | None) -> float | None:
        if actual is None or wanted is None or tally.allowed is None:
            return None
        size = math.sqrt(float(np.square(wanted, dtype=np.float64).mean()))
        precision: Precision = next((s.precision for s in self.steps if s.name == tally.name), "fp32")
        return top1_agreement(actual, wanted, margin=2 * self.at_output[precision].channel * size)

    def _stacked(self, name: str) -> AnyArray | None:
        kept = self.outputs[name]
        if len(kept) != len(self.ordinary) or len({array.shape[1:] for array in kept}) != 1:
            return None
        return np.concatenate(kept)

    def _liveness(self, truth: AnyArray) -> Liveness:
        rows = truth.shape[0] // len(self.ordinary)
        found = spread(truth[np.repeat(self.ordinary, rows)])
        wanted = LIVE * max(allowed.overall for allowed in self.at_output.values())
        return Liveness(_finite(found) or 0.0, wanted, bool(found > wanted))


def _channel_decides(tally: _Tally) -> bool:
    if tally.found is None or tally.allowed is None:
        return False
    return tally.found.channel / tally.allowed.channel > tally.found.overall / tally.allowed.overall


def _deciding(figure: Distance | None, by_channel: bool) -> float | None:
    return None if figure is None else _finite(figure.channel if by_channel else figure.overall)


def _why(tally: _Tally, by_channel: bool, agreement: float | None) -> str:
    if tally.used > 1.0 and tally.found is not None and not math.isfinite(tally.found.overall):
        return f"{tally.tensor} has values that are not finite, or another shape"
    if tally.used > 1.0 and tally.allowed is not None and not math.isfinite(tally.allowed.overall):
        return f"{tally.tensor} overflows in this precision: there is no noise floor to judge it by"
    if tally.used > 1.0:
        scope = "in one channel " if by_channel else ""
        return f"{tally.tensor} is {scope}{tally.used:.3g} times further away than its tolerance"
    if agreement is not None and agreement < 1.0:
        return f"the largest class differs on {1 - agreement:.0%} of the inputs with a clear one"
    return "nothing was compared"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

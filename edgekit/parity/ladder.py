"""The parity ladder: every rung against the truth and against the rung before it, tensor by tensor.

A network's outputs alone cannot show every fault: a wrong epsilon drowns in the noise that forty layers add to it.
Right behind the layer where it happens the same fault stands thousands of times above the floor, so every weighted
layer's output is compared, on several inputs, each with the tolerance of its own noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from edgekit.parity.metrics import (
    FAR,
    AnyArray,
    Distance,
    Feeds,
    Target,
    figures,
    image_figures,
    spread,
    top1_agreement,
)
from edgekit.parity.report import Liveness, Rung
from edgekit.parity.tolerance import WORST_AMPLIFICATION, Precision, excess, tolerance, trust_in_fp32

Tracer = Callable[[Feeds], Mapping[str, AnyArray]]
LIVE = 3.0  # outputs must vary from input to input by this many tolerances
# Extremes may cost float32 as much as the size of the tensor itself: they are not what the network is for, and whatever
# they cost is their floor.
EXTREME = 2.0**13


@dataclass(frozen=True)
class Input:
    """What the network's inputs are fed once, by name, and what for.

    `ordinary` ones are what the network is made for; others are extremes.
    """

    name: str
    feeds: Feeds
    ordinary: bool = True


@dataclass(frozen=True)
class Step:
    """A rung: its name, how to run it, and whose noise floor is its tolerance.

    `trace` maps an input to named tensors: the network's outputs and, in a full climb, its intermediates. Steps that
    are the same graph share it. `absent` are tensors that it rightly lacks, having proven them further down.
    """

    name: str
    trace: Tracer
    precision: Precision
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FloorRun:
    """A run of the truth's own network in lower precision; its distance from the truth, times `scale`, is a floor.

    To first order rounding errors grow with the unit roundoff, so one precision's floor is another's, scaled.
    """

    trace: Tracer
    scale: float = 1.0


Floors = Mapping[Precision, Sequence[FloorRun]]


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

    `outputs` has for every rung, and for the truth, its outputs on each input; `tolerances` the loosest over the
    ordinary inputs, of each output in each precision; `dead` names the outputs that ignore their input.
    """

    truth: str
    rungs: tuple[Rung, ...]
    liveness: Liveness
    outputs: Mapping[str, Sequence[Mapping[str, AnyArray]]]
    tolerances: Mapping[Precision, Mapping[str, Distance]]
    dead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """How a climb is made. `floor_rung` names the float32 floor as the first rung; None: it is no rung.

    With `one_floor` that of the first input serves all. With `strict` every tensor of the truth must be in every step;
    otherwise only the outputs must, and others are compared where they are. With `gaps` the truth may hold infinities
    and NaN, and every step must have them in the same places.
    """

    floor_rung: str | None = "pytorch-fp32"
    one_floor: bool = False
    strict: bool = True
    gaps: bool = False


QUICK = Rules(floor_rung=None, one_floor=True)


def climb(
    truth: Step,
    floors: Floors,
    steps: Sequence[Step],
    inputs: Sequence[Input],
    outputs: Sequence[str],
    rules: Rules = Rules(),  # frozen
) -> Climb:
    """Compare every step with the truth on every input, and its outputs with the step before.

    `floors` say for each precision that the steps use what rounding does to the truth's own network: the largest of
    several runs where there are several. All tracers must name the network's outputs as `outputs` does.
    """
    ascent = _Ascent(truth, floors, steps, outputs, rules)
    for given in inputs:
        ascent.take(given)
    return ascent.finish()


class _Ascent:
    """One input is run through every rung before the next, so that only one input's tensors are in memory."""

    def __init__(
        self,
        truth: Step,
        floors: Floors,
        steps: Sequence[Step],
        outputs: Sequence[str],
        rules: Rules,
    ) -> None:
        self.truth, self.floors, self.steps, self.rules = truth, floors, steps, rules
        self.names = tuple(outputs)
        self.base = [Step(rules.floor_rung, floors["fp32"][0].trace, "fp32")] if rules.floor_rung else []
        names = [truth.name, *(step.name for step in [*self.base, *steps])]
        self.tallies = {(name, names[0]): _Tally(name, names[0]) for name in names[1:]}
        self.tallies |= {
            pair: _Tally(*pair) for pair in zip(names[1:], names[:-1], strict=True) if pair not in self.tallies
        }
        self.outputs: dict[str, list[dict[str, AnyArray]]] = {name: [] for name in names}
        self.ordinary: list[bool] = []
        self.heights: list[int] = []
        self.at_outputs: dict[Precision, dict[str, Distance]] = {}
        self.noise: dict[str, float] = {}  # at the outputs, in the least exact precision
        self.allowed: dict[Precision, dict[str, Distance]] = {}  # on the latest input

    def take(self, given: Input) -> None:
        """Run one input through every rung."""
        truth = self.truth.trace(given.feeds)
        self.ordinary.append(given.ordinary)
        self.heights.append(next((len(values) for values in given.feeds.values() if values.ndim), 1))
        self._keep(self.truth.name, truth)
        targets = {name: Target(values, gaps=self.rules.gaps) for name, values in truth.items()}
        if not (self.rules.one_floor and self.allowed):
            self._take_floors(given, targets)
        self._take_steps(given, targets)

    def _take_floors(self, given: Input, targets: Mapping[str, Target]) -> None:
        """The tolerance of every tensor in each precision, from runs of the truth's own network."""
        rung = self.base[0] if self.base else None
        measured: dict[Tracer, dict[str, Distance]] = {}
        for run in {part.trace: None for parts in self.floors.values() for part in parts}:
            keeper = rung.name if rung and run is rung.trace else None
            measured[run] = self._floor(self._measure(run, given, targets, keeper))
        for precision, parts in self.floors.items():
            there = [name for name in targets if all(name in measured[part.trace] for part in parts)]
            floor = {name: largest(measured[part.trace][name].times(part.scale) for part in parts) for name in there}
            allowed = {name: tolerance(floor[name], precision, targets[name].size) for name in there}
            self.allowed[precision] = allowed
            if given.ordinary:
                self._remember(precision, floor)
        if rung:
            self._judge(rung.name, measured[rung.trace], dict.fromkeys(targets, trust_in_fp32()))

    def _floor(self, found: Mapping[str, Distance | None]) -> dict[str, Distance]:
        """Without a stranger's tensors that this run lacks: nothing says how far away they may be."""
        judged = {n for n, away in found.items() if away is not None or self.rules.strict or n in self.names}
        return {name: away or FAR for name, away in found.items() if name in judged}

    def _take_steps(self, given: Input, targets: Mapping[str, Target]) -> None:
        before = (self.base[0] if self.base else self.truth).name
        run: Tracer | None = None
        for step in self.steps:
            if step.trace is run:  # the same graph as the step before
                self.outputs[step.name].append(self.outputs[before][-1])
            else:
                run = step.trace
                found = self._measure(run, given, targets, step.name)
            there = {name: away for name, away in found.items() if name not in step.absent}
            self._judge(step.name, there, self._judged(given, self.allowed[step.precision]))
            self._compare_outputs(step.name, before, self._judged(given, self.allowed[step.precision]))
            before = step.name

    def _judged(self, given: Input, allowed: Mapping[str, Distance]) -> Mapping[str, Distance]:
        """The tolerances that say something. Where an extreme overflows in a stranger's network, they do not: nobody
        knows whether it is ever fed such a thing.
        """
        if self.rules.strict or given.ordinary:
            return allowed
        return {name: limit for name, limit in allowed.items() if math.isfinite(limit.overall)}

    def _measure(
        self, run: Tracer, given: Input, targets: Mapping[str, Target], rung: str | None
    ) -> dict[str, Distance | None]:
        """How far every tensor of this run is from the truth; None for one that it lacks. `rung` keeps its outputs.

        The trace itself is not kept: another run's stands in its place soon.
        """
        trace = run(given.feeds)
        if rung is not None:
            self._keep(rung, trace)
        return {
            name: target.distance(trace[name]) if self._is_same(name, target, trace) else None
            for name, target in targets.items()
        }

    def _is_same(self, name: str, target: Target, trace: Mapping[str, AnyArray]) -> bool:
        """Whether the trace has this tensor. Of a stranger's, one of another shape is another that bears the name."""
        if name not in trace:
            return False
        return self.rules.strict or name in self.names or trace[name].shape == target.shape

    def _remember(self, precision: Precision, floor: Mapping[str, Distance]) -> None:
        """Keep what is loosest at the outputs over the ordinary inputs."""
        known = self.at_outputs.setdefault(precision, {})
        for name in self.names:
            known[name] = self.allowed[precision][name].loosest(known.get(name))
            self.noise[name] = max(self.noise.get(name, 0.0), tolerance(floor[name], precision).overall)

    def _judge(self, name: str, found: Mapping[str, Distance | None], allowed: Mapping[str, Distance]) -> None:
        """Hold a step's tensors against their tolerances; None stands for a tensor that it does not have."""
        tally = self.tallies[name, self.truth.name]
        for tensor, away in found.items():
            if tensor not in allowed:
                continue
            if away is not None:
                tally.add(tensor, away, allowed[tensor])
            elif self.rules.strict or tensor in self.names:
                tally.missing(tensor)

    def _compare_outputs(self, name: str, previous: str, allowed: Mapping[str, Distance]) -> None:
        ours, before = self.outputs[name][-1], self.outputs[previous][-1]
        # An output that is missing is named where the rung is compared with the truth.
        if previous != self.truth.name:
            for output in self.names:
                if output in ours and output in before and output in allowed:
                    away = Target(before[output], gaps=self.rules.gaps).distance(ours[output])
                    self.tallies[name, previous].add(output, away, allowed[output])

    def _keep(self, name: str, trace: Mapping[str, AnyArray]) -> None:
        self.outputs[name].append({output: np.array(trace[output]) for output in self.names if output in trace})

    def finish(self) -> Climb:
        rungs = tuple(self._rung(tally) for tally in self._in_order())
        lives = {output: self._liveness(output) for output in self.names}
        # A detector's anchors are the same for all images; one output that looks at its input is enough.
        most = max(lives.values(), key=lambda live: live.spread / live.wanted)
        dead = tuple(output for output, live in lives.items() if not live.passed)
        return Climb(self.truth.name, rungs, most, self.outputs, self.at_outputs, dead)

    def _in_order(self) -> list[_Tally]:
        order = [step.name for step in [*self.base, *self.steps]]
        return sorted(
            self.tallies.values(), key=lambda tally: (order.index(tally.name), tally.against != self.truth.name)
        )

    def _rung(self, tally: _Tally) -> Rung:
        pairs = {output: pair for output in self.names if (pair := self._pair(tally, output)) is not None}
        complete = all(name in self.outputs[tally.name][-1] for name in self.names)
        seen = figures(*_one_row(pairs.values())) if pairs and complete else None
        agreement = self._agreement(tally, pairs)
        image = next((image_figures(*pair) for pair in pairs.values() if len(pairs) == 1), None)
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
            psnr_db=_finite(image.psnr_db) if image else None,
            ssim=_finite(image.ssim) if image else None,
            reason=None if passed else tally.reason or _why(tally, by_channel, agreement),
        )

    def _pair(self, tally: _Tally, output: str) -> tuple[AnyArray, AnyArray] | None:
        """An output of both sides over all inputs, one below the other; None where they cannot be laid so."""
        actual, wanted = (self._stacked(name, output) for name in (tally.name, tally.against))
        return None if actual is None or wanted is None or wanted.dtype.kind != "f" else (actual, wanted)

    def _agreement(self, tally: _Tally, pairs: Mapping[str, tuple[AnyArray, AnyArray]]) -> float | None:
        """The least over the outputs that are rows of scores."""
        if tally.allowed is None:
            return None
        precision: Precision = next((s.precision for s in self.steps if s.name == tally.name), "fp32")
        found = [
            top1_agreement(actual, wanted, margin=2 * self.at_outputs[precision][output].channel * _size(wanted))
            for output, (actual, wanted) in pairs.items()
        ]
        return min((share for share in found if share is not None), default=None)

    def _stacked(self, name: str, output: str) -> AnyArray | None:
        kept = [found[output] for found in self.outputs[name] if output in found]
        if len(kept) != len(self.ordinary) or kept[0].ndim == 0:
            return None
        alike = [array for array in kept if array.shape[1:] == kept[0].shape[1:]]
        return np.concatenate(alike) if len(alike) >= sum(self.ordinary) else None

    def _liveness(self, output: str) -> Liveness:
        truth = zip(self.outputs[self.truth.name], self.heights, self.ordinary, strict=True)
        found = spread([_in_rows(outputs[output], height) for outputs, height, ordinary in truth if ordinary])
        wanted = LIVE * self.noise[output]
        return Liveness(_finite(found) or 0.0, wanted, bool(found > wanted))


def _in_rows(array: AnyArray, height: int) -> AnyArray:
    """What has no row for every row of its input is one row as a whole."""
    return array if array.ndim and len(array) == height else array[None]


def largest(floors: Iterable[Distance]) -> Distance:
    """The largest of each figure; what is not finite in one run (it overflows there) is left to the others."""
    listed = list(floors)
    finite = [floor for floor in listed if math.isfinite(floor.overall)] or listed[:1]
    return reduce(Distance.loosest, finite)


def _one_row(pairs: Iterable[tuple[AnyArray, AnyArray]]) -> tuple[AnyArray, AnyArray]:
    """All outputs end to end, of the one side and of the other; a single one as it is."""
    listed = list(pairs)
    if len(listed) == 1:
        return listed[0]
    ours, theirs = zip(*listed, strict=True)
    return np.concatenate([array.ravel() for array in ours]), np.concatenate([array.ravel() for array in theirs])


def _size(values: AnyArray) -> float:
    return math.sqrt(float(np.square(values, dtype=np.float64).mean()))


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
    if tally.used > 1.0 and tally.allowed == trust_in_fp32():
        growth = tally.used * WORST_AMPLIFICATION.overall
        return f"float32 is not exact enough for this network: rounding grows {growth:.0f} times up to {tally.tensor}"
    if tally.used > 1.0:
        scope = "in one channel " if by_channel else ""
        return f"{tally.tensor} is {scope}{tally.used:.3g} times further away than its tolerance"
    if agreement is not None and agreement < 1.0:
        return f"the largest class differs on {1 - agreement:.0%} of the inputs with a clear one"
    return "nothing was compared"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

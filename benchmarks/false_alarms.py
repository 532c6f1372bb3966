"""Correct exports through the full ladder: every failure is a false alarm, and the figures show how near one was.

    python benchmarks/false_alarms.py                  # 200 exports, about 10 minutes on one core
    python benchmarks/false_alarms.py --quick          # 24 small ones, about half a minute

Each is a real export at its own size: random weights from a seed, folded, exported, simplified, rounded to FP16, and
compared layer by layer with PyTorch in float64 on all its inputs. No two of them are the same network at one size.

What is recorded besides: how much of its tolerance every rung used (1 is a failure), how far liveness is from failing,
and, for every tensor on every input, the distance over the noise floor. Were floor and distance drawn from the same
noise, the square of that ratio would have an F distribution; its degrees of freedom are fitted to the ratio that one
comparison in a thousand exceeds, and give the odds of a false alarm at the factors that the ladder uses.
docs/decisions/0003-tolerances.md draws the conclusions.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from edgekit import environment, sources
from edgekit.graph.fp16 import to_fp16
from edgekit.graph.from_torch import IMAGE, export_onnx, find_anchors, fold_batch_norms, name_anchors
from edgekit.graph.simplify import Simplifier
from edgekit.models import _create
from edgekit.models._options import parse_options
from edgekit.parity.inputs import ladder_inputs
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import Distance, Target
from edgekit.parity.report import Rung
from edgekit.parity.tolerance import FACTOR, UNIT_ROUNDOFF, Precision
from edgekit.plan import tool_versions
from edgekit.preprocessing import IMAGENET
from edgekit.proof import Graphs, Reference, prove
from edgekit.runtimes.onnxruntime_cpu import CpuSession
from edgekit.variant import Variant

RESULTS = Path(__file__).parent / "results" / "false_alarms.json"
MODELS = ("mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2")
ALPHAS = (1.0, 0.75, 0.5, 0.35, 0.25)
RESOLUTIONS = (32, 96, 160, 224)
ROUNDINGS = ("divisible8", "published")
SEEDS = (0, 1, 2)
OPSET = 17
QUICK_EXPORTS = 24


@dataclass(frozen=True)
class Case:
    """One export to make: a network at one size, with the weights of one seed."""

    variant: Variant
    seed: int


@dataclass(frozen=True)
class Used:
    """The part of its tolerance that a rung used: of the tensor that came nearest to it, or first went over it."""

    rung: str
    against: str
    passed: bool
    used: float | None
    error: float | None
    tensor: str | None
    reason: str | None


@dataclass(frozen=True)
class Outcome:
    """What the ladder said about one correct export. `liveness` is the spread over the least that is accepted."""

    variant: str
    seed: int
    passed: bool
    first_failure: str | None
    rungs: tuple[Used, ...]
    liveness: float
    spread: float
    clips: int
    exercised: int
    seconds: float


@dataclass(frozen=True)
class Distribution:
    """Of one figure over all exports."""

    median: float
    p99: float
    largest: float
    smallest: float


@dataclass(frozen=True)
class Ratios:
    """Distance over floor, over all tensors and inputs: quantiles, and the odds of exceeding the ladder's factor."""

    comparisons: int
    median: float
    p99: float
    p999: float
    p9999: float
    largest: float
    factor: float
    degrees_of_freedom: float
    odds_of_an_alarm: float


Found = dict[str, list[float]]  # the ratios by "precision statistic", such as "fp16 channel"


def cases(seed: int = 0) -> list[Case]:
    """All different networks x sizes x seeds, shuffled the same way every time."""
    found = [
        Case(Variant(model, alpha, resolution, options=(("rounding", rounding),)), weights_seed)
        for model, alpha, rounding in _different_networks()
        for resolution in RESOLUTIONS
        for weights_seed in SEEDS
    ]
    random.Random(seed).shuffle(found)
    return found


def _different_networks() -> Iterator[tuple[str, float, str]]:
    """Many widths round to the same channels in both ways; such a network is counted once."""
    seen: set[tuple[object, ...]] = set()
    for model in MODELS:
        for alpha in ALPHAS:
            for rounding in ROUNDINGS:
                module = _create.skeleton(model, alpha, 1000, parse_options(model, {"rounding": rounding}))
                shapes = (model, *(tuple(tensor.shape) for tensor in module.state_dict().values()))
                if shapes not in seen:
                    yield model, alpha, rounding
                seen.add(shapes)


def small(case: Case) -> bool:
    """Cheap enough for a quick look."""
    return (case.variant.alpha or 1.0) <= 0.5 and case.variant.resolution <= 160


def judge(case: Case, simplifier: Simplifier, found: Found) -> Outcome:
    """Make the export, climb the ladder; the ratios of every tensor go to `found`."""
    start = time.perf_counter()
    reference, graphs, inputs = _export(case, simplifier)
    report = prove(reference, graphs, inputs, 1).report
    seconds = round(time.perf_counter() - start, 2)
    for given in inputs:
        _collect(reference, graphs, given, found)
    clips = report.saturation
    return Outcome(
        variant=case.variant.slug,
        seed=case.seed,
        passed=report.passed,
        first_failure=report.first_failure(),
        rungs=tuple(_used(rung) for rung in report.rungs),
        liveness=report.liveness.spread / report.liveness.wanted,
        spread=report.liveness.spread,
        clips=clips.clips if clips else 0,
        exercised=clips.exercised if clips else 0,
        seconds=seconds,
    )


def _export(case: Case, simplifier: Simplifier) -> tuple[Reference, Graphs, list[Input]]:
    variant = case.variant
    module = sources.network(variant, sources.SeedWeights(case.seed))
    folded, inputs = fold_batch_norms(module), ladder_inputs(IMAGENET, variant.resolution, 1)
    example = torch.from_numpy(inputs[0].feeds[IMAGE])
    raw = onnx.load_model_from_string(export_onnx(folded, example, OPSET))
    anchors = name_anchors(raw, folded, find_anchors(module, example))
    named = bytes(raw.SerializeToString())
    simplifier.submit(named)
    simplified = simplifier.result().model_bytes
    half = bytes(to_fp16(onnx.load_model_from_string(simplified)).SerializeToString())
    reference = Reference(module, folded, anchors, quick=False, fp16=True)
    return reference, Graphs(named, simplified, half), inputs


def _collect(reference: Reference, graphs: Graphs, given: Input, found: Found) -> None:
    """Distance over floor for every tensor of the simplified and the FP16 graph on one input."""
    targets = {name: Target(values) for name, values in reference.truth.trace(given.feeds).items()}
    tensors = [anchor.name for anchor in reference.anchors]
    deployed = {precision: model for _, model, precision in graphs.rungs()}
    for precision, model in deployed.items():
        floor, trace = reference.floors[precision][0].trace(given.feeds), CpuSession(model, tensors)(given.feeds)
        for name, target in targets.items():
            _note(found, precision, target.distance(trace[name]), target.distance(floor[name]))


def _note(found: Found, precision: Precision, away: Distance, floor: Distance) -> None:
    unit = UNIT_ROUNDOFF[precision]
    found[f"{precision} overall"].append(away.overall / max(floor.overall, unit))
    found[f"{precision} channel"].append(away.channel / max(floor.channel, unit))


def _used(rung: Rung) -> Used:
    known = rung.error is not None and rung.tolerance is not None
    used = rung.error / rung.tolerance if known else None  # type: ignore[operator]  # both known
    return Used(rung.name, rung.against, rung.passed, used, rung.error, rung.tensor, rung.reason)


def distribution(values: Iterable[float]) -> Distribution:
    """Of at least one value."""
    array = np.fromiter(values, np.float64)
    return Distribution(
        float(np.median(array)), float(np.percentile(array, 99)), float(array.max()), float(array.min())
    )


def by_rung(outcomes: list[Outcome]) -> dict[str, Distribution]:
    """The part of the tolerance used, for each comparison; a figure that is missing or infinite counts as failed."""
    used: dict[str, list[float]] = {}
    for outcome in outcomes:
        for rung in outcome.rungs:
            used.setdefault(f"{rung.rung} / {rung.against}", []).append(np.inf if rung.used is None else rung.used)
    return {name: distribution(values) for name, values in used.items()}


def ratios(found: Found) -> dict[str, Ratios]:
    """What was collected, by precision and statistic."""
    return {name: _ratios(name, np.array(values)) for name, values in found.items()}


def _ratios(name: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Ratios:
    precision, statistic = name.split()
    allowed = FACTOR["fp16" if precision == "fp16" else "fp32"]
    factor = allowed.channel if statistic == "channel" else allowed.overall
    median, p99, p999, p9999 = (float(value) for value in np.percentile(values, [50, 99, 99.9, 99.99]))
    freedom = _degrees_of_freedom(p999 / median, 1e-3)
    odds = f_tail((factor / median) ** 2, freedom)
    return Ratios(values.size, median, p99, p999, p9999, float(values.max()), factor, freedom, odds)


def f_tail(square: float, freedom: float) -> float:
    """The probability that an F-distributed ratio of two mean squares with `freedom` degrees each exceeds `square`.

    It is the incomplete beta function at 1 / (1 + square), integrated here in the logarithm of its variable.
    """
    half = freedom / 2
    u = np.linspace(-60.0, -math.log1p(square), 20_001)
    log_beta = 2 * math.lgamma(half) - math.lgamma(freedom)
    density = np.exp(half * u + (half - 1) * np.log1p(-np.exp(u)) - log_beta)
    return float(np.trapezoid(density, u))


def _degrees_of_freedom(ratio: float, probability: float) -> float:
    """Those with which `ratio` (of root mean squares) is exceeded with `probability`, by bisection."""
    low, high = 0.5, 2000.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if f_tail(ratio**2, middle) > probability else (low, middle)
    return low


def main() -> int:
    """Run, print a table, and write the results; exit code 1 when there was a false alarm."""
    arguments = _arguments()
    torch.set_num_threads(1)
    chosen = [case for case in cases() if small(case) or not arguments.quick]
    chosen = chosen[: QUICK_EXPORTS if arguments.quick else arguments.exports]
    outcomes: list[Outcome] = []
    found: Found = defaultdict(list)
    with Simplifier() as simplifier:
        for number, case in enumerate(chosen, 1):
            outcomes.append(judge(case, simplifier, found))
            print(_line(number, len(chosen), outcomes[-1]), file=sys.stderr, flush=True)
    print(table(outcomes, ratios(found)))
    if not arguments.quick or arguments.out != RESULTS:
        _write(outcomes, ratios(found), arguments.out)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count false alarms of the parity ladder on correct exports.")
    parser.add_argument("--exports", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EXPORTS} small exports; writes only to --out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _line(number: int, total: int, outcome: Outcome) -> str:
    used = " ".join(f"{rung.used:.2f}" if rung.used is not None else "far" for rung in outcome.rungs)
    verdict = "ok" if outcome.passed else f"FALSE ALARM at {outcome.first_failure}"
    return f"{number}/{total} {outcome.variant} seed {outcome.seed}: {verdict}; used {used}; {outcome.seconds:.1f} s"


def table(outcomes: list[Outcome], over_floor: dict[str, Ratios]) -> str:
    """The figures as text."""
    alarms = [outcome for outcome in outcomes if not outcome.passed]
    margin = distribution(outcome.liveness for outcome in outcomes)
    lines = [
        f"{len(outcomes)} correct exports, {len(alarms)} false alarms",
        f"{'tolerance used by':32s} {'median':>8s} {'p99':>8s} {'largest':>8s}",
        *(f"{name:32s} {d.median:8.3f} {d.p99:8.3f} {d.largest:8.3f}" for name, d in by_rung(outcomes).items()),
        f"{'distance over floor':32s} {'median':>8s} {'p99':>8s} {'p99.9':>8s} {'largest':>8s}  factor  odds",
        *(
            f"{name:32s} {r.median:8.2f} {r.p99:8.2f} {r.p999:8.2f} {r.largest:8.2f} {r.factor:7.0f}"
            f"  {r.odds_of_an_alarm:.0e} (F with {r.degrees_of_freedom:.0f} degrees of freedom)"
            for name, r in over_floor.items()
        ),
        f"liveness over what is wanted: smallest {margin.smallest:.2f}, median {margin.median:.2f}",
        f"exports with every ReLU6 saturated: {sum(o.exercised == o.clips for o in outcomes)}",
        *(f"FALSE ALARM {o.variant} seed {o.seed}: {o.first_failure}" for o in alarms),
    ]
    return "\n".join(lines)


def _write(outcomes: list[Outcome], over_floor: dict[str, Ratios], path: Path) -> None:
    results = {
        "schema": 1,
        "command": f"python benchmarks/false_alarms.py --exports {len(outcomes)}",
        "environment": environment.stamp(),
        "tools": tool_versions(),
        "exports": len(outcomes),
        "false_alarms": [outcome.variant for outcome in outcomes if not outcome.passed],
        "tolerance_used": {name: asdict(d) for name, d in by_rung(outcomes).items()},
        "distance_over_floor": {name: asdict(r) for name, r in over_floor.items()},
        "liveness_margin": asdict(distribution(outcome.liveness for outcome in outcomes)),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())

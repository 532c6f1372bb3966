"""The process that plays a scenario: it holds one candidate, opened and checked as the measuring process does it.

`Load` and `Check` are the measuring process's own requests; `Play` stands for its rounds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Literal

from edgekit.bench import loadgen, scenarios, verdict, worker
from edgekit.bench.loadgen import LoadGenScenario
from edgekit.bench.runtimes import Runner
from edgekit.bench.scenarios import Soak

TAILS = (0.99, 0.95, 0.90)  # the highest that a soak's windows can tell is its tail


@dataclass(frozen=True)
class Pace:
    """Frames at a fixed `rate` a second for `seconds`; each must be done `deadline` seconds after it was there."""

    rate: float
    seconds: float
    deadline: float
    scenario: Literal["paced"] = "paced"


@dataclass(frozen=True)
class Endurance:
    """One run after the other for `seconds`, in windows of `window` seconds."""

    seconds: float
    window: float
    scenario: Literal["soak"] = "soak"


@dataclass(frozen=True)
class LoadGenRun:
    """One of LoadGen's scenarios for `seconds` at the least, with its logs in `folder`."""

    scenario: LoadGenScenario
    seconds: float
    folder: Path


Part = Pace | Endurance | LoadGenRun


@dataclass(frozen=True)
class Play:
    """Play this with the candidate that was loaded under that number; `rows` are what one run of it takes."""

    number: int
    part: Part
    rows: int


@dataclass(frozen=True)
class Played:
    """What came of it. `samples`: seconds of each run, in windows, or all in one; `signs`: what may speak against it.

    `terms` are those that the scenario adds to the contract, `figures` what it is judged by.
    """

    samples: tuple[tuple[float, ...], ...]
    throughput_per_s: float
    terms: dict[str, float]
    figures: dict[str, float]
    signs: verdict.Played
    seconds: float


def serve(request: object) -> object:
    """Answer one request."""
    if not isinstance(request, Play):
        return worker.serve(request)
    runner = worker.state.held[request.number].runner
    start = time.perf_counter()
    with worker.undisturbed():
        return play(runner, request.part, request.rows, start)


def play(runner: Runner, part: Part, rows: int, start: float) -> Played:
    """Play it now; `start` is when it began, by the performance counter.

    Raises UsageError where not one frame or window fits into the time, and what LoadGen and the runner raise.
    """
    match part:
        case Pace():
            return _pace(runner, part, rows, start)
        case Endurance():
            return _endure(runner, part, rows, start)
        case LoadGenRun():
            return _drive(runner, part, rows, start)


def _pace(runner: Runner, part: Pace, rows: int, start: float) -> Played:
    found = scenarios.paced(runner, part.rate, part.seconds, deadline=part.deadline)
    count = len(found.frames)
    whole = max(found.frames[-1].ended, count / part.rate)
    return Played(
        samples=(found.latencies,),
        throughput_per_s=rows * count / whole,
        terms={"rate": part.rate, "deadline_s": part.deadline, "duration_s": part.seconds},
        figures={
            "frames": count,
            "missed": found.missed,
            "idle": found.idle,
            "work_p50_s": median(frame.work for frame in found.frames),
            "latency_p99_s": scenarios.nearest_rank(found.latencies, 0.99),
        },
        signs=verdict.Played(count, missed=(found.missed, count), keeps_up=found.keeps_up),
        seconds=time.perf_counter() - start,
    )


def _endure(runner: Runner, part: Endurance, rows: int, start: float) -> Played:
    found = scenarios.soak(runner, part.seconds, part.window)
    samples = tuple(window.samples for window in found.windows)
    runs = [seconds for window in samples for seconds in window]
    share = tail_share(found)
    drift = found.drift(share) if share is not None else None
    return Played(
        samples=samples,
        throughput_per_s=rows / fmean(runs),
        terms={"duration_s": part.seconds, "window_s": part.window},
        figures={"windows": len(samples), **_tail(found, share)},
        signs=verdict.Played(len(runs), tail_told=drift is not None, drift=drift),
        seconds=time.perf_counter() - start,
    )


def tail_share(found: Soak) -> float | None:
    """The highest of the tails that every window has runs enough for; None where none has."""
    return next((share for share in TAILS if None not in found.tail(share)), None)


def _tail(found: Soak, share: float | None) -> dict[str, float]:
    """What can be told of it."""
    if share is None:
        return {}
    tails = [value for value in found.tail(share) if value is not None]
    told = {"tail_s": median(tails), "worst_window": found.worst(share), "tail_drift": found.drift(share)}
    return {"tail_share": share} | {name: value for name, value in told.items() if value is not None}


def _drive(runner: Runner, part: LoadGenRun, rows: int, start: float) -> Played:
    terms = loadgen.Terms(min_duration_s=part.seconds)
    recorder = _Recorder(runner)
    summary = loadgen.run(recorder, part.scenario, part.folder, terms, rows=rows)
    runs = tuple(recorder.seconds[loadgen.PROBES :])
    per_query = {"samples_per_query": float(terms.samples_per_query)} if part.scenario == "multi-stream" else {}
    offline = part.scenario == "offline"
    return Played(
        samples=(runs,),
        throughput_per_s=summary.figure if offline else rows / fmean(runs),
        terms={"min_duration_s": part.seconds, "min_queries": terms.min_queries, **per_query},
        figures={
            FIGURES[part.scenario]: summary.figure,
            "mean_query_s": summary.mean,
            "longest_query_s": summary.longest,
            "loadgen_warnings": summary.warnings,
            "loadgen_errors": summary.errors,
        },
        signs=verdict.Played(len(runs), loadgen=None if summary.valid else summary.reasons),
        seconds=time.perf_counter() - start,
    )


# By its own rules: the latency of a query, or how many samples a second.
FIGURES: dict[LoadGenScenario, str] = {
    "single-stream": "p90_s",
    "multi-stream": "p99_s",
    "offline": "samples_per_s",
}


class _Recorder:
    """A runner whose times are kept; otherwise it is the one that it was made of."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.seconds: list[float] = []
        self.placement, self.transfers = runner.placement, runner.transfers
        self.cuda_graph, self.threads, self.spin = runner.cuda_graph, runner.threads, runner.spin
        self.feed, self.outputs, self.close = runner.feed, runner.outputs, runner.close

    def sample(self, count: int) -> Sequence[float]:
        """As the runner does it."""
        found = self._runner.sample(count)
        self.seconds += found
        return found

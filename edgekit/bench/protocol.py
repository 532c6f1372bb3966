"""Rounds in random order until the intervals are narrow enough or the time is up: the measuring of one runtime.

One process loads every candidate and the reference. A round visits each candidate once and the reference as often as
pays, in fresh random order. Several such processes take turns, one after the other: each lays out its memory anew,
which is worth a per cent or so, and only more than one can tell. See docs/decisions/0006-measuring-latency.md.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from edgekit.bench import reference, statistics, telemetry
from edgekit.bench.finding import Found
from edgekit.bench.journal import Journal, RoundLine
from edgekit.bench.record import Memory, ParityCheck, Priority, Stages
from edgekit.bench.runtimes import Candidate, Runtime
from edgekit.bench.worker import Check, Hurry, Load, Loaded, Round, Split, Weigh, memory_of
from edgekit.errors import EdgekitError
from edgekit.isolation import Isolated, IsolationFailed

WORKER = "edgekit.bench.worker:serve"
LAUNCHES = 3
LEAST_ROUNDS = 10  # of a launch; fewer say nothing of how much they scatter
QUICK_REPLICATES = 200  # for the question whether to go on
LOAD_LIMIT_S = 900.0  # an engine may be built while it is loaded
ROUND_LIMIT_S = 300.0

Reply = TypeVar("Reply")
Stage = Literal["loading", "measuring", "checking", "weighing"]


@dataclass(frozen=True)
class Limits:
    """When to stop. `target`: half the 95 % interval of every ratio, as a share. Seconds are those of one runtime.

    `memory`: whether to weigh everything afterwards. `priority`: whether to go before other processes where allowed.
    """

    target: float = 0.02
    min_s: float = 1.0
    max_s: float = 30.0
    launches: int = LAUNCHES
    memory: bool = True
    priority: bool = True


@dataclass(frozen=True)
class Progress:
    """How far one runtime is: `done` of all (0 to 1), and at most so many seconds left of the stage.

    `width`: half the widest interval so far, as a share.
    """

    runtime: str
    stage: Stage
    done: float
    left_s: float | None = None
    rounds: int = 0
    width: float | None = None


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Entry:
    """One thing to load, under the name that it has in the bench file."""

    name: str
    load: Load
    found: Found | None


@dataclass
class Course:
    """What one runtime's measuring has brought so far."""

    runtime: Runtime
    loaded: dict[str, Loaded] = field(default_factory=dict)
    parity: dict[str, list[ParityCheck]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    stages: dict[str, Stages] = field(default_factory=dict)
    failures: dict[str, EdgekitError] = field(default_factory=dict)
    reference: tuple[str, str] | None = None  # name, sha256
    lines: list[RoundLine] = field(default_factory=list)
    load_before: float | None = None
    priority: Priority | None = None

    def names(self) -> list[str]:
        """What has samples in every round, the reference among them, in one order."""
        there = [set(line.samples) for line in self.lines]
        return [name for name in self.loaded if there and all(name in names for names in there)]

    def columns(self) -> list[tuple[tuple[float, ...], ...]]:
        """Their samples, by round."""
        return [tuple(line.samples[name] for line in self.lines) for name in self.names()]

    def launches(self) -> list[int]:
        """The number of the process that measured each round."""
        return [line.launch for line in self.lines]


def measure(
    runtime: Runtime,
    found: Sequence[Found],
    loads: Sequence[Load],
    kept: Journal[RoundLine],
    limits: Limits,
    seed: int,
    listen: Listener,
) -> Course:
    """Measure what was found on one runtime; rounds that are in the journal already count.

    What cannot be loaded is in the course's failures; the rest is measured. `loads` go with `found`.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        entries = [_entry(it, load, runtime.name) for it, load in zip(found, loads, strict=True)]
        if (own := _own_reference(runtime, entries, Path(folder))) is not None:
            entries.append(own)
        course = Course(
            runtime, lines=[line for line in kept.lines if line.runtime == runtime.name], load_before=telemetry.load()
        )
        run = _Run(course, kept, limits, seed, listen)
        for number in range(limits.launches):
            # However narrow the intervals are: without a second launch, nobody knows what a launch is worth.
            if (number and run.seconds() >= limits.max_s) or not run.launch(entries, number):
                break
        if limits.memory:
            run.weigh(entries)
    return course


def _entry(found: Found, load: Load, runtime: str) -> Entry:
    return Entry(f"{found.subject.slug}/{found.subject.kind}/{runtime}", load, found)


def _own_reference(runtime: Runtime, entries: Sequence[Entry], folder: Path) -> Entry | None:
    """edgekit's own graph, for a runtime that takes graphs; any other is measured against one of the artifacts."""
    if "onnx-fp32" not in runtime.kinds or not entries:
        return None
    path, sha256 = reference.write(folder)
    candidate = Candidate(folder, "onnx-fp32", path, sha256)
    settings = replace(entries[0].load.settings, strict=False)
    return Entry(reference.NAME, Load(runtime.name, candidate, settings, None), None)


def _smallest(entries: Sequence[Entry]) -> Entry | None:
    """The artifact with the fewest multiply-accumulates, the first of several."""
    known = [entry for entry in entries if entry.found is not None]
    return min(known, key=lambda entry: entry.found.manifest.macs or 0 if entry.found else 0, default=None)


class _Run:
    """The measuring of one runtime while it goes on."""

    def __init__(self, course: Course, kept: Journal[RoundLine], limits: Limits, seed: int, listen: Listener) -> None:
        self.course, self.kept, self.limits, self.seed, self.listen = course, kept, limits, seed, listen
        self.name = course.runtime.name
        self.device = telemetry.device()
        self.width: float | None = None
        self.next_look = 0

    # --- one process

    def launch(self, entries: Sequence[Entry], number: int) -> bool:
        """Load everything in one new process and measure for its share of the time. Whether another may follow."""
        with Isolated(WORKER, what=f"the measuring process of {self.name}") as worker:
            if self.limits.priority:
                ask(worker, Hurry(), type(None), LOAD_LIMIT_S)
            there = self._load(worker, entries)
            if not any(entry.found for entry in there):
                return False
            self._choose_reference(there)
            try:
                self._rounds(worker, there, number)
                self._check(worker, there)
            except IsolationFailed as error:
                self._lost(there, error)
                return False
        return True

    def _load(self, worker: Isolated, entries: Sequence[Entry]) -> list[Entry]:
        """Those that could be loaded, in random order: where one lies in memory must not depend on its name."""
        waiting = [entry for entry in entries if entry.name not in self.course.failures]
        _shuffle(waiting, f"{self.seed}/{self.name}/load/{self._launch_number()}")
        there: list[Entry] = []
        numbers: list[Loaded] = []
        for entry in waiting:
            self._tell("loading", len(there) / len(waiting))
            try:
                numbers.append(ask(worker, entry.load, Loaded, LOAD_LIMIT_S))
                there.append(entry)
            except IsolationFailed as error:  # the process is gone, and with it what it held
                self.course.failures[entry.name] = error
                return self._load(worker, entries)
            except EdgekitError as error:
                self.course.failures[entry.name] = error
        for entry, loaded in zip(there, numbers, strict=True):
            self._note_loaded(entry, loaded)
        return there

    def _note_loaded(self, entry: Entry, loaded: Loaded) -> None:
        # The numbers of runs stay those of the first launch.
        known = self.course.loaded.get(entry.name, loaded)
        self.course.loaded[entry.name] = replace(known, number=loaded.number)
        self._note_parity(entry.name, loaded.parity)
        self.course.priority = loaded.priority  # the last to be loaded speaks for all

    def _note_parity(self, name: str, check: ParityCheck | None) -> None:
        """The first check before and the first after, and every one that failed."""
        checks = self.course.parity.setdefault(name, [])
        if check is not None and (not check.passed or check.when not in {known.when for known in checks}):
            checks.append(check)

    def _choose_reference(self, there: Sequence[Entry]) -> None:
        own = next((entry for entry in there if entry.found is None), None)
        chosen = own or _smallest(there)
        if chosen is not None and self.course.reference is None:
            self.course.reference = (chosen.name, chosen.load.candidate.sha256)

    def _launch_number(self) -> int:
        return max((line.launch for line in self.course.lines), default=-1) + 1

    def _lost(self, there: Sequence[Entry], error: EdgekitError) -> None:
        """The process died in mid-round: nobody knows on whose account."""
        for entry in there:
            self.course.failures[entry.name] = error
        self.course.lines.clear()

    # --- rounds

    def _rounds(self, worker: Isolated, there: Sequence[Entry], number: int) -> None:
        launch, before = self._launch_number(), len(self.course.lines)
        share = self.limits.max_s * (number + 1) / self.limits.launches
        watch = telemetry.Watch([worker.pid] if worker.pid else [], device=self.device)
        while True:
            samples = self._round(worker, there)
            line = RoundLine(self.name, launch, samples, watch.lap())
            self.kept.add(line)
            self.course.lines.append(line)
            enough = len(self.course.lines) - before >= LEAST_ROUNDS
            self._tell("measuring", min(1.0, self.seconds() / self.limits.max_s), self._left())
            if self.seconds() >= self.limits.max_s:
                return
            if enough and (self.seconds() >= share or self.is_done(number + 1)):
                return

    def _round(self, worker: Isolated, there: Sequence[Entry]) -> dict[str, tuple[float, ...]]:
        order = [*there, *self._reference_again(there)]
        _shuffle(order, f"{self.seed}/{self.name}/{len(self.course.lines)}")
        loaded = [self.course.loaded[entry.name] for entry in order]
        request = Round(tuple(it.number for it in loaded), tuple(it.runs for it in loaded))
        visits = ask(worker, request, list, ROUND_LIMIT_S + 100 * self._round_s())
        samples: dict[str, tuple[float, ...]] = {}
        for entry, visit in zip(order, visits, strict=True):
            samples[entry.name] = (*samples.get(entry.name, ()), *visit)
        return samples

    def _reference_again(self, there: Sequence[Entry]) -> list[Entry]:
        """Further visits of the reference, whose error is in every ratio.

        With v artifacts and r visits of the reference, a ratio's variance in a given time goes with
        (1 + 1 / r) (v + r), which is least at the square root of v.
        """
        assert self.course.reference is not None
        own = next(entry for entry in there if entry.name == self.course.reference[0])
        return [own] * (round(math.sqrt(max(1, len(there) - 1))) - 1)

    def _round_s(self) -> float:
        return self.course.lines[-1].reading.seconds if self.course.lines else 0.0

    def seconds(self) -> float:
        """Spent on rounds so far, also by an earlier run."""
        return sum(line.reading.seconds for line in self.course.lines)

    def is_done(self, launches: int) -> bool:
        """Whether the intervals are as narrow as they have to be once so many launches of all are over.

        They narrow with the square root of the time, so an early launch need not reach the target itself.
        """
        if self.seconds() < self.limits.min_s * launches / self.limits.launches or not self.course.names():
            return False
        self._look()
        early = (self.limits.launches / launches) ** 0.5
        return self.width is not None and self.width <= self.limits.target * early

    def _look(self) -> None:
        """The widest interval of a ratio; at growing distances, as looking takes time, too."""
        rounds = len(self.course.lines)
        if rounds < self.next_look or self.course.reference is None:
            return
        self.next_look = rounds + max(5, rounds // 6)
        names, logs = self.course.names(), statistics.visits(self.course.columns())
        against = names.index(self.course.reference[0])
        ratios = statistics.log_ratios(logs, self.course.launches(), against, self.seed, QUICK_REPLICATES)
        widths = [ratios.interval(it).exp().half_width for it in range(len(names)) if it != against]
        self.width = max(widths, default=0.0)

    def _left(self) -> float:
        """At most: the time limit, or what the target still takes at this pace."""
        spent = self.seconds()
        most = self.limits.max_s - spent
        if self.width is not None:
            most = min(most, spent * max(0.0, (self.width / self.limits.target) ** 2 - 1))
        return max(0.0, most)

    # --- afterwards

    def _check(self, worker: Isolated, there: Sequence[Entry]) -> None:
        for count, entry in enumerate(there):
            self._tell("checking", count / len(there))
            if entry.found is not None:
                number = self.course.loaded[entry.name].number
                if (stages := ask(worker, Split(number), object, LOAD_LIMIT_S)) is not None:
                    assert isinstance(stages, Stages)
                    self.course.stages[entry.name] = stages
                self._note_parity(entry.name, ask(worker, Check(number), ParityCheck, LOAD_LIMIT_S))

    def weigh(self, entries: Sequence[Entry]) -> None:
        """The memory that each takes alone, each in a process of its own."""
        there = [entry for entry in entries if entry.found is not None and entry.name in self.course.names()]
        for count, entry in enumerate(there):
            self._tell("weighing", count / len(there))
            assert entry.found is not None
            size = entry.found.subject.bytes
            self.course.memory[entry.name] = Memory(size)
            with (
                contextlib.suppress(EdgekitError),
                Isolated(WORKER, what=f"the process that weighs {entry.name}") as alone,
            ):
                found = ask(alone, Weigh(entry.load), Memory, LOAD_LIMIT_S)
                self.course.memory[entry.name] = memory_of(found, size)

    def _tell(self, stage: Stage, done: float, left_s: float | None = None) -> None:
        self.listen(Progress(self.name, stage, done, left_s, len(self.course.lines), self.width))


def ask(worker: Isolated, request: object, kind: type[Reply], timeout: float) -> Reply:
    """One request, answered. Raises what the worker raised."""
    worker.submit(request)
    answer = worker.result(timeout)
    assert isinstance(answer, kind)
    return answer


def _shuffle(entries: list[Entry], seed: str) -> None:
    random.Random(seed).shuffle(entries)  # noqa: S311  (an order, no secret)

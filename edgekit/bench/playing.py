"""A scenario, played with every artifact and runtime in turn, and the bench file that this leaves. Nothing prints here.

Each is played in a process of its own, and nothing else runs meanwhile. What is finished is on the disk at once, so a
killed run loses the one in flight, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Literal

from edgekit import __version__, environment, manifest
from edgekit.bench import assembling, journal, loadgen, running, runtimes, scenarios, statistics, telemetry, verdict
from edgekit.bench.finding import Found
from edgekit.bench.journal import Journal
from edgekit.bench.playing_worker import LoadGenRun, Pace, Part, Play, Played
from edgekit.bench.protocol import LOAD_LIMIT_S, Course, ask
from edgekit.bench.record import BenchFile, Latency, NotMeasured, ParityCheck, Result, write
from edgekit.bench.running import Finished, Request
from edgekit.bench.runtimes import Runtime
from edgekit.bench.telemetry import Reading
from edgekit.bench.worker import Check, Loaded
from edgekit.errors import EdgekitError, MachineLacks, UsageError
from edgekit.isolation import Isolated
from edgekit.manifest import disk_errors

WORKER = "edgekit.bench.playing_worker:serve"
STARTS_A_PROGRAM = frozenset({"trtexec"})  # for every sample: no frame would be in time, whatever the network
NEEDS_TO_STAY = "a runtime that stays loaded between samples: this one starts a program for each"
TICK_S = 1.0  # the machine is read, and the time left is told
LEAST_LIMIT_S = 3600.0  # a process that takes longer than this, and ten times its duration, hangs

Stage = Literal["loading", "playing", "checking"]


@dataclass(frozen=True)
class Step:
    """How far it is: the result in hand, `done` of all (0 to 1), and about how many seconds are left of everything."""

    name: str
    stage: Stage
    done: float
    left_s: float


Listener = Callable[[Step], None]


@dataclass(frozen=True)
class Cell:
    """One artifact under one runtime, finished, and what the machine did meanwhile."""

    result: Result
    readings: tuple[Reading, ...]


def run(request: Request, part: Part, listen: Listener) -> Finished:
    """Play it with everything, write the bench file where there is a result, and forget what it was made of.

    A `LoadGenRun`'s folder is the one in which each gets a fresh one of its own. Raises MachineLacks without LoadGen
    where it is needed, UsageError for an unknown runtime, for one that cannot play, and for a folder that is none.
    """
    chosen = _chosen(request, part)
    not_measured, errors = running.absent(chosen, request)
    ready = [it for it in chosen if it.missing() is None and running.suited(it, request.found)]
    not_measured += _cannot_play(request)
    turns = [_Turn(runtime, found) for runtime in ready for found in running.suited(runtime, request.found)]
    before = telemetry.load()
    with journal.opened(request.out, _key(request, ready, part), Cell) as kept:
        for turn, error in _play_all(turns, request, part, kept, listen):
            not_measured.append(_not_measured(turn, error))
            errors += [error] if request.named else []
        file = _file(request, turns, kept.lines, not_measured, before)
        if file.results:  # an earlier benchmark is worth more than a file without figures
            write(file, request.out)
        journal.forget(request.out)
    return Finished(file, tuple(errors))


@dataclass(frozen=True)
class _Turn:
    """What is played with next."""

    runtime: Runtime
    found: Found

    @property
    def name(self) -> str:
        return f"{self.found.subject.slug}/{self.found.subject.kind}/{self.runtime.name}"


def _chosen(request: Request, part: Part) -> list[Runtime]:
    """The runtimes that can play; the first thing that makes no sense is refused."""
    if isinstance(part, LoadGenRun):
        if loadgen.missing() is not None:
            raise MachineLacks("MLCommons' LoadGen is not installed", where="--scenario", hint=loadgen.INSTALL)
        if part.folder.exists() and not part.folder.is_dir():
            raise UsageError("LoadGen's logs need a folder", where="--logs", got=f"{part.folder} is a file")
    if refused := [name for name in request.named if name in STARTS_A_PROGRAM]:
        raise UsageError(f"{refused[0]} cannot play a scenario", where="--runtime", got=f"needs {NEEDS_TO_STAY}")
    if len(request.images) > 1:
        raise UsageError("a scenario runs on one image", where="--images", got=f"{len(request.images)} images")
    names = request.named or [name for name in runtimes.names() if name not in STARTS_A_PROGRAM]
    return [runtimes.runtime(name) for name in names]


def _cannot_play(request: Request) -> list[NotMeasured]:
    if request.named:
        return []
    starting = [runtimes.runtime(name) for name in runtimes.names() if name in STARTS_A_PROGRAM]
    return [it for runtime in starting for it in running.as_not_measured(runtime, NEEDS_TO_STAY, request.found)]


def _not_measured(turn: _Turn, error: EdgekitError) -> NotMeasured:
    got = f" ({error.got})" if error.got else ""
    return NotMeasured(turn.found.subject.slug, turn.found.subject.kind, turn.runtime.name, f"{error.what}{got}")


# --- playing


def _play_all(
    turns: Sequence[_Turn], request: Request, part: Part, kept: Journal[Cell], listen: Listener
) -> Iterator[tuple[_Turn, EdgekitError]]:
    """Those that could not be played."""
    clock = _Clock(turns, part, listen, {cell.result.name for cell in kept.lines})
    for turn in turns:
        if turn.name in clock.finished:
            continue
        try:
            kept.add(_play(turn, request, part, clock))
        except EdgekitError as error:
            yield turn, error
        clock.finish(turn)


@dataclass
class _Clock:
    """Knows what is finished, how long each took in this run, and tells how much is left."""

    turns: Sequence[_Turn]
    part: Part
    listen: Listener
    finished: set[str]
    took: list[float] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def tell(self, turn: _Turn, stage: Stage) -> None:
        """About: as long as the others took, or as it is meant to take."""
        each = max(fmean(self.took) if self.took else 0.0, self.part.seconds)
        spent = time.monotonic() - self.begun
        waiting = len(self.turns) - len(self.finished) - 1
        part_done = min(0.99, spent / each)
        done = (len(self.finished) + part_done) / len(self.turns)
        self.listen(Step(turn.name, stage, done, max(0.0, each - spent) + waiting * each))

    def finish(self, turn: _Turn) -> None:
        """On to the next."""
        self.finished.add(turn.name)
        self.took.append(time.monotonic() - self.begun)
        self.begun = time.monotonic()


def _play(turn: _Turn, request: Request, part: Part, clock: _Clock) -> Cell:
    """One, in a process of its own; checked before and after."""
    settings = replace(request.settings, strict=bool(request.named))
    rows = turn.found.rows(request.batch)
    mine = replace(part, folder=_fresh(part.folder, turn)) if isinstance(part, LoadGenRun) else part
    with Isolated(WORKER, what=f"the process that plays {turn.name}") as worker:
        clock.tell(turn, "loading")
        loaded = ask(worker, running.load_of(turn.runtime, turn.found, settings, request), Loaded, LOAD_LIMIT_S)
        assert worker.pid is not None
        with _watched(worker.pid, lambda: clock.tell(turn, "playing")) as readings:
            limit = LEAST_LIMIT_S + 10 * part.seconds
            played = ask(worker, Play(loaded.number, mine, rows), Played, limit)
        clock.tell(turn, "checking")
        after = ask(worker, Check(loaded.number), ParityCheck, LOAD_LIMIT_S)
    parity = tuple(check for check in (loaded.parity, after) if check is not None)
    return Cell(_result(turn, request, mine, loaded, played, parity, readings), tuple(readings))


@contextlib.contextmanager
def _watched(pid: int, tell: Callable[[], None]) -> Iterator[list[Reading]]:
    """What the machine does meanwhile, read and told every second or so by a thread: the caller only waits."""
    watch = telemetry.Watch([pid], device=telemetry.device())
    readings: list[Reading] = []
    over = threading.Event()

    def tick() -> None:
        while not over.wait(TICK_S):
            readings.append(watch.lap())
            tell()

    tell()
    thread = threading.Thread(target=tick, name="edgekit-watch", daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        over.set()
        thread.join()
    readings.append(watch.lap())


def _fresh(folder: Path, turn: _Turn) -> Path:
    """A new folder for one run of LoadGen: `variant/artifact-runtime/run-1`, or the next number."""
    place = folder / turn.found.subject.slug / f"{turn.found.subject.kind}-{turn.runtime.name}"
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        number = 1
        while (place / f"run-{number}").exists():
            number += 1
        (place / f"run-{number}").mkdir()
    return place / f"run-{number}"


# --- what came of it


def _result(
    turn: _Turn,
    request: Request,
    part: Part,
    loaded: Loaded,
    played: Played,
    parity: tuple[ParityCheck, ...],
    readings: Sequence[Reading],
) -> Result:
    course = Course(turn.runtime, loaded={turn.name: loaded})
    contract = assembling.contract_of(
        course, turn.name, turn.found, request.settings, request.batch, bool(request.images)
    )
    clock = "host" if isinstance(part, Pace) else contract.clock
    machine = telemetry.summarise(readings, None, None)
    return Result(
        subject=turn.found.subject,
        contract=replace(contract, clock=clock, scenario=part.scenario, terms=played.terms),
        samples=played.samples,
        latency=_latency(played),
        ratio=None,
        throughput_per_s=played.throughput_per_s,
        verdict=verdict.judge_played(played.signs, machine, parity),
        placement=loaded.placement,
        parity=parity,
        power_w=machine.power_w,
        warmup_s=round(loaded.warmup_s, 4),
        load_s=round(loaded.load_s, 4),
        figures=played.figures,
        logs=os.path.relpath(part.folder, request.out.parent) if isinstance(part, LoadGenRun) else None,
    )


def _latency(played: Played) -> Latency:
    """The interval is that of the median of blocks of neighbours, in one process: another run may lie outside of it."""
    blocks = scenarios.in_blocks([seconds for window in played.samples for seconds in window])
    return assembling.latency_of(played.samples, statistics.log_level(blocks, (0,) * len(blocks), 0))


def _file(
    request: Request,
    turns: Sequence[_Turn],
    cells: Sequence[Cell],
    not_measured: Sequence[NotMeasured],
    load_before: float | None,
) -> BenchFile:
    by_name = {cell.result.name: cell for cell in cells}
    played = [by_name[turn.name] for turn in turns if turn.name in by_name]
    machine = telemetry.summarise([it for cell in played for it in cell.readings], load_before, None)
    return BenchFile(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        edgekit=__version__,
        command=request.command,
        machine=environment.stamp(),
        telemetry=replace(machine, rounds=0, priority="normal"),
        results=tuple(cell.result for cell in played),
        not_measured=tuple(not_measured),
        seed=request.seed,
    )


def _key(request: Request, ready: Sequence[Runtime], part: Part) -> str:
    """One hash over what a result depends on; where logs go is none of it."""
    same = replace(part, folder=Path()) if isinstance(part, LoadGenRun) else part
    terms = {name: str(value) for name, value in vars(same).items()}
    return manifest.cache_key({"rounds": running.key_of(request, ready), "terms": {**terms}})

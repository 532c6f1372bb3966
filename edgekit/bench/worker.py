"""The measuring process: it holds the runners of one runtime, and does nothing beside what it is asked to.

The caller decides what is visited when; here a visit is made so that nothing but the runs is in its time: inputs are
in place, no garbage is collected, and the first runs of a visit, which find the caches full of others' weights, are
not counted. See docs/decisions/0006-measuring-latency.md.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgekit import golden, manifest
from edgekit.bench import checking, reference, telemetry
from edgekit.bench.record import Memory, ParityCheck, Placement, Priority, Stages, Transfers
from edgekit.bench.runtimes import Candidate, Runner, Settings, runtime
from edgekit.errors import InputUnusable
from edgekit.images import load_image
from edgekit.parity.metrics import Feeds
from edgekit.parity.tolerance import Precision

WARMUP = 10  # runs, at the least, before anything is measured
WARMUP_LIMIT_S = 3.0
STEADY = 0.97  # as long as ten runs take less than this share of what the ten before took, it is still getting faster
QUICK = 0.2  # of ten runs the second: what other processes do to the rest says nothing of the artifact
VISIT_S = 0.005  # what a visit's counted runs should take together: long beside the clock, short beside a round
MOST_RUNS = 500
SETTLING = 0.1  # runs of a visit that are not counted, as a share of those that are; at least one


REALTIME = os.sched_param(1)  # the lowest of the levels: before whatever has none, after what the kernel itself needs


@dataclass(frozen=True)
class Hurry:
    """Go before other processes from now on while something is timed, where that is allowed."""


@dataclass(frozen=True)
class Load:
    """Open a candidate. Without a `precision` it is the reference: it has no manifest, and its own inputs.

    `rows` in a batch; `images` are fed instead of a stored input, one after the other, where there are any.
    """

    runtime: str
    candidate: Candidate
    settings: Settings
    precision: Precision | None
    rows: int = 1
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """What became of it: the runner's own words, and whether it computes what it should.

    `runs` are how many a visit counts, so that it takes `VISIT_S`.
    """

    number: int
    placement: Placement | None
    transfers: Transfers
    cuda_graph: bool | None
    threads: int | None
    spin: bool | None
    parity: ParityCheck | None
    runs: int
    load_s: float
    warmup_s: float
    priority: Priority = "normal"


@dataclass(frozen=True)
class Round:
    """Visit these, by their numbers, in this order; `runs` of each."""

    order: tuple[int, ...]
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Check:
    """Compare with the truth once more."""

    number: int


@dataclass(frozen=True)
class Split:
    """Where the time of the last visit's runs went; answered with Stages, or None where the runtime does not tell."""

    number: int


@dataclass(frozen=True)
class Weigh:
    """Load this and nothing else, and run it; for a process of its own."""

    load: Load


@dataclass
class _Held:
    """A runner, and what it is fed: the next one with every visit."""

    load: Load
    runner: Runner
    feeds: Sequence[Feeds]
    turn: int = 0

    def visit(self, runs: int) -> tuple[float, ...]:
        """Seconds of each run."""
        if len(self.feeds) > 1:
            self.runner.feed(self.feeds[self.turn % len(self.feeds)])
            self.turn += 1
        settling = max(1, round(runs * SETTLING))
        return tuple(self.runner.sample(settling + runs)[settling:])

    def check(self, when: checking.When) -> ParityCheck | None:
        """Against the stored truth; the inputs are put back afterwards. None for the reference."""
        if self.load.precision is None:
            return None
        folder = self.load.candidate.directory
        described = manifest.read(folder)
        stored = golden.unpack(folder / _path(described, "golden"))
        used = checking.arithmetic(self.load.precision, runtime(self.load.runtime).versions())
        allowed = checking.allowances(described, used, stored)
        found = checking.check(self.runner, stored, allowed, when)
        self.runner.feed(self.feeds[0])
        return found


@dataclass
class _State:
    """What this process holds; it serves one caller."""

    held: list[_Held] = field(default_factory=list)
    hurries: bool = False


state = _State()


def serve(request: object) -> object:
    """Answer one request."""
    match request:
        case Hurry():
            _hurry()
            return None
        case Load():
            return _load(request)
        case Round(order, runs):
            return _round(order, runs)
        case Check(number):
            return state.held[number].check("after")
        case Split(number):
            return _split(state.held[number].runner)
        case Weigh(load):
            return _weigh(load)
    raise TypeError(f"unknown request: {request!r}")


def _hurry() -> None:
    """Whether it is allowed is found by trying."""
    state.hurries = True
    with undisturbed():
        allowed = os.sched_getscheduler(0) == os.SCHED_RR
    state.hurries = allowed


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While something is timed: nothing is collected, and where that is allowed, no other process comes between.

    Every thread is raised, as a runtime's own have been made long ago, and put back at once: loading and building
    are not worth the freezing of everything else.
    """
    gc.disable()
    _schedule(os.SCHED_RR, REALTIME)
    try:
        yield
    finally:
        _schedule(os.SCHED_OTHER, os.sched_param(0))
        gc.enable()


def _schedule(policy: int, level: os.sched_param) -> None:
    if not state.hurries:
        return
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # not root; a thread that has ended
            os.sched_setscheduler(int(task.name), policy, level)


def _load(wanted: Load) -> Loaded:
    start = time.perf_counter()
    held = _open(wanted)
    loaded = time.perf_counter()
    parity = held.check("before")
    checked = time.perf_counter()
    if (held.runner.threads or 0) > len(os.sched_getaffinity(0)):
        state.hurries = False  # threads of this class that share a core take turns of a tenth of a second
    pace = _warm_up(held.runner)
    state.held.append(held)
    it = held.runner
    done = time.perf_counter()
    return Loaded(
        number=len(state.held) - 1,
        placement=it.placement,
        transfers=it.transfers,
        cuda_graph=it.cuda_graph,
        threads=it.threads,
        spin=it.spin,
        parity=parity,
        runs=pace.runs(),
        load_s=loaded - start,
        warmup_s=done - checked,
        priority="realtime" if state.hurries else "normal",
    )


def _open(wanted: Load) -> _Held:
    feeds = _feeds(wanted)
    runner = runtime(wanted.runtime).open(wanted.candidate, wanted.settings)
    runner.feed(feeds[0])
    return _Held(wanted, runner, feeds)


def _feeds(wanted: Load) -> list[Feeds]:
    if wanted.precision is None:
        return [reference.feeds()]
    described = manifest.read(wanted.candidate.directory)
    if wanted.images:
        return [_image_feed(described, path, wanted.rows) for path in wanted.images]
    stored = golden.unpack(wanted.candidate.directory / _path(described, "golden"))
    ordinary = next((given for given in stored.inputs if given.ordinary), stored.inputs[0])
    return [_of_rows(ordinary.feeds, wanted.rows, described.variant.batch is None)]


def _image_feed(described: manifest.Manifest, path: Path, rows: int) -> Feeds:
    """The image through the preprocessing contract, the same in every row."""
    graph = described.artifact("onnx-fp32")
    size = described.variant.resolution
    if described.preprocessing is None or size is None or graph is None or len(graph.inputs) != 1:
        raise InputUnusable("this network takes something else than one image", where="--images")
    return {graph.inputs[0].name: np.repeat(load_image(path, described.preprocessing, size), rows, axis=0)}


def _of_rows(feeds: Feeds, rows: int, is_open: bool) -> Feeds:
    """The stored input; where the batch is open, with so many rows."""
    if not is_open:
        return feeds
    return {name: np.resize(array, (rows, *array.shape[1:])) if array.ndim else array for name, array in feeds.items()}


@dataclass(frozen=True)
class _Pace:
    """Seconds of a run where nothing came between, and what ten of them cost besides: a program that is started."""

    seconds: float
    besides: float

    def runs(self) -> int:
        """How many a visit counts."""
        return min(MOST_RUNS, max(1, round(max(VISIT_S, self.besides) / self.seconds)))


def _warm_up(runner: Runner) -> _Pace:
    """Run until it gets no faster any more."""
    limit = time.perf_counter() + WARMUP_LIMIT_S
    before, now = _Pace(math.inf, 0.0), _pace(runner)
    while now.seconds < STEADY * before.seconds and time.perf_counter() < limit:
        before, now = now, _pace(runner)
    return min(before, now, key=lambda pace: pace.seconds)


def _pace(runner: Runner) -> _Pace:
    with undisturbed():
        start = time.perf_counter()
        samples = runner.sample(WARMUP)
        whole = time.perf_counter() - start
    return _Pace(float(np.quantile(samples, QUICK)), max(0.0, whole - sum(samples)))


def _split(runner: Runner) -> Stages | None:
    """trtexec's runner keeps what its program told of the runs that were sampled last."""
    runs = getattr(runner, "runs", ())
    if not runs:
        return None
    parts = ([getattr(run, name) for run in runs] for name in ("enqueue", "h2d", "compute", "d2h"))
    return Stages(*(float(np.median(seconds)) * 1e3 for seconds in parts))


def _round(order: Sequence[int], runs: Sequence[int]) -> list[tuple[float, ...]]:
    """One visit of each; nothing is collected meanwhile, and what there is by now is never looked at again."""
    gc.collect()
    gc.freeze()
    with undisturbed():
        return [state.held[number].visit(count) for number, count in zip(order, runs, strict=True)]


def _weigh(load: Load) -> Memory:
    base = _status("VmRSS")
    before = _device_bytes()
    held = _open(load)
    held.runner.sample(WARMUP)
    after = _device_bytes()
    device = None if before is None or after is None else max(0, after - before)
    return Memory(load.candidate.path.stat().st_size, rss_base=base, rss_peak=_status("VmHWM"), device=device)


def _status(field: str) -> int | None:
    """A size of this process from /proc, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _device_bytes() -> int | None:
    """Bytes of the first GPU's memory that this process holds; None where it cannot be read. Not tried on a GPU yet."""
    library = telemetry.nvml()
    if library is None:
        return None
    try:
        handle = library.nvmlDeviceGetHandleByIndex(0)
        mine = [it for it in library.nvmlDeviceGetComputeRunningProcesses(handle) if it.pid == os.getpid()]
    except library.NVMLError:
        return None
    return sum(int(it.usedGpuMemory or 0) for it in mine)


def _path(described: manifest.Manifest, kind: str) -> str:
    artifact = described.artifact(kind)
    if artifact is None:
        raise InputUnusable(f"the manifest lists no {kind}", hint="export it again")
    return artifact.path


def memory_of(found: Memory, size: int) -> Memory:
    """The weights' own size where the artifact is no single file: a module's manifest says nothing of it."""
    return replace(found, artifact=size)

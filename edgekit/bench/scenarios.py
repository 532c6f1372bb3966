"""How a network is used, where that is not one run after the other: at a camera's pace, or for a long time.

Both are functions around a runner, with a clock that can be exchanged. They use the host's clock and call `sample(1)`
for one inference each time, so a runtime that starts a program for every sample (trtexec) does not fit them. What a
run costs besides the inference, some microseconds, is in these times, as it is in a program's own.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from edgekit.bench.runtimes import Runner
from edgekit.errors import UsageError

CHUNK_S = 0.02  # a soak looks at the clock this often, beside the runs
BLOCKS = 20  # that runs in one row are cut into, to see how much they vary
LEAST_TAIL = 10  # samples beyond a quantile, for the quantile to mean something


@dataclass(frozen=True)
class Timer:
    """A clock in seconds, and what waits by it."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


HOST = Timer(time.perf_counter, time.sleep)


@dataclass(frozen=True)
class Frame:
    """One frame, in seconds from when the first was due: when it was due, when its inference began and ended."""

    due: float
    begun: float
    ended: float

    @property
    def latency(self) -> float:
        """From when the frame was there to when its result was, waiting for the one before it included."""
        return self.ended - self.due

    @property
    def work(self) -> float:
        """The inference alone. With gaps before it, it is longer than in a row: clocks and caches have cooled down."""
        return self.ended - self.begun


@dataclass(frozen=True)
class Paced:
    """Frames at a fixed rate. Every one is processed, in order; one that is late delays those behind it."""

    rate: float
    deadline: float
    frames: tuple[Frame, ...]

    @property
    def latencies(self) -> tuple[float, ...]:
        """Seconds of each frame, from when it was due."""
        return tuple(frame.latency for frame in self.frames)

    @property
    def missed(self) -> int:
        """How many frames' results came after their deadline."""
        return sum(frame.latency > self.deadline for frame in self.frames)

    @property
    def idle(self) -> float:
        """The share of the time in which nothing was to be done, 0 to 1."""
        whole = max(self.frames[-1].ended, len(self.frames) / self.rate)
        return 1.0 - sum(frame.work for frame in self.frames) / whole

    @property
    def keeps_up(self) -> bool:
        """Whether the inference is faster than the frames come, by its median; otherwise they pile up for ever."""
        return median(frame.work for frame in self.frames) < 1.0 / self.rate


def paced(runner: Runner, rate: float, seconds: float, *, deadline: float | None = None, timer: Timer = HOST) -> Paced:
    """`seconds` of frames at `rate` a second. Without a `deadline` (seconds), a frame must be done before the next.

    Raises UsageError for a rate, a duration or a deadline that is not above zero, or no whole frame.
    """
    allowed = 1.0 / rate if deadline is None and rate > 0 else deadline
    if not all(value is not None and 0.0 < value < math.inf for value in (rate, seconds, allowed)):
        raise UsageError(
            "a pace needs a rate, a duration and a deadline above zero", got=f"{rate}, {seconds}, {deadline}"
        )
    assert allowed is not None
    count = math.floor(seconds * rate * (1 + 1e-9))  # 0.3 s at 10 a second are three frames
    if count < 1:
        raise UsageError("no frame is due in this time", got=f"{seconds:g} s", wanted=f"at least {1 / rate:g} s")
    return Paced(rate, allowed, tuple(_frames(runner, rate, count, timer)))


def _frames(runner: Runner, rate: float, count: int, timer: Timer) -> Iterator[Frame]:
    start = timer.now()
    for number in range(count):
        due = number / rate
        while (wait := start + due - timer.now()) > 0:
            timer.sleep(wait)
        begun = timer.now() - start
        runner.sample(1)
        yield Frame(due, begun, timer.now() - start)


@dataclass(frozen=True)
class Window:
    """A stretch of a soak: when it began, in seconds from the start, and the seconds of each run in it."""

    begun: float
    samples: tuple[float, ...]

    def quantile(self, share: float) -> float | None:
        """The latency that `share` of the runs (0.99) did not exceed; None where too few lie beyond it to tell.

        It is always one that was measured: the nearest rank.
        """
        if len(self.samples) * (1.0 - share) < LEAST_TAIL * (1 - 1e-9):
            return None
        return nearest_rank(self.samples, share)


@dataclass(frozen=True)
class Soak:
    """One run after the other for a long time, in windows of `window` seconds."""

    window: float
    windows: tuple[Window, ...]

    def tail(self, share: float = 0.99) -> tuple[float | None, ...]:
        """The quantile of every window, in seconds."""
        return tuple(window.quantile(share) for window in self.windows)

    def drift(self, share: float = 0.99) -> float | None:
        """How much longer the tail is in the last third of the windows than in the first: 0.1 is a tenth longer.

        By the median of each third, so that one bad window is no drift. None with fewer than three windows that tell.
        """
        known = [value for value in self.tail(share) if value is not None]
        third = len(known) // 3
        return median(known[-third:]) / median(known[:third]) - 1.0 if third else None

    def worst(self, share: float = 0.99) -> float | None:
        """The worst window's tail as a multiple of the median one's; None where no window tells."""
        known = [value for value in self.tail(share) if value is not None]
        return max(known) / median(known) if known else None


def soak(runner: Runner, seconds: float, window: float, *, timer: Timer = HOST) -> Soak:
    """Run for `seconds`, in windows of `window` seconds; a rest that fills no window is left out. All samples are
    kept, at some 40 bytes each. Raises UsageError where not one window fits in.
    """
    if not (0.0 < window <= seconds < math.inf):
        raise UsageError(
            "a soak needs a window that fits into its time", got=f"{window:g} s", wanted=f"up to {seconds:g} s"
        )
    start = timer.now()
    count = math.floor(seconds / window * (1 + 1e-9))
    chunk = 1
    windows = []
    for number in range(count):
        begun = timer.now() - start
        samples: list[float] = []
        while not samples or timer.now() - start < (number + 1) * window:
            samples += runner.sample(chunk)
            chunk = max(1, round(CHUNK_S / max(median(samples[-chunk:]), 1e-9)))
        windows.append(Window(begun, tuple(samples)))
    return Soak(window, tuple(windows))


def nearest_rank(samples: Sequence[float], share: float) -> float:
    """The smallest sample that is not below `share` of all of them; `share` above 0, up to 1."""
    return sorted(samples)[math.ceil(share * len(samples) * (1 - 1e-12)) - 1]


def in_blocks(runs: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Runs in one row as blocks of neighbours, in their order: up to `BLOCKS`, of about equal size.

    Neighbours are alike, so how much runs vary shows between blocks rather than between runs.
    """
    count = min(BLOCKS, len(runs))
    edges = [len(runs) * number // count for number in range(count + 1)]
    return tuple(tuple(runs[low:high]) for low, high in itertools.pairwise(edges))

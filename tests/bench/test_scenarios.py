"""Frames at a camera's pace, and runs for a long time: exact with a clock that only moves when it is told to.

The runner of most tests takes the time that a list says, on that clock; what is tested is the bookkeeping. The last
tests run ONNX Runtime by the real clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path

import pytest
from bench_graphs import FEEDS, candidate, convolutions
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench.record import Placement, Transfers
from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes.onnxruntime_cpu import RUNTIME
from edgekit.bench.scenarios import LEAST_TAIL, Frame, Paced, Soak, Timer, Window, nearest_rank, paced, soak
from edgekit.errors import UsageError
from edgekit.parity.metrics import AnyArray, Feeds


class Simulated:
    """A clock, and a runner that takes `seconds` of it, one after the other; the last for ever."""

    placement: Placement | None = None
    transfers: Transfers = "none"
    cuda_graph: bool | None = None
    threads: int | None = 1
    spin: bool | None = False

    def __init__(self, *seconds: float, oversleep: float = 0.0, start: float = 1000.0) -> None:
        self.time, self.oversleep = start, oversleep
        self.seconds: Iterator[float] = chain(seconds, repeat(seconds[-1]))
        self.sleeps: list[float] = []
        self.timer = Timer(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.sleeps.append(seconds)
        self.time += seconds + self.oversleep

    def sample(self, count: int) -> Sequence[float]:
        taken = [next(self.seconds) for _ in range(count)]
        self.time += sum(taken)
        return taken

    def feed(self, feeds: Feeds) -> None: ...

    def outputs(self) -> Mapping[str, AnyArray]:
        return {}

    def close(self) -> None: ...


def at_pace(runner: Simulated, rate: float, seconds: float, deadline: float | None = None) -> Paced:
    return paced(runner, rate, seconds, deadline=deadline, timer=runner.timer)


def test_frames_are_taken_when_they_are_due() -> None:
    found = at_pace(Simulated(0.25), rate=2.0, seconds=2.0)
    assert found.frames == (Frame(0, 0, 0.25), Frame(0.5, 0.5, 0.75), Frame(1, 1, 1.25), Frame(1.5, 1.5, 1.75))
    assert found.latencies == (0.25,) * 4
    assert (found.missed, found.deadline, found.keeps_up) == (0, 0.5, True)
    assert found.idle == pytest.approx(0.5)


def test_a_late_frame_delays_those_behind_it() -> None:
    found = at_pace(Simulated(0.25, 1.25, 0.25), rate=2.0, seconds=2.5)
    assert found.latencies == (0.25, 1.25, 1.0, 0.75, 0.5)
    assert [frame.work for frame in found.frames] == [0.25, 1.25, 0.25, 0.25, 0.25]
    assert found.missed == 3, "the last is done just when the next is due"
    assert found.keeps_up


def test_what_is_too_slow_falls_ever_further_behind() -> None:
    found = at_pace(Simulated(0.75), rate=2.0, seconds=2.0)
    assert found.latencies == (0.75, 1.0, 1.25, 1.5)
    assert found.missed == 4
    assert not found.keeps_up
    assert found.idle == 0.0


def test_a_deadline_of_its_own_counts() -> None:
    assert at_pace(Simulated(0.25), 2.0, 2.0, deadline=0.125).missed == 4
    assert at_pace(Simulated(0.75), 2.0, 2.0, deadline=1.25).missed == 1


def test_waking_up_late_is_in_the_latency_and_not_in_the_work() -> None:
    found = at_pace(Simulated(0.25, oversleep=0.0625), rate=2.0, seconds=1.5)
    assert found.latencies == (0.25, 0.3125, 0.3125)
    assert [frame.work for frame in found.frames] == [0.25] * 3


def test_nothing_is_waited_for_when_it_is_late() -> None:
    runner = Simulated(0.75)
    at_pace(runner, rate=2.0, seconds=2.0)
    assert runner.sleeps == []


@pytest.mark.parametrize(("rate", "seconds", "count"), [(10.0, 0.3, 3), (30.0, 1.0, 30), (3.0, 1.0, 3), (7.0, 1.5, 10)])
def test_there_are_as_many_frames_as_are_due(rate: float, seconds: float, count: int) -> None:
    assert len(at_pace(Simulated(1e-4), rate, seconds).frames) == count


@pytest.mark.parametrize(
    ("rate", "seconds", "deadline"),
    [
        (0.0, 1.0, None),
        (-1.0, 1.0, None),
        (2.0, 0.0, None),
        (2.0, 1.0, 0.0),
        (math.inf, 1.0, 1.0),
        (math.nan, 1.0, None),
    ],
)
def test_a_pace_that_is_none_is_refused(rate: float, seconds: float, deadline: float | None) -> None:
    with pytest.raises(UsageError, match="above zero"):
        at_pace(Simulated(0.1), rate, seconds, deadline)


def test_less_than_a_frame_is_refused() -> None:
    with pytest.raises(UsageError, match="no frame is due"):
        at_pace(Simulated(0.1), 2.0, 0.25)


@given(
    st.lists(st.floats(0.001, 3.0), min_size=1, max_size=20),
    st.floats(1.0, 20.0),
    st.floats(1.0, 10.0),
    st.floats(0, 0.01),
)
def test_no_frame_is_early_lost_or_out_of_order(
    works: list[float], rate: float, seconds: float, oversleep: float
) -> None:
    found = at_pace(Simulated(*works, oversleep=oversleep, start=0.0), rate, seconds)
    before = 0.0
    for number, frame in enumerate(found.frames):
        assert frame.due == pytest.approx(number / rate)
        assert frame.begun >= frame.due - 1e-9
        assert frame.begun >= before
        assert frame.latency >= frame.work - 1e-9
        assert frame.begun <= max(before, frame.due + oversleep) + 1e-9, "no frame waits for anything else"
        before = frame.ended
    assert 0 <= found.missed <= len(found.frames)
    assert -1e-9 <= found.idle < 1.0


def soaked(runner: Simulated, seconds: float, window: float) -> Soak:
    return soak(runner, seconds, window, timer=runner.timer)


def test_windows_follow_each_other_without_a_gap() -> None:
    found = soaked(Simulated(0.5), seconds=6.5, window=2.0)
    assert [window.begun for window in found.windows] == [0.0, 2.0, 4.0]
    assert [len(window.samples) for window in found.windows] == [4, 4, 4]


def test_a_run_longer_than_a_window_is_in_one_of_its_own() -> None:
    found = soaked(Simulated(3.0), seconds=4.0, window=1.0)
    assert [window.begun for window in found.windows] == [0.0, 3.0, 6.0, 9.0]
    assert all(window.samples == (3.0,) for window in found.windows)


def steady(count: int, seconds: float) -> Window:
    return Window(0.0, (seconds,) * count)


def test_a_tail_needs_runs_beyond_it() -> None:
    """The p99 of fifty runs is their maximum, which says something else."""
    assert steady(999, 1.0).quantile(0.99) is None
    assert steady(1000, 1.0).quantile(0.99) == 1.0
    assert steady(99, 1.0).quantile(0.9) is None
    assert steady(100, 1.0).quantile(0.9) == 1.0
    assert Soak(1.0, (steady(10, 1.0),)).worst() is None


def test_a_tail_that_grows_is_a_drift() -> None:
    """Every window is 10 % slower than the one before: the last third against the first is six windows later."""
    windows = tuple(steady(1000, 1.1**number) for number in range(9))
    assert Soak(1.0, windows).drift() == pytest.approx(1.1**6 - 1)
    assert Soak(1.0, windows).worst() == pytest.approx(1.1**4)


def test_one_bad_window_is_no_drift_and_is_seen() -> None:
    windows = [steady(1000, 1.0) for _ in range(9)]
    windows[7] = steady(1000, 5.0)
    assert Soak(1.0, tuple(windows)).drift() == 0.0
    assert Soak(1.0, tuple(windows)).worst() == 5.0


def test_a_tail_that_is_rare_is_seen_though_the_median_is_not() -> None:
    late = Window(0.0, (1.0,) * 980 + (9.0,) * 20)
    windows = (steady(1000, 1.0),) * 3 + (late,) * 6
    assert Soak(1.0, windows).drift(0.99) == pytest.approx(8.0)
    assert Soak(1.0, windows).drift(0.9) == 0.0


def test_no_drift_is_claimed_of_too_few_windows() -> None:
    assert Soak(1.0, (steady(1000, 1.0), steady(1000, 2.0))).drift() is None
    assert Soak(1.0, (steady(1000, 1.0), steady(1000, 2.0), steady(10, 3.0))).drift() is None


def test_a_soak_finds_a_machine_that_gets_slower() -> None:
    """A run takes 1 ms, and 1.5 ms from the twelfth second on: a clock that was lowered."""
    runner = Simulated(*[0.001] * 12_000, 0.0015)
    found = soaked(runner, seconds=18.0, window=2.0)
    assert len(found.windows) == 9
    assert found.drift() == pytest.approx(0.5)
    assert sum(len(window.samples) for window in found.windows) == pytest.approx(16_000, rel=0.01)


@pytest.mark.parametrize(("seconds", "window"), [(1.0, 2.0), (1.0, 0.0), (1.0, -1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_a_window_that_does_not_fit_is_refused(seconds: float, window: float) -> None:
    with pytest.raises(UsageError):
        soaked(Simulated(0.1), seconds, window)


@given(st.lists(st.floats(0.001, 0.8), min_size=1, max_size=50), st.floats(1.0, 20.0), st.integers(1, 9))
def test_every_run_of_a_soak_is_in_one_window(works: list[float], seconds: float, count: int) -> None:
    runner = Simulated(*works, start=0.0)
    found = soaked(runner, seconds, seconds / count)
    assert len(found.windows) == count
    total = sum(sum(window.samples) for window in found.windows)
    assert total == pytest.approx(runner.time)
    assert runner.time >= seconds - 1e-6


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_the_nearest_rank_is_a_sample_that_the_share_does_not_exceed(samples: list[float], share: float) -> None:
    found = nearest_rank(samples, share)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples) - 1e-9
    assert sum(sample < found for sample in samples) < share * len(samples)


@pytest.fixture
def real(tmp_path: Path) -> Callable[[int], object]:
    def opened(count: int) -> object:
        runner = RUNTIME.open(candidate(tmp_path, convolutions(count)), Settings(threads=1))
        runner.feed(FEEDS)
        return runner

    return opened


def test_a_real_network_at_a_camera_s_pace(real: Callable[[int], object]) -> None:
    found = paced(real(2), rate=50.0, seconds=0.4)  # type: ignore[arg-type]
    assert len(found.frames) == 20
    assert all(frame.begun >= frame.due for frame in found.frames)
    assert all(frame.work > 0 for frame in found.frames)
    assert 0.0 <= found.idle < 1.0


def test_a_real_network_for_a_while(real: Callable[[int], object]) -> None:
    found = soak(real(1), seconds=0.6, window=0.2)  # type: ignore[arg-type]
    assert len(found.windows) == 3
    assert all(window.samples for window in found.windows)
    assert all(len(window.samples) > LEAST_TAIL for window in found.windows)

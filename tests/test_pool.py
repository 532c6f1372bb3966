"""The pool: everything is reported, a dead worker costs one task, and no worker outlives its parent."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.pool import Died, run

Report = Callable[[object], None]


def collect(tasks: list[int], work: Callable[[int, int, Report], None], jobs: int) -> list[object]:
    return [event for event in run(tasks, work, jobs) if event is not None]


def close(events: Iterator[object]) -> None:
    assert isinstance(events, Generator)
    events.close()


def echo(_: int, task: int, report: Report) -> None:
    report(("begin", task))
    report(("end", task))


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def all_gone(pids: list[int], within: float) -> bool:
    deadline = time.monotonic() + within
    while not all(map(gone, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# --- results


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 12), st.integers(1, 4))
def test_every_task_is_done_once_and_all_it_says_arrives_in_order(tasks: int, jobs: int) -> None:
    events = collect(list(range(tasks)), echo, jobs)
    assert sorted(map(str, events)) == sorted(str((word, n)) for n in range(tasks) for word in ("begin", "end"))
    for task in range(tasks):
        assert events.index(("begin", task)) < events.index(("end", task))


def test_one_worker_takes_the_tasks_in_their_order() -> None:
    assert collect([3, 1, 2], echo, 1) == [(w, n) for n in (3, 1, 2) for w in ("begin", "end")]


def test_workers_are_other_processes_and_know_their_number() -> None:
    def who(number: int, task: int, report: Report) -> None:
        time.sleep(0.05)
        report((number, os.getpid()))

    seen = {event for event in collect(list(range(9)), who, 3) if isinstance(event, tuple)}
    assert {number for number, _ in seen} == {0, 1, 2}
    assert len(seen) == len({pid for _, pid in seen}) == 3
    assert os.getpid() not in {pid for _, pid in seen}


def test_there_are_no_more_workers_than_tasks() -> None:
    before = len(multiprocessing.active_children())
    assert {len(multiprocessing.active_children()) - before for _ in run([1, 2], echo, 64)} <= {1, 2}


def test_large_results_arrive_whole() -> None:
    def large(_: int, task: int, report: Report) -> None:
        report(bytes([task]) * 3_000_000)

    events = collect([1, 2, 3], large, 2)
    assert {(event[0], len(event)) for event in events if isinstance(event, bytes)} == {
        (n, 3_000_000) for n in (1, 2, 3)
    }


def test_what_the_parent_has_loaded_is_there_in_the_workers() -> None:
    loaded = {"weights": 17}

    def use(_: int, task: int, report: Report) -> None:
        loaded["weights"] += task
        report(loaded["weights"])

    assert collect([1], use, 1) == [18]
    assert loaded["weights"] == 17


def test_results_arrive_while_others_still_work() -> None:
    def work(_: int, task: int, report: Report) -> None:
        report(task)
        time.sleep(task)

    events = run([0, 60], work, 2)
    start = time.monotonic()
    seen = {next(event for event in events if event is not None) for _ in range(2)}
    assert seen == {0, 60}
    close(events)
    assert time.monotonic() - start < 5


def test_a_display_may_move_while_nothing_happens() -> None:
    def slow(_: int, task: int, report: Report) -> None:
        time.sleep(0.5)
        report(task)

    events = list(run([1], slow, 1))
    assert events[-1] == 1 or events[-2] == 1
    assert 2 <= events.count(None) <= 6


# --- deaths


def dying(how: Callable[[], object], victim: int = 3) -> Callable[[int, int, Report], None]:
    def work(_: int, task: int, report: Report) -> None:
        report(("begin", task))
        if task == victim:
            how()
        report(("end", task))

    return work


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raises(error: BaseException) -> Callable[[], None]:
    def how() -> None:
        raise error

    return how


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (killed, "was killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "was killed by SIGTERM"),
        (lambda: os._exit(7), "ended with exit code 7"),
        (lambda: sys.exit(3), "ended with exit code 3"),
        (raises(ValueError("a bug")), "ended with exit code 1"),
        (raises(EOFError("a truncated file")), "ended with exit code 1"),
        (raises(BrokenPipeError("a helper has died")), "ended with exit code 1"),
        (raises(ConnectionResetError("a server has gone")), "ended with exit code 1"),
    ],
)
def test_a_worker_that_dies_loses_its_task_and_nothing_else(
    how: Callable[[], object], reason: str, jobs: int, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = list(range(7))
    events = collect(tasks, dying(how), jobs)
    assert [event for event in events if isinstance(event, Died)] == [Died(3, reason)]
    assert {event for event in events if isinstance(event, tuple)} == {
        (word, n) for n in tasks for word in ("begin", "end") if (word, n) != ("end", 3)
    }
    assert ("Traceback" in capfd.readouterr().err) == (reason == "ended with exit code 1")


def test_what_a_worker_said_before_it_died_is_not_lost() -> None:
    def work(_: int, task: int, report: Report) -> None:
        for n in range(100):
            report(n)
        killed()

    assert collect([0], work, 1) == [*range(100), Died(0, "was killed by SIGKILL")]


def test_a_worker_killed_in_the_middle_of_a_report_is_a_death() -> None:
    def work(_: int, task: int, report: Report) -> None:
        report(os.getpid())
        if task:
            threading.Timer(0.2, killed).start()
            while True:
                report(bytes(30_000_000))

    events = (event for event in run([1, 0], work, 1) if event is not None)
    pid = next(events)
    assert isinstance(pid, int)
    assert all_gone([pid], within=10)  # with half a report in the pipe
    death, other = (event for event in events if not isinstance(event, bytes))
    assert death == Died(1, "was killed by SIGKILL")
    assert other != pid


def test_a_worker_that_dies_between_two_tasks_is_replaced() -> None:
    def work(_: int, task: int, report: Report) -> None:
        report(os.getpid())
        if task == 0:
            threading.Timer(0.1, killed).start()  # it is idle by then, as its next task is not given yet

    events = (event for event in run([0, 1, 2], work, 1) if event is not None)
    pid = next(events)
    assert isinstance(pid, int)
    assert all_gone([pid], within=10)
    death, other = events
    assert death == Died(1, "was killed by SIGKILL")
    assert other != pid


def test_every_worker_may_die_every_time() -> None:
    events = collect(list(range(6)), lambda _, task, report: killed(), 3)
    assert sorted(event.task for event in events if isinstance(event, Died)) == list(range(6))
    assert len(events) == 6


# --- ends


def pids_of(tasks: int, jobs: int) -> tuple[Iterator[object], list[int]]:
    """A run whose workers have all said who they are and will sleep for a minute."""

    def work(_: int, task: int, report: Report) -> None:
        report(os.getpid())
        time.sleep(60)

    events = run(list(range(tasks)), work, jobs)
    pids = list(itertools.islice((event for event in events if event is not None), jobs))
    return events, [pid for pid in pids if isinstance(pid, int)]


def test_workers_end_when_the_listener_stops_listening() -> None:
    events, pids = pids_of(4, 2)
    assert len(pids) == 2
    assert not any(map(gone, pids))
    start = time.monotonic()
    close(events)
    assert all(map(gone, pids))
    assert time.monotonic() - start < 1


def test_workers_end_when_the_listener_fails() -> None:
    pids: list[int] = []

    def work(_: int, task: int, report: Report) -> None:
        report(os.getpid())
        time.sleep(60)

    def listen() -> None:
        for event in run([1, 2], work, 2):
            pids.extend([event] if isinstance(event, int) else [])
            if len(pids) == 2:
                raise KeyError("the display has a bug")

    with pytest.raises(KeyError):
        listen()
    assert all_gone(pids, within=1)


def test_nothing_is_left_of_a_finished_run() -> None:
    def who(_: int, task: int, report: Report) -> None:
        report(os.getpid())

    before = set(Path("/proc/self/fd").iterdir())
    pids = [pid for pid in collect(list(range(8)), who, 3) if isinstance(pid, int)]
    assert all(map(gone, pids))
    assert set(Path("/proc/self/fd").iterdir()) <= before


PARENT = """
import os, sys, time
from edgekit.pool import run

def work(number, task, report):
    report(os.getpid())
    if task == "deep in native code":
        while True:
            pass
    time.sleep(60)

try:
    for event in run(["asleep", "deep in native code", "waiting"], work, 2):
        if event is not None:
            print(event, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, with two workers in the middle of their tasks."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def workers_of(parent: subprocess.Popen[str]) -> list[int]:
    assert parent.stdout is not None
    return [int(parent.stdout.readline()) for _ in range(2)]


def test_the_workers_die_when_the_parent_is_killed(parent: subprocess.Popen[str]) -> None:
    pids = workers_of(parent)
    assert not any(map(gone, pids))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert all_gone(pids, within=2)


def test_ctrl_c_ends_the_whole_group_within_a_second_and_without_a_word(parent: subprocess.Popen[str]) -> None:
    pids = workers_of(parent)
    start = time.monotonic()
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does it
    out, err = parent.communicate(timeout=10)
    assert time.monotonic() - start < 1
    assert (parent.returncode, out, err) == (130, "interrupted\n", "")
    assert all(map(gone, pids))


def test_a_worker_alone_takes_no_notice_of_ctrl_c(parent: subprocess.Popen[str]) -> None:
    pids = workers_of(parent)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert not any(map(gone, pids))

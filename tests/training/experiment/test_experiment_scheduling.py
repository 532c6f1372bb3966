"""The scheduling, in real processes: a dying cell is its own failure and is tried again; nobody outlives the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from experiment_fakes import ALWAYS_DIES, BUG, DIES_ONCE, EXITS, FINE, SLEEPS, UNUSABLE, attempts
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, InputUnusable
from edgekit.training.experiment.processes import LocalProcesses, environment, gpus
from edgekit.training.experiment.request import Cell
from edgekit.training.experiment.scheduling import Ended, Ending, Event, Job, Retried, longest_first, run
from edgekit.training.recipe import Recipe
from edgekit.training.request import TrainRequest
from edgekit.training.sources import parse_data

FAKE = "experiment_fakes:train"


def job(folder: Path, seed: int, resolution: int = 32, alpha: float | None = 0.5) -> Job:
    cell = Cell("mobilenet_v2", alpha, resolution, seed)
    request = TrainRequest(cell.model, parse_data("digits"), Recipe("mobilenet"), folder / cell.slug)
    return Job(cell, request, 1, str(folder / f"{cell.slug}.json"))


def schedule(jobs: Sequence[Job], slots: int = 2, retries: int = 2) -> tuple[dict[int, Ended], list[Event]]:
    heard: list[Event] = []
    ended = run(jobs, LocalProcesses(slots, 1, FAKE), retries, heard.append)
    return {it.cell.seed: it for it in ended}, heard


def test_every_cell_is_trained_once_and_heard_of(tmp_path: Path) -> None:
    jobs = [job(tmp_path, FINE, resolution) for resolution in (32, 64, 96, 128)]
    heard: list[Event] = []
    ended = run(jobs, LocalProcesses(2, 1, FAKE), 0, heard.append)
    assert {it.cell for it in ended} == {it.cell for it in jobs}
    assert [it for it in heard if isinstance(it, Ended)] == list(ended)
    assert all(it.error is None and it.attempts == 1 for it in ended)
    pids = {pid for it in jobs for pid in attempts(it)}
    assert len(pids) <= 2
    assert os.getpid() not in pids


def test_nothing_to_do_starts_no_process() -> None:
    assert run([], LocalProcesses(2, 1, "no.such.module:function"), 0, lambda _: None) == ()


def test_a_dying_cell_goes_on_elsewhere_and_the_others_never_notice(tmp_path: Path) -> None:
    jobs = [job(tmp_path, how) for how in (DIES_ONCE, EXITS, FINE)]
    ended, heard = schedule(jobs)
    assert {seed: (it.attempts, it.error) for seed, it in ended.items()} == {
        DIES_ONCE: (2, None),
        EXITS: (2, None),
        FINE: (1, None),
    }
    assert {it.cell.seed for it in heard if isinstance(it, Retried)} == {DIES_ONCE, EXITS}
    assert len(set(attempts(jobs[0]))) == 2


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_cell_that_always_dies_is_given_up_after_so_many_retries(tmp_path: Path, retries: int) -> None:
    jobs = [job(tmp_path, ALWAYS_DIES), job(tmp_path, FINE)]
    ended, heard = schedule(jobs, retries=retries)
    error = ended[ALWAYS_DIES].error
    assert error is not None
    assert "SIGKILL" in error.what
    assert ended[ALWAYS_DIES].attempts == len(attempts(jobs[0])) == retries + 1
    assert sum(isinstance(it, Retried) for it in heard) == retries
    assert ended[FINE].error is None


def test_an_error_is_the_cells_own_and_is_not_tried_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, how) for how in (UNUSABLE, BUG, FINE)]
    ended, heard = schedule(jobs, slots=1)
    unusable, bug = ended[UNUSABLE].error, ended[BUG].error
    assert isinstance(unusable, InputUnusable)
    assert (unusable.what, unusable.where) == ("an image cannot be read", "7.png")
    assert bug is not None
    assert "ZeroDivisionError: a bug" in bug.what
    assert ended[FINE].error is None
    assert not [it for it in heard if isinstance(it, Retried)]
    assert [len(attempts(it)) for it in jobs] == [1, 1, 1]


def test_leaving_early_ends_the_processes(tmp_path: Path) -> None:
    jobs = [job(tmp_path, SLEEPS, resolution) for resolution in (32, 64, 96)]

    class Enough(Exception):
        pass

    def listen(_: Event) -> None:
        if sum(bool(attempts(it)) for it in jobs) == 2:
            raise Enough

    start = time.monotonic()
    with pytest.raises(Enough):
        run(jobs, LocalProcesses(2, 1, FAKE), 0, listen)
    assert time.monotonic() - start < 30
    assert all(gone(pid) for it in jobs for pid in attempts(it))
    assert not attempts(jobs[2])


PARENT = """
import sys
from pathlib import Path
from test_experiment_scheduling import FAKE, SLEEPS, job
from edgekit.training.experiment.processes import LocalProcesses
from edgekit.training.experiment.scheduling import run

folder = Path(sys.argv[1])
run([job(folder, SLEEPS, side) for side in (32, 64)], LocalProcesses(2, 1, FAKE), 5, lambda _: None)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    jobs = [job(tmp_path, SLEEPS, side) for side in (32, 64)]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    ) as parent:
        wait_until(lambda: all(map(attempts, jobs)))
        pids = [pid for it in jobs for pid in attempts(it)]
        assert not any(map(gone, pids))
        parent.send_signal(how)
    wait_until(lambda: all(map(gone, pids)))
    assert [len(attempts(it)) for it in jobs] == [1, 1]


def test_a_process_has_its_threads_and_its_gpu() -> None:
    assert environment(3, 2, []) == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert [environment(slot, 1, ["4", "7"])["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "7", "4"]


def test_gpus_are_those_that_are_listed_or_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(tmp_path / "nothing") == []
    for card in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / card).mkdir()
    assert gpus(tmp_path) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert gpus(tmp_path) == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpus(tmp_path) == []


# --- the scheduling alone, with a runner that decides by itself


class Scripted:
    """Ends jobs one by one, each as the next word of its script says."""

    def __init__(self, scripts: dict[int, list[str]]) -> None:
        self.scripts = {seed: list(words) for seed, words in scripts.items()}
        self.submitted: list[Job] = []
        self.closed = False

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def submit(self, it: Job) -> None:
        self.submitted.append(it)

    def wait(self, seconds: float) -> list[Ending]:
        it = self.submitted.pop(0)
        word = self.scripts[it.cell.seed].pop(0)
        error = None if word == "fine" else EdgekitError(word)
        return [Ending(it, error, died=word == "died")]


@given(
    st.dictionaries(
        st.integers(0, 9), st.tuples(st.integers(0, 5), st.sampled_from(["fine", "error"])), min_size=1, max_size=6
    ),
    st.integers(0, 4),
)
def test_a_cell_ends_as_its_last_attempt_did(plans: dict[int, tuple[int, str]], retries: int) -> None:
    runner = Scripted({seed: ["died"] * deaths + [last] for seed, (deaths, last) in plans.items()})
    heard: list[Event] = []
    ended = run([job(Path(), seed) for seed in plans], runner, retries, heard.append)
    assert runner.closed
    assert len(ended) == len(plans)
    for it in ended:
        deaths, last = plans[it.cell.seed]
        what = "died" if deaths > retries else last
        assert (it.error.what if it.error else "fine") == what
        assert it.attempts == min(deaths, retries) + 1
    assert sum(isinstance(it, Retried) for it in heard) == sum(min(deaths, retries) for deaths, _ in plans.values())


def test_the_longest_cells_go_first() -> None:
    jobs = [job(Path(), 0, side, alpha) for side, alpha in ((32, 1.0), (224, 0.5), (224, None), (96, 1.0))]
    assert [(it.cell.resolution, it.cell.alpha) for it in longest_first(jobs)] == [
        (224, None),
        (224, 0.5),
        (96, 1.0),
        (32, 1.0),
    ]


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition: object, within: float = 240.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)

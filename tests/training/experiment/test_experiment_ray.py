"""Cells on a real local Ray cluster: the same endings as in processes, and a killed worker costs an attempt."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from experiment_fakes import ALWAYS_DIES, BUG, DIES_ONCE, FINE, SLEEPS, UNUSABLE, attempts
from test_experiment_scheduling import FAKE, gone, job, wait_until

from edgekit.errors import EdgekitError, InputUnusable, MachineLacks
from edgekit.training.experiment.on_ray import OnRay
from edgekit.training.experiment.scheduling import Event, Retried, run


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two worker processes that this process is connected to, so that it is started once."""
    with OnRay("local", 2, 1, FAKE) as runner:
        assert isinstance(runner, OnRay)
        yield
    assert not ray.is_initialized()


def test_cells_end_on_ray_as_they_do_in_processes(
    cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(tmp_path, how) for how in (FINE, DIES_ONCE, ALWAYS_DIES, UNUSABLE, BUG)]
    heard: list[Event] = []
    ended = {it.cell.seed: it for it in run(jobs, OnRay("local", 2, 1, FAKE), 1, heard.append)}
    assert {seed: it.attempts for seed, it in ended.items()} == {
        FINE: 1,
        DIES_ONCE: 2,
        ALWAYS_DIES: 2,
        UNUSABLE: 1,
        BUG: 1,
    }
    errors = {seed: it.error for seed, it in ended.items()}
    assert errors[FINE] is errors[DIES_ONCE] is None
    assert isinstance(errors[ALWAYS_DIES], EdgekitError)
    assert "a Ray worker died" in str(errors[ALWAYS_DIES])
    assert isinstance(errors[UNUSABLE], InputUnusable)
    assert str(errors[UNUSABLE]) == "an image cannot be read\n  where: 7.png"
    assert "ZeroDivisionError: a bug" in str(errors[BUG])
    assert {it.cell.seed for it in heard if isinstance(it, Retried)} == {DIES_ONCE, ALWAYS_DIES}
    assert os.getpid() not in {pid for it in jobs for pid in attempts(it)}
    assert capfd.readouterr().out == ""
    assert ray.is_initialized()  # it was there before, and is left running


def test_two_cells_run_at_the_same_time_and_leaving_early_ends_them(cluster: None, tmp_path: Path) -> None:
    jobs = [job(tmp_path, SLEEPS, side) for side in (32, 64, 96)]

    class Enough(Exception):
        pass

    def listen(_: Event) -> None:
        if sum(bool(attempts(it)) for it in jobs) == 2:
            raise Enough

    start = time.monotonic()
    with pytest.raises(Enough):
        run(jobs, OnRay("local", 2, 1, FAKE), 0, listen)
    assert time.monotonic() - start < 30
    pids = [pid for it in jobs for pid in attempts(it)]
    assert len(set(pids)) == 2
    wait_until(lambda: all(map(gone, pids)))


def test_cells_that_fit_on_no_machine_are_refused_and_not_waited_for(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(MachineLacks, match="no machine of the cluster") as refused:
        run([job(tmp_path, FINE)], OnRay("local", 2, 3, FAKE), 0, lambda _: None)
    assert (refused.value.got, refused.value.hint) == ("2 cores on the largest", "--threads 2")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_named_at_once(address: str, tmp_path: Path) -> None:
    runner = OnRay(address, 2, 1, FAKE)
    start = time.monotonic()
    with pytest.raises(MachineLacks, match="no Ray cluster") as refused:
        runner._join()
    assert refused.value.where == f"--ray {address}"
    assert time.monotonic() - start < 30

"""Whole experiments with real trainings: killed anywhere, in processes and on Ray, the table is the same."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_cases import begun, children, images, process, small
from test_experiment_scheduling import gone, wait_until

from edgekit.errors import UsageError
from edgekit.manifest import locked
from edgekit.training import run_folder, transfer
from edgekit.training.experiment import folder, running
from edgekit.training.experiment.cell import wait_until_free
from edgekit.training.experiment.request import Experiment
from edgekit.training.experiment.running import Course, Place, fair_share
from edgekit.training.experiment.scheduling import Ended

TABLES = ("table.csv", "table.json", "table.md")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed")
    heard: list[object] = []
    finished = running.run(small(data), out, Place(2), heard.append)
    assert finished.errors == ()
    assert sum(isinstance(it, Ended) for it in heard) == 6
    assert {it.total for it in heard if isinstance(it, Course)} == {6}
    return out


def assert_same_tables(one: Path, other: Path) -> None:
    for name in TABLES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open() as file:
        return list(csv.DictReader(file))


# --- what an experiment leaves


def test_every_cell_is_a_run_of_its_own_and_a_line_of_the_table(undisturbed: Path, data: Path) -> None:
    cells = small(data).cells
    assert [line["cell"] for line in lines(undisturbed)] == [cell.slug for cell in cells]
    for line, cell in zip(lines(undisturbed), cells, strict=True):
        run = run_folder.read(folder.run_of(undisturbed, cell))
        assert run.best_epoch is not None
        assert (run.status, run.model, run.alpha, run.resolution) == ("done", cell.model, cell.alpha, cell.resolution)
        assert float(line["val_loss"]) == run.best_epoch.val_loss
        assert float(line["last_train_loss"]) == run.history[-1].train_loss
        assert int(line["params"]) == run.params
        assert int(line["macs"]) > 0
    assert len((undisturbed / "timing.csv").read_text().splitlines()) == 7
    assert "2 of 6" not in (undisturbed / "report.html").read_text()
    assert "6 of 6" in (undisturbed / "report.html").read_text()


def test_a_finished_experiment_is_kept_and_trains_nothing(undisturbed: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "cells").rglob("*") if path.is_file()}
    finished = running.run(small(data), undisturbed, Place(2))
    assert all(it.attempts == 0 for it in finished.ended)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_cell_alone_is_the_same_as_one_among_others(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    """Nothing is carried from one cell to the next: no optimiser, no random state."""
    alone = small(data, networks=("mobilenet_v2",), resolutions=(32,))
    running.run(alone, tmp_path, Place(1))
    (line,) = lines(tmp_path)
    assert line in lines(undisturbed)


def test_another_resolution_starts_from_the_same_weights(data: Path) -> None:
    def initial(experiment: Experiment, number: int) -> str:
        request = experiment.train_request(experiment.cells[number], Path())
        found = hashlib.sha256()
        for name, tensor in transfer.start(request, 2).network.state_dict().items():
            found.update(name.encode() + tensor.numpy().tobytes())
        return found.hexdigest()

    for model in small(data).networks:
        one = small(data, networks=(model,), resolutions=(32, 64, 224))
        assert len({initial(one, number) for number in range(3)}) == 1
        assert initial(one, 0) != initial(replace(one, seeds=(1,)), 0)
        assert initial(one, 0) != initial(replace(one, alphas=(0.35,)), 0)


# --- deaths


def end(parent: subprocess.Popen[str]) -> None:
    """Kill the experiment's own process with no time for farewells; its workers go with it."""
    workers = children(parent.pid)
    assert parent.poll() is None, parent.communicate()[1]
    parent.kill()
    parent.communicate()
    wait_until(lambda: all(map(gone, workers)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_three_times_it_ends_with_the_same_table(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    for _ in range(2):
        steps = begun(tmp_path, small(data))
        with process(data, tmp_path) as parent:
            wait_until(steps)
            end(parent)
    steps = begun(tmp_path, small(data))
    with process(data, tmp_path) as parent:
        wait_until(lambda: len(children(parent.pid)) == 2 and steps())
        os.kill(children(parent.pid)[0], signal.SIGKILL)  # a worker
        out, err = parent.communicate()
    assert (parent.returncode, out, err) == (0, "", "")
    assert_same_tables(undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_ray_with_a_worker_killed_the_table_is_the_same(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    steps = begun(tmp_path, small(data))

    def at_work(pid: int) -> bool:
        title = Path(f"/proc/{pid}/cmdline")
        return title.exists() and title.read_bytes().startswith(b"ray::_train")

    with process(data, tmp_path, ray="local") as parent:
        wait_until(steps)
        os.kill(next(pid for pid in children(parent.pid) if at_work(pid)), signal.SIGKILL)
        out, err = parent.communicate()
    assert (parent.returncode, out) == (0, ""), err
    assert "A worker died" in err  # Ray's own words, which belong there
    assert_same_tables(undisturbed, tmp_path)


# --- refusals


def test_a_cell_waits_for_its_former_process_and_then_says_who_it_is(data: Path, tmp_path: Path) -> None:
    free = threading.Event()

    def hold() -> None:
        with locked(tmp_path):
            held.set()
            free.wait(30)

    held = threading.Event()
    former = threading.Thread(target=hold)
    former.start()
    held.wait(30)
    with pytest.raises(UsageError, match="another edgekit"):
        wait_until_free(tmp_path, within=0)
    threading.Timer(0.3, free.set).start()
    wait_until_free(tmp_path, within=30)
    former.join()


def test_changed_data_are_noticed(data: Path, tmp_path: Path) -> None:
    mine = images(tmp_path / "images")
    asked = small(mine, networks=("mobilenet_v1",), recipe=replace(small(mine).recipe, epochs=1))
    running.run(replace(asked, resolutions=(32,)), tmp_path / "out", Place(1))
    (mine / "red" / "0.png").unlink()
    with pytest.raises(UsageError, match="data have changed"):
        running.run(asked, tmp_path / "out", Place(1), force=True)


def test_a_cell_that_cannot_be_trained_is_in_the_table_with_its_reason(data: Path, tmp_path: Path) -> None:
    mine = images(tmp_path / "images")
    for path in (mine / "red").iterdir():
        path.write_bytes(b"no image")
    asked = small(mine, networks=("mobilenet_v1",), resolutions=(32,))
    finished = running.run(asked, tmp_path / "out", Place(1))
    (line,) = lines(tmp_path / "out")
    assert line["status"] == "failed"
    assert line["reason"]
    assert [error.what for error in finished.errors] == [f"{asked.cells[0].slug}: {line['reason']}"]
    assert finished.ended[0].attempts == 1


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("edgekit.environment.usable_cores", lambda: 8)
    assert fair_share(None, None, 100) == (8, 1)
    assert fair_share(None, None, 2) == (2, 4)
    assert fair_share(3, None, 100) == (3, 2)
    assert fair_share(None, 4, 100) == (2, 4)
    assert fair_share(16, None, 100) == (16, 1)
    assert fair_share(16, None, 2) == (16, 4)
    assert fair_share(None, 16, 100) == (1, 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert fair_share(None, None, 100) == (2, 4)

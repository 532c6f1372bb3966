"""What a training writes down as it goes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import MachineLacks
from edgekit.training.callbacks import Board, Steps, write_history
from edgekit.training.run_folder import HISTORY, STEPS, Epoch

EPOCHS = (Epoch(1, 2.0, 0.5, 1.5, 0.6, 1e-3, 2.5, 100.0), Epoch(2, 1 / 3, 0.75, 0.1 + 0.2, 0.7, 1e-4, 2.5, 100.0))


def losses(folder: Path) -> list[float]:
    with (folder / STEPS).open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@given(st.lists(st.floats(allow_nan=False), max_size=20))
def test_a_loss_reads_back_as_the_same_number(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    folder = tmp_path_factory.mktemp("run")
    steps = Steps(folder, 0)
    for number, value in enumerate(values, start=1):
        steps.add(1, number, value)
    steps.close()
    assert losses(folder) == values


def test_what_is_behind_the_checkpoint_is_written_again(tmp_path: Path) -> None:
    steps = Steps(tmp_path, 0)
    steps.add(1, 1, 0.5)
    kept = steps.settle()
    steps.add(1, 2, 0.25)
    steps.close()
    assert losses(tmp_path) == [0.5, 0.25]
    again = Steps(tmp_path, kept)
    again.add(1, 2, 0.125)
    again.close()
    assert losses(tmp_path) == [0.5, 0.125]


def test_a_run_from_the_beginning_begins_the_file_again(tmp_path: Path) -> None:
    for value in (0.5, 0.25):
        steps = Steps(tmp_path, 0)
        steps.add(1, 1, value)
        steps.close()
    assert losses(tmp_path) == [0.25]


def test_history_reads_back_as_the_same_numbers(tmp_path: Path) -> None:
    write_history(tmp_path, EPOCHS)
    with (tmp_path / HISTORY).open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert [Epoch(**{**row, "epoch": int(row["epoch"])}) for row in rows] == list(EPOCHS)  # type: ignore[arg-type]


def test_tensorboard_forgets_what_a_killed_process_logged_behind_its_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "logs").mkdir()
    first = Board(tmp_path, 0)
    for step in (10, 20, 30):
        first.scalars(step, {"loss/step": step / 10})
    first.close()
    second = Board(tmp_path, 20)
    second.scalars(20, {"loss/step": 7.0})
    second.close()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/step")] == [(10, 1.0), (20, 7.0)]


def test_a_missing_tensorboard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(MachineLacks, match="TensorBoard"):
        Board(tmp_path, 0)

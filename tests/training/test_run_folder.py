"""run.json: written whole or not at all, read back equal, and refused when it is not what it says."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.errors import InputUnusable, MachineLacks
from edgekit.preprocessing import CIFAR
from edgekit.training import run_folder
from edgekit.training.recipe import RECIPES
from edgekit.training.run_folder import DataRecord, Epoch, Run

EPOCH = Epoch(1, 2.0, 0.5, 1.5, 0.6, 1e-3, 2.5, 100.0)
RUN = Run(
    created="2026-01-01T00:00:00+00:00",
    edgekit="0",
    model="densenet_bc",
    alpha=None,
    resolution=32,
    options={"depth": "40"},
    head=(),
    num_classes=2,
    classes=("cat", "dog"),
    preprocessing=CIFAR,
    recipe=replace(RECIPES["densenet-cifar"], ema=0.99),
    data=DataRecord("images", "ab12", 0.1, 0, 90, 10),
    seed=0,
    weights="seed:0",
    params=1000,
    asked={"lr": "0.1"},
    tools={"torch": "2"},
    machine={"cpu": "x"},
    history=(EPOCH,),
    best=1,
)


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    run_folder.write(tmp_path, RUN)
    assert run_folder.is_run(tmp_path)
    assert run_folder.read(tmp_path) == RUN
    assert run_folder.read(tmp_path).best_epoch == EPOCH
    assert json.loads((tmp_path / "run.json").read_text())["schema"] == 1


def test_a_folder_without_a_run_says_what_makes_one(tmp_path: Path) -> None:
    assert not run_folder.is_run(tmp_path)
    with pytest.raises(InputUnusable) as caught:
        run_folder.read(tmp_path)
    assert "edgekit train" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "JSON"),
        ("[1]", "schema"),
        ('{"schema": 99}', "schema"),
        ('{"schema": 1}', "fit"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_damaged_one_is_refused(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputUnusable, match=word):
        run_folder.read(tmp_path)


def test_a_full_disk_leaves_the_old_one_whole_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder.write(tmp_path, RUN)
    before = (tmp_path / "run.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgekit.training.run_folder.os.fsync", full)
    with pytest.raises(MachineLacks, match="full"):
        run_folder.write(tmp_path, replace(RUN, status="done"))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_bytes() == before


def test_weights_are_held_to_their_hash(tmp_path: Path) -> None:
    from edgekit.manifest import sha256_file

    weights = tmp_path / run_folder.BEST
    weights.write_bytes(b"weights")
    run_folder.write(tmp_path, RUN)
    with pytest.raises(InputUnusable, match="no such weights"):
        run_folder.weights_of(tmp_path)
    run_folder.write(tmp_path, replace(RUN, files={run_folder.BEST: sha256_file(weights)}))
    assert run_folder.weights_of(tmp_path) == weights
    weights.write_bytes(b"others")
    with pytest.raises(InputUnusable, match="not the weights"):
        run_folder.weights_of(tmp_path)

"""`edgekit experiment` as people type it: small real experiments, and every refusal before anything is trained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Edgekit
from PIL import Image

from edgekit.training import run_folder
from edgekit.training.experiment import folder
from edgekit.training.experiment.request import ALPHAS, NETWORKS, RESOLUTIONS

QUICK = ("--epochs", "1", "--batch", "4", "--workers", "0", "--threads", "1", "--jobs", "1")
TINY = ("mobilenet_v1", "--alpha", ".25", "--res", "32", *QUICK)


@pytest.fixture
def edgekit(edgekit: Edgekit) -> Edgekit:
    return partial(edgekit, "experiment")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ in colour."""
    place = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for name, colour in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
        (place / name).mkdir()
        for number in range(8):
            pixels = np.clip(np.array(colour) + noise.normal(0, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


# --- a whole one


def test_it_trains_exports_measures_and_goes_on(edgekit: Edgekit, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    # So many steps that the batch norms know the data: a network that ignores its input passes no ladder.
    asked = (*TINY, "--epochs", "25", "--seeds", "0,1", "--data", images, "--out", out)
    first = edgekit(*asked, "--json", "--quiet")
    assert (first.code, first.err) == (0, "")
    cells, (group,) = first.json["cells"], first.json["groups"]
    assert [cell["status"] for cell in cells] == ["done", "done"]
    assert group["val_accuracy"]["count"] == 2
    assert group["val_loss"]["low"] < group["val_loss"]["mean"] < group["val_loss"]["high"]
    assert first.json["measured"] == {"exported": [], "timed": [], "not_measured": []}
    table = (out / "table.csv").read_bytes()

    measured = ("--bench", "--no-engine", "--runtime", "onnxruntime-cpu", "--max-time", "0.2")
    second = edgekit(*asked, *measured, "--json")
    assert "kept" in second.err
    found = second.json["measured"]
    assert [it["cell"] for it in found["exported"]] == [cell["cell"] for cell in cells]
    assert all((out / it["dir"] / "manifest.json").is_file() for it in found["exported"])
    good = [it for it in found["exported"] if it["passed"]]
    assert good, second.err
    assert {(it["cell"], it["runtime"]) for it in found["timed"]} == {(good[0]["cell"], "onnxruntime-cpu")}
    assert {it["kind"] for it in found["timed"]} == {"onnx-fp32", "onnx-fp16"}
    assert all(it["p50_ms"] > 0 for it in found["timed"])
    assert (out / "table.csv").read_bytes() == table

    third = edgekit(*asked)
    assert third.code == 0
    assert "mobilenet_v1" in third.out
    assert "±" in third.out
    assert "onnxruntime-cpu" in (out / "report.html").read_text()  # what was measured before is still known


def test_a_failed_cell_is_exit_code_4_and_a_line_with_its_name(edgekit: Edgekit, images: Path, tmp_path: Path) -> None:
    broken = tmp_path / "images"
    for name in ("red", "blue"):
        (broken / name).mkdir(parents=True)
        for path in (images / name).iterdir():
            (broken / name / path.name).write_bytes(path.read_bytes() if name == "red" else b"no image")
    ran = edgekit(*TINY, "--data", broken, "--out", tmp_path / "out", "--json")
    assert ran.code == 4
    assert ran.json["cells"][0]["status"] == "failed"
    assert ran.json["errors"][0]["what"].startswith("mobilenet_v1-a0.25-r32-s0: ")
    assert "mobilenet_v1-a0.25-r32-s0: FAILED" in ran.err


# --- what is asked for


def asked_for(edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """The experiment that the words stand for, without training it."""
    from edgekit.training.experiment import running

    class Stop(Exception):
        pass

    seen = []

    def take(grid: object, *_: object, **__: object) -> None:
        seen.append(grid)
        raise Stop

    monkeypatch.setattr(running, "run", take)
    with pytest.raises(Stop):
        edgekit(*arguments)
    return seen[0]


def test_the_published_experiment_is_one_word(
    edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grid = asked_for(
        edgekit, monkeypatch, "--data", "digits", "--recipe", "mobilenet-published", "--out", tmp_path / "x"
    )
    assert (grid.networks, grid.alphas, grid.resolutions) == (NETWORKS, ALPHAS, RESOLUTIONS)
    assert len(grid.cells) == 60
    assert (grid.recipe.optimizer, grid.recipe.lr, grid.recipe.batch, grid.recipe.epochs) == ("adam", 1e-3, 192, 10)
    assert grid.recipe.augment == "published"
    assert grid.options == (("rounding", "published"),)


def test_every_figure_of_the_recipe_can_be_set(
    edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grid = asked_for(
        edgekit, monkeypatch, *TINY, "--data", "digits", "--out", tmp_path / "x",
        "--set", "ema=0.99", "--set", "label-smoothing=0.1", "--set", "optimizer=sgd", "--lr", "0.1",
        "--set", "schedule=step", "--set", "milestones=[0.5, 0.75]", "--set", "momentum=0.9", "--set", "nesterov=true",
    )  # fmt: skip
    assert (grid.recipe.ema, grid.recipe.label_smoothing, grid.recipe.lr) == (0.99, 0.1, 0.1)
    assert (grid.recipe.optimizer, grid.recipe.milestones, grid.recipe.nesterov) == ("sgd", (0.5, 0.75), True)
    assert (grid.recipe.epochs, grid.recipe.batch) == (1, 4)


def test_a_begun_experiment_goes_on_with_its_threads(
    edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("mobilenet_v1", "--res", "32", "--data", "digits", "--out", tmp_path)
    begun = asked_for(edgekit, monkeypatch, *words, "--threads", "3")
    with folder.opened(tmp_path, begun, force=False):
        pass
    assert asked_for(edgekit, monkeypatch, *words, "--jobs", "7").threads == 3


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--data", "digitz"), 4, "digits"),
        ((), 2, "which images?"),
        (("--data", "digits", "--res", "100"), 2, "100"),
        (("--data", "digits", "--alpha", "wide"), 2, "--alpha"),
        (("--data", "digits", "--recipe", "mobilenett"), 2, "did you mean mobilenet"),
        (("--data", "digits", "--set", "emma=1"), 2, "did you mean ema"),
        (("--data", "digits", "--set", "ema=high"), 2, "ema"),
        (("--data", "digits", "--lr", "-1"), 2, "lr"),
        (("--data", "digits", "--retries", "-1"), 2, "--retries"),
        (("--data", "digits", "--jobs", "0"), 2, "--jobs"),
        (("--data", "digits", "--threads", "-3"), 2, "--threads"),
        (("--data", "digits", "--seeds", "a"), 2, "--seeds"),
        (("--data", "digits", "--option", "rounding=up"), 2, "rounding"),
        (("--data", "digits", "--export", "--profile", "rtxx"), 2, "rtx"),
        (("--data", "digits", "--bench", "--runtime", "onnxruntime-cpuu"), 2, "onnxruntime-cpu"),
        (("--data", "digits", "--bench", "--max-time", "0"), 2, "--max-time"),
        (("mobilenet_v9", "--data", "digits"), 2, "mobilenet_v9"),
        (("--data", "digits", "--res", "32", "--ray", "127.0.0.1:1"), 3, "--ray 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    edgekit: Edgekit, tmp_path: Path, words: tuple[str, ...], code: int, named: str
) -> None:
    ran = edgekit(*words, "--out", tmp_path / "x")
    assert ran.code == code, ran.err
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "x" / "cells").exists()


def test_another_experiment_in_the_folder_is_refused(
    edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("mobilenet_v1", "--res", "32", "--data", "digits", "--out", tmp_path)
    with folder.opened(tmp_path, asked_for(edgekit, monkeypatch, *words), force=False):
        pass
    monkeypatch.undo()
    ran = edgekit(*words, "--epochs", "3", "--json")
    assert ran.code == 2
    assert (ran.json["error"]["found"], ran.json["error"]["wanted"]) == ("epochs 10", "epochs 3")


# --- Ctrl-C


def test_ctrl_c_ends_it_with_130_and_keeps_what_there_is(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    words = [
        "experiment",
        *TINY,
        "--epochs",
        "500",
        "--checkpoint-every",
        "0",
        "--data",
        str(images),
        "--out",
        str(out),
    ]
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        cell = out / "cells" / "mobilenet_v1-a0.25-r32-s0"
        deadline = time.monotonic() + 120
        while not (cell / "state.ckpt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        said, err = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert run_folder.read(cell).status == "running"
    assert (out / folder.NAME).is_file()

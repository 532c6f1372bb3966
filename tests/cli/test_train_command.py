"""`edgekit train` as people type it: real trainings of a second, in this process and in others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from command_line import Edgekit
from training_runs import coloured

from edgekit.training import run_folder
from edgekit.training.recipe import RECIPES

QUICK = ("--option", "depth=10", "--option", "growth=4", "--res", "8", "--threads", "1")
QUICK += ("--workers", "0", "--batch", "8", "--epochs", "2", "--lr", "0.01", "--optimizer", "adam")


@pytest.fixture
def edgekit(edgekit: Edgekit) -> Edgekit:
    return partial(edgekit, "train")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"), 8)


def test_it_trains_says_how_and_is_not_repeated(edgekit: Edgekit, images: Path, tmp_path: Path) -> None:
    first = edgekit("densenet_bc", "--data", images, *QUICK, "--out", tmp_path / "run")
    assert first.code == 0, first.err
    assert "epoch 2/2" in first.err
    assert "best" in first.out
    assert str(tmp_path / "run") in first.out
    again = edgekit("densenet_bc", "--data", images, *QUICK, "--out", tmp_path / "run", "--json")
    assert again.json["already"] is True
    assert "finished before" in again.err
    assert [epoch["epoch"] for epoch in again.json["history"]] == [1, 2]
    assert again.json["best"] in again.json["history"]


def test_the_default_folder_names_network_data_and_seed(
    edgekit: Edgekit, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = edgekit("densenet_bc", "--data", images, *QUICK, "--epochs", "1", "--seed", "3", "--quiet", "--json")
    assert ran.err == ""
    assert ran.json["folder"] == f"runs/densenet_bc-r8-depth-10-growth-4-{images.name}-s3"
    assert run_folder.read(Path(ran.json["folder"])).seed == 3


def test_every_figure_of_a_recipe_is_an_option(edgekit: Edgekit, images: Path, tmp_path: Path) -> None:
    options = {
        "optimizer": "sgd",
        "lr": "0.02",
        "weight-decay": "0.001",
        "momentum": "0.8",
        "batch": "8",
        "epochs": "2",
        "schedule": "step",
        "milestones": "0.25,0.75",
        "gamma": "0.3",
        "warmup-epochs": "0.5",
        "label-smoothing": "0.1",
        "mixup": "0.2",
        "cutmix": "0.3",
        "ema": "0.9",
        "clip": "2",
        "patience": "5",
        "augment": "light",
        "precision": "fp32",
        "head-lr-factor": "2",
        "layer-decay": "0.9",
        "unfreeze-at": "0.5",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    network = ("--option", "depth=10", "--option", "growth=4", "--res", "8", "--threads", "1", "--workers", "0")
    ran = edgekit(
        "densenet_bc",
        "--data",
        images,
        "--recipe",
        "mobilenet",
        *words,
        "--nesterov",
        "--freeze",
        *network,
        "--out",
        tmp_path,
    )
    assert ran.code == 0, ran.err
    recipe = run_folder.read(tmp_path).recipe
    unchanged = {
        name for name in vars(recipe) if name != "name" and getattr(recipe, name) == getattr(RECIPES["mobilenet"], name)
    }
    assert unchanged == set()
    assert recipe.milestones == (0.25, 0.75)


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("mobilenet_v9", "--data", "digits"), 2, "no network"),
        (("densenet_bc", "--data", "digtis"), 4, "did you mean digits"),
        (("densenet_bc", "--data", "digits", "--recipe", "mobilnet"), 2, "mobilenet"),
        (("densenet_bc", "--data", "digits", "--lr", "-1"), 2, "lr"),
        (("densenet_bc", "--data", "digits", "--optimizer", "adm"), 2, "adam"),
        (("densenet_bc", "--data", "digits", "--optimizer", "adam", "--nesterov"), 2, "nesterov"),
        (("densenet_bc", "--data", "digits", "--alpha", "0.5"), 2, "alpha"),
        (("densenet_bc", "--data", "digits", "--res", "33"), 2, "resolution"),
        (("densenet_bc", "--data", "digits", "--weights", "nothing.pt"), 4, "no such weights"),
        (("densenet_bc", "--data", "digits", "--weights", "default"), 2, "publish no weights"),
        (("densenet_bc", "--data", "digits", "--devices", "0"), 2, "--devices"),
        (("densenet_bc", "--data", "digits", "--workers", "-1"), 2, "--workers"),
        (("densenet_bc", "--data", "digits", "--milestones", "a"), 2, "--milestones"),
        (("densenet_bc", "--data", "digits", "--distil-alpha", "2"), 2, "distil-alpha"),
        (("se_mobilenet_style", "--data", "digits"), 2, "style"),
    ],
)
def test_mistakes_are_named(edgekit: Edgekit, tmp_path: Path, arguments: tuple[str, ...], code: int, word: str) -> None:
    ran = edgekit(*arguments, "--out", tmp_path / "run", "--json")
    assert ran.code == code, ran.err
    assert word in ran.err
    assert ran.json["error"]["exit_code"] == code
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_missing_package_is_named_with_how_to_get_it(
    edgekit: Edgekit, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning.fabric", None)
    ran = edgekit("densenet_bc", "--data", images, *QUICK, "--out", tmp_path)
    assert ran.code == 3
    assert 'pip install "edgekit-trt[train]"' in ran.err


def test_other_processes_of_a_group_are_silent(
    edgekit: Edgekit, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edgekit("densenet_bc", "--data", images, *QUICK, "--epochs", "1", "--out", tmp_path)
    monkeypatch.setenv("RANK", "1")
    ran = edgekit("densenet_bc", "--data", images, *QUICK, "--epochs", "1", "--out", tmp_path, "--json")
    assert (ran.out, ran.err) == ("", "")


def process(*arguments: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", "train", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_ctrl_c_ends_it_at_once_and_the_same_command_goes_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("densenet_bc", "--data", images, *QUICK, "--epochs", "100000", "--out", out)
    started = process(*arguments)
    _wait_for((out / "best.safetensors").exists, started)
    began = time.monotonic()
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert "interrupted" in err
    assert time.monotonic() - began < 30  # how long a busy machine takes is no matter of this test
    kept = run_folder.read(out)
    assert kept.status == "running"
    assert (out / "state.ckpt").exists()
    again = process(*arguments)
    _wait_for(lambda: len(run_folder.read(out).history) > len(kept.history), again)
    again.send_signal(signal.SIGINT)
    _, err = again.communicate(timeout=60)
    assert "going on at epoch" in err
    assert run_folder.read(out).history[: len(kept.history)] == kept.history


def _wait_for(happened: Callable[[], bool], started: subprocess.Popen[str]) -> None:
    while not happened():
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.05)


def test_a_step_that_takes_too_long_is_not_waited_for() -> None:
    """A process that hears Ctrl-C and is busy in one long call ends with 130 all the same."""
    code = """
import torch, sys
from edgekit.cli.output import Output
from edgekit.cli.train import _Watch
with _Watch(Output("train")) as watch:
    print("ready", flush=True)
    a = torch.randn(20_000, 20_000)
    torch.linalg.svd(a)  # minutes, in one call
"""
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    time.sleep(2)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert "interrupted" in err


def test_after_a_training_ctrl_c_is_what_it_was(edgekit: Edgekit, images: Path, tmp_path: Path) -> None:
    handler, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    edgekit("densenet_bc", "--data", images, *QUICK, "--epochs", "1", "--out", tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.set_wakeup_fd(-1) == -1
    time.sleep(0.2)
    assert threading.active_count() <= threads

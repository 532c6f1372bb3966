"""Training from beginning to end: what it leaves, that it goes on exactly where it was killed, and what stops it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from training_runs import BUSY, coloured, request, trained

from edgekit.errors import GateFailed, InputUnusable, MachineLacks, UsageError
from edgekit.training import checkpointing, run_folder, transfer
from edgekit.training.augment import Augment
from edgekit.training.callbacks import Progress
from edgekit.training.recipe import Recipe
from edgekit.training.run_folder import BEST, HISTORY, LAST, LOGS, NAME, STATE, STEPS

KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training_runs import request, trained
seen = 0
def hear(progress):
    global seen
    seen += progress.stage == "training"
    if seen == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
trained(replace(request(Path(sys.argv[2]), Path(sys.argv[3])), checkpoint_every_steps=4), hear)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """54 images to train with: six full batches of eight and one of six."""
    return coloured(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    trained(request(images, out))
    return out


def kill(images: Path, out: Path, after: int) -> None:
    """Run the same training in a process of its own, which is killed after so many steps."""
    here = str(Path(__file__).parent.parent)
    argv = [sys.executable, "-c", KILLED, here, str(images), str(out), str(after)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def left(out: Path) -> dict[str, object]:
    """All of a finished run that does not depend on the clock."""
    run = run_folder.read(out)
    plain = [replace(epoch, seconds=0.0, samples_per_s=0.0) for epoch in run.history]
    return {
        "steps": (out / STEPS).read_text(),
        "history": plain,
        "best": run.best,
        "files": {name: (out / name).read_bytes() for name in (BEST, LAST)},
        "hashes": run.files,
    }


# --- what it leaves


def test_it_learns_and_leaves_what_others_need(undisturbed: Path) -> None:
    run = run_folder.read(undisturbed)
    assert run.status == "done"
    assert [epoch.epoch for epoch in run.history] == [1, 2, 3]
    assert run.best_epoch is not None
    assert run.best_epoch.val_accuracy == max(epoch.val_accuracy for epoch in run.history)
    assert run.history[-1].train_loss < run.history[0].train_loss
    assert run.classes == ("class0", "class1", "class2")
    assert (run.data.train, run.data.val) == (54, 12)
    assert run_folder.weights_of(undisturbed).name == BEST
    assert run_folder.weights_of(undisturbed, LAST).name == LAST
    assert (undisturbed / HISTORY).read_text().count("\n") == 4
    assert (undisturbed / STEPS).read_text().count("\n") == 1 + 3 * 7
    assert not (undisturbed / STATE).exists()
    assert {path.name for path in undisturbed.iterdir()} == {NAME, BEST, LAST, HISTORY, STEPS, LOGS, ".edgekit.lock"}


def test_the_weights_are_those_of_the_figures(undisturbed: Path) -> None:
    from edgekit.models import _create
    from edgekit.training.augment import normalise
    from edgekit.training.labelled import open_data
    from edgekit.training.loading import Batches
    from edgekit.training.sources import parse_data

    run = run_folder.read(undisturbed)
    state = safetensors.torch.load_file(undisturbed / BEST)
    network = _create.with_state(run.model, run.alpha, run.num_classes, {"depth": 10, "growth": 4}, state, "best")
    data = open_data(parse_data(run.data.text), run.resolution, contract=None, val_share=0.2)
    right = 0
    with torch.inference_mode():
        for images, labels in Batches(data.val, 5, seed=0, epoch=0, shuffle=False, workers=0):
            right += int((network(normalise(images, run.preprocessing)).argmax(1) == labels).sum())
    assert run.best_epoch is not None
    assert right / len(data.val) == run.best_epoch.val_accuracy


def test_averaged_weights_are_the_best_ones_and_others_the_last(images: Path, tmp_path: Path) -> None:
    recipe = replace(BUSY, epochs=1)
    trained(request(images, tmp_path / "with", recipe))
    trained(request(images, tmp_path / "without", replace(recipe, ema=None)))
    assert (tmp_path / "with" / BEST).read_bytes() != (tmp_path / "with" / LAST).read_bytes()
    assert (tmp_path / "without" / BEST).read_bytes() == (tmp_path / "without" / LAST).read_bytes()
    same = [safetensors.torch.load_file(tmp_path / name / LAST) for name in ("with", "without")]
    assert all(torch.equal(tensor, same[1][name]) for name, tensor in same[0].items())


def test_tensorboard_can_read_its_logs(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / LOGS))
    events.Reload()
    run = run_folder.read(undisturbed)
    found = [(event.step, event.value) for event in events.Scalars("accuracy/validation")]
    assert found == [(7 * epoch.epoch, pytest.approx(epoch.val_accuracy)) for epoch in run.history]
    assert len(events.Scalars("loss/step")) == 2  # of 21 steps, every tenth


# --- the same again


@pytest.mark.parametrize("after", [3, 12])
def test_a_killed_run_goes_on_to_the_same_result(images: Path, undisturbed: Path, tmp_path: Path, after: int) -> None:
    out = tmp_path / "killed"
    kill(images, out, after)
    assert run_folder.read(out).status == "running"
    heard: list[Progress] = []
    trained(request(images, out), heard.append)
    steps = [progress for progress in heard if progress.stage == "training"]
    assert len(steps) == 21 - {3: 0, 12: 11}[after]  # checkpoints: every fourth step, every epoch's end
    assert left(out) == left(undisturbed)


def test_one_that_is_killed_again_and_again_too(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for after in (5, 8):
        kill(images, out, after)
    trained(request(images, out))
    assert left(out) == left(undisturbed)


def test_a_stopped_run_keeps_its_last_step(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    heard: list[Progress] = []

    def stop() -> bool:
        return heard[-1].step == 3 and heard[-1].epoch == 2

    with pytest.raises(KeyboardInterrupt):
        trained(request(images, out), heard.append, stop=stop)
    state = checkpointing.load(out)
    assert state is not None
    assert (state.mark.epoch, state.mark.step) == (1, 3)
    trained(request(images, out))
    assert left(out) == left(undisturbed)


def test_a_seed_reproduces_and_another_one_does_not(images: Path, undisturbed: Path, tmp_path: Path) -> None:
    trained(request(images, tmp_path / "same"))
    assert left(tmp_path / "same") == left(undisturbed)
    trained(request(images, tmp_path / "other", seed=1))
    assert left(tmp_path / "other")["steps"] != left(undisturbed)["steps"]


def test_a_finished_run_is_not_repeated(undisturbed: Path, images: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    again = trained(request(images, undisturbed), lambda _: pytest.fail("it trained"))
    assert again.already
    assert again.best == run_folder.read(undisturbed).best_epoch
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_another_request_is_refused_with_what_differs(undisturbed: Path, images: Path) -> None:
    with pytest.raises(UsageError) as caught:
        trained(request(images, undisturbed, replace(BUSY, lr=0.5)))
    assert "lr 0.01" in (caught.value.got or "")
    assert "lr 0.5" in (caught.value.wanted or "")
    assert "seed" not in (caught.value.wanted or "")


def test_force_starts_again_and_leaves_strangers_alone(images: Path, tmp_path: Path) -> None:
    quick = replace(BUSY, epochs=1)
    trained(request(images, tmp_path, quick))
    (tmp_path / "notes.txt").write_text("mine")
    trained(request(images, tmp_path, replace(quick, lr=0.5)), force=True)
    assert run_folder.read(tmp_path).recipe.lr == 0.5
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_data_that_changed_in_between_are_noticed(tmp_path: Path) -> None:
    root, out = coloured(tmp_path / "images", 5), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(request(root, out), stop=lambda: True)
    (root / "class0" / "000.png").unlink()
    with pytest.raises(UsageError, match="data have changed"):
        trained(request(root, out))


# --- what stops it


def test_a_loss_that_is_no_number_leaves_its_batch(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def poisoned(self: Augment, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        inputs, labels = plain(self, *arguments)
        return (inputs * float("nan") if calls == 9 else inputs), labels

    plain = Augment.__call__
    monkeypatch.setattr(Augment, "__call__", poisoned)
    with pytest.raises(GateFailed) as caught:
        trained(request(images, tmp_path, replace(BUSY, mixup=0.0)))
    assert caught.value.exit_code == 1
    assert caught.value.where == "epoch 2, step 2"
    assert "batch-2-2.safetensors" in (caught.value.got or "")
    batch = safetensors.torch.load_file(tmp_path / "batch-2-2.safetensors")
    assert batch["images"].shape == (8, 3, 8, 8)
    assert bool(batch["images"].isnan().all())
    assert batch["labels"].shape == (8,)
    assert run_folder.weights_of(tmp_path, LAST)  # of the first epoch, still whole


def test_a_rate_far_too_high_is_noticed_whatever_it_breaks(images: Path, tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="not finite"):
        trained(request(images, tmp_path, Recipe("wild", "sgd", lr=1e30, batch=8, epochs=3, augment="none")))


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    images: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, sync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr("edgekit.training.run_folder.os.fsync", full)
    with pytest.raises(MachineLacks, match="disk is full"):
        trained(request(images, tmp_path, checkpoint_every_steps=1))
    assert not list(tmp_path.glob(".*.partial-*"))
    state = checkpointing.load(tmp_path)
    assert state is not None
    monkeypatch.setattr("edgekit.training.run_folder.os.fsync", sync)
    trained(request(images, tmp_path))
    assert left(tmp_path) == left(undisturbed)


def test_a_damaged_state_is_refused_with_what_to_do(images: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(request(images, tmp_path), stop=lambda: True)
    (tmp_path / STATE).write_bytes(b"nonsense")
    with pytest.raises(InputUnusable) as caught:
        trained(request(images, tmp_path))
    assert "--force" in (caught.value.hint or "")


def test_two_at_a_time_in_one_folder_are_refused(images: Path, tmp_path: Path) -> None:
    def another(progress: Progress) -> None:
        with pytest.raises(UsageError, match="another edgekit"):
            trained(request(images, tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(request(images, tmp_path), another)


# --- corner cases


def test_early_stopping(images: Path, tmp_path: Path) -> None:
    # Features that stay put, a head that hardly moves: no epoch is better than the first.
    still = Recipe("still", "sgd", lr=1e-30, batch=8, epochs=9, patience=2, augment="none", freeze=True)
    run = trained(request(images, tmp_path, still))
    assert run.stopped == "early"
    assert (run.best.epoch, len(run.history)) == (1, 3)
    assert trained(request(images, tmp_path, still)).already


def test_fewer_images_than_a_batch(tmp_path: Path) -> None:
    root = coloured(tmp_path / "images", 3)
    run = trained(request(root, tmp_path / "run", replace(BUSY, batch=64, epochs=1)))
    assert len(run.history) == 1
    assert (tmp_path / "run" / STEPS).read_text().count("\n") == 2


def test_a_last_batch_of_one_image_is_left_out_and_said_so(tmp_path: Path) -> None:
    root = coloured(tmp_path / "images", 4)  # 9 to train with
    heard: list[Progress] = []
    trained(request(root, tmp_path / "run", replace(BUSY, batch=4, epochs=1)), heard.append)
    assert (tmp_path / "run" / STEPS).read_text().count("\n") == 1 + 2
    assert any("last image" in progress.text for progress in heard)


def test_a_batch_of_one_where_batch_norm_cannot_take_it(tmp_path: Path) -> None:
    root = coloured(tmp_path / "images", 4)
    with pytest.raises(UsageError, match="batch of one"):
        trained(
            replace(
                request(root, tmp_path / "run", Recipe("x", batch=1, epochs=1)),
                model="mobilenet_v1",
                alpha=0.1,
                resolution=32,
                options=(),
            )
        )


def test_image_networks_are_sent_elsewhere(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        trained(replace(request(images, tmp_path), model="se_mobilenet_style", resolution=64, options=()))
    assert "style" in (caught.value.hint or "")


def test_fp16_needs_a_gpu(images: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="fp16"):
        trained(request(images, tmp_path, replace(BUSY, precision="fp16")))


def test_bf16_trains_on_the_cpu(images: Path, tmp_path: Path) -> None:
    run = trained(request(images, tmp_path, replace(BUSY, precision="bf16", epochs=1)))
    plain = trained(request(images, tmp_path / "fp32", replace(BUSY, epochs=1)))
    assert run.best.train_loss == pytest.approx(plain.best.train_loss, rel=0.05)
    assert run.best.train_loss != plain.best.train_loss
    assert all(
        tensor.dtype in (torch.float32, torch.int64) for tensor in safetensors.torch.load_file(tmp_path / LAST).values()
    )


def test_frozen_features_stay_put_through_a_whole_training(images: Path, tmp_path: Path) -> None:
    frozen = replace(BUSY, freeze=True, epochs=2, weight_decay=0.1)
    asked = request(images, tmp_path, frozen, options={"dropout": "0.2"})
    before = transfer.start(asked, 3).network.state_dict()
    trained(asked)
    for name in (BEST, LAST):
        after = safetensors.torch.load_file(tmp_path / name)
        changed = {key for key, tensor in after.items() if not torch.equal(tensor, before[key])}
        assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimiser_is_taken_up_exactly(images: Path, tmp_path: Path, optimizer: Any) -> None:
    recipe = Recipe("x", optimizer, lr=1e-3, momentum=0.9 if optimizer in ("sgd", "rmsprop") else 0, batch=16, epochs=1)
    trained(request(images, tmp_path / "whole", recipe))
    heard: list[Progress] = []
    with pytest.raises(KeyboardInterrupt):
        trained(request(images, tmp_path / "parts", recipe), heard.append, stop=lambda: heard[-1].step == 2)
    trained(request(images, tmp_path / "parts", recipe))
    assert left(tmp_path / "parts") == left(tmp_path / "whole")


def test_processes_share_the_work(images: Path, tmp_path: Path) -> None:
    """Two processes as torchrun starts them, on one machine: one folder, and nearly the losses of one alone."""
    here = str(Path(__file__).parent.parent)
    code = f"""
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from dataclasses import replace
from training_runs import BUSY, request, trained
quick = replace(BUSY, augment="none", mixup=0.0, epochs=2)
trained(request(Path({str(images)!r}), Path({str(tmp_path / "two")!r}), quick))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    argv = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        _free_port(),
        script,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    run = run_folder.read(tmp_path / "two")
    assert (run.status, run.processes, len(run.history)) == ("done", 2, 2)
    assert (tmp_path / "two" / STEPS).read_text().count("\n") == 1 + 2 * 7
    trained(request(images, tmp_path / "one", replace(BUSY, augment="none", mixup=0.0, epochs=2)))
    one = run_folder.read(tmp_path / "one")
    assert run.history[0].train_loss == pytest.approx(one.history[0].train_loss, rel=0.05)


def _free_port() -> str:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])

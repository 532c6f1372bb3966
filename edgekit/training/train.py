"""Train a network by a recipe, so that it can be killed anywhere and goes on as if it had never stopped.

Lightning's Fabric brings the devices, the processes and the precision; what a step is stands here. Its Trainer would
bring a loop as well, but one whose place in an epoch is kept in private parts. All that is random in a step comes from
(seed, epoch, step), so a checkpoint needs no generator's state.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from edgekit import __version__, models
from edgekit.environment import stamp, usable_cores
from edgekit.errors import GateFailed, InputUnusable, MachineLacks, UsageError
from edgekit.manifest import disk_errors, locked
from edgekit.sources.weights import identity
from edgekit.training import checkpointing, distil, run_folder, transfer
from edgekit.training.augment import Augment, normalise
from edgekit.training.callbacks import Listener, Progress, Records
from edgekit.training.checkpointing import Mark, State
from edgekit.training.labelled import Splits, open_data
from edgekit.training.loading import Batches, default_workers
from edgekit.training.module import Average, Criterion, Place, Sums, optimiser, right, set_rate
from edgekit.training.request import TrainRequest, asked
from edgekit.training.run_folder import BEST, LAST, DataRecord, Epoch, Run

if TYPE_CHECKING:
    from lightning.fabric import Fabric

VALIDATION_PIXELS = 2**22  # in one batch: 4096 images of 32 pixels, 83 of 224
LARGEST_VALIDATION = 512
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
TOOLS = ("torch", "torchvision", "lightning", "numpy", "pillow")
ROAMING = ("standard", "published")  # augmentations that move the image about


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its epochs, the best of them, and whether it stopped `early`.

    `already` says that it was finished before, and nothing was done; `notes` is what there was to say.
    """

    folder: Path
    history: tuple[Epoch, ...]
    best: Epoch
    params: int
    stopped: Literal["done", "early"]
    already: bool = False
    notes: tuple[str, ...] = ()


def train(
    request: TrainRequest,
    listen: Listener = lambda _: None,
    *,
    stop: Callable[[], bool] = lambda: False,
    force: bool = False,
) -> Trained:
    """Train as asked, or go on with what an earlier call of the same request left in `request.out`.

    `stop` is asked after every step; when it says so, the state is saved and KeyboardInterrupt raised. `force` starts
    again, whatever is in the folder. Every process of several returns the same; one of them writes.

    Raises UsageError where another request wrote the folder and for what makes no training, InputUnusable for data and
    weights that cannot be used, MachineLacks for packages and disk space, GateFailed for a loss that is not finite.
    """
    fabric = _launched(request)
    transfer.check(request)
    resolution = request.resolution or models.info(request.model).default_resolution
    said = asked(request)
    before = None if force else _before(request.out, said)
    if before is not None and before.status != "running":
        return _trained(request.out, before, already=True)
    data = open_data(request.data, resolution, contract=None, val_share=request.val_share, seed=request.data_seed)
    _check_data(request, data, before)
    with _owned(request.out, fabric, force):
        fabric.barrier()  # what is cleared away is gone for all of them
        start = transfer.start(request, len(data.classes))
        run = before or _begun(request, said, data, start, resolution, fabric.world_size)
        state = checkpointing.load(request.out) if before is not None else None
        return _Loop(fabric, request, data, start.network, run, listen, stop).run(state)


# --- what there is already


def _before(folder: Path, said: dict[str, str]) -> Run | None:
    """The run that is in the folder. Raises UsageError, naming what differs, when it is another one's."""
    if not run_folder.is_run(folder):
        return None
    run = run_folder.read(folder)
    differs = [key for key in {**run.asked, **said} if run.asked.get(key) != said.get(key)]
    if not differs:
        return run
    raise UsageError(
        "the folder holds another training",
        where=str(folder),
        got=", ".join(f"{key} {run.asked.get(key, 'nothing') or 'nothing'}" for key in differs),
        wanted=", ".join(f"{key} {said.get(key, 'nothing') or 'nothing'}" for key in differs),
        hint="another --out, or --force to start again in this one",
    )


def _check_data(request: TrainRequest, data: Splits, before: Run | None) -> None:
    if before is not None and before.data.digest != data.digest:
        raise UsageError(
            "the data have changed since this training began",
            where=str(request.out),
            got=f"{request.data.text}, digest {data.digest[:16]}",
            wanted=f"digest {before.data.digest[:16]}",
            hint="--force starts again with the data as they are",
        )
    if len(data.train) < 2:
        raise InputUnusable("one image is not enough to train on", where=f"--data {request.data.text}")


def _begun(
    request: TrainRequest, said: dict[str, str], data: Splits, start: transfer.Start, resolution: int, processes: int
) -> Run:
    has_alpha = models.info(request.model).has_alpha
    return Run(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        edgekit=__version__,
        model=request.model,
        alpha=(request.alpha or 1.0) if has_alpha else None,
        resolution=resolution,
        options=dict(request.options),
        head=request.head,
        num_classes=len(data.classes),
        classes=data.classes,
        preprocessing=data.contract,
        recipe=request.recipe,
        data=DataRecord(
            request.data.text, data.digest, request.val_share, request.data_seed, len(data.train), len(data.val)
        ),
        seed=request.seed,
        weights=identity(request.weights),
        params=_params(start.network),
        asked=said,
        tools={name: importlib.metadata.version(name) for name in TOOLS},
        machine=stamp(),
        notes=start.notes,
        processes=processes,
    )


def _params(network: nn.Module) -> int:
    """Those that a deployed network has: the auxiliary head is for training alone."""
    named = network.named_parameters()
    return sum(parameter.numel() for name, parameter in named if not name.startswith("auxiliary."))


def _trained(folder: Path, run: Run, *, already: bool = False) -> Trained:
    best = run.best_epoch
    if best is None or run.status == "running":
        raise InputUnusable("the run has no finished epoch", where=str(folder), hint="start again with --force")
    return Trained(folder, run.history, best, run.params, run.status, already, run.notes)


@contextlib.contextmanager
def _owned(folder: Path, fabric: Fabric, force: bool) -> Iterator[None]:
    """The folder for this run alone: one process writes it, the others only train."""
    if not fabric.is_global_zero:
        yield
        return
    with locked(folder), disk_errors(folder):
        for leftover in folder.glob(".*.partial-*"):
            leftover.unlink(missing_ok=True)
        if force and run_folder.is_run(folder):
            _cleared(folder)
        yield


def _cleared(folder: Path) -> None:
    """Take away what an earlier run wrote, and nothing else; run.json first, so that no half of it looks like one."""
    for name in (run_folder.NAME, run_folder.STATE, BEST, LAST, run_folder.STEPS, run_folder.HISTORY):
        (folder / name).unlink(missing_ok=True)
    for batch in folder.glob("batch-*.safetensors"):
        batch.unlink()
    shutil.rmtree(folder / run_folder.LOGS, ignore_errors=True)


# --- devices


def _launched(request: TrainRequest) -> Fabric:
    """The devices, and the other processes where there are to be several; torchrun's are taken as they are."""
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        hint = 'pip install "edgekit-trt[train]"'
        raise MachineLacks("lightning, which training needs, is not installed", got=str(error), hint=hint) from error
    precision = _precision(request.recipe.precision)
    devices, nodes = _processes(request)
    fabric = Fabric(devices=devices, num_nodes=nodes, precision=precision)
    fabric.launch()
    if fabric.world_size > 1:
        # Lightning does so for NCCL only; a process with Gloo's threads left running has been seen to abort at its end.
        atexit.register(_part)
    torch.set_num_threads(request.threads or max(1, usable_cores() * nodes // fabric.world_size))
    return fabric


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _processes(request: TrainRequest) -> tuple[int | Literal["auto"], int]:
    """Devices of each machine, and machines: as torchrun has started them, where it has, else as asked for.

    Left to itself, Fabric takes one CPU for all there are, and every process for the only one.
    """
    local, world = (os.environ.get(name) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if local is None or world is None:
        return request.devices, request.nodes
    return int(local), int(world) // int(local)


def _precision(asked: str) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    gpu = torch.cuda.is_available()
    if asked == "fp16" and not gpu:
        raise UsageError("fp16 trains on a GPU only", where="--precision", got=asked, wanted="auto, fp32 or bf16")
    if asked != "auto":
        return PRECISIONS[asked]
    if not gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


# --- the loop


class _Loop:
    """A training in progress: the network, and how far it has come."""

    def __init__(
        self,
        fabric: Fabric,
        request: TrainRequest,
        data: Splits,
        network: nn.Module,
        run: Run,
        listen: Listener,
        stop: Callable[[], bool],
    ) -> None:
        self.fabric, self.request, self.data, self.run_record, self.stop = fabric, request, data, run, stop
        self.recipe, self.folder = request.recipe, request.out
        self.listen = listen if fabric.is_global_zero else lambda _: None
        self.network = network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.layers = transfer.Layers(request.model, self.network, self.recipe, request.head)
        self.layers.apply(0)
        transfer.check_trained(self.network)
        self.teacher = distil.teacher(request, data.classes, data.contract)
        if self.teacher is not None:
            self.teacher.network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.criterion = Criterion(self.recipe, self.teacher)
        self.augment = Augment(
            self.recipe.augment, data.contract, self.recipe.mixup, self.recipe.cutmix, classes=len(data.classes)
        )
        self.optimiser = optimiser(self.recipe, self.layers.groups())
        self.update = cast("torch.optim.Optimizer", fabric.setup_optimizers(self.optimiser))
        self.wrapped: tuple[frozenset[str], nn.Module] | None = None
        self.average = Average(self.network, self.recipe.ema) if self.recipe.ema else None
        self.share = _share(self.recipe.batch, fabric.world_size)
        self.workers = _workers(request, data)
        self.mark, self.sums = Mark(), Sums()
        self.steps = self._steps_of_an_epoch()
        self.saved_at = time.monotonic()
        self.records: Records | None = None

    def run(self, state: State | None) -> Trained:
        """Take up what an earlier call left, if any, and go to the end."""
        self._take_up(state)
        try:
            status = self._epochs()
        finally:
            if self.records is not None:
                self.records.close()
        self._write_run(status)
        if self.fabric.is_global_zero:
            (self.folder / run_folder.STATE).unlink(missing_ok=True)
        return _trained(self.folder, self.run_record)

    def _epochs(self) -> Literal["done", "early"]:
        while self.mark.epoch < self.recipe.epochs:
            if self._is_enough():
                return "early"
            self._train_epoch()
            self._end_epoch()
        return "done"

    def _is_enough(self) -> bool:
        patience, best = self.recipe.patience, self.mark.best
        return patience is not None and best is not None and self.mark.epoch - best >= patience

    # One epoch.

    def _train_epoch(self) -> None:
        epoch, before = self.mark.epoch, self.sums.seconds
        self.layers.apply(epoch)
        forward = self._forward(epoch)
        began, pace = time.perf_counter(), _Pace()
        for step, (images, labels) in zip(range(self.mark.step, self.steps), self._batches(epoch), strict=False):
            loss = self._step(forward, Place(self.request.seed, epoch, step, self.fabric.global_rank), images, labels)
            self.mark = replace(self.mark, step=step + 1)
            self.sums.seconds = before + time.perf_counter() - began
            self._tell_step(loss, pace)
            self._save_if_due()

    def _forward(self, epoch: int) -> nn.Module:
        """The network behind what makes several processes agree; anew where other parts learn than before."""
        frozen = self.layers.frozen(epoch)
        if self.wrapped is None or self.wrapped[0] != frozen:
            self.wrapped = frozen, self.fabric.setup_module(self.network)
        return self.wrapped[1]

    def _step(self, forward: nn.Module, place: Place, images: Tensor, labels: Tensor) -> float:
        """Learn from one batch; returns its mean loss over all processes."""
        rate_at = place.epoch + place.step / self.steps
        set_rate(self.optimiser, self.recipe, rate_at)
        device = self.fabric.device
        generator = torch.Generator().manual_seed(place.number("augment"))
        inputs, targets = self.augment(images.to(device, non_blocking=True), labels.to(device), generator)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(place.number("dropout"))
        with _small_batches(), self.fabric.autocast():
            loss, logits = self.criterion(forward(inputs), inputs, targets)
        self.fabric.backward(loss)
        found = self._summed(loss.detach() * len(images), right(logits.detach(), targets), len(images))
        if not math.isfinite(found.loss):
            self._broken(place, loss, inputs, targets)
        self._update()
        self.sums.add(found.mean_loss, found.right, found.seen)
        return found.mean_loss

    def _update(self) -> None:
        if self.recipe.clip is not None:
            self.fabric.clip_gradients(self.network, self.update, max_norm=self.recipe.clip, error_if_nonfinite=False)
        self.update.step()
        self.optimiser.zero_grad()
        if self.average is not None:
            self.average.update()

    def _summed(self, loss: Tensor, correct: Tensor, images: int) -> Sums:
        """The sums of a step over all processes, which all see the same."""
        if self.fabric.world_size == 1:
            return Sums(loss.item(), correct.item(), images)
        mine = torch.tensor([loss.item(), correct.item(), images], dtype=torch.float64, device=self.fabric.device)
        total = self.fabric.all_reduce(mine, reduce_op="sum")
        assert isinstance(total, Tensor)
        return Sums(total[0].item(), total[1].item(), int(total[2].item()))

    def _broken(self, place: Place, loss: Tensor, images: Tensor, labels: Tensor) -> None:
        """Leave the batch for whoever looks into it, and stop."""
        rank = f"-rank{place.rank}" if self.fabric.world_size > 1 else ""
        path = self.folder / f"batch-{place.epoch + 1}-{place.step + 1}{rank}.safetensors"
        if not bool(loss.isfinite()) or self.fabric.is_global_zero:
            checkpointing.save_batch(path, images, labels)
        raise GateFailed(
            "the loss is not finite",
            where=f"epoch {place.epoch + 1}, step {place.step + 1}",
            got=f"{loss.item()}; the batch is in {path}",
            wanted="a number",
            hint="a smaller --lr, --warmup-epochs, or --clip 1; look at the images of the batch",
        )

    def _end_epoch(self) -> None:
        number = self.mark.epoch + 1
        self._tell("validating")
        val = self._validate()
        sums = self.sums
        epoch = Epoch(
            epoch=number,
            train_loss=sums.mean_loss,
            train_accuracy=sums.accuracy,
            val_loss=val.mean_loss,
            val_accuracy=val.accuracy,
            lr=set_rate(self.optimiser, self.recipe, number - 1 / self.steps),
            seconds=round(sums.seconds + val.seconds, 3),
            samples_per_s=round(sums.seen / max(sums.seconds, 1e-9), 1),
        )
        if not math.isfinite(epoch.val_loss):
            raise GateFailed(
                "the validation loss is not finite",
                where=f"epoch {number}",
                got=str(epoch.val_loss),
                hint="a smaller --lr",
            )
        best = number if self._is_better(epoch) else self.mark.best
        self.mark = replace(
            self.mark,
            epoch=number,
            step=0,
            history=(*self.mark.history, epoch),
            best=best,
            seconds=self.mark.seconds + sums.seconds + val.seconds,
        )
        self.sums = Sums()
        self._write_epoch(epoch)
        self._tell("epoch", finished=epoch)

    def _is_better(self, epoch: Epoch) -> bool:
        best = next((old for old in self.mark.history if old.epoch == self.mark.best), None)
        return best is None or (epoch.val_accuracy, -epoch.val_loss) > (best.val_accuracy, -best.val_loss)

    def _validate(self) -> Sums:
        """The validation images, each once, through the averaged weights where there are any."""
        network = self.average.network if self.average is not None else self.network
        network.eval()
        side, began = self.data.val.side, time.perf_counter()
        size = max(1, min(LARGEST_VALIDATION, VALIDATION_PIXELS // side**2))
        fabric = self.fabric
        batches = Batches(
            self.data.val,
            size,
            seed=0,
            epoch=0,
            shuffle=False,
            workers=self.workers,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )
        loss, correct, seen = 0.0, 0, 0
        with torch.inference_mode(), fabric.autocast():
            for images, labels in batches:
                inputs = normalise(images.to(fabric.device), self.data.contract)
                logits = network(inputs.contiguous(memory_format=torch.channels_last)).float()
                targets = labels.to(fabric.device)
                loss += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
                correct += int(right(logits, targets).item())
                seen += len(images)
        sums = self._summed(torch.tensor(loss, dtype=torch.float64), torch.tensor(correct), seen)
        sums.seconds = time.perf_counter() - began
        return sums

    # What is left on the disk.

    def _take_up(self, state: State | None) -> None:
        if state is not None:
            self.mark, self.sums = state.mark, state.sums
            self.network.load_state_dict(state.network)
            self.optimiser.load_state_dict(state.optimiser)
            self._take_up_average(state)
            self._take_up_scaler(state)
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            self.records = Records(self.folder, self.mark.steps_bytes, self.mark.epoch * self.steps + self.mark.step)
        self._write_run("running")
        self._say(state)

    def _take_up_average(self, state: State) -> None:
        if self.average is not None and state.averaged is not None:
            self.average.network.load_state_dict(state.averaged)
            self.average.steps = state.averaged_steps

    def _take_up_scaler(self, state: State) -> None:
        if state.scaler:
            self.fabric.strategy.precision.load_state_dict(state.scaler)

    def _say(self, state: State | None) -> None:
        for note in self.run_record.notes:
            self._tell("note", text=note)
        if state is not None:
            self._tell("note", text=f"going on at epoch {self.mark.epoch + 1}, step {self.mark.step + 1}")
        if self._drops_one():
            self._tell("note", text="the last image of every epoch is left out: batch norm needs two or more")

    def _save_if_due(self) -> None:
        stopping = self.stop()
        every = self.request.checkpoint_every_steps
        due = every is not None and self.mark.step % every == 0
        if stopping or due or time.monotonic() - self.saved_at >= self.request.checkpoint_every_s:
            self._save()
        if stopping:
            raise KeyboardInterrupt

    def _save(self) -> None:
        if self.records is None:
            return
        self.mark = replace(self.mark, steps_bytes=self.records.steps.settle())
        average = self.average
        checkpointing.save(
            self.folder,
            State(
                self.mark,
                self.sums,
                self.network.state_dict(),
                self.optimiser.state_dict(),
                average.network.state_dict() if average else None,
                average.steps if average else 0,
                self.fabric.strategy.precision.state_dict(),
            ),
        )
        self.saved_at = time.monotonic()

    def _write_epoch(self, epoch: Epoch) -> None:
        """Weights first, then the state that knows of them, then what is read by others."""
        if self.records is None:
            return
        about = {"model": self.request.model, "epoch": str(epoch.epoch), "val_accuracy": repr(epoch.val_accuracy)}
        files = {LAST: checkpointing.save_weights(self.folder / LAST, self.network, about)}
        if self.mark.best == epoch.epoch:
            network = self.average.network if self.average is not None else self.network
            files[BEST] = checkpointing.save_weights(self.folder / BEST, network, about)
        self.mark = replace(self.mark, files={**self.mark.files, **files})
        self._save()
        self.records.epoch(self.mark.epoch * self.steps, self.mark.history)
        self._write_run("running")

    def _write_run(self, status: run_folder.Status) -> None:
        mark = self.mark
        self.run_record = replace(
            self.run_record,
            status=status,
            history=mark.history,
            best=mark.best,
            seconds=round(mark.seconds, 3),
            files=dict(mark.files),
        )
        if self.fabric.is_global_zero:
            run_folder.write(self.folder, self.run_record)

    # Batches.

    def _batches(self, epoch: int) -> Batches:
        return Batches(
            self.data.train,
            self.share,
            seed=self.request.seed,
            epoch=epoch,
            start=self.mark.step,
            shuffle=True,
            workers=self.workers,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            roam=self.recipe.augment in ROAMING,
        )

    def _steps_of_an_epoch(self) -> int:
        images = -(-len(self.data.train) // self.fabric.world_size)
        return -(-images // self.share) - self._drops_one()

    def _drops_one(self) -> bool:
        """Whether the last batch of an epoch would be a single image, of which batch norm can learn nothing."""
        images = -(-len(self.data.train) // self.fabric.world_size)
        return 1 < self.share < images and images % self.share == 1

    # What is told.

    def _tell_step(self, loss: float, pace: _Pace) -> None:
        done = self.mark.epoch * self.steps + self.mark.step
        if self.records is not None:
            self.records.step(self.mark.epoch + 1, self.mark.step, done, loss)
        seconds = pace.step()
        images = self.share * self.fabric.world_size
        left = (self.recipe.epochs * self.steps - done) * seconds if seconds else None
        self._tell("training", loss=loss, samples_per_s=images / seconds if seconds else None, left_s=left)

    def _tell(
        self,
        stage: Literal["note", "training", "validating", "epoch"],
        *,
        loss: float | None = None,
        samples_per_s: float | None = None,
        left_s: float | None = None,
        text: str = "",
        finished: Epoch | None = None,
    ) -> None:
        epoch = finished.epoch if finished else min(self.mark.epoch + 1, self.recipe.epochs)
        self.listen(
            Progress(
                stage,
                epoch,
                self.recipe.epochs,
                self.mark.step,
                self.steps,
                self.sums.mean_loss if loss is None else loss,
                self.sums.accuracy,
                samples_per_s,
                left_s,
                text,
                finished,
            )
        )


class _Pace:
    """Seconds of a step, smoothed; None after the first, which is slower than all others."""

    def __init__(self) -> None:
        self.last, self.smooth = time.perf_counter(), 0.0
        self.steps = 0

    def step(self) -> float | None:
        """One more step is done."""
        now = time.perf_counter()
        took, self.last = now - self.last, now
        self.steps += 1
        if self.steps > 1:
            self.smooth = took if not self.smooth else 0.9 * self.smooth + 0.1 * took
        return self.smooth or None


def _share(batch: int, processes: int) -> int:
    """Each process's part of a batch. Raises UsageError for a batch that cannot be divided."""
    if batch % processes:
        raise UsageError(
            "the batch cannot be divided among the processes",
            where="--batch",
            got=f"{batch} images, {processes} processes",
            wanted=f"a multiple of {processes}",
        )
    return batch // processes


def _workers(request: TrainRequest, data: Splits) -> int:
    """Processes that decode: as asked for, or what suits the data."""
    return default_workers(data.train) if request.workers is None else request.workers


@contextlib.contextmanager
def _small_batches() -> Iterator[None]:
    """Say what torch means when a batch norm is given one value of each channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            "a batch of one image is too small for this network's batch norm at this resolution",
            where="--batch",
            got=str(error),
            hint="--batch 2 or more, or a larger --res",
        ) from error

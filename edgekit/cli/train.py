"""`edgekit train`: a network learns by a recipe, and goes on where it was stopped."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import parse
from edgekit.cli.output import INTERRUPTED, Json, Output, Quiet, Verbose, leave, millions, reporting, table
from edgekit.errors import UsageError
from edgekit.schema import JSON, to_json
from edgekit.variant import Variant, format_alpha

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from edgekit.training.callbacks import Progress
    from edgekit.training.recipe import Recipe
    from edgekit.training.request import TrainRequest
    from edgekit.training.sources import DataSource
    from edgekit.training.train import Trained

PLAIN_LINE_S = 10.0
GRACE_S = 0.5  # from Ctrl-C until the process ends without having saved: a step may take minutes
SHOWN_EPOCHS = 12


def train(
    model: Annotated[str, typer.Argument(help="A reference network with classes (edgekit models).")],
    data: Annotated[
        str,
        typer.Option(help="A folder with a folder of images for each class, digits, fashion-mnist[:DIR], cifar10:DIR."),
    ],
    alpha: Annotated[float | None, typer.Option(help="Width multiplier; default: the network's.")] = None,
    res: Annotated[int | None, typer.Option(help="Side of the images; default: the network's.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the network.")] = None,
    weights: Annotated[
        str, typer.Option(help="What to start from: none (random), default (published), or a file.")
    ] = "none",
    recipe: Annotated[
        str | None,
        typer.Option(help="mobilenet, mobilenet-published, densenet-cifar or transfer; default: by network."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Recipe: times through the data.")] = None,
    batch: Annotated[int | None, typer.Option(help="Recipe: images of a step, over all devices.")] = None,
    lr: Annotated[float | None, typer.Option(help="Recipe: the learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Recipe: adam, adamw, sgd or rmsprop.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Recipe: weight decay.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Recipe: momentum of sgd and rmsprop.")] = None,
    nesterov: Annotated[
        bool | None, typer.Option("--nesterov/--no-nesterov", help="Recipe: Nesterov's momentum.")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="Recipe: constant, cosine or step.")] = None,
    milestones: Annotated[
        list[str] | None, typer.Option(help="Recipe: shares of the epochs at which a step schedule falls.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Recipe: what it falls by.")] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Recipe: epochs in which the learning rate rises.")
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Recipe: share of the label given to all.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Recipe: mixing of images, Beta's alpha; 0 is off.")] = None,
    cutmix: Annotated[float | None, typer.Option(help="Recipe: mixing of parts, Beta's alpha; 0 is off.")] = None,
    ema: Annotated[float | None, typer.Option(help="Recipe: decay of averaged weights, for example 0.999.")] = None,
    clip: Annotated[float | None, typer.Option(help="Recipe: the largest norm of the gradients.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Recipe: stop after so many epochs without a better one.")
    ] = None,
    augment: Annotated[str | None, typer.Option(help="Recipe: none, light, standard, cifar or published.")] = None,
    precision: Annotated[str | None, typer.Option(help="Recipe: auto, fp32, bf16 or fp16.")] = None,
    freeze: Annotated[bool | None, typer.Option("--freeze/--no-freeze", help="Recipe: only the head learns.")] = None,
    unfreeze_at: Annotated[
        list[str] | None, typer.Option(help="Recipe: shares of the epochs at which more of the features join in.")
    ] = None,
    head: Annotated[list[str] | None, typer.Option(help="Parts that learn while the features are frozen.")] = None,
    head_lr_factor: Annotated[float | None, typer.Option(help="Recipe: the head's learning rate over --lr.")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Recipe: a stage's learning rate over that of the one behind it.")
    ] = None,
    distil_from: Annotated[
        Path | None,
        typer.Option("--distil-from", "--distill-from", help="A teacher: a run's folder, or weights."),
    ] = None,
    distil_alpha: Annotated[float, typer.Option(help="The teacher's share of the loss.")] = 0.7,
    distil_temperature: Annotated[float, typer.Option(help="How soft the teacher's answers are made.")] = 4.0,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/MODEL-DATA-sSEED.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the order and all chance.")] = 0,
    data_seed: Annotated[int, typer.Option(help="Seed of the split of data that have none.")] = 0,
    val_share: Annotated[float, typer.Option(help="Share to validate with, of data without a split.")] = 0.1,
    workers: Annotated[int | None, typer.Option(help="Processes that decode; default: a core each for files.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: every core.")] = None,
    devices: Annotated[str, typer.Option(help="GPUs, or CPU processes, of each machine; auto is all GPUs.")] = "auto",
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 60.0,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints, besides.")] = None,
    force: Annotated[bool, typer.Option(help="Start again, whatever is in the folder.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network; a run that was stopped or killed goes on with the same command, to the same result.

    The run's folder has the best and last weights and run.json, which says how they came to be; `edgekit export` takes
    it as it is. A named recipe says how to train; the options marked Recipe change it. torchrun starts several
    processes on several machines.
    """
    speaks = _speaks()
    with reporting("train", as_json and speaks, quiet or not speaks, verbose) as output:
        source = _source(data)
        request = _request(
            model,
            source,
            _recipe(
                recipe,
                model,
                epochs=epochs,
                batch=batch,
                lr=lr,
                optimizer=optimizer,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                schedule=schedule,
                milestones=parse.numbers("--milestones", milestones) or None,
                gamma=gamma,
                warmup_epochs=warmup_epochs,
                label_smoothing=label_smoothing,
                mixup=mixup,
                cutmix=cutmix,
                ema=ema,
                clip=clip,
                patience=patience,
                augment=augment,
                precision=precision,
                freeze=freeze,
                unfreeze_at=parse.numbers("--unfreeze-at", unfreeze_at) or None,
                head_lr_factor=head_lr_factor,
                layer_decay=layer_decay,
            ),
            alpha,
            res,
            parse.pairs("--option", option),
            weights,
            out,
            seed,
            val_share,
            data_seed,
            workers,
            threads,
            checkpoint_steps,
            checkpoint_every,
            distil_from,
            distil_alpha,
            distil_temperature,
            devices,
            nodes,
            parse.words(head or []),
        )
        trained = _train(request, force, output)
        if speaks:
            _report(request, trained, output)


# --- what was asked for


def _speaks() -> bool:
    """Whether this is the process that talks: torchrun and Lightning number those that they start."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def _source(text: str) -> DataSource:
    from edgekit.training.sources import parse_data

    return parse_data(text)


def _recipe(name: str | None, model: str, **changes: object) -> Recipe:
    from edgekit import models
    from edgekit.training import recipe

    models.info(model)  # an unknown network is named as such, not by its recipe
    return recipe.recipe(name or recipe.default_for(model), **changes)


def _request(
    model: str,
    data: DataSource,
    recipe: Recipe,
    alpha: float | None,
    res: int | None,
    options: tuple[tuple[str, str], ...],
    weights: str,
    out: Path | None,
    seed: int,
    val_share: float,
    data_seed: int,
    workers: int | None,
    threads: int | None,
    checkpoint_steps: int | None,
    checkpoint_s: float,
    distil_from: Path | None,
    distil_alpha: float,
    distil_temperature: float,
    devices: str,
    nodes: int,
    head: tuple[str, ...],
) -> TrainRequest:
    from edgekit.sources.weights import parse_weights
    from edgekit.training.request import TrainRequest

    counts = (("--workers", workers, 0), ("--threads", threads, 1), ("--checkpoint-steps", checkpoint_steps, 1))
    for name, value, least in (*counts, ("--nodes", nodes, 1), ("--data-seed", data_seed, 0)):
        if value is not None and value < least:
            raise UsageError("out of range", where=name, got=str(value), wanted=f"{least} or more")
    return TrainRequest(
        model=model,
        data=data,
        recipe=recipe,
        out=out or _default_out(Variant(model, alpha, res, 1, None, options), data, seed),
        alpha=alpha,
        resolution=res,
        options=options,
        weights=parse_weights(weights, model=model, seed=seed),
        seed=seed,
        val_share=val_share,
        data_seed=data_seed,
        workers=workers,
        checkpoint_every_steps=checkpoint_steps,
        checkpoint_every_s=checkpoint_s,
        distil_from=distil_from,
        distil_alpha=distil_alpha,
        distil_temperature=distil_temperature,
        devices="auto" if devices == "auto" else _devices(devices),
        nodes=nodes,
        threads=threads,
        head=head,
    )


def _devices(text: str) -> int:
    (count,) = parse.whole_numbers("--devices", [text]) or (0,)
    if not 1 <= count <= 1024:
        raise UsageError("out of range", where="--devices", got=text, wanted="auto, or 1 to 1024")
    return count


def _default_out(variant: Variant, data: DataSource, seed: int) -> Path:
    name = data.kind if data.path is None or data.kind != "folder" else data.path.resolve().name
    return Path("runs") / f"{variant.slug}-{name}-s{seed}"


# --- while it runs


def _train(request: TrainRequest, force: bool, output: Output) -> Trained:
    output.note(f"training into {request.out}")
    # Read when PyTorch is imported. GNU OpenMP's threads wait for each other by spinning; a tenth of its usual patience
    # costs nothing on a quiet machine (MobileNet v2 on two cores), and halves the time on a busy one.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    output.detail(f"{request.recipe}")
    from edgekit.training import train

    with _Watch(output) as watch, _Display(output) as display:
        return train.train(request, display.hear, stop=watch.asked.is_set, force=force)


class _Watch:
    """Ctrl-C asks the training to save its state and stop; where a step takes too long for that, it ends the process.

    A thread watches: Python's own handler runs between two calls only, and the gradient of a large network is one call.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.asked = threading.Event()
        self.over = threading.Event()

    def __enter__(self) -> _Watch:
        self.ears, self.mouth = os.pipe()
        os.set_blocking(self.mouth, False)
        self.handler = signal.signal(signal.SIGINT, lambda *_: None)
        self.descriptor = signal.set_wakeup_fd(self.mouth, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        signal.set_wakeup_fd(self.descriptor)
        signal.signal(signal.SIGINT, self.handler)
        os.close(self.mouth)  # the thread reads the end, and goes

    def _listen(self) -> None:
        with os.fdopen(self.ears, "rb", buffering=0) as ears:
            while heard := ears.read(1):
                if heard[0] == signal.SIGINT:
                    self._end()

    def _end(self) -> None:
        self.asked.set()
        if not self.over.wait(GRACE_S):
            self.output.note("interrupted; the last checkpoint is kept, the same command goes on from there")
            leave(INTERRUPTED)


class _Display:
    """Progress on stderr: a live bar in a terminal, a line for each epoch, and now and then, elsewhere."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.live: Bar | None = None
        self.bar: TaskID | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> _Display:
        if sys.stderr.isatty() and not self.output.quiet:
            self.live, self.bar = _bar()
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def hear(self, progress: Progress) -> None:
        """One step of the training."""
        if progress.stage in ("note", "epoch"):
            self._line(progress.text or _epoch_line(progress))
        elif self.live is not None and self.bar is not None:
            done = (progress.epoch - 1 + progress.step / max(1, progress.steps)) / progress.epochs
            self.live.update(self.bar, completed=done, description=_place(progress), busy=_state(progress))
        elif time.monotonic() - self.last_line > PLAIN_LINE_S:
            self._line(f"{_place(progress)}: {_state(progress)}")

    def _line(self, text: str) -> None:
        if self.live is not None:
            self.live.console.print(text, highlight=False, markup=False)
        else:
            self.output.note(text)
        self.last_line = time.monotonic()


def _place(progress: Progress) -> str:
    step = "validating" if progress.stage == "validating" else f"step {progress.step}/{progress.steps}"
    return f"epoch {progress.epoch}/{progress.epochs}, {step}"


def _state(progress: Progress) -> str:
    words = [f"loss {progress.loss:.3f}", f"accuracy {progress.accuracy:.1%}"]
    if progress.samples_per_s is not None:
        words.append(f"{progress.samples_per_s:.0f} images/s")
    if progress.left_s is not None:
        words.append(f"{_duration(progress.left_s)} left")
    return ", ".join(words)


def _epoch_line(progress: Progress) -> str:
    epoch = progress.finished
    assert epoch is not None
    return (
        f"epoch {epoch.epoch}/{progress.epochs}: loss {epoch.train_loss:.3f}, accuracy {epoch.train_accuracy:.1%}; "
        f"validation {epoch.val_loss:.3f}, {epoch.val_accuracy:.2%}; "
        f"{epoch.samples_per_s:.0f} images/s, {epoch.seconds:.1f} s"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _bar() -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[busy]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    live = Progress(*columns, console=Console(stderr=True), refresh_per_second=4, expand=True)
    return live, live.add_task("loading", total=1.0, busy="")


# --- afterwards


def _report(request: TrainRequest, trained: Trained, output: Output) -> None:
    if trained.already:
        output.note(f"finished before, nothing was done: {trained.folder} (--force starts again)")
    body: dict[str, JSON] = {
        "folder": str(trained.folder),
        "model": request.model,
        "stopped": trained.stopped,
        "already": trained.already,
        "params": trained.params,
        "best": to_json(trained.best),
        "history": to_json(trained.history),
        "notes": list(trained.notes),
    }
    output.result(body, _text(request, trained))


def _text(request: TrainRequest, trained: Trained) -> str:
    heading = ("epoch", "train loss", "accuracy", "val loss", "accuracy", "images/s", "s", "")
    rows = [
        (
            str(epoch.epoch),
            f"{epoch.train_loss:.4f}",
            f"{epoch.train_accuracy:.2%}",
            f"{epoch.val_loss:.4f}",
            f"{epoch.val_accuracy:.2%}",
            f"{epoch.samples_per_s:.0f}",
            f"{epoch.seconds:.1f}",
            "best" if epoch == trained.best else "",
        )
        for epoch in trained.history
        if epoch.epoch > len(trained.history) - SHOWN_EPOCHS or epoch == trained.best
    ]
    width = "" if request.alpha is None else f" alpha {format_alpha(request.alpha)}"
    early = ", stopped early" if trained.stopped == "early" else ""
    last = f"{request.model}{width}, {millions(trained.params)} parameters{early}: {trained.folder}"
    return f"{table([heading, *rows], right=range(7))}\n{last}"

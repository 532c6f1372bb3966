"""A network learns one style: perceptual losses on squares cut from photos.

Source: Johnson et al. 2016, arXiv 1603.08155. The run's folder:

    style.json          what was asked for, how far it got, the figures at the end
    last.safetensors    the weights, ready to be applied and exported
    state.safetensors   weights, Adam's moments, and the losses of all steps: one file, so that they belong together
    history.csv         step, loss, style, content, variation
    previews/           a photo as the network paints it, now and then

Everything random comes from (seed, step). A killed run goes on after its last checkpoint, with the losses that it
would have had.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit import __version__, checkpoints, environment, schema
from edgekit.errors import InputUnusable, UsageError
from edgekit.manifest import cache_key, disk_errors, locked, sha256_file
from edgekit.plan import tool_versions
from edgekit.training.style import features, nets, pictures
from edgekit.training.style.crops import Crops
from edgekit.training.style.losses import PerceptualLoss, Terms
from edgekit.training.style.nets import Form
from edgekit.training.style.optimise import LossNotFinite
from edgekit.training.style.request import TrainRequest

SCHEMA = 1
NAME, STATE, HISTORY, PREVIEWS = "style.json", "state.safetensors", "history.csv", "previews"
PREVIEW_SIDE = 512
FIGURES = ("loss", "style", "content", "variation")
AVERAGED = 20  # steps at either end of a run over which its loss is averaged: one batch says little

Status = Literal["running", "done"]
Listener: TypeAlias = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """One step: the mean loss of its batch and its parts, each times its weight; seconds of this process so far."""

    step: int
    steps: int
    loss: float
    style: float
    content: float
    seconds: float
    steps_per_s: float


@dataclass(frozen=True)
class Pace:
    """How often a checkpoint and a preview are written, in steps; 0 previews are none."""

    checkpoint: int = 100
    preview: int = 200


@dataclass(frozen=True)
class Run:
    """`style.json`: how the weights came to be. `key` tells this request, on these files, from others.

    `first` and `last` are mean losses over the first and last steps, `untouched` is the loss of the photos themselves,
    as the first steps cut them: what a network that changes nothing would have.
    """

    key: str
    network: Form
    style: str
    data: str
    photos: int
    features: str
    trained_features: bool
    seed: int
    steps: int
    done: int
    status: Status
    first: float
    last: float
    untouched: float
    edgekit: str
    tools: dict[str, str]
    machine: dict[str, str]
    schema: int = SCHEMA


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished run: its folder, what it says of itself, and the steps that this process took."""

    folder: Path
    run: Run
    taken: int

    @property
    def fall(self) -> float:
        """The share of the first loss that is gone at the end."""
        return 1 - self.run.last / self.run.first


def train(
    request: TrainRequest, out: Path, pace: Pace | None = None, listen: Listener | None = None, *, force: bool = False
) -> Trained:
    """Train, or go on with what the folder `out` holds of the same request; with `force`, begin anew.

    Raises UsageError where the folder holds another run, InputUnusable for pictures and weights that cannot be used,
    MachineLacks for weights that are not here and a full disk, and LossNotFinite when it diverges: the last checkpoint
    stays.
    """
    form = Form(request.network, request.alpha, request.tail)
    nets.check(form)
    photos = pictures.find([request.data])
    with locked(out):
        key = _key(request, photos)
        if force:
            _clear(out)
        _check_folder(out, key)
        return _Training(request, form, photos, out, key, pace or Pace(), listen).run()


def read(folder: Path) -> Run:
    """What a run's folder says of itself. Raises InputUnusable for a folder that is not one."""
    path = folder / NAME
    try:
        return schema.read(Run, json.loads(path.read_bytes()))
    except OSError as error:
        wanted = "a folder that `edgekit style train` wrote"
        got = error.strerror or str(error)
        raise InputUnusable("this is no style training run", where=str(path), got=got, wanted=wanted) from error
    except (ValueError, schema.SchemaError) as error:
        raise InputUnusable("the run's description is damaged", where=str(path), got=str(error)) from error


def _key(request: TrainRequest, photos: list[Path]) -> str:
    """What the weights depend on. Of the photos, the names and sizes: reading thousands would take minutes."""
    weights = request.features.weights
    style = _digest(request.style, "the style image")
    return cache_key(
        {
            "request": {**_plain(request), "style": style, "data": ""},
            "weights": _digest(weights, "the weights") if isinstance(weights, Path) else weights,
            "photos": [[path.name, path.stat().st_size] for path in photos],
        }
    )


def _plain(request: TrainRequest) -> dict[str, schema.JSON]:
    """The request but for what stands for files, which move."""
    ask = request.objective
    return {
        "objective": schema.to_json(ask),
        "network": [request.network, request.alpha, request.tail],
        "features": [request.features.network, request.features.average_pools],
        "sizes": [request.style_size, request.crop, request.batch, request.steps, request.seed],
        "rate": request.rate,
    }


def _digest(path: Path, what: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputUnusable(f"cannot read {what}", where=str(path), got=error.strerror or str(error)) from error


def _check_folder(out: Path, key: str) -> None:
    if (out / NAME).is_file() and read(out).key != key:
        raise UsageError(
            "the folder holds another training run",
            where=str(out),
            wanted="the same options, style image and photos, to go on with it",
            hint="--force begins anew; or give this one another --out",
        )


def _clear(out: Path) -> None:
    with disk_errors(out):
        for name in (NAME, STATE, HISTORY, nets.WEIGHTS):
            (out / name).unlink(missing_ok=True)


class _Training:
    """One run in one process."""

    def __init__(
        self,
        request: TrainRequest,
        form: Form,
        photos: list[Path],
        out: Path,
        key: str,
        pace: Pace,
        listen: Listener | None,
    ) -> None:
        self.request, self.form, self.photos, self.out, self.key = request, form, photos, out, key
        self.pace, self.listen = pace, listen
        style = pictures.within(pictures.read(request.style), request.style_size)
        extractor = features.build(request.features, request.objective.layers)
        self.loss = PerceptualLoss(extractor, request.objective, style.tensor())
        self.crops = Crops(photos, request.crop, request.batch, request.seed)
        self.module = nets.initial(form, request.seed)
        self.optimizer = torch.optim.Adam(self.module.parameters(), request.rate)
        self.history: list[tuple[float, ...]] = []

    def run(self) -> Trained:
        if (self.out / STATE).is_file():
            self._resume()
        start, begun = len(self.history), time.monotonic()
        self._say()
        for step in range(start, self.request.steps):
            self.history.append(self._step(step))
            self._tell(step, start, time.monotonic() - begun)
            self._keep(step + 1)
        if start < self.request.steps and self.pace.preview:
            self._preview(self.request.steps)
        return Trained(self.out, read(self.out), self.request.steps - start)

    def _step(self, step: int) -> tuple[float, ...]:
        photos = self.crops.at(step)
        terms = self._terms(photos, self.module(photos))
        figures = tuple(float(part.detach()) for part in (terms.total, terms.style, terms.content, terms.variation))
        if not math.isfinite(figures[0]):
            raise self._diverged(step, f"loss {figures[0]}")
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        gradients = [it.grad for it in self.module.parameters() if it.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if not math.isfinite(float(norm)):
            raise self._diverged(step, f"a gradient of {float(norm)}")
        self.optimizer.step()
        return figures

    def _terms(self, photos: Tensor, painted: Tensor) -> Terms:
        return self.loss(painted, self.loss.content_of(photos))

    def _diverged(self, step: int, got: str) -> LossNotFinite:
        kept = f"the checkpoint before it is in {self.out}" if (self.out / STATE).is_file() else "nothing was kept yet"
        return LossNotFinite(step, got, None, f"a smaller --rate or --style-weight; {kept}")

    # --- what is left on the disk

    def _keep(self, done: int) -> None:
        last = done == self.request.steps
        if last or done % self.pace.checkpoint == 0:
            self._checkpoint()
        if self.pace.preview and done % self.pace.preview == 0 and not last:
            self._preview(done)

    def _checkpoint(self) -> None:
        pictures.write_bytes(self.out / STATE, self._state())
        nets.save(self.form, self.module, self.out / nets.WEIGHTS)
        pictures.write_bytes(self.out / HISTORY, self._csv())
        self._say()

    def _state(self) -> bytes:
        tensors = {f"weights/{name}": tensor.detach() for name, tensor in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            tensors |= {f"{kind}/{name}": value for kind, value in self.optimizer.state[parameter].items()}
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        return safetensors.torch.save(contiguous, {"key": self.key})

    def _resume(self) -> None:
        """Weights, moments and losses as they were at the checkpoint. Raises InputUnusable for a damaged one."""
        path = self.out / STATE
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                key = (file.metadata() or {}).get("key")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (safetensors.SafetensorError, OSError) as error:
            hint = "--force begins anew"
            raise InputUnusable("the checkpoint is damaged", where=str(path), got=str(error), hint=hint) from error
        if key != self.key:
            raise UsageError("the checkpoint is of another run", where=str(path), hint="--force begins anew")
        checkpoints.fit(self.module, _part(state, "weights"), str(path))
        self.module.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.module.parameters(), self.request.rate)
        moments = {kind: _part(state, kind) for kind in ("step", "exp_avg", "exp_avg_sq")}
        for name, parameter in self.module.named_parameters():
            self.optimizer.state[parameter] = {kind: tensors[name] for kind, tensors in moments.items()}
        self.history = [tuple(row) for row in state["history"].tolist()]

    def _csv(self) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", *FIGURES])
        writer.writerows([step, *(f"{value:.9g}" for value in row)] for step, row in enumerate(self.history))
        return text.getvalue().encode()

    def _say(self) -> None:
        """Write `style.json`."""
        losses = [row[0] for row in self.history]
        run = Run(
            key=self.key,
            network=self.form,
            style=self.request.style.name,
            data=str(self.request.data),
            photos=len(self.photos),
            features=self._features(),
            trained_features=not isinstance(self.request.features.weights, int),
            seed=self.request.seed,
            steps=self.request.steps,
            done=len(losses),
            status="done" if len(losses) == self.request.steps else "running",
            first=_mean(losses[:AVERAGED]),
            last=_mean(losses[-AVERAGED:]),
            untouched=self._untouched(),
            edgekit=__version__,
            tools=dict(tool_versions()),
            machine=environment.stamp(),
        )
        pictures.write_bytes(self.out / NAME, (json.dumps(schema.to_json(run), indent=1) + "\n").encode())

    def _features(self) -> str:
        weights = self.request.features.weights
        kind = f"untrained, seed {weights}" if isinstance(weights, int) else str(weights)
        return f"{self.request.features.network}, {kind}"

    def _untouched(self) -> float:
        """The loss of the first batch as it is, measured once."""
        if not hasattr(self, "_of_photos"):
            photos = self.crops.at(0)
            with torch.no_grad():
                self._of_photos = float(self._terms(photos, photos).total)
        return self._of_photos

    @torch.no_grad()
    def _preview(self, done: int) -> None:
        photo = pictures.within(pictures.read(self.photos[0]), PREVIEW_SIDE).tensor()
        if min(photo.shape[-2:]) >= nets.SMALLEST:
            painted = pictures.from_tensor(self.module(photo))
            pictures.write(painted, self.out / PREVIEWS / f"step-{done:06}.png")

    def _tell(self, step: int, start: int, seconds: float) -> None:
        if self.listen is not None:
            loss, style, content, _ = self.history[-1]
            pace = (step + 1 - start) / max(seconds, 1e-9)
            self.listen(Progress(step + 1, self.request.steps, loss, style, content, seconds, pace))


def _part(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}/"): value for name, value in state.items() if name.startswith(f"{kind}/")}


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0

"""One training as it was asked for, known before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.errors import UsageError
from edgekit.sources.weights import SeedWeights, Weights, file_digest, identity
from edgekit.training.recipe import Recipe
from edgekit.variant import format_alpha

if TYPE_CHECKING:
    from edgekit.training.sources import DataSource

FROM_SCRATCH = SeedWeights(0)


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on what, how, and where the run goes.

    `weights` are what training starts from; random ones depend on their seed, the network and its width alone, never on
    the resolution. `seed` decides the order of the images and all that is random in a step, `data_seed` the split of a
    folder without train / val. `distil_from` is the teacher, a run's folder: the loss is `distil_alpha` times the
    distance from it, at `distil_temperature`, and the rest the labels'. `head` names the parts of the network that
    learn while the features are frozen, () for its own head. `workers` None decides by the data, `threads`
    None takes every core. A checkpoint is written at the end of an epoch, and after so many steps or seconds.
    """

    model: str
    data: DataSource
    recipe: Recipe
    out: Path
    alpha: float | None = None
    resolution: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    weights: Weights = FROM_SCRATCH
    seed: int = 0
    val_share: float = 0.1
    data_seed: int = 0
    workers: int | None = None
    checkpoint_every_steps: int | None = None
    checkpoint_every_s: float = 60.0
    distil_from: Path | None = None
    distil_alpha: float = 0.7
    distil_temperature: float = 4.0
    devices: int | Literal["auto"] = "auto"
    nodes: int = 1
    threads: int | None = None
    head: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _within("--distil-alpha", self.distil_alpha, 0, 1)
        _within("--distil-temperature", self.distil_temperature, 0.1, 100)
        _within("--val-share", self.val_share, 0.001, 0.9)
        _within("--checkpoint-every", self.checkpoint_every_s, 0, 86_400)


def _within(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError("out of range", where=option, got=f"{value:g}", wanted=f"{low:g} to {high:g}")


def asked(request: TrainRequest) -> dict[str, str]:
    """All that decides the outcome, as option and text: two requests that agree here make the same run.

    Where it is written, how often, and by how many processes is left out. Raises InputUnusable for weights that cannot
    be read.
    """
    said = {
        "model": request.model,
        "data": request.data.text,
        "alpha": "default" if request.alpha is None else format_alpha(request.alpha),
        "res": "default" if request.resolution is None else str(request.resolution),
        "option": ",".join(f"{key}={value}" for key, value in request.options),
        "weights": identity(request.weights),
        "seed": str(request.seed),
        "val-share": f"{request.val_share:g}",
        "data-seed": str(request.data_seed),
        "head": ",".join(request.head),
    }
    for slot in fields(Recipe):
        said["recipe" if slot.name == "name" else slot.name.replace("_", "-")] = str(getattr(request.recipe, slot.name))
    return said | _distilled(request)


def _distilled(request: TrainRequest) -> dict[str, str]:
    if request.distil_from is None:
        return {"distil-from": "nothing"}
    folder = request.distil_from
    weights = folder / "best.safetensors" if folder.is_dir() else folder
    return {
        "distil-from": f"sha256:{file_digest(weights, 'the teacher')}",
        "distil-alpha": f"{request.distil_alpha:g}",
        "distil-temperature": f"{request.distil_temperature:g}",
    }

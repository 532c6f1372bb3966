"""How a network is trained, as one value: the named recipes, each figure of which can be asked for otherwise.

Sources of the figures: `mobilenet` and `mobilenet-published` are the course notes that this project follows;
`densenet-cifar` is Huang et al. 2016, arXiv 1608.06993.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgekit import schema
from edgekit.errors import UsageError, did_you_mean
from edgekit.schema import Problem, Rules

Optimizer = Literal["adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["constant", "cosine", "step"]
AugmentKind = Literal["none", "light", "standard", "cifar", "published"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

MOST_EPOCHS = 100_000
LARGEST_BATCH = 65_536
COLD, LEAST = 0.01, 1e-4  # shares of the learning rate: where warming up begins, and where a cosine ends


def _counts(batch: int, epochs: int, patience: int | None) -> Iterator[Problem]:
    if not 1 <= batch <= LARGEST_BATCH:
        yield Problem("batch", str(batch), f"1 to {LARGEST_BATCH}")
    if not 1 <= epochs <= MOST_EPOCHS:
        yield Problem("epochs", str(epochs), f"1 to {MOST_EPOCHS}")
    if patience is not None and patience < 1:
        yield Problem("patience", str(patience), "1 epoch or more")


def _rates(lr: float, weight_decay: float, momentum: float, clip: float | None) -> Iterator[Problem]:
    if not (math.isfinite(lr) and lr > 0):
        yield Problem("lr", str(lr), "a number above 0")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        yield Problem("weight_decay", str(weight_decay), "0 or more")
    if not 0 <= momentum < 1:
        yield Problem("momentum", str(momentum), "0 to below 1")
    if clip is not None and not (math.isfinite(clip) and clip > 0):
        yield Problem("clip", str(clip), "a number above 0")


def _nesterov(optimizer: str, momentum: float, nesterov: bool) -> Iterator[Problem]:
    if nesterov and (optimizer != "sgd" or momentum == 0):
        yield Problem("nesterov", "true", "sgd with a momentum above 0")


def _schedule(milestones: tuple[float, ...], gamma: float, warmup_epochs: float, epochs: int) -> Iterator[Problem]:
    if not _shares(milestones):
        yield Problem("milestones", str(list(milestones)), "rising shares of the epochs, each from 0 to 1")
    if not 0 < gamma <= 1:
        yield Problem("gamma", str(gamma), "a number above 0, at most 1")
    if not 0 <= warmup_epochs < epochs:
        yield Problem("warmup_epochs", str(warmup_epochs), f"0 to below the {epochs} epochs")


def _softening(label_smoothing: float, mixup: float, cutmix: float, ema: float | None) -> Iterator[Problem]:
    if not 0 <= label_smoothing < 1:
        yield Problem("label_smoothing", str(label_smoothing), "0 to below 1")
    for key, value in (("mixup", mixup), ("cutmix", cutmix)):
        if not (math.isfinite(value) and value >= 0):
            yield Problem(key, str(value), "0 (off) or more")
    if ema is not None and not 0 < ema < 1:
        yield Problem("ema", str(ema), "between 0 and 1, for example 0.999")


def _transfer(
    freeze: bool, unfreeze_at: tuple[float, ...], head_lr_factor: float, layer_decay: float
) -> Iterator[Problem]:
    if not _shares(unfreeze_at):
        yield Problem("unfreeze_at", str(list(unfreeze_at)), "rising shares of the epochs, each from 0 to 1")
    if unfreeze_at and not freeze:
        yield Problem("unfreeze_at", str(list(unfreeze_at)), "features that are frozen first (freeze)")
    if not (math.isfinite(head_lr_factor) and head_lr_factor > 0):
        yield Problem("head_lr_factor", str(head_lr_factor), "a number above 0")
    if not 0 < layer_decay <= 1:
        yield Problem("layer_decay", str(layer_decay), "a number above 0, at most 1")


def _shares(values: tuple[float, ...]) -> bool:
    return list(values) == sorted(set(values)) and all(0 <= value <= 1 for value in values)


@dataclass(frozen=True)
class Recipe:
    """Every figure of a training, apart from the network, the data and the seeds.

    `batch` is the images of one step, over all devices. `milestones` and `unfreeze_at` are shares of the epochs: the
    learning rate is multiplied by `gamma` at each of the first (schedule "step"); at each of the second another part
    of the frozen features joins in, the last layers first. `warmup_epochs` rises linearly to `lr`. `mixup` and `cutmix`
    are the alphas of their Beta distributions, 0 for off. `ema` is the share that a step keeps of the averaged weights,
    `clip` the largest gradient norm, `patience` the epochs without a better validation accuracy after which training
    stops. The head learns with `lr * head_lr_factor`, and every stage before it with `layer_decay` times the rate of
    the one behind it. `precision` "auto" is bf16 or fp16 on a GPU that has it, fp32 elsewhere.

    Raises UsageError, with every mistake, for figures that make no training.
    """

    name: str
    optimizer: Optimizer = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    batch: int = 192
    epochs: int = 10
    schedule: Schedule = "constant"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float | None = None
    clip: float | None = None
    patience: int | None = None
    augment: AugmentKind = "standard"
    precision: Precision = "auto"
    freeze: bool = False
    unfreeze_at: tuple[float, ...] = ()
    head_lr_factor: float = 1.0
    layer_decay: float = 1.0

    rules: ClassVar[Rules] = (_counts, _rates, _nesterov, _schedule, _softening, _transfer)

    def __post_init__(self) -> None:
        try:
            schema.check(self)
        except schema.SchemaError as error:
            raise _refused(self.name, error) from error


RECIPES = {
    "mobilenet": Recipe("mobilenet"),
    "mobilenet-published": Recipe("mobilenet-published", augment="published"),
    "densenet-cifar": Recipe(
        "densenet-cifar",
        optimizer="sgd",
        lr=0.1,
        weight_decay=1e-4,
        momentum=0.9,
        nesterov=True,
        batch=64,
        epochs=300,
        schedule="step",
        milestones=(0.5, 0.75),
        augment="cifar",
    ),
    "transfer": Recipe("transfer", batch=32, augment="light", freeze=True),
}
_DEFAULTS = {"densenet_bc": "densenet-cifar", "resnet50_transfer": "transfer"}


def recipe(name: str, **changes: object) -> Recipe:
    """The recipe called `name` with `changes` (None leaves a figure as it is).

    Raises UsageError for an unknown name, with the nearest, and for figures that make no training.
    """
    if name not in RECIPES:
        raise UsageError("there is no such recipe", where="--recipe", got=name, hint=did_you_mean(name, list(RECIPES)))
    given = {key: value for key, value in changes.items() if value is not None}
    if given.get("optimizer", "sgd") != "sgd":
        given.setdefault("nesterov", False)  # sgd's own, and not asked for
    data = schema.to_json(RECIPES[name])
    assert isinstance(data, dict)
    try:
        return schema.read(Recipe, {**data, **given})
    except schema.SchemaError as error:
        raise _refused(name, error) from error


def _refused(name: str, error: schema.SchemaError) -> UsageError:
    return UsageError(f"the recipe {name!r} makes no training", where="--recipe", got=str(error))


def default_for(model: str) -> str:
    """The recipe of a network for which none is named."""
    return _DEFAULTS.get(model, "mobilenet")


def factor(recipe: Recipe, done: float) -> float:
    """What the learning rate is multiplied by after `done` epochs, 0 to the recipe's, of which a step is a part.

    A linear rise while it warms up, from a hundredth; then as the schedule says, cosine down to a hundredth of a per
    cent at the end.
    """
    if done < recipe.warmup_epochs:
        return COLD + (1 - COLD) * done / recipe.warmup_epochs
    if recipe.schedule == "cosine":
        share = (done - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
        return max(LEAST, (1 + math.cos(math.pi * min(1.0, share))) / 2)
    if recipe.schedule == "step":
        return recipe.gamma ** sum(done >= share * recipe.epochs for share in recipe.milestones)
    return 1.0

"""One step of training, as values of its place in the run: the loss, the optimiser, the averaged weights."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.training.recipe import Recipe, factor

if TYPE_CHECKING:
    from edgekit.training.distil import Teacher

AUXILIARY_WEIGHT = 0.3  # Szegedy et al. 2014, arXiv 1409.4842, who brought auxiliary heads up


@dataclass(frozen=True)
class Place:
    """Where in the run a step is: everything random in it comes from here."""

    seed: int
    epoch: int
    step: int
    rank: int = 0

    def number(self, purpose: str) -> int:
        """A seed of its own for each place and purpose; the same in every process, on every machine."""
        text = f"{self.seed} {self.epoch} {self.step} {self.rank} {purpose}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1  # torch takes 63 bits


@dataclass
class Sums:
    """What the steps of an epoch add up to, so far."""

    loss: float = 0.0
    right: float = 0.0
    seen: int = 0
    seconds: float = 0.0

    def add(self, loss: float, right: float, images: int) -> None:
        """One step: its mean loss, how many it got right, of how many images."""
        self.loss += loss * images
        self.right += right
        self.seen += images

    @property
    def mean_loss(self) -> float:
        """The mean loss of an image."""
        return self.loss / max(1, self.seen)

    @property
    def accuracy(self) -> float:
        """The share that was right, 0..1."""
        return self.right / max(1, self.seen)


class Criterion:
    """The loss: cross-entropy with the labels, hard (N,) or soft (N, classes), and the distance from a teacher."""

    def __init__(self, recipe: Recipe, teacher: Teacher | None = None) -> None:
        self.smoothing, self.teacher = recipe.label_smoothing, teacher

    def __call__(self, output: Tensor | tuple[Tensor, Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of what the network made of normalised `images` (N, 3, H, W), and its logits (N, classes)."""
        logits, auxiliary = output if isinstance(output, tuple) else (output, None)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if self.teacher is not None:
            loss = self.teacher.mixed(loss, logits, images)
        if auxiliary is not None:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary.float(), labels, label_smoothing=self.smoothing)
        return loss, logits


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of (N, classes) logits name the label, or the larger part of a soft one."""
    wanted = labels.argmax(1) if labels.ndim == 2 else labels
    return (logits.argmax(1) == wanted).sum()


def optimiser(recipe: Recipe, groups: Sequence[tuple[float, list[nn.Parameter]]]) -> torch.optim.Optimizer:
    """The recipe's optimiser for groups of (factor of the learning rate, parameters)."""
    given = [{"params": parameters, "lr": recipe.lr * share, "base": recipe.lr * share} for share, parameters in groups]
    decay = recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            given, recipe.lr, recipe.momentum, weight_decay=decay, nesterov=recipe.nesterov, fused=True
        )
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(given, recipe.lr, momentum=recipe.momentum, weight_decay=decay, foreach=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    # One fused kernel for all: a small network's step spends most of its time between the kernels otherwise.
    return kind(given, recipe.lr, weight_decay=decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, done: float) -> float:
    """Set every group's learning rate as after `done` epochs; returns that of the features or, alone, the head."""
    share = factor(recipe, done)
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * share
    return recipe.lr * share


class Average:
    """Weights averaged over the steps, in a network of their own: w = d w + (1 - d) w_now, statistics too.

    The first steps keep less, so that a short training is not mostly its beginning: d = min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._pairs = list(zip(_floats(self.network), _floats(network), strict=True))
        self._counters = list(zip(_counters(self.network), _counters(network), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_([mine for mine, _ in self._pairs], [now for _, now in self._pairs], 1 - keep)
        for mine, now in self._counters:
            mine.copy_(now)


def _floats(network: nn.Module) -> list[Tensor]:
    return [tensor for tensor in _tensors(network) if tensor.is_floating_point()]


def _counters(network: nn.Module) -> list[Tensor]:
    return [tensor for tensor in _tensors(network) if not tensor.is_floating_point()]


def _tensors(network: nn.Module) -> Iterable[Tensor]:
    return network.state_dict(keep_vars=True).values()

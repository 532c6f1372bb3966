"""A large network teaches a small one: its soft answers are part of the loss.

Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit import checkpoints, models
from edgekit.errors import InputUnusable, UsageError
from edgekit.models import _create
from edgekit.models._options import parse_options
from edgekit.preprocessing import Preprocessing
from edgekit.sources import reference
from edgekit.training import run_folder
from edgekit.training.request import TrainRequest
from edgekit.variant import format_alpha


@dataclass(frozen=True, eq=False)
class Known:
    """A teacher's network in eval mode, what it is called, and what it wants its images normalised with."""

    network: nn.Module
    name: str
    contract: Preprocessing
    classes: tuple[str, ...] | None  # None: nobody wrote them down


class Teacher:
    """A network that is only asked, on the pupil's own images."""

    def __init__(self, known: Known, contract: Preprocessing, alpha: float, temperature: float) -> None:
        self.network, self.name = known.network, known.name
        self.alpha, self.temperature = alpha, temperature
        self.scale, self.shift = _renormalised(contract, known.contract)

    def mixed(self, hard: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """`alpha` of the distance from the teacher, and the rest of the `hard` loss, for logits (N, classes)."""
        return self.alpha * self.distance(logits, images) + (1 - self.alpha) * hard

    def distance(self, logits: Tensor, images: Tensor) -> Tensor:
        """The mean divergence of the pupil's softened answers from the teacher's, times the temperature squared.

        The square keeps the gradient's size whatever the temperature. `images` are normalised for the pupil.
        """
        soft = self.temperature
        with torch.no_grad():
            wanted = F.log_softmax(self._asked(images).float() / soft, 1)
        found = F.log_softmax(logits / soft, 1)
        return F.kl_div(found, wanted, reduction="batchmean", log_target=True) * soft**2

    def _asked(self, images: Tensor) -> Tensor:
        if self.scale is not None and self.shift is not None:
            images = images * self.scale.to(images) + self.shift.to(images)
        answer: Tensor = self.network(images)
        return answer


def _renormalised(mine: Preprocessing, its: Preprocessing) -> tuple[Tensor | None, Tensor | None]:
    """Factor and offset (3, 1, 1) from images normalised by one contract to the other's; None where they agree."""
    if (mine.mean, mine.std) == (its.mean, its.std):
        return None, None
    my_mean, my_std, mean, std = (torch.tensor(it).view(-1, 1, 1) for it in (mine.mean, mine.std, its.mean, its.std))
    return my_std / std, (my_mean - mean) / std


def teacher(request: TrainRequest, classes: tuple[str, ...], contract: Preprocessing) -> Teacher | None:
    """The teacher of the request, None where there is none.

    A run's folder says all about it; so does the run beside a file of weights. Any other file is a wider or narrower
    network of the pupil's kind. Raises InputUnusable for what is neither, UsageError for a teacher of other classes and
    for a resolution that it cannot take.
    """
    if request.distil_from is None:
        return None
    known = known_teacher(request, contract)
    _check_classes(known, classes, request.distil_from)
    return Teacher(known, contract, request.distil_alpha, request.distil_temperature)


def known_teacher(request: TrainRequest, contract: Preprocessing) -> Known:
    """The network behind `distil_from`, with what is known about it. Raises as `teacher` does."""
    path = request.distil_from
    assert path is not None
    if path.is_dir():
        return _of_run(path, run_folder.BEST, request)
    if run_folder.is_run(path.parent) and path.name in run_folder.read(path.parent).files:
        return _of_run(path.parent, path.name, request)
    return _of_file(path, request, contract)


def _of_run(folder: Path, name: str, request: TrainRequest) -> Known:
    run, path = run_folder.read(folder), run_folder.weights_of(folder, name)
    resolution = request.resolution or models.info(request.model).default_resolution
    models.check_resolution(run.model, resolution)
    options = parse_options(run.model, run.options)
    state = checkpoints.read_state_dict(path)
    network = _create.with_state(run.model, run.alpha, run.num_classes, options, state, str(path))
    return Known(network, _called(run.model, run.alpha), run.preprocessing, run.classes)


def _of_file(path: Path, request: TrainRequest, contract: Preprocessing) -> Known:
    state = _create.own_names(request.model, checkpoints.read_state_dict(path))
    alpha, options = next(reference._forms(request.model, request.alpha, state), (None, None))
    if options is None:
        raise InputUnusable(
            f"these are no weights of a {request.model}",
            where="--distil-from",
            got=str(path),
            wanted=f"the folder of a run, or weights of a {request.model} of any usual width",
        )
    classes = reference._classes(request.model, state)
    network = _create.with_state(request.model, alpha, classes, options, state, str(path))
    return Known(network, _called(request.model, alpha), contract, None)


def _called(model: str, alpha: float | None) -> str:
    return model if alpha is None else f"{model} alpha {format_alpha(alpha)}"


def _check_classes(known: Known, classes: tuple[str, ...], path: Path) -> None:
    count = known.network.get_submodule("classifier").out_features
    if count != len(classes) or known.classes not in (None, classes):
        raise UsageError(
            "the teacher knows other classes",
            where=f"--distil-from {path}",
            got=f"{count}: {', '.join(known.classes or ())}"[:200],
            wanted=f"{len(classes)}: {', '.join(classes)}"[:200],
        )

"""What training starts from, and which parts of the network learn: heads, frozen features, rates by depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from edgekit import checkpoints, models
from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.models import _create
from edgekit.models._blocks import Frozen, WithAuxiliary
from edgekit.models._options import parse_options
from edgekit.sources import reference
from edgekit.sources.weights import CheckpointWeights, SeedWeights, TorchvisionWeights
from edgekit.training.recipe import Recipe
from edgekit.training.request import TrainRequest
from edgekit.variant import Variant

HEADS = ("classifier", "auxiliary.classifier")  # what depends on the number of classes


@dataclass(frozen=True, eq=False)
class Start:
    """A network on the CPU as training starts with it, and what there is to say about its weights."""

    network: nn.Module
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a network that is frozen, thawed and rated as one; stages follow each other as the signal does."""

    name: str
    module: nn.Module

    @property
    def holds(self) -> bool:
        """Whether there is anything in it that could learn or be counted."""
        return bool(self.module.state_dict())


# --- what training starts from


def check(request: TrainRequest) -> None:
    """Raise UsageError for a network, form or resolution that cannot be trained so, before anything is built."""
    if models.info(request.model).task != "classification":
        raise UsageError(
            f"{request.model} makes images and has no classes to learn",
            where="MODEL",
            got=request.model,
            hint="edgekit style train",
        )
    variant = Variant(request.model, request.alpha, request.resolution, None, None, request.options)
    reference.check(variant, request.weights)


def start(request: TrainRequest, classes: int) -> Start:
    """The network of the request for so many classes, with random weights from a seed, published ones, or a file's.

    A head of another number of classes is left out of the weights, and said so. What weights leave open is random.
    Raises UsageError as `check` does, InputUnusable for weights that do not fit, MachineLacks for published weights
    that are not here and cannot be fetched.
    """
    check(request)
    options = parse_options(request.model, dict(request.options))
    weights = request.weights
    if isinstance(weights, SeedWeights):
        return Start(_create.initial(request.model, request.alpha, classes, options, weights.seed))
    network = _create.initial(request.model, request.alpha, classes, options, request.seed)
    if isinstance(weights, TorchvisionWeights):
        from edgekit.models import _pretrained

        path = _pretrained.fetch(weights.pretrained)
    else:
        assert isinstance(weights, CheckpointWeights)  # reference.check refuses all others
        path = weights.path
    state = _create.own_names(request.model, checkpoints.read_state_dict(path))
    return _filled(request, network, state, str(path))


def _filled(request: TrainRequest, network: nn.Module, state: Mapping[str, Tensor], source: str) -> Start:
    own = network.state_dict()
    other = [name for name in state if name in own and name.startswith(HEADS) and state[name].shape != own[name].shape]
    open_ = {name: own[name] for name in [*other, *_left_open(request.model, own, state)]}
    # Copies: the file may be mapped into memory, and what is learnt is written over its place.
    given = {name: tensor.clone() for name, tensor in state.items()} | open_
    variant = Variant(request.model, request.alpha, request.resolution, None, None, request.options)
    checkpoints.fit(network, given, source, partial(reference._where_they_belong, variant, dict(state)))
    return Start(network, tuple(_said(state, own, other)))


def _left_open(model: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """The names that weights of this network may leave out: all but the published part, and the auxiliary head."""
    pretrained = models.info(model).pretrained
    part = f"{pretrained.part}." if pretrained and pretrained.part else ""
    names = [name for name in own if part and not name.startswith(part) and all(key.startswith(part) for key in state)]
    if not any(name.startswith(_create.AUXILIARY) for name in state):
        names += [name for name in own if name.startswith(_create.AUXILIARY)]
    return names


def _said(state: Mapping[str, Tensor], own: Mapping[str, Tensor], other: list[str]) -> Iterable[str]:
    for name in other:
        if name.endswith("weight"):
            head = name.removesuffix(".weight")
            has, wants = state[name].shape[0], own[name].shape[0]
            yield f"{head} starts afresh: the weights have {has} classes, the data {wants}"


# --- which parts learn


def stages(network: nn.Module) -> list[Stage]:
    """The parts of the network in the order of the signal, without the auxiliary head; blocks are stages each."""
    found: list[Stage] = []
    for name, child in network.named_children():
        if isinstance(network, WithAuxiliary) and child is network.auxiliary:
            continue
        blocks = list(child.named_children())
        if type(child) in (nn.Sequential, Frozen) and not any(_leaf(block) for _, block in blocks):
            found += [Stage(f"{name}.{inner}", block) for inner, block in blocks]
        else:
            found.append(Stage(name, child))
    return found


def _leaf(module: nn.Module) -> bool:
    """A layer with weights of its own: a chain of those is a stage, a chain of blocks is many."""
    return bool(module.state_dict()) and not any(True for _ in module.children())


def head_stages(model: str, network: nn.Module, named: tuple[str, ...] = ()) -> frozenset[str]:
    """The names of the stages that are the head: those that are `named`, and always the classifier.

    By default all outside the part that published weights are for, else the classifier alone. Raises UsageError for a
    name that is none of a stage, or of a child that holds stages.
    """
    names = [stage.name for stage in stages(network)]
    pretrained = models.info(model).pretrained
    part = pretrained.part if pretrained else ""
    if not named:
        outside = {name for name in names if part and name.split(".")[0] != part}
        return frozenset(outside | {"classifier"})
    found = {"classifier"}
    for word in named:
        under = {name for name in names if name == word or name.startswith(f"{word}.")}
        if not under:
            known = list(dict.fromkeys([*(name.split(".")[0] for name in names), *names]))
            raise UsageError("no part of the network", where="--head", got=word, hint=did_you_mean(word, known))
        found |= under
    return frozenset(found)


class Layers:
    """Which stages learn at an epoch, and how fast; `apply` puts the network into that mode.

    Raises UsageError for features that are to be thawed and never learn.
    """

    def __init__(self, model: str, network: nn.Module, recipe: Recipe, head: tuple[str, ...] = ()) -> None:
        self.network, self.recipe = network, recipe
        self.stages = stages(network)
        self.head = head_stages(model, network, head)
        self.features = [stage for stage in self.stages if stage.holds and stage.name not in self.head]
        if recipe.unfreeze_at and any(isinstance(child, Frozen) for child in network.children()):
            raise UsageError(
                f"the features of {model} never learn", where="--unfreeze-at", hint="leave --unfreeze-at out"
            )

    def thawed(self, epoch: int) -> int:
        """How many stages of the features learn at the epoch, numbered from 0; the last ones do first."""
        if not self.recipe.freeze:
            return len(self.features)
        shares = self.recipe.unfreeze_at
        reached = sum(epoch >= share * self.recipe.epochs for share in shares)
        return len(self.features) * reached // len(shares) if shares else 0

    def frozen(self, epoch: int) -> frozenset[str]:
        """The names of the stages that keep their weights and statistics at the epoch."""
        return frozenset(stage.name for stage in self.features[: len(self.features) - self.thawed(epoch)])

    def apply(self, epoch: int) -> None:
        """Train mode and gradients for what learns at the epoch; eval mode for what is frozen and all before it."""
        frozen = self.frozen(epoch)
        self.network.train().requires_grad_(True)
        last = max((i for i, stage in enumerate(self.stages) if stage.name in frozen), default=-1)
        for i, stage in enumerate(self.stages):
            if stage.name in frozen or isinstance(self._parent(stage), Frozen):
                stage.module.requires_grad_(False)
            if i <= last:  # a dropout among frozen features, too
                stage.module.eval()
        if frozen:
            self._rest_auxiliary()

    def groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """All that may ever learn as (factor of the learning rate, parameters)."""
        never = self.frozen(self.recipe.epochs - 1)
        factors: dict[float, list[nn.Parameter]] = {}
        for stage, factor in self._factors():
            learns = stage.name not in never and not isinstance(self._parent(stage), Frozen)
            factors.setdefault(factor, []).extend(stage.module.parameters() if learns else [])
        if isinstance(self.network, WithAuxiliary) and not never:
            factors.setdefault(self.recipe.head_lr_factor, []).extend(self.network.auxiliary.parameters())
        return [(factor, parameters) for factor, parameters in factors.items() if parameters]

    def _factors(self) -> Iterable[tuple[Stage, float]]:
        deepest = len(self.features)
        place = {stage.name: i for i, stage in enumerate(self.features)}
        for stage in self.stages:
            if stage.name in self.head:
                yield stage, self.recipe.head_lr_factor
            elif stage.holds:
                yield stage, self.recipe.layer_decay ** (deepest - place[stage.name])

    def _parent(self, stage: Stage) -> nn.Module:
        return self.network.get_submodule(stage.name.split(".")[0])

    def _rest_auxiliary(self) -> None:
        """The auxiliary head teaches features; while any are frozen, it stays as it is, and is not run."""
        if isinstance(self.network, WithAuxiliary):
            self.network.training = False
            self.network.auxiliary.eval().requires_grad_(False)


def check_trained(network: nn.Module) -> None:
    """Raise InputUnusable when nothing in the network asks for a gradient."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputUnusable("nothing is left to learn: every part of the network is frozen")

"""What training starts from, and that what is frozen stays put, in every network that has classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from training_runs import request

from edgekit import models
from edgekit.errors import InputUnusable, UsageError
from edgekit.models import _create
from edgekit.sources.weights import CheckpointWeights, SeedWeights
from edgekit.training.module import optimiser
from edgekit.training.recipe import RECIPES, Recipe
from edgekit.training.request import TrainRequest
from edgekit.training.transfer import HEADS, Layers, head_stages, stages, start

NETWORKS = [name for name in models.names() if models.info(name).task == "classification"]
NARROW = {"mobilenet_v1": 0.25, "mobilenet_v2": 0.35, "c_mobilenet_v2": 0.35}
OPTIONS = {"densenet_bc": {"depth": 10, "growth": 4, "dropout": 0.5}}
FROZEN = Recipe("frozen", lr=0.1, weight_decay=0.1, batch=2, epochs=4, freeze=True)

pytestmark = pytest.mark.usefixtures("one_thread")


def network(model: str, classes: int = 3) -> nn.Module:
    return _create.initial(model, NARROW.get(model), classes, OPTIONS.get(model, {}), 0)


def learn(net: nn.Module, layers: Layers, side: int, steps: int = 2) -> None:
    """A few steps of the real thing, on noise."""
    update = optimiser(layers.recipe, layers.groups())
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(3, 3, side, side, generator=generator)
        output = net(images)
        logits = output[0] if isinstance(output, tuple) else output
        loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]))
        loss.backward()
        update.step()
        update.zero_grad()


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}


# --- frozen


@pytest.mark.parametrize("model", NETWORKS)
def test_frozen_features_stay_put_bit_for_bit(model: str) -> None:
    net = network(model)
    layers = Layers(model, net, FROZEN)
    layers.apply(0)
    before = copied(net)
    learn(net, layers, models.info(model).smallest)
    moved = changed(net, before)
    assert {"classifier.weight", "classifier.bias"} <= moved
    head = ("classifier.", "hidden.") if model == "resnet50_transfer" else ("classifier.",)
    assert all(name.startswith(head) for name in moved)


@pytest.mark.parametrize("model", ["densenet_bc", "mobilenet_v1", "inception_v3", "resnet50_transfer"])
def test_without_freezing_everything_moves(model: str) -> None:
    net = network(model)
    layers = Layers(model, net, replace(FROZEN, freeze=False))
    layers.apply(0)
    before = copied(net)
    learn(net, layers, models.info(model).smallest)
    still = set(before) - changed(net, before)
    expected = {name for name in before if name.startswith("auxiliary.") or ".reduce.conv" in name}
    if model == "resnet50_transfer":  # as published: its features never learn
        assert still == {name for name in before if name.startswith("features.")}
    else:
        # What has no gradient on two batches of noise, an auxiliary head that is not part of this loss: no statistics.
        assert not any("running" in name for name in still - expected)
        assert len(still - expected) < len(before) / 10


def test_a_frozen_network_is_deterministic_up_to_its_head() -> None:
    net = network("densenet_bc")  # with dropout in its blocks
    Layers("densenet_bc", net, FROZEN).apply(0)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(x), net(x))
    Layers("densenet_bc", net, replace(FROZEN, freeze=False)).apply(0)
    assert not torch.equal(net(x), net(x))


def test_the_dropout_before_the_classifier_works_when_only_the_head_learns() -> None:
    net = network("mobilenet_v2")
    Layers("mobilenet_v2", net, FROZEN).apply(0)
    assert net.get_submodule("dropout").training
    assert not any(
        module.training for module in net.get_submodule("blocks").modules() if isinstance(module, nn.BatchNorm2d)
    )


def test_the_auxiliary_head_rests_while_features_are_frozen() -> None:
    net = network("inception_v3")
    Layers("inception_v3", net, FROZEN).apply(0)
    x = torch.randn(2, 3, 75, 75)
    assert isinstance(net(x), Tensor)
    Layers("inception_v3", net, replace(FROZEN, freeze=False)).apply(0)
    assert isinstance(net(x), tuple)


# --- thawed bit by bit


def test_more_of_the_features_join_in_from_the_end() -> None:
    net = network("mobilenet_v2")
    layers = Layers("mobilenet_v2", net, replace(FROZEN, epochs=10, unfreeze_at=(0.2, 0.5)))
    frozen = [layers.frozen(epoch) for epoch in range(10)]
    assert [len(names) for names in frozen] == [19] * 2 + [10] * 3 + [0] * 5
    assert "tail" in frozen[0]
    assert "tail" not in frozen[2]
    assert {"stem", "blocks.0"} <= frozen[2]


def test_what_has_not_joined_in_yet_stays_put_and_what_has_moves() -> None:
    net = network("densenet_bc")
    layers = Layers("densenet_bc", net, replace(FROZEN, epochs=4, unfreeze_at=(0.5, 1.0)))
    for epoch, part in ((0, "classifier."), (2, "block3.")):
        layers.apply(epoch)
        before = copied(net)
        learn(net, layers, 8)
        moved = changed(net, before)
        assert any(name.startswith(part) for name in moved)
        assert not any(name.startswith(("stem", "block1")) for name in moved)


def test_features_that_never_learn_cannot_join_in() -> None:
    with pytest.raises(UsageError, match="never learn"):
        Layers("resnet50_transfer", network("resnet50_transfer"), replace(FROZEN, unfreeze_at=(0.5,)))


# --- heads and rates


def test_the_head_of_each_network() -> None:
    assert head_stages("mobilenet_v2", network("mobilenet_v2")) == {"classifier"}
    resnet = network("resnet50_transfer")
    assert {name for name in head_stages("resnet50_transfer", resnet) if "." not in name} == {
        "pool",
        "flatten",
        "hidden",
        "classifier",
    }


def test_parts_can_be_named_as_the_head() -> None:
    net = network("mobilenet_v2")
    assert head_stages("mobilenet_v2", net, ("tail", "blocks.16")) == {"tail", "blocks.16", "classifier"}
    assert len(head_stages("mobilenet_v2", net, ("blocks",))) == 18
    with pytest.raises(UsageError) as caught:
        head_stages("mobilenet_v2", net, ("tial",))
    assert "tail" in (caught.value.hint or "")


def test_what_is_named_as_the_head_learns() -> None:
    net = network("densenet_bc")
    layers = Layers("densenet_bc", net, FROZEN, ("block3",))
    layers.apply(0)
    before = copied(net)
    learn(net, layers, 8)
    moved = changed(net, before)
    assert any(name.startswith("block3.") for name in moved)
    assert all(name.startswith(("block3.", "classifier.")) for name in moved)


def test_earlier_stages_learn_slower() -> None:
    net = network("mobilenet_v2")
    layers = Layers("mobilenet_v2", net, Recipe("x", lr=1.0, layer_decay=0.5, head_lr_factor=10.0))
    rate = {
        id(parameter): group["lr"]
        for group in optimiser(layers.recipe, layers.groups()).param_groups
        for parameter in group["params"]
    }
    rates = {name: rate[id(parameter)] for name, parameter in net.named_parameters()}
    assert rates["classifier.weight"] == 10.0
    assert rates["tail.conv.weight"] == 0.5
    assert rates["blocks.16.project.conv.weight"] == 0.25
    assert rates["stem.conv.weight"] == 0.5**19


@pytest.mark.parametrize("model", NETWORKS)
def test_every_parameter_has_one_rate(model: str) -> None:
    net = network(model)
    groups = Layers(model, net, replace(FROZEN, freeze=False)).groups()
    rated = [id(parameter) for _, parameters in groups for parameter in parameters]
    assert len(rated) == len(set(rated))
    names = {name for name, parameter in net.named_parameters() if id(parameter) not in rated}
    assert all(model == "resnet50_transfer" and name.startswith("features.") for name in names)


@pytest.mark.parametrize("model", NETWORKS)
def test_stages_are_the_network(model: str) -> None:
    net = network(model)
    held = {f"{stage.name}.{name}" for stage in stages(net) for name in stage.module.state_dict()}
    assert held == {name for name in net.state_dict() if not name.startswith("auxiliary.")}


# --- what it starts from


def asked(tmp_path: Path, **changes: object) -> TrainRequest:
    (tmp_path / "images").mkdir(exist_ok=True)
    return request(tmp_path / "images", tmp_path / "run", RECIPES["transfer"], **changes)


def saved(tmp_path: Path, classes: int, **changes: object) -> Path:
    path = tmp_path / f"weights-{classes}.safetensors"
    net = start(asked(tmp_path, weights=SeedWeights(7), **changes), classes).network
    safetensors.torch.save_file(net.state_dict(), path)
    return path


def test_random_weights_depend_on_the_seed_and_not_on_the_resolution(tmp_path: Path) -> None:
    one, other = (start(asked(tmp_path, resolution=side), 3).network.state_dict() for side in (8, 16))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    seeded = start(asked(tmp_path, weights=SeedWeights(1)), 3).network.state_dict()
    assert not torch.equal(one["stem.weight"], seeded["stem.weight"])


def test_a_file_of_the_same_classes_is_taken_whole(tmp_path: Path) -> None:
    path = saved(tmp_path, 3)
    found = start(asked(tmp_path, weights=CheckpointWeights(path)), 3)
    wanted = safetensors.torch.load_file(path)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.network.state_dict().items())
    assert found.notes == ()


def test_a_head_of_other_classes_starts_afresh_and_is_said_so(tmp_path: Path) -> None:
    path = saved(tmp_path, 5)
    found = start(asked(tmp_path, weights=CheckpointWeights(path)), 3)
    state, wanted = found.network.state_dict(), safetensors.torch.load_file(path)
    assert state["classifier.weight"].shape[0] == 3
    assert torch.equal(state["stem.weight"], wanted["stem.weight"])
    assert found.notes == ("classifier starts afresh: the weights have 5 classes, the data 3",)


def test_both_heads_of_an_inception_start_afresh(tmp_path: Path) -> None:
    net = network("inception_v3", 5)
    path = tmp_path / "inception.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    request_ = replace(
        asked(tmp_path), model="inception_v3", resolution=75, options=(), weights=CheckpointWeights(path)
    )
    found = start(request_, 3)
    assert len(found.notes) == 2
    state = found.network.state_dict()
    fresh = {name for name, tensor in net.state_dict().items() if state[name].shape != tensor.shape}
    assert fresh == {f"{head}.{part}" for head in HEADS for part in ("weight", "bias")}
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items() if name not in fresh)


def test_weights_of_another_network_are_refused_with_what_they_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(network("mobilenet_v2").state_dict(), path)
    with pytest.raises(InputUnusable) as caught:
        start(asked(tmp_path, weights=CheckpointWeights(path)), 3)
    assert "mobilenet_v2" in (caught.value.hint or "")


def test_published_weights_in_the_librarys_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's ResNet-50 under its own names, with a head that nobody wants."""
    from torchvision.models import resnet50

    from edgekit.sources.weights import parse_weights

    theirs = resnet50(weights=None).state_dict()
    path = tmp_path / "resnet50.pth"
    torch.save(theirs, path)
    monkeypatch.setattr("edgekit.models._pretrained.fetch", lambda _: path)
    weights = parse_weights("default", model="resnet50_transfer")
    request_ = replace(asked(tmp_path), model="resnet50_transfer", resolution=32, options=(), weights=weights)
    net = start(request_, 4).network
    assert torch.equal(net.state_dict()["features.stem.conv.weight"], theirs["conv1.weight"])
    assert net.get_submodule("classifier").out_features == 4
    assert float(net.state_dict()["hidden.norm.running_mean"].abs().max()) == 0  # a head to be trained, as it begins


def test_what_cannot_be_trained_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    for changes in ({"resolution": 9}, {"options": {"depth": "11"}}, {"alpha": 0.5}, {"model": "densenet"}):
        with pytest.raises(UsageError):
            start(asked(tmp_path, **changes), 3)

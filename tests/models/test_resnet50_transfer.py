"""ResNet-50's features, frozen, under a head of the course notes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import InputUnusable
from edgekit.models import _create, resnet50_transfer
from edgekit.models._calibrate import calibrate

torchvision_models = pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = torchvision_models.resnet50().requires_grad_(False)
    calibrate(module, 0)
    return module


@pytest.fixture(scope="module")
def ours(theirs: nn.Module) -> nn.Module:
    state = _create.own_names("resnet50_transfer", theirs.state_dict())
    return _create.with_state("resnet50_transfer", None, 5, {}, state, "a test", seed=3)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_its_features_are_torchvisions_output_for_output(theirs: nn.Module, ours: nn.Module) -> None:
    seen: list[Tensor] = []
    handle = theirs.fc.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    theirs(images())
    handle.remove()
    found = ours.pool(ours.features(images())).flatten(1)
    assert not torch.allclose(found[0], found[1], rtol=0.1)
    assert torch.equal(found, seen[0])


def test_the_head_is_seeded_and_calibrated_on_the_features_it_is_given(theirs: nn.Module, ours: nn.Module) -> None:
    state = _create.own_names("resnet50_transfer", theirs.state_dict())
    again = _create.with_state("resnet50_transfer", None, 5, {}, state, "a test", seed=3)
    other = _create.with_state("resnet50_transfer", None, 5, {}, state, "a test", seed=4)
    assert torch.equal(ours(images()), again(images()))
    assert not torch.allclose(ours(images()), other(images()), atol=1e-3)
    logits = ours(images(4))
    assert float(logits.std(0).square().mean().sqrt() / logits.square().mean().sqrt()) > 0.1
    assert float(ours.hidden.norm.running_var.max()) != 1.0
    kept = {name: value for name, value in ours.state_dict().items() if name in state}
    assert len(kept) == len(state)
    assert all(torch.equal(value, state[name]) for name, value in kept.items())


def test_a_checkpoint_of_the_whole_network_brings_its_own_head(ours: nn.Module) -> None:
    module = _create.with_state("resnet50_transfer", None, 5, {}, ours.state_dict(), "a test", seed=9)
    assert torch.equal(module(images()), ours(images()))


def test_features_that_are_not_all_there_are_refused(theirs: nn.Module) -> None:
    state = _create.own_names("resnet50_transfer", theirs.state_dict())
    del state["features.layer2.1.body.expand.conv.weight"]
    with pytest.raises(InputUnusable, match=r"layer2\.1\.body\.expand"):
        _create.with_state("resnet50_transfer", None, 5, {}, state, "a test")


def test_torchvisions_own_head_is_left_out_and_other_names_stay(theirs: nn.Module) -> None:
    renamed = resnet50_transfer.from_torchvision(theirs.state_dict())
    features = _create.skeleton("resnet50_transfer", None, 5, {}).features
    assert set(renamed) == {f"features.{name}" for name in features.state_dict()}
    assert resnet50_transfer.from_torchvision({"hidden.linear.weight": 1}) == {"hidden.linear.weight": 1}


def test_training_moves_the_head_alone() -> None:
    module = _create.initial("resnet50_transfer", None, 2, {}, seed=0).requires_grad_(True).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.1)
    nn.functional.cross_entropy(module(images()), torch.tensor([0, 1])).backward()
    optimiser.step()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith("features.")]
    assert {"hidden.linear.weight", "hidden.norm.running_mean", "classifier.bias"} <= changed


@pytest.mark.parametrize("batch", [1, 3])
def test_it_works_at_any_batch_size(ours: nn.Module, batch: int) -> None:
    assert torch.allclose(ours(images(3))[:batch], ours(images(3)[:batch]), rtol=1e-3, atol=1e-4)


def test_the_published_form_cuts_the_logits_off_at_0() -> None:
    published = _create.seeded("resnet50_transfer", None, 5, {"last_relu": True}, seed=0)
    plain = _create.with_state("resnet50_transfer", None, 5, {}, published.state_dict(), "a test")
    found, logits = published(images(8)), plain(images(8))
    assert torch.equal(found, logits.relu())
    assert bool((logits < 0).any())
    assert bool((found > 0).any(1).all())

"""Random weights: the same from the same seed, and alive."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.models._calibrate import SMOOTH, calibration_images
from edgekit.sources.seeding import enliven, seeded

pytestmark = pytest.mark.usefixtures("one_thread")


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())


def test_a_seed_decides_all_three_generators_and_disturbs_none() -> None:
    expected_next = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[union-attr]
    with seeded(3):
        first = draws()
    with seeded(3):
        assert draws() == first
    with seeded(2**63 - 1):
        assert draws() != first
    now = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[union-attr]
    assert torch.equal(expected_next[0], now[0])
    assert expected_next[1:] == now[1:]


def test_the_generators_are_put_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(1):
        torch.rand(3) + torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)


class Residual(nn.Module):
    """A block as libraries start it: its branch ends in a zero, and so does the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.conv, self.norm = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.gamma = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.pos_embed = nn.Parameter(torch.zeros(8, 1, 1))
        self.head = nn.Linear(8, 10)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.pos_embed
        x = x + self.gamma * self.norm(self.conv(x))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def made(seed: int = 0) -> Residual:
    with seeded(seed):
        network = Residual().eval()
    enliven(network, seed, (3, 128, 128))
    return network


@torch.no_grad()
def test_layers_that_begin_at_zero_are_woken() -> None:
    network, images = made(), calibration_images(7)
    logits = network(images)
    spread = (logits - logits.mean(0)).square().mean().sqrt() / logits.square().mean().sqrt()
    assert float(spread) > 0.1
    assert len(set(logits.argmax(1).tolist())) > 1
    network.conv.weight.zero_()  # a fault in the branch is seen at the output
    assert not torch.allclose(network(images), logits, rtol=0.05)


def test_what_is_added_and_not_multiplied_stays_as_it_is() -> None:
    network = made()
    assert not network.pos_embed.any()
    assert network.gamma.eq(1).all()
    assert network.norm.weight.eq(1).all()


def test_the_result_depends_on_the_seed_alone() -> None:
    torch.rand(3)
    first, again, other = made(1), made(1), made(2)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


class Grey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        assert x.shape[1:] == (1, 24, 32)
        return {"features": [self.norm(self.conv(x))]}


@torch.no_grad()
def test_images_are_made_to_fit_the_network() -> None:
    network = Grey().eval()
    enliven(network, 0, (1, 24, 32))
    assert not network.norm.running_mean.eq(0).any()
    assert network.training is False


def growth_of_rounding(monkeypatch: pytest.MonkeyPatch, smooth: tuple[type[nn.Module], ...]) -> float:
    """How many unit roundoffs the logits of EfficientNet-B0 are off in float32, at most of three images."""
    from torchvision.models import efficientnet_b0

    monkeypatch.setattr("edgekit.models._calibrate.SMOOTH", smooth)
    with seeded(0):
        network = efficientnet_b0().eval().requires_grad_(False)
    enliven(network, 0, (3, 128, 128))
    exact = copy.deepcopy(network).double()
    found = []
    for image in calibration_images(7)[:3].split(1):
        wanted = exact(image.double())
        found.append(float((network(image) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()))
    return max(found) * 2**24


def test_smooth_activations_keep_more_of_the_signal_than_they_throw_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert growth_of_rounding(monkeypatch, SMOOTH) < 40
    assert growth_of_rounding(monkeypatch, ()) > 40

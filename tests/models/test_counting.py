"""Parameters and multiply-accumulates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekit.checkpoints import digest
from edgekit.models import _create
from edgekit.models._counting import count


@pytest.mark.parametrize("name", ["mobilenet_v1", "c_mobilenet_v2"])
def test_macs_are_half_of_what_torchs_flop_counter_finds(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module = _create.seeded(name, 0.5, 10, {}, seed=0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 96, 96))
    assert counter.get_total_flops() == 2 * count(module, 96).macs


def test_other_layers_are_counted_by_the_same_convention() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module = nn.Sequential(
        nn.Conv2d(4, 6, (1, 7), padding=(0, 3), groups=2),
        nn.InstanceNorm2d(6, affine=True),
        nn.ConvTranspose2d(6, 4, 2, 2, groups=2),
        nn.AvgPool2d(2),
        nn.Linear(16, 5),
    ).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 4, 16, 16))
    assert counter.get_total_flops() == 2 * count(module, 16, channels=4).macs


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"])
def test_the_layer_table_adds_up(name: str) -> None:
    counts = count(_create.skeleton(name, 0.75, 10, {}), 160)
    assert sum(layer.params for layer in counts.layers) == counts.params
    assert sum(layer.macs for layer in counts.layers) == counts.macs
    first, last = counts.layers[0], counts.layers[-1]
    assert (first.name, first.kind, first.output_shape, first.params, first.macs) == (
        "stem.conv",
        "Conv2d",
        (24, 80, 80),
        24 * 27,
        24 * 27 * 80 * 80,
    )
    assert (last.name, last.output_shape) == ("classifier", (10,))


def test_the_module_itself_is_not_touched() -> None:
    module = _create.seeded("mobilenet_v2", 0.25, 10, {}, seed=0).train()
    before = digest(module.state_dict())
    counts = count(module, 64)
    assert module.training
    assert digest(module.state_dict()) == before
    assert not any(child._forward_hooks for child in module.modules())
    assert counts == count(_create.skeleton("mobilenet_v2", 0.25, 10, {}), 64)


def test_a_network_that_takes_no_empty_batch_is_counted_all_the_same() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)
            self.out = nn.Linear(2 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.conv(x).view(x.size(0), -1))

    counts = count(Viewed(), 8)
    assert counts.macs == 2 * 27 * 36 + 72 * 5
    assert [layer.name for layer in counts.layers] == ["conv", "out"]


def test_a_layer_that_runs_twice_costs_twice_and_weighs_once() -> None:
    shared = nn.Conv2d(3, 3, 1, bias=False)
    counts = count(nn.Sequential(shared, nn.ReLU(), shared), 4)
    assert counts.params == 9
    assert counts.macs == 2 * 9 * 16
    assert [layer.params for layer in counts.layers] == [9, 0, 0]


def test_a_wrong_input_is_the_networks_own_error() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        count(nn.Conv2d(3, 3, 1), 8, channels=4)

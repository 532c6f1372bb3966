"""Which batch norm follows which layer, in networks that say so in `forward` only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekit.sources.norms import NormWatch


class Own(nn.BatchNorm2d):
    """A norm that does more than one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i in range(9):
            self.add_module(f"c{i}", nn.Conv2d(3, 3, 1, bias=i % 2 == 0))
            self.add_module(f"n{i}", nn.BatchNorm2d(3))
        self.n3 = nn.BatchNorm2d(3, track_running_stats=False)
        self.n4 = Own(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.n0(self.c0(x))  # the plain case
        y = self.c1(x)
        x = self.n1(y) + y  # somebody else takes the output, too
        x = self.n2(self.c2(x).relu())  # not directly
        x = self.n3(self.c3(x))  # normalises by what it sees
        x = self.n4(self.c4(x))
        x = self.n5(self.c5(self.n5(self.c6(x))))  # one norm for two layers
        x = self.n7(self.c7(self.c7(x)))  # one layer twice
        x += 1.0
        return self.n8(self.c8(x)).relu_()


@pytest.fixture
def net() -> nn.Module:
    return Net().eval().requires_grad_(False)


def test_only_what_nothing_else_uses_is_a_pair(net: nn.Module) -> None:
    with NormWatch(net) as watch:
        net(torch.randn(1, 3, 4, 4))
    assert watch.pairs() == (("c0", "n0"), ("c8", "n8"))


def test_the_network_computes_what_it_does_otherwise_and_keeps_no_hook(net: nn.Module) -> None:
    x = torch.randn(2, 3, 4, 4)
    with NormWatch(net):
        watched = net(x.clone())
    assert torch.equal(watched, net(x.clone()))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


def test_an_error_of_the_network_comes_through(net: nn.Module) -> None:
    with pytest.raises(RuntimeError), NormWatch(net):
        net(torch.randn(1, 4, 4, 4))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())

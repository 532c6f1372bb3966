"""The pieces that networks are made of."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgekit.models._blocks import AnySize, Concat, ConvNorm, Frozen, Residual, SqueezeExcite, WithAuxiliary, chain


class Times(nn.Module):
    """A layer whose effect can be seen in the output."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize(("kernel", "padding"), [(1, (0, 0)), (3, (1, 1)), ((1, 7), (0, 3)), ((3, 1), (1, 0))])
def test_a_convolution_keeps_the_size_unless_told_otherwise(
    kernel: int | tuple[int, int], padding: tuple[int, int]
) -> None:
    assert ConvNorm(2, 3, kernel).conv.padding == padding
    assert ConvNorm(2, 3, kernel)(torch.zeros(2, 2, 9, 9)).shape == (2, 3, 9, 9)
    assert ConvNorm(2, 3, 3, padding=0, eps=1e-3)(torch.zeros(2, 2, 9, 9)).shape == (2, 3, 7, 7)


def test_branches_see_the_same_input_and_are_joined_in_order() -> None:
    x = torch.rand(2, 3, 4, 4)
    joined = Concat({"known": nn.Identity(), "new": Times(2)})(x)
    assert torch.equal(joined, torch.cat([x, 2 * x], 1))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_residual_adds_its_shortcut_before_the_activation(scale: float) -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(Residual(Times(-3), scale=scale, act=nn.ReLU)(x), torch.relu(x - 3 * scale * x))
    assert torch.equal(Residual(Times(-3), Times(5), scale=scale, act=nn.ReLU)(x), torch.relu(5 * x - 3 * scale * x))


def test_squeeze_and_excitation_weights_whole_channels_between_0_and_1() -> None:
    torch.manual_seed(0)
    block, x = SqueezeExcite(32, 4).requires_grad_(False), torch.rand(3, 32, 5, 6) + 1
    ratio = block(x) / x
    assert block.reduce.weight.shape == (8, 32)
    assert float(ratio.min()) > 0
    assert float(ratio.max()) < 1
    assert float(ratio.std((2, 3)).max()) < 1e-5
    assert float(ratio.std(1).min()) > 1e-3
    assert torch.allclose(block(x)[1:2], block(x[1:2]))


def test_squeeze_and_excitation_keeps_a_unit_where_there_are_few_channels() -> None:
    assert SqueezeExcite(8, 16).reduce.out_features == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 21), st.integers(5, 21), st.booleans())
def test_any_size_is_padded_by_reflection_and_cropped_back(height: int, width: int, dynamic: bool) -> None:
    seen: list[Tensor] = []
    whole = AnySize(OrderedDict(twice=Times(2)), 8, dynamic)
    whole.twice.register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    x = torch.rand(1, 2, height, width)
    assert torch.equal(whole(x), 2 * x)
    padded = seen[0]
    assert padded.shape[2] % 8 == padded.shape[3] % 8 == 0
    assert max(padded.shape[2] - height, padded.shape[3] - width) < 8
    top, left = (padded.shape[2] - height) // 2, (padded.shape[3] - width) // 2
    assert torch.equal(padded[..., top : top + height, left : left + width], x)
    if top:
        assert torch.equal(padded[..., top - 1, left : left + width], x[..., 1, :])
    if left:
        assert torch.equal(padded[..., top : top + height, left - 1], x[..., 1])


def frozen() -> nn.Sequential:
    return chain(features=Frozen(OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))), out=nn.Conv2d(4, 1, 1))


def test_training_leaves_a_frozen_part_alone() -> None:
    module = frozen()
    assert not any(parameter.requires_grad for parameter in module.features.parameters())
    module.train().requires_grad_(True)
    before = {name: value.clone() for name, value in module.features.state_dict().items()}
    module(torch.rand(2, 3, 4, 4) + 5).square().sum().backward()
    assert not any(child.training for child in module.features.modules())
    assert module.training
    assert module.out.weight.grad is not None
    assert all(parameter.grad is None for parameter in module.features.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.features.state_dict().items())


def test_the_second_head_looks_behind_its_tap_and_in_training_only() -> None:
    module = WithAuxiliary(OrderedDict(a=Times(2), b=Times(3)), "a", Times(-1))
    logits, second = module(torch.ones(1))
    assert (float(logits), float(second)) == (6.0, -2.0)
    assert float(module.eval()(torch.ones(1))) == 6.0

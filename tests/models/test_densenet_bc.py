"""DenseNet-BC: depths, options and what its layers see."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekit.errors import UsageError
from edgekit.models import _create
from edgekit.models.densenet_bc import build, layers_per_block

depths = st.integers(-10, 300)


@given(depths, st.booleans())
def test_a_depth_fits_or_is_refused_with_the_nearest_that_do(depth: int, bottleneck: bool) -> None:
    step = 6 if bottleneck else 3
    if depth > 4 and (depth - 4) % step == 0:
        assert layers_per_block(depth, bottleneck) * step + 4 == depth
        return
    with pytest.raises(UsageError) as caught:
        layers_per_block(depth, bottleneck)
    nearest = [int(number) for number in re.findall(r"\d+", caught.value.hint or "")]
    assert nearest
    for fits in nearest:
        assert layers_per_block(fits, bottleneck) >= 1
        assert abs(fits - depth) < step or depth < step + 4


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5), st.booleans())
def test_the_depth_is_the_number_of_weighted_layers(layers: int, bottleneck: bool) -> None:
    depth = layers * (6 if bottleneck else 3) + 4
    module = _create.skeleton("densenet_bc", None, 10, {"depth": depth, "bottleneck": bottleneck, "growth": 2})
    assert sum(isinstance(child, nn.Conv2d | nn.Linear) for child in module.modules()) == depth


def test_every_layer_sees_all_that_came_before_it() -> None:
    module = build(depth=16, growth=4, reduction=0.5).eval()
    inputs = [layer.new.norm.num_features for layer in module.block1]
    assert inputs == [8, 12]
    x = torch.rand(1, 8, 4, 4)
    assert torch.equal(module.block1[0](x)[:, :8], x)
    assert module.transition1.conv.out_channels == (8 + 2 * 4) // 2
    assert [name for name, _ in module.block1[0].new.named_children()] == ["norm", "act", "reduce", "conv"]


def test_a_transition_keeps_the_whole_part_of_its_share() -> None:
    assert build(depth=10, growth=3, reduction=0.4).transition1.conv.out_channels == int((6 + 3) * 0.4)


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("growth", 0, "1 to 1024"),
        ("reduction", 0.0, "above 0"),
        ("reduction", 1.5, "at most 1"),
        ("dropout", 1.0, "below 1"),
        ("dropout", -0.1, "from 0"),
        ("depth", 41, "6 times a whole number"),
    ],
)
def test_values_that_make_no_network_are_refused_by_name(option: str, value: float, wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        _create.skeleton("densenet_bc", None, 10, {option: value})
    assert caught.value.where == f"--option {option}"
    assert wanted in (caught.value.wanted or "")
    assert caught.value.exit_code == 2


def test_dropout_acts_in_training_only() -> None:
    module, x = build(depth=10, growth=4, dropout=0.5), torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        assert not torch.equal(module(x), module(x))
        assert torch.equal(module.eval()(x), module(x))
    assert sum(isinstance(child, nn.Dropout) for child in module.modules()) == 3 + 2
    assert not any(isinstance(child, nn.Dropout) for child in build(depth=10).modules())

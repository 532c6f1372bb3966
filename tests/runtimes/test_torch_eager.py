"""PyTorch as a rung: in any dtype, with its layers in view, and rounded the way half precision rounds."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from subjects import Subject
from torch import Tensor, nn

from edgekit.graph.from_torch import Anchor
from edgekit.runtimes.torch_eager import ClipCounter, TorchTracer, half_precision

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]


def clipped() -> nn.Sequential:
    """Passes its input through two limits, 6 and 1."""
    return nn.Sequential(OrderedDict(six=nn.ReLU6(), one=nn.Hardtanh(0.0, 1.0), end=nn.Identity()))


def run(module: nn.Module, *values: float) -> Tensor:
    with torch.inference_mode():
        output: Tensor = module(torch.tensor([values]))
    return output


# Tracing


def test_a_trace_holds_every_anchor_behind_its_norm_and_the_output(network: Network) -> None:
    subject = network("mobilenet_v2")
    anchors = [anchor for anchor in subject.anchors if not anchor.is_output]
    values = subject.inputs[0].values
    trace = TorchTracer(subject.module, anchors)(values)
    assert set(trace) == {"logits", *(anchor.name for anchor in anchors)}
    stem = subject.module.get_submodule("stem")
    with torch.inference_mode():
        behind_norm = stem.get_submodule("norm")(stem.get_submodule("conv")(torch.from_numpy(values)))
        assert np.array_equal(trace["logits"], subject.module(torch.from_numpy(values)))
    assert np.array_equal(trace["stem.conv"], behind_norm)


def test_a_float64_trace_is_float64_throughout_and_leaves_the_module_alone(network: Network) -> None:
    subject = network("mobilenet_v1")
    anchors = subject.anchors[:3]
    exact = TorchTracer(subject.module, anchors, torch.float64)(subject.inputs[0].values)
    single = TorchTracer(subject.module, anchors)(subject.inputs[0].values)
    assert {array.dtype for array in exact.values()} == {np.dtype(np.float64)}
    assert {array.dtype for array in single.values()} == {np.dtype(np.float32)}
    assert {parameter.dtype for parameter in subject.module.parameters()} == {torch.float32}
    for name, array in exact.items():
        assert np.abs(array - single[name]).max() < 1e-4 * np.abs(array).max()


def test_a_trace_leaves_no_hook_behind() -> None:
    module = clipped()
    TorchTracer(module, [Anchor("six", "six")])(np.ones((1, 2), np.float32))
    assert not any(layer._forward_hooks for layer in module.modules())


# Which limits were reached


@pytest.mark.parametrize(
    ("values", "reached"),
    [((0.5, -9.0), set()), ((1.0, 1.0), set()), ((1.5,), {"one"}), ((6.0,), {"one"}), ((0.0, 6.5), {"six", "one"})],
)
def test_a_limit_counts_when_a_value_goes_beyond_it(values: tuple[float, ...], reached: set[str]) -> None:
    module = clipped()
    counter = ClipCounter(module)
    run(module, *values)
    assert set(counter.clips) == {"six", "one"}
    assert counter.exercised == reached


def test_what_one_input_has_reached_stays_reached() -> None:
    module = clipped()
    counter = ClipCounter(module)
    run(module, 7.0)
    run(module, 0.0)
    assert counter.exercised == {"six", "one"}


def test_an_activation_without_an_upper_limit_is_none_of_them() -> None:
    assert not ClipCounter(nn.Sequential(nn.ReLU(), nn.LeakyReLU(), nn.Linear(1, 1))).clips


# The half-precision floor


def halves(values: Tensor) -> bool:
    return torch.equal(values, values.half().float())


def test_input_weights_and_every_layers_output_are_halves(network: Network) -> None:
    subject = network("mobilenet_v2")
    rounded = half_precision(subject.folded)
    seen: list[Tensor] = []
    for layer in rounded.modules():
        if not any(layer.children()):
            layer.register_forward_hook(lambda _layer, inputs, output: seen.extend([*inputs, output]))
    # 1/3 is no half, nor is anything that a convolution makes of it.
    with torch.inference_mode():
        rounded(torch.full((1, 3, 96, 96), 1 / 3))
    assert all(halves(parameter) for parameter in rounded.parameters())
    # A sum stands between two layers: it is rounded where the next layer hands it on.
    assert sum(halves(values) for values in seen) >= 0.9 * len(seen)
    assert all(halves(output) for output in seen[1::2])


def test_one_layer_is_rounded_by_hand_as_the_floor_rounds_it() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    values = torch.randn(1, 3, 8, 8)
    by_hand = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter.copy_(parameter.half().float())
    with torch.inference_mode():
        found = half_precision(nn.Sequential(layer))(values)
        assert torch.equal(found, by_hand(values.half().float()).half().float())


def test_the_module_itself_keeps_its_precision() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3))
    before = run(module, 0.1, 0.2, 0.3)
    half_precision(module)
    assert torch.equal(run(module, 0.1, 0.2, 0.3), before)
    assert not halves(before)


def test_what_overflows_a_half_is_infinite_not_clamped() -> None:
    module = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        module[0].get_parameter("weight").fill_(60000.0)
    assert run(half_precision(module), 2.0).item() == float("inf")

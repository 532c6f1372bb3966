"""PyTorch as a rung: in any dtype, with its layers in view, and rounded the way half precision rounds."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional

from edgekit.graph.from_torch import IMAGE, LOGITS, Anchor, Signature
from edgekit.runtimes.torch_eager import LARGE_MAP, ClipCounter, TorchTracer, half_precision

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


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"])
def test_activations_that_overwrite_their_input_change_no_bit(network: Network, name: str) -> None:
    subject = network(name)
    feeds = subject.inputs[0].feeds
    for module in (subject.module, subject.folded):
        overwriting = TorchTracer(module, [], channels_last=True)
        keeping = TorchTracer(module, [], channels_last=True, copies=True)
        assert sum(getattr(layer, "inplace", False) for layer in overwriting.module.modules()) > 10
        assert np.array_equal(overwriting(feeds)["logits"], keeping(feeds)["logits"])
        assert not any(getattr(layer, "inplace", False) for layer in module.modules())


def test_an_activation_overwrites_nothing_that_others_see() -> None:
    """A tensor that goes two ways, one that a trace hands out, and the input itself."""

    class TwoWays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.act = nn.BatchNorm2d(2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            result: Tensor = y + self.act(y)
            return result

    for module, anchors in (
        (TwoWays(), []),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(2)), []),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()), [Anchor("0", "1")]),
    ):
        tracer = TorchTracer(module.eval(), anchors, channels_last=True)
        assert not any(getattr(layer, "inplace", False) for layer in tracer.module.modules())


def test_a_trace_holds_every_anchor_behind_its_norm_and_the_output(network: Network) -> None:
    subject = network("mobilenet_v2")
    anchors = [anchor for anchor in subject.anchors if not anchor.is_output]
    feeds = subject.inputs[0].feeds
    image = torch.from_numpy(feeds[IMAGE])
    trace = TorchTracer(subject.module, anchors)(feeds)
    assert set(trace) == {"logits", *(anchor.name for anchor in anchors)}
    stem = subject.module.get_submodule("stem")
    with torch.inference_mode():
        behind_norm = stem.get_submodule("norm")(stem.get_submodule("conv")(image))
        assert np.array_equal(trace["logits"], subject.module(image))
    assert np.array_equal(trace["stem.conv"], behind_norm)


def test_a_float64_trace_is_float64_throughout_and_leaves_the_module_alone(network: Network) -> None:
    subject = network("mobilenet_v1")
    anchors = subject.anchors[:3]
    exact = TorchTracer(subject.module, anchors, torch.float64)(subject.inputs[0].feeds)
    single = TorchTracer(subject.module, anchors)(subject.inputs[0].feeds)
    assert {array.dtype for array in exact.values()} == {np.dtype(np.float64)}
    assert {array.dtype for array in single.values()} == {np.dtype(np.float32)}
    assert {parameter.dtype for parameter in subject.module.parameters()} == {torch.float32}
    for name, array in exact.items():
        assert np.abs(array - single[name]).max() < 1e-4 * np.abs(array).max()


def test_a_trace_leaves_no_hook_behind() -> None:
    module = clipped()
    TorchTracer(module, [Anchor("six", "six")])({IMAGE: np.ones((1, 2), np.float32)})
    assert not any(layer._forward_hooks for layer in module.modules())


class TwoSided(nn.Module):
    """Looks rows of a table up, weighs them with an image's channels, and hands both on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.conv = nn.Embedding(9, 4), nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = self.conv(image).mean((2, 3))
        scores = pooled * self.table(ids).sum(1)
        return scores, scores.argmax(1), self.conv.weight.mean() + pooled


TWO_SIDED = Signature(("image", "ids"), ("scores", "largest", "pooled"))


def two_sided_feeds(rows: int = 2) -> dict[str, NDArray[Any]]:
    """Not in the order of `forward`: they are told apart by name."""
    rng = np.random.default_rng(0)
    return {"ids": rng.integers(0, 9, (rows, 5)), "image": rng.standard_normal((rows, 3, 8, 8), np.float32)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [True, False])
def test_several_inputs_and_outputs_go_by_name(dtype: torch.dtype, channels_last: bool) -> None:
    """Whole numbers stay what they are in every dtype: an index that is a float is no index."""
    module, feeds = TwoSided().eval(), two_sided_feeds()
    anchors = [Anchor("conv", "conv")]
    tracer = TorchTracer(module, anchors, dtype, channels_last=channels_last, signature=TWO_SIDED)
    found = tracer(feeds)
    assert set(found) == {"conv", *TWO_SIDED.outputs}
    with torch.inference_mode():
        exact = copy.deepcopy(module).double()
        wanted = exact(torch.from_numpy(feeds["image"]).double(), torch.from_numpy(feeds["ids"]))
    for name, values in zip(TWO_SIDED.outputs, wanted, strict=True):
        assert np.allclose(found[name], values.numpy(), rtol=1e-5 if dtype is torch.float32 else 1e-13)
    assert found["largest"].dtype == np.int64
    assert {found[name].dtype for name in ("conv", "scores", "pooled")} == {torch.empty(0, dtype=dtype).numpy().dtype}


@pytest.mark.parametrize("outputs", [("scores",), ("scores", "largest"), ("a", "b", "c", "d")])
def test_more_or_fewer_outputs_than_there_are_names_for_are_an_error(outputs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        TorchTracer(TwoSided().eval(), [], signature=Signature(TWO_SIDED.inputs, outputs))(two_sided_feeds())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_order_in_memory_changes_no_more_than_the_last_bits(network: Network, dtype: torch.dtype) -> None:
    subject = network("mobilenet_v2")
    anchors = [anchor for anchor in subject.anchors if not anchor.is_output]
    feeds = subject.inputs[0].feeds
    plain, last = (TorchTracer(subject.module, anchors, dtype, channels_last=it)(feeds) for it in (False, True))
    assert set(plain) == set(last)
    for name, array in plain.items():
        assert last[name].shape == array.shape
        assert np.abs(last[name] - array).max() < (1e-4 if dtype is torch.float32 else 1e-12) * np.abs(array).max()
    weight = subject.module.get_submodule("stem.conv").get_parameter("weight")
    assert weight.is_contiguous()  # the module itself stays as it was


# Depthwise convolutions in float64


def doubled(layer: nn.Module, values: Tensor) -> NDArray[np.float64]:
    """What a float64 tracer makes of a layer."""
    signature = Signature((IMAGE,), (LOGITS,))
    return TorchTracer(layer, [], torch.float64, signature=signature)({IMAGE: values.numpy()})[LOGITS]


PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def depthwise(draw: st.DrawFn, smallest: int, largest: int) -> tuple[nn.Conv2d, Tensor]:
    """A layer and an image of so many pixels for it; the kernel fits into the padded image."""
    channels, kernel, stride, dilation = draw(st.integers(1, 5)), draw(PAIRS), draw(PAIRS), draw(PAIRS)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    height = draw(st.integers(1, 60))
    width = draw(st.integers(-(-smallest // height), largest // height))
    sizes = zip((height, width), kernel, padding, dilation, strict=True)
    assume(all(size + 2 * pad >= step * (taps - 1) + 1 for size, taps, pad, step in sizes))
    torch.manual_seed(draw(st.integers(0, 99)))
    bias = draw(st.booleans())
    layer = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=bias)
    return layer.requires_grad_(False), torch.randn(draw(st.integers(1, 2)), channels, height, width)


def exactly(layer: nn.Conv2d, values: Tensor) -> Tensor:
    """PyTorch's own float64 convolution."""
    bias = None if layer.bias is None else layer.bias.double()
    weight = layer.weight.double()
    return functional.conv2d(values.double(), weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@settings(max_examples=100, deadline=None)
@given(depthwise(1, LARGE_MAP))
def test_a_depthwise_layer_on_a_small_map_is_the_convolution_to_the_last_bits(case: tuple[nn.Conv2d, Tensor]) -> None:
    """Both add the same products: each sum may round once for every one of them, in the last of 53 bits."""
    layer, values = case
    wanted = exactly(layer, values)
    sizes = copy.deepcopy(layer)
    for parameter in sizes.parameters():
        parameter.abs_()
    terms = layer.weight[0].numel() + 1
    found = doubled(layer, values)
    assert found.dtype == np.float64
    assert found.shape == tuple(wanted.shape)
    assert (np.abs(found - wanted.numpy()) <= 2 * terms * 2.0**-53 * exactly(sizes, values.abs()).numpy()).all()


@settings(max_examples=30, deadline=None)
@given(depthwise(LARGE_MAP + 1, 2 * LARGE_MAP))
def test_a_depthwise_layer_on_a_large_map_is_the_convolution_bit_for_bit(case: tuple[nn.Conv2d, Tensor]) -> None:
    layer, values = case
    assert np.array_equal(doubled(layer, values), exactly(layer, values).numpy())


@pytest.mark.parametrize(("side", "convolutions"), [((32, 32), 0), ((32, 33), 1)])
def test_only_small_maps_are_added_up_by_slices(
    side: tuple[int, int], convolutions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.dtype] = []
    real = functional.conv2d

    def counted(values: Tensor, *arguments: Any) -> Tensor:
        calls.append(values.dtype)
        return real(values, *arguments)

    monkeypatch.setattr(functional, "conv2d", counted)
    layer = nn.Conv2d(4, 4, 3, groups=4).requires_grad_(False)
    doubled(layer, torch.randn(1, 4, *side))
    assert calls == [torch.float64] * convolutions
    TorchTracer(layer, [])({IMAGE: np.ones((1, 4, *side), np.float32)})
    assert calls[convolutions:] == [torch.float32]  # in float32 PyTorch is fast by itself, and the module is as it was


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
    ],
    ids=["two each", "groups", "dense", "reflect", "circular", "same"],
)
def test_other_convolutions_are_left_to_pytorch(layer: nn.Conv2d) -> None:
    layer.requires_grad_(False)
    values = torch.randn(2, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = copy.deepcopy(layer).double()(values.double()).numpy()
    assert np.array_equal(doubled(layer, values), wanted)


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


class Counting(nn.Module):
    """Hands on a tuple of both kinds of numbers, and a list in it."""

    def forward(self, values: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        return values / 3, [values / 7], torch.full((2,), 2**20 + 1)


def test_whole_numbers_are_not_rounded_and_what_a_layer_hands_on_together_is() -> None:
    third, (seventh,), number = half_precision(nn.Sequential(Counting()))(torch.tensor([[1.0, 2.0]]))
    assert halves(third)
    assert halves(seventh)
    assert not halves(torch.tensor([[1.0, 2.0]]) / 3)
    assert number.tolist() == [2**20 + 1] * 2


def test_whole_numbers_reach_a_rounded_network_as_they_are() -> None:
    rounded = half_precision(TwoSided().eval())
    feeds = two_sided_feeds()
    scores = TorchTracer(rounded, [], signature=TWO_SIDED)(feeds)["scores"]
    exact = TorchTracer(TwoSided().eval(), [], torch.float64, signature=TWO_SIDED)(feeds)["scores"]
    assert 1e-5 < np.abs(scores - exact).max() / np.abs(exact).max() < 1e-2

"""Parameters and multiply-accumulates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from edgekit import models
from edgekit.checkpoints import digest
from edgekit.models import _create
from edgekit.models._counting import Counter, count

Mode = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize("name", models.names())
def test_macs_are_half_of_what_torchs_flop_counter_finds(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    side = models.info(name).smallest
    module = _create.initial(name, 0.5 if models.info(name).has_alpha else None, None, {}, seed=0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, side, side))
    assert counter.get_total_flops() == 2 * count(module, side).macs


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


@pytest.mark.parametrize("name", models.names())
def test_the_layer_table_adds_up(name: str) -> None:
    counts = count(_create.skeleton(name, None, None, {}), models.info(name).smallest)
    assert sum(layer.params for layer in counts.layers) == counts.params
    assert sum(layer.macs for layer in counts.layers) == counts.macs


def test_an_auxiliary_head_is_counted_apart() -> None:
    module = _create.skeleton("inception_v3", None, 10, {})
    counts = count(module, 75)
    assert counts.training_only == sum(parameter.numel() for parameter in module.auxiliary.parameters()) > 0
    assert counts.params + counts.training_only == sum(parameter.numel() for parameter in module.parameters())
    assert not [layer for layer in counts.layers if layer.name.startswith("auxiliary")]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"])
def test_layers_are_listed_in_their_order_with_what_they_cost(name: str) -> None:
    counts = count(_create.skeleton(name, 0.75, 10, {}), 160)
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
    assert hooks(module) == 0
    assert counts == count(_create.skeleton("mobilenet_v2", 0.25, 10, {}), 64)


def hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def run(module: nn.Module, *shape: int) -> None:
    with torch.inference_mode():
        module(torch.zeros(*shape))


def test_a_counter_follows_the_latest_run() -> None:
    module = _create.seeded("mobilenet_v2", 0.35, 10, {}, seed=0)
    counter = Counter(module)
    for rows, side in ((1, 64), (3, 96), (2, 64), (1, 32)):
        run(module, rows, 3, side, side)
        assert counter.counts() == count(module, side)  # for each image, whatever the number of them
    assert counter.counts() == counter.counts()


def test_a_counter_lists_what_ran_and_not_what_might_have() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(4, 8), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.wide(x) if x.shape[1] == 4 else self.narrow(x)

    module = Choosing().eval()
    counter = Counter(module)
    assert (counter.counts().params, counter.counts().layers) == (4 * 8 + 8 + 2 * 3 + 3, ())
    for width, name, macs in ((4, "wide", 32), (2, "narrow", 6), (4, "wide", 32)):
        run(module, 1, width)
        assert [layer.name for layer in counter.counts().layers] == [name]
        assert counter.counts().macs == macs


def test_what_a_counter_handed_out_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    counter = Counter(module)
    run(module, 1, 3, 8, 8)
    before = counter.counts()
    run(module, 1, 3, 2, 2)
    assert before.macs == 12 * 64
    assert [layer.output_shape for layer in before.layers] == [(4, 8, 8)]


def test_a_removed_counter_leaves_no_hooks_and_counts_no_more() -> None:
    module = _create.seeded("mobilenet_v1", 0.25, 10, {}, seed=0)
    others = module.register_forward_hook(lambda *_: None)
    counter = Counter(module)
    run(module, 1, 3, 64, 64)
    counted = counter.counts()
    assert hooks(module) > 50
    counter.remove()
    assert hooks(module) == 1  # another's, which is none of its business
    run(module, 1, 3, 32, 32)
    assert counter.counts() == counted
    others.remove()


def test_two_counters_do_not_disturb_each_other() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    one, other = Counter(module), Counter(module)
    run(module, 1, 3, 8, 8)
    one.remove()
    run(module, 1, 3, 4, 4)
    assert (one.counts().macs, other.counts().macs) == (12 * 64, 12 * 16)


def test_counting_leaves_no_hook_behind_even_where_the_network_fails() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(5, 5)).eval()
    with pytest.raises(RuntimeError):
        count(module, 8)
    assert hooks(module) == 0


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


class Wrapped(nn.Module):
    """A program, as a source has it."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.program(x)
        return y


def small() -> nn.Module:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(6, 6, 3, groups=6, bias=False)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), depthwise, nn.ConvTranspose2d(6, 4, 2, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval().requires_grad_(False)


def as_program(kind: str, x: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "exported":
            return torch.export.export(small(), (x,)).module(check_guards=False)
        traced = torch.jit.trace(small(), x)  # type: ignore[no-untyped-call]
        return Wrapped(torch.jit.freeze(traced) if kind == "frozen" else traced)


@pytest.mark.parametrize("kind", ["traced", "frozen", "exported"])
def test_a_program_costs_what_the_network_in_it_costs(kind: str) -> None:
    x = torch.rand(1, 3, 17, 17)
    program, wanted = as_program(kind, x), count(small(), 17)
    counter = Counter(program)
    for _ in range(2):  # it counts the latest run, not all of them
        with torch.inference_mode():
            program(x)
    found = counter.counts()
    assert found.macs == wanted.macs
    # Freezing makes constants of the weights, and folds the batch norm into them.
    assert found.params == wanted.params - (12 if kind == "frozen" else 0)
    assert sum(layer.params for layer in found.layers) == found.params
    assert [layer.macs for layer in found.layers if layer.macs] == [layer.macs for layer in wanted.layers if layer.macs]
    assert [layer.kind for layer in found.layers][:4] == ["Conv2d", "Conv2d", "ConvTranspose2d", "Linear"]


def test_a_program_that_takes_several_images_is_counted_for_one() -> None:
    program = as_program("traced", torch.rand(1, 3, 17, 17))
    counter = Counter(program)
    with torch.inference_mode():
        program(torch.rand(4, 3, 17, 17))
    assert counter.counts().macs == count(small(), 17).macs


def test_layers_of_a_program_have_the_names_of_their_weights() -> None:
    x = torch.rand(1, 3, 17, 17)
    program = as_program("exported", x)
    counter = Counter(program)
    with torch.inference_mode():
        program(x)
    assert [layer.name for layer in counter.counts().layers][:4] == ["0", "3", "4", "7"]


class Attention(nn.Module):
    """Multiplies by a bare parameter before, in, and behind its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(7, 6))
        self.layer = nn.Linear(7, 7)
        self.attention = nn.MultiheadAttention(7, 1, batch_first=True)
        self.last = nn.Parameter(torch.ones(3, 7))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(nn.functional.linear(x, self.first))
        y, _ = self.attention(y, y, y)
        y = y * torch.softmax(y @ y.transpose(1, 2) @ y, -1)
        z: Tensor = y @ self.last.t()
        return z


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_bare_parameters_are_counted_and_products_of_activations_are_not(rows: int, mode: Mode) -> None:
    module = Attention().eval()
    counter = Counter(module)
    with mode():
        module(torch.rand(rows, 5, 6))
    found = counter.counts()
    first, layer, attention, last = 5 * 6 * 7, 5 * 7 * 7, 5 * 7 * 21 + 5 * 7 * 7, 5 * 7 * 3
    assert found.macs == first + layer + attention + last == sum(one.macs for one in found.layers)
    assert found.params == sum(parameter.numel() for parameter in module.parameters())
    assert sum(one.params for one in found.layers) == found.params


def test_several_rows_for_one_image_are_all_counted() -> None:
    """Windows of an image lie along the first axis."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x.reshape(-1, 2, 4)).reshape(x.shape)
            return y

    counter = Counter(module := Windows())
    with torch.inference_mode():
        module(torch.rand(2, 6, 4))
    assert counter.counts().macs == 6 * 4 * 4


def test_signals_and_volumes_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for module, shape in ((nn.Conv1d(2, 3, 5), (1, 2, 9)), (nn.ConvTranspose3d(2, 3, 2, 2), (1, 2, 3, 3, 3))):
        counter, x = Counter(module), torch.rand(*shape)
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            module(x)
        assert flops.get_total_flops() == 2 * counter.counts().macs

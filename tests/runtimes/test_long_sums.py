"""Means over many values, taken one after the other; and nothing else changed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgekit.runtimes.long_sums import LONG, LongSums

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 64  # its pixels are many enough for order to matter
Take = Callable[[Tensor], Tensor]
Mode = Callable[[], AbstractContextManager[None]]


def image(channels: int = 3, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(seed))


def run(take: Take, x: Tensor, *, sequential: bool = True) -> tuple[Tensor, LongSums]:
    with torch.inference_mode(), LongSums(sequential=sequential) as sums:
        return take(x), sums


def one_by_one(values: np.ndarray) -> np.float32:
    """The mean of some float32, added from the first to the last in float32."""
    total = np.float32(0)
    for value in values.ravel():
        total = np.float32(total + value)
    return np.float32(total / np.float32(values.size))


def traced(layer: nn.Module, x: Tensor) -> Tensor:
    """What a program without layers makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(layer, torch.zeros(1, 3, 8, 8))  # type: ignore[no-untyped-call]
    result: Tensor = program(x)
    return result


MAPS: dict[str, Take] = {
    "torch.mean": lambda x: torch.mean(x, (2, 3)),
    "by name": lambda x: torch.mean(input=x, dim=(2, 3)),
    "as numpy names it": lambda x: torch.mean(x, axis=(2, 3)),
    "Tensor.mean": lambda x: x.mean([2, 3]),
    "from the end": lambda x: x.mean(dim=(-2, -1)),
    "flattened": lambda x: x.flatten(2).mean(-1),
    "keepdim": lambda x: x.mean((2, 3), keepdim=True),
    "keepdim by place": lambda x: torch.mean(x, (2, 3), True),
    "adaptive": nn.AdaptiveAvgPool2d(1),
    "adaptive, of one image": lambda x: nn.AdaptiveAvgPool2d((1, 1))(x[0]),
    "adaptive, of one line": lambda x: functional.adaptive_avg_pool1d(x.flatten(2), 1),
    "a pool as large as the map": nn.AvgPool2d(SIDE),
    "a pool as long as the line": lambda x: functional.avg_pool1d(x.flatten(2), SIDE * SIDE),
    "traced": lambda x: traced(nn.AdaptiveAvgPool2d(1), x),
}


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("take", MAPS.values(), ids=MAPS)
def test_the_mean_of_a_map_is_taken_from_the_first_pixel_to_the_last(take: Take, channels: int) -> None:
    x = image(channels)
    found, sums = run(take, x)
    wanted = [one_by_one(x[0, channel].numpy()) for channel in range(channels)]
    assert found.flatten().tolist() == [float(value) for value in wanted]
    assert found.shape == take(x).shape
    assert sums.longest == SIDE * SIDE


def test_the_order_is_visible() -> None:
    """Otherwise the tests above would show nothing."""
    x = image(1)
    assert float(x.mean()) != float(one_by_one(x.numpy()))


@pytest.mark.parametrize("take", [torch.mean, lambda x: x.mean(None), lambda x: x.mean(()), lambda x: x.mean(dim=[])])
def test_the_mean_of_everything(take: Take) -> None:
    x = image(1)
    found, sums = run(take, x)
    assert found.shape == ()
    assert float(found) == float(one_by_one(x.numpy()))
    assert sums.longest == x.numel()


def test_an_axis_in_the_middle_keeps_the_others_where_they_are() -> None:
    x = torch.rand(2, LONG + 44, 3, generator=torch.Generator().manual_seed(1))
    found, _ = run(lambda x: x.mean(1, keepdim=True), x)
    assert found.shape == (2, 1, 3)
    for row in range(2):
        for column in range(3):
            assert float(found[row, 0, column]) == float(one_by_one(x[row, :, column].numpy()))


def test_a_transposed_map_is_added_in_the_order_of_its_axes() -> None:
    x = image(2).transpose(2, 3)
    found, _ = run(lambda x: x.mean((2, 3)), x)
    assert found.flatten().tolist() == [float(one_by_one(x[0, channel].numpy())) for channel in range(2)]


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_takes_mean_and_variance_in_sequence(affine: bool) -> None:
    x, norm = image(2), nn.InstanceNorm2d(2, affine=affine).requires_grad_(False)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.bias, -1.0, 1.0)
    found, sums = run(norm, x)
    assert sums.longest == SIDE * SIDE
    for channel in range(2):
        pixels = x[0, channel].numpy()
        centred = pixels - one_by_one(pixels)
        wanted = centred / np.sqrt(one_by_one(centred * centred) + np.float32(norm.eps))
        if affine:
            wanted = wanted * float(norm.weight[channel]) + float(norm.bias[channel])
        np.testing.assert_allclose(found[0, channel].numpy(), wanted, rtol=3e-7, atol=3e-7)
    assert not torch.equal(found, norm(x))


def test_instance_norm_of_a_signal() -> None:
    x, norm = torch.rand(1, 2, 3000, generator=torch.Generator().manual_seed(2)), nn.InstanceNorm1d(2)
    found, sums = run(norm, x)
    assert sums.longest == 3000
    torch.testing.assert_close(found, norm(x), rtol=1e-4, atol=1e-4)


def test_instance_norm_that_has_learned_its_statistics_uses_them() -> None:
    norm = nn.InstanceNorm2d(2, track_running_stats=True).eval()
    assert norm.running_mean is not None
    norm.running_mean.fill_(3.0)
    x = image(2)
    found, sums = run(norm, x)
    assert torch.equal(found, norm(x))
    assert sums.longest == 0


ALL: dict[str, Take] = {
    **MAPS,
    "everything": torch.mean,
    "instance norm": nn.InstanceNorm2d(2),
    "group norm": lambda x: functional.group_norm(x, 1),
}


@pytest.mark.parametrize("take", ALL.values(), ids=ALL)
def test_nothing_changes_unless_it_is_asked_for(take: Take) -> None:
    x = image(2)
    found, sums = run(take, x, sequential=False)
    assert torch.equal(found, take(x))
    assert sums.longest >= SIDE * SIDE


@pytest.mark.parametrize("take", ALL.values(), ids=ALL)
def test_nothing_changes_in_float64(take: Take) -> None:
    x, layer = image(2).double(), take
    found, sums = run(layer, x)
    assert found.dtype is torch.float64
    assert torch.equal(found, layer(x))
    assert sums.longest >= SIDE * SIDE


def test_a_mean_that_is_asked_for_in_float64_is_one() -> None:
    x = image(2)
    found, _ = run(lambda x: x.mean((2, 3), dtype=torch.float64), x)
    assert torch.equal(found, x.mean((2, 3), dtype=torch.float64))


@given(st.integers(1, 2 * LONG))
def test_short_means_stay_as_they_are(length: int) -> None:
    x = torch.rand(2, length, generator=torch.Generator().manual_seed(length))
    found, sums = run(lambda x: x.mean(1), x)
    assert sums.longest == length
    if length <= LONG:
        assert torch.equal(found, x.mean(1))
    else:
        assert found.tolist() == [float(one_by_one(row.numpy())) for row in x]


def test_instance_norm_of_a_small_map_stays_as_it_is() -> None:
    x, norm = image(2, side=math.isqrt(LONG)), nn.InstanceNorm2d(2)
    found, sums = run(norm, x)
    assert torch.equal(found, norm(x))
    assert sums.longest == LONG


def by_hand(groups: np.ndarray, eps: float) -> np.ndarray:
    """Every row made mean 0 and deviation 1, with sums from its first value to its last."""
    means = np.array([one_by_one(row) for row in groups])[:, None]
    centred = groups - means
    variances = np.array([one_by_one(row * row) for row in centred])[:, None]
    normal: np.ndarray = centred / np.sqrt(variances + np.float32(eps))
    return normal


MODES = pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])


@MODES
@pytest.mark.parametrize("images", [1, 2])
def test_group_norm_takes_mean_and_variance_of_each_group_in_sequence(images: int, mode: Mode) -> None:
    x = torch.cat([image(4, seed=row) for row in range(images)])
    norm = nn.GroupNorm(2, 4).requires_grad_(False)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.bias, -1.0, 1.0)
    with mode(), LongSums(sequential=True) as sums:
        found = norm(x)
    assert sums.longest == 2 * SIDE * SIDE
    wanted = by_hand(x.reshape(2 * images, -1).numpy(), norm.eps).reshape(x.shape)
    wanted = wanted * norm.weight.view(1, 4, 1, 1).numpy() + norm.bias.view(1, 4, 1, 1).numpy()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=3e-7, atol=3e-7)
    assert not torch.equal(found, norm(x))


@MODES
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm_takes_mean_and_variance_of_each_row_in_sequence(affine: bool, mode: Mode) -> None:
    x, norm = image(3)[0].flatten(1), nn.LayerNorm(SIDE * SIDE, elementwise_affine=affine).requires_grad_(False)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    with mode(), LongSums(sequential=True) as sums:
        found = norm(x)
    assert sums.longest == SIDE * SIDE
    wanted = by_hand(x.numpy(), norm.eps) * (norm.weight.numpy() if affine else 1)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=3e-7, atol=3e-7)
    assert not torch.equal(found, norm(x))


@MODES
def test_instance_norm_does_so_however_pytorch_runs_it(mode: Mode) -> None:
    x, norm = image(2), nn.InstanceNorm2d(2)
    with mode(), LongSums(sequential=True) as sums:
        found = norm(x)
    assert sums.longest == SIDE * SIDE
    wanted = by_hand(x[0].flatten(1).numpy(), norm.eps).reshape(x.shape)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.LayerNorm([4, 4, 2])], ids=["group", "layer"])
def test_norms_over_few_values_stay_as_they_are(norm: nn.Module) -> None:
    x = torch.rand(2, 4, 4, 2, generator=torch.Generator().manual_seed(3))
    found, sums = run(norm, x)
    assert torch.equal(found, norm(x))
    assert sums.longest in (16, 32)


def test_batch_norm_sums_nothing() -> None:
    assert run(nn.BatchNorm2d(3).eval(), image())[1].longest == 0


def test_a_sum_is_taken_in_sequence_and_not_divided() -> None:
    x = image(2)
    found, sums = run(lambda x: x.sum((2, 3)), x)
    total = np.add.accumulate(x[0].flatten(1).numpy(), axis=1)[:, -1]
    assert found.flatten().tolist() == total.tolist()
    assert sums.longest == SIDE * SIDE


def test_whole_numbers_are_summed_as_they_are() -> None:
    found, _ = run(lambda x: (x > 0.5).sum((2, 3)), image(2))
    assert found.dtype is torch.int64


@pytest.mark.parametrize("pool", [nn.AvgPool2d(SIDE // 2), nn.AvgPool2d(SIDE, padding=1, stride=SIDE)])
def test_a_pool_by_windows_is_watched_and_stays_as_it_is(pool: nn.Module) -> None:
    x = image(2)
    found, sums = run(pool, x)
    assert torch.equal(found, pool(x))
    assert sums.longest >= SIDE * SIDE // 4


def test_a_pool_to_several_places_stays_as_it_is() -> None:
    x, pool = image(2), nn.AdaptiveAvgPool2d((1, 2))
    found, sums = run(pool, x)
    assert torch.equal(found, pool(x))
    assert sums.longest == SIDE * SIDE // 2


def test_the_longest_of_several_is_remembered() -> None:
    def several(x: Tensor) -> Tensor:
        return x.mean(3) + x.mean((2, 3), keepdim=True).flatten(2) + x.mean(2)

    assert run(several, image())[1].longest == SIDE * SIDE
    assert run(lambda x: x + 1, image())[1].longest == 0


def test_a_batch_of_no_images_comes_through() -> None:
    found, sums = run(lambda x: x.mean((2, 3)), torch.empty(0, 3, SIDE, SIDE))
    assert found.shape == (0, 3)
    assert sums.longest == 0


def test_it_ends_with_its_block() -> None:
    x = image(1)
    before = x.mean()
    run(torch.mean, x)
    assert torch.equal(x.mean(), before)

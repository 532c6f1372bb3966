"""Augmentation draws all of its chance from one generator, and does to the pixels what its names say."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from edgekit import images
from edgekit.preprocessing import CIFAR, IMAGENET, INCEPTION, PIXELS, Preprocessing
from edgekit.training.augment import Augment, Kind, coloured, normalise, turned

KINDS: tuple[Kind, ...] = get_args(Kind)
RANDOM: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "none")


def pixels(count: int = 4, side: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=seeded(seed), dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("contract", [IMAGENET, INCEPTION, CIFAR, PIXELS])
def test_validation_sees_the_very_numbers_that_export_and_bench_see(contract: Preprocessing) -> None:
    batch = pixels(2, 32)
    found = normalise(batch, contract)
    for one, image in zip(found, batch, strict=True):
        wanted = images.normalise(image.numpy().astype(np.float32) * np.float32(contract.scale), contract)[0]
        assert np.array_equal(one.numpy(), wanted)


def test_none_is_normalisation_alone_and_leaves_the_pixels_as_they_were() -> None:
    batch = pixels()
    before = batch.clone()
    found, labels = Augment("none", IMAGENET, classes=3)(batch, torch.tensor([0, 1, 2, 0]), seeded())
    assert torch.equal(found, normalise(before, IMAGENET))
    assert torch.equal(batch, before)
    assert labels.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("mixing", [(0.0, 0.0), (0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides_and_nothing_else(kind: Kind, mixing: tuple[float, float]) -> None:
    augment = Augment(kind, IMAGENET, *mixing, classes=5)
    batch, labels = pixels(6), torch.arange(6) % 5
    torch.manual_seed(1)
    first = augment(batch, labels, seeded(7))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = augment(batch, labels, seeded(7))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), before)
    assert first[0].shape == batch.shape
    assert first[0].dtype == torch.float32


@pytest.mark.parametrize("kind", RANDOM)
def test_each_image_has_a_fate_of_its_own_and_another_seed_another(kind: Kind) -> None:
    same = pixels(1, 32).expand(8, -1, -1, -1).contiguous()
    augment = Augment(kind, PIXELS, classes=2)
    first, second = (augment(same, torch.zeros(8, dtype=torch.int64), seeded(seed))[0] for seed in (0, 1))
    assert len({one.numpy().tobytes() for one in first}) > 2
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [1, 2, 5])
def test_the_smallest_images_get_through(kind: Kind, side: int) -> None:
    found, _ = Augment(kind, IMAGENET, classes=2)(pixels(3, side), torch.zeros(3, dtype=torch.int64), seeded())
    assert found.shape == (3, 3, side, side)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize(("kind", "most"), [("light", 2), ("cifar", 4)])
def test_shifts_keep_within_their_limit_and_reach_it(kind: Kind, most: int) -> None:
    """A bright dot in the middle of black shows where the image went; mirroring moves it from 16 to 15."""
    dots = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    dots[:, :, 16, 16] = 255
    found, _ = Augment(kind, PIXELS, classes=2)(dots, torch.zeros(400, dtype=torch.int64), seeded())
    places = found[:, 0].nonzero()
    assert len(places) == 400
    assert set(places[:, 1].tolist()) == set(range(16 - most, 16 + most + 1))
    low = 16 - most - (1 if kind == "cifar" else 0)
    assert set(places[:, 2].tolist()) == set(range(low, 16 + most + 1))


def test_beyond_the_edge_light_repeats_it_and_cifar_is_black() -> None:
    white = torch.full((50, 3, 32, 32), 255, dtype=torch.uint8)
    labels = torch.zeros(50, dtype=torch.int64)
    assert Augment("light", PIXELS, classes=2)(white, labels, seeded())[0].min() == 1
    assert Augment("cifar", PIXELS, classes=2)(white, labels, seeded())[0].min() == 0


@pytest.mark.parametrize("kind", ["cifar", "standard", "published"])
def test_about_half_of_the_images_are_mirrored(kind: Kind) -> None:
    """Red on the left, green on the right; the published turns of less than 90 degrees leave them on their sides."""
    halves = torch.zeros(600, 3, 16, 16, dtype=torch.uint8)
    halves[:, 0, :, :8] = 200
    halves[:, 1, :, 8:] = 200
    found, _ = Augment(kind, PIXELS, classes=2)(halves, torch.zeros(600, dtype=torch.int64), seeded())
    columns = torch.arange(16.0)
    red, green = ((found[:, channel] * columns).sum((1, 2)) / found[:, channel].sum((1, 2)) for channel in (0, 1))
    assert 0.42 < (red > green).float().mean() < 0.58


def test_light_never_mirrors() -> None:
    halves = torch.zeros(100, 3, 16, 16, dtype=torch.uint8)
    halves[:, :, :, :8] = 255
    found, _ = Augment("light", PIXELS, classes=2)(halves, torch.zeros(100, dtype=torch.int64), seeded())
    assert bool((found[:, :, :, 0] > found[:, :, :, -1]).all())


def test_standard_shows_at_least_half_of_the_area_and_nothing_from_beyond() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(200, 3, 64, 64).contiguous()
    plain = Preprocessing(scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    white = torch.full((200, 3, 64, 64), 255, dtype=torch.uint8)
    augment = Augment("standard", plain, classes=2)
    labels = torch.zeros(200, dtype=torch.int64)
    spans = augment(ramp, labels, seeded())[0][:, 0, 32]
    widths = (spans[:, -2] - spans[:, 1]).abs() / 61
    assert 0.4 < widths.min() < 0.7 < widths.max()
    assert augment(white, labels, seeded())[0].min() > 255 * 0.6  # black would be brighter by no jitter


@pytest.mark.parametrize("angle", [0.0, 30.0, 47.0, 90.0])
@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, -5)])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_turns_are_torchvisions(angle: float, right: int, down: int, scale: float) -> None:
    image = pixels(1, 32).float()
    wanted = tv.affine(image, angle, [right, down], scale, [0.0, 0.0], InterpolationMode.BILINEAR)
    numbers = [math.radians(angle), scale, right / 16, down / 16, 1.0]
    matrix = turned(*(torch.tensor([number]) for number in numbers))
    grid = torch.nn.functional.affine_grid(matrix, [1, 3, 32, 32], align_corners=False)
    found = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    assert torch.allclose(found, wanted, atol=0.05)


def test_published_turns_and_shrinks_every_image() -> None:
    white = torch.full((100, 3, 64, 64), 255, dtype=torch.uint8)
    found, _ = Augment("published", PIXELS, classes=2)(white, torch.zeros(100, dtype=torch.int64), seeded())
    shares = (found > 0).any(1).float().mean((1, 2))
    assert shares.max() < 0.75**2 + 0.05  # as much of the result as the smaller image fills
    assert shares.mean() > 0.2


@given(st.floats(0.6, 1.4), st.floats(0.6, 1.4), st.floats(0.6, 1.4))
def test_colours_are_torchvisions_where_nothing_is_cut_off(
    brightness: float, contrast: float, saturation: float
) -> None:
    image = pixels(2, 8).float() / 8 + 90
    wanted = tv.adjust_contrast(tv.adjust_brightness(image / 255, brightness), contrast)
    wanted = tv.adjust_saturation(wanted, saturation) * 255
    numbers = (torch.tensor([number] * 2) for number in (brightness, contrast, saturation, 0.0))
    assert torch.allclose(coloured(image, *numbers), wanted, atol=0.3)  # torchvision rounds its weights of grey


def test_a_turn_of_the_hue_keeps_greys_and_brightness_and_comes_round() -> None:
    one = torch.ones(1)
    image = pixels(1, 8).float() / 4 + 90
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    found = coloured(image, one, one, one, torch.tensor([0.1]))
    assert (found - image).abs().max() > 1
    assert torch.allclose((found * weights).sum(1), (image * weights).sum(1), atol=0.01)
    assert torch.allclose(coloured(image, one, one, one, one), image, atol=0.01)
    grey = torch.full((1, 3, 4, 4), 77.0)
    assert torch.allclose(coloured(grey, one, one, one, torch.tensor([0.3])), grey, atol=0.01)


# --- mixing


@pytest.mark.parametrize("mixing", [(0.4, 0.0), (0.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("seed", range(8))
def test_labels_say_how_much_of_each_image_is_there(mixing: tuple[float, float], seed: int) -> None:
    """Each image is all of one brightness, its class: its mean is then the mean of its labels."""
    levels = torch.arange(5, dtype=torch.uint8) * 50
    batch = levels.view(-1, 1, 1, 1).expand(-1, 3, 12, 12).contiguous()
    plain = Preprocessing(scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    found, shares = Augment("none", plain, *mixing, classes=5)(batch, torch.arange(5), seeded(seed))
    assert shares.shape == (5, 5)
    assert torch.allclose(shares.sum(1), torch.ones(5))
    assert torch.allclose(found.mean((1, 2, 3)), shares @ levels.float(), atol=1e-3)


def test_with_both_a_coin_decides() -> None:
    levels = torch.tensor([0, 255], dtype=torch.uint8)
    batch = levels.view(-1, 1, 1, 1).expand(-1, 3, 12, 12).contiguous()
    augment = Augment("none", PIXELS, 1.0, 1.0, classes=2)
    pictures = [augment(batch, torch.arange(2), seeded(seed))[0] for seed in range(60)]
    cut = [bool(((found == 0) | (found == 1)).all()) for found in pictures]
    assert 0 < sum(cut) < 60

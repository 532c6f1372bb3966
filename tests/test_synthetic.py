"""Synthetic images have the statistics of photos: that is their point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.synthetic import Array, natural_image

SEEDS = st.integers(0, 2**31)


@settings(max_examples=40)
@given(st.integers(1, 130), SEEDS, st.sampled_from([1, 3, 4]))
def test_pixels_are_those_of_an_image(resolution: int, seed: int, channels: int) -> None:
    image = natural_image(resolution, seed, channels)
    assert image.shape == (channels, resolution, resolution)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1


@settings(max_examples=25)
@given(SEEDS, SEEDS)
def test_the_seed_decides_the_image(one: int, other: int) -> None:
    same = np.array_equal(natural_image(24, one), natural_image(24, other))
    assert same == (one == other)


def slope(image: Array) -> float:
    """The exponent of the amplitude spectrum over the middle frequencies, averaged over directions."""
    side = image.shape[-1]
    amplitude = np.abs(np.fft.fft2(image.astype(np.float64)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    edges = np.geomspace(4 / side, 0.4, 12)
    bands = [(frequency >= low) & (frequency < high) for low, high in itertools.pairwise(edges)]
    level = [np.log(amplitude[..., band].mean()) for band in bands]
    return float(np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), level, 1)[0])


@pytest.mark.parametrize("seed", range(4))
def test_the_spectrum_falls_with_frequency_as_that_of_photos_does(seed: int) -> None:
    image = natural_image(192, seed)
    white = np.random.default_rng(seed).uniform(size=image.shape).astype(np.float32)
    assert slope(image) == pytest.approx(-1.0, abs=0.2)
    assert slope(white) == pytest.approx(0.0, abs=0.1)


def test_the_colours_of_an_image_go_together_without_being_equal() -> None:
    for seed in range(8):
        correlations = np.asarray(np.corrcoef(natural_image(64, seed).reshape(3, -1)))
        assert correlations.min() > 0.5
        assert np.sort(correlations.ravel())[-4] < 0.999  # the three above are each colour with itself


def test_images_differ_in_brightness_and_contrast() -> None:
    images = [natural_image(64, seed) for seed in range(20)]
    assert all(0.25 < level < 0.75 for it in images for level in it.mean(axis=(1, 2)))
    brightness, contrast = [float(it.mean()) for it in images], [float(it.std()) for it in images]
    assert max(brightness) - min(brightness) > 0.15
    assert max(contrast) > 1.4 * min(contrast)


def test_images_are_not_clipped_to_bits() -> None:
    for seed in range(8):
        image = natural_image(64, seed)
        assert ((image == 0) | (image == 1)).mean() < 0.25

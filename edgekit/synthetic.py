"""Image-like arrays from a seed: what a network sees when no real photo is given.

White noise is a poor stand-in for a photo: a pooling network averages it away, so all of it looks alike. Natural
images have a 1/f amplitude spectrum, strong correlation between the colours, and differ in brightness and contrast.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@lru_cache(maxsize=64)
def natural_image(resolution: int, seed: int, channels: int = 3) -> Array:
    """One image (channels, resolution, resolution), float32 pixels in 0..1, with a 1/f amplitude spectrum; read-only.

    Source of the statistics: Field 1987, "Relations between the statistics of natural images and the response
    properties of cortical cells".
    """
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((channels, resolution, resolution))
    pink = np.fft.irfft2(np.fft.rfft2(white) * _one_over_f(resolution), s=(resolution, resolution))
    shared = pink.mean(axis=0, keepdims=True)
    mixed = 0.8 * _unit(shared) + 0.6 * _unit(pink)
    contrast, brightness = rng.uniform(0.12, 0.3), rng.uniform(0.3, 0.7, size=(channels, 1, 1))
    image = np.clip(brightness + contrast * mixed, 0.0, 1.0).astype(np.float32)
    image.flags.writeable = False  # it is kept, and handed out again
    return image


def _one_over_f(resolution: int) -> NDArray[np.float64]:
    vertical = np.fft.fftfreq(resolution)[:, None]
    horizontal = np.fft.rfftfreq(resolution)[None, :]
    frequency = np.hypot(vertical, horizontal)
    frequency[0, 0] = 1.0 / resolution
    return np.asarray(1.0 / frequency)


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean(axis=(-2, -1), keepdims=True)
    spread = centred.std(axis=(-2, -1), keepdims=True)
    return np.asarray(centred / np.maximum(spread, 1e-12))

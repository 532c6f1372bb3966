"""How far two arrays are apart. All sums are taken in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
Feeds = Mapping[str, AnyArray]  # what a network's inputs are given, by name

# A channel's error is judged against its own size, but never against less than this share of the whole tensor's:
# below it, the rounding of the layer's inputs (which all channels share) is larger than the channel itself.
WEAKEST_CHANNEL = 1 / 8


@dataclass(frozen=True)
class Distance:
    """Relative root-mean-square distance of a tensor from its truth: over all of it, and in its worst channel.

    Both are dimensionless; infinite when a value is not finite or the shapes differ.
    """

    overall: float
    channel: float

    def times(self, scale: float) -> Distance:
        """Both figures, scaled."""
        return Distance(self.overall * scale, self.channel * scale)

    def loosest(self, other: Distance | None) -> Distance:
        """The larger of each figure; `other` may be missing."""
        if other is None:
            return self
        return Distance(max(self.overall, other.overall), max(self.channel, other.channel))


FAR = Distance(math.inf, math.inf)


class Target:
    """A tensor (N, C, ...) that others are measured against; what depends on it alone is worked out once.

    What is no floating-point number is not near or far: the distance of whole numbers, truth values and texts is the
    share of them that differ. With `gaps` the truth may hold infinities and NaN, and the others must have the same ones
    in the same places; without, there is no distance from such a truth.
    """

    def __init__(self, truth: AnyArray, *, gaps: bool = False) -> None:
        self.exact = None if truth.dtype.kind == "f" and truth.size else truth
        self.size, self.shape = truth.size, truth.shape
        if self.exact is not None:
            return
        self.values = np.asarray(truth, np.float64)
        self.missing = None
        if gaps and not np.isfinite(self.values).all():
            self.missing = self.values
            self.values = _filled(self.values, self.values)
        size = _mean_square(self.values)
        self.total = math.sqrt(size.mean())
        # Without spatial extent (scores, 1 x 1 maps) a channel is one number, which may be near 0 by chance and says
        # nothing about the channel's size: there it is judged against the whole tensor.
        extended = math.prod(self.values.shape[2:]) > 1
        weakest = self.total * (WEAKEST_CHANNEL if extended else 1.0)
        self.by_channel = np.maximum(np.sqrt(size), weakest)

    def distance(self, actual: AnyArray) -> Distance:
        """The distance of `actual` from this; infinite for another shape and for values that are not finite."""
        if self.exact is not None:
            return self._share(actual, self.exact)
        if actual.shape != self.values.shape or not self._same_gaps(actual):
            return FAR
        if self.missing is not None:
            actual = _filled(actual, self.missing)
        with np.errstate(invalid="ignore", over="ignore"):
            error = _mean_square(np.subtract(actual, self.values, out=_scratch(self.values)))
        if not (np.isfinite(error).all() and math.isfinite(self.total)):
            return FAR
        if self.total == 0.0:
            return Distance(0.0, 0.0) if not error.any() else FAR
        return Distance(math.sqrt(error.mean()) / self.total, float((np.sqrt(error) / self.by_channel).max()))

    def _same_gaps(self, actual: AnyArray) -> bool:
        return self.missing is None or np.array_equal(_gaps(actual), _gaps(self.missing))

    @staticmethod
    def _share(actual: AnyArray, exact: AnyArray) -> Distance:
        if actual.shape != exact.shape or (actual.dtype.kind in "OSU") != (exact.dtype.kind in "OSU"):
            return FAR
        share = float((actual != exact).mean()) if exact.size else 0.0
        return Distance(share, share)


def _gaps(values: AnyArray) -> NDArray[np.int8]:
    """1 and -1 for the infinities, 2 for NaN, 0 for what is a number."""
    return np.where(np.isnan(values), 2, np.where(np.isinf(values), np.sign(values), 0)).astype(np.int8)


def _filled(values: AnyArray, gaps: AnyArray) -> AnyArray:
    """The values with zeros where `gaps` are not finite."""
    return np.where(np.isfinite(gaps), values, 0)


def distance(actual: AnyArray, truth: AnyArray) -> Distance:
    """The distance of `actual` from `truth`, both (N, C, ...)."""
    return Target(truth).distance(actual)


_memory: NDArray[np.float64] = np.empty(0)


def _scratch(like: NDArray[np.float64]) -> NDArray[np.float64]:
    """Memory for a difference. Fresh pages for every tensor would take longer than the subtraction itself."""
    global _memory  # noqa: PLW0603
    if _memory.size < like.size:
        _memory = np.empty(like.size)
    return _memory[: like.size].reshape(like.shape)


def _mean_square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean square of each channel (axis 1): an array (C,)."""
    if values.ndim < 2:
        values = values.reshape(1, -1)
    rows = values.reshape(values.shape[0], values.shape[1], -1)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.einsum("ncp,ncp->c", rows, rows) / (rows.shape[0] * rows.shape[2]))


@dataclass(frozen=True)
class Figures:
    """The figures people know, over the outputs of all inputs together."""

    max_abs: float
    max_rel: float
    cosine: float
    snr_db: float | None


def figures(actual: AnyArray, truth: AnyArray) -> Figures:
    """Figures of two arrays of one shape. `max_rel` is relative to the truth's largest magnitude.

    An element-wise relative error would be infinite at every zero crossing; `snr_db` is None when nothing differs.
    """
    a, t = np.asarray(actual, np.float64).ravel(), np.asarray(truth, np.float64).ravel()
    if a.shape != t.shape or not (np.isfinite(a).all() and np.isfinite(t).all()):
        return Figures(math.inf, math.inf, 0.0, -math.inf)
    error = np.abs(a - t)
    peak, noise, signal = float(np.abs(t).max(initial=0.0)), float(error @ error), float(t @ t)
    norms = math.sqrt(signal * float(a @ a))
    return Figures(
        max_abs=float(error.max(initial=0.0)),
        max_rel=float(error.max(initial=0.0)) / peak if peak else math.inf if noise else 0.0,
        cosine=min(1.0, float(a @ t) / norms) if norms else 1.0 if not noise else 0.0,
        snr_db=10 * math.log10(signal / noise) if noise and signal else None if not noise else -math.inf,
    )


def top1_agreement(actual: AnyArray, truth: AnyArray, margin: float) -> float | None:
    """Share of rows (N, classes) with the same largest class, among those whose lead in the truth exceeds `margin`.

    A lead smaller than the arithmetic's own noise decides nothing. None when no row has a lead that counts, or
    when the output is not one row of scores per input.
    """
    if truth.ndim != 2 or truth.shape[1] < 2 or actual.shape != truth.shape:
        return None
    ranked = np.sort(truth, axis=1)
    clear = (ranked[:, -1] - ranked[:, -2]) > margin
    if not clear.any():
        return None
    return float((actual.argmax(axis=1) == truth.argmax(axis=1))[clear].mean())


def spread(outputs: Sequence[AnyArray]) -> float:
    """How much the outputs for several inputs vary, relative to their size: 0 for a dead network.

    Each (rows, ...); outputs of unlike shapes vary by themselves. Of whole numbers: the share that is not the same
    for all.
    """
    if len({array.shape[1:] for array in outputs}) != 1:
        return 1.0
    first, *others = outputs
    if not first.size or (others and all(np.array_equal(first, other) for other in others)):
        return 0.0
    together = np.concatenate([np.atleast_1d(array) for array in outputs])
    rows = together.reshape(together.shape[0], -1)
    if rows.dtype.kind != "f":
        return float((rows != rows[0]).any(axis=0).mean()) if rows.size else 0.0
    exact = np.nan_to_num(rows.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    size = math.sqrt(float(np.square(exact).mean())) if exact.size else 0.0
    return math.sqrt(float(exact.var(axis=0).mean())) / size if size else 0.0


@dataclass(frozen=True)
class ImageFigures:
    """What people judge images by: peak signal-to-noise ratio (None when nothing differs), structural similarity."""

    psnr_db: float | None
    ssim: float


SSIM_WINDOW = 8  # pixels; the uniform window of the paper's fast form
SSIM_STABILITY = (0.01, 0.03)  # the paper's K1 and K2


def image_figures(actual: AnyArray, truth: AnyArray) -> ImageFigures | None:
    """Figures of images (N, C, H, W); None for what is no image. The peak is the truth's own range.

    Source: Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    if truth.ndim != 4 or min(truth.shape[2:]) < SSIM_WINDOW or actual.shape != truth.shape:
        return None
    a, t = np.asarray(actual, np.float64), np.asarray(truth, np.float64)
    peak = float(np.ptp(t))
    if not (peak and np.isfinite(a).all() and np.isfinite(t).all()):
        return None
    noise = float(np.square(a - t).mean())
    return ImageFigures(10 * math.log10(peak**2 / noise) if noise else None, _ssim(a, t, peak))


def _ssim(a: NDArray[np.float64], t: NDArray[np.float64], peak: float) -> float:
    luminance, contrast = ((k * peak) ** 2 for k in SSIM_STABILITY)
    mean_a, mean_t = _windows(a), _windows(t)
    var_a, var_t = _windows(a * a) - mean_a**2, _windows(t * t) - mean_t**2
    shared = _windows(a * t) - mean_a * mean_t
    similar = (2 * mean_a * mean_t + luminance) * (2 * shared + contrast)
    return float((similar / ((mean_a**2 + mean_t**2 + luminance) * (var_a + var_t + contrast))).mean())


def _windows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of every window, from sums over everything above and to the left."""
    sums = np.pad(values, ((0, 0), (0, 0), (1, 0), (1, 0))).cumsum(axis=2).cumsum(axis=3)
    w = SSIM_WINDOW
    return np.asarray((sums[..., w:, w:] - sums[..., :-w, w:] - sums[..., w:, :-w] + sums[..., :-w, :-w]) / w**2)

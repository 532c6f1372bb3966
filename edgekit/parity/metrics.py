"""How far two arrays are apart. All sums are taken in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]

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


FAR = Distance(math.inf, math.inf)


class Target:
    """A tensor (N, C, ...) that others are measured against; what depends on it alone is worked out once."""

    def __init__(self, truth: AnyArray) -> None:
        self.values = np.asarray(truth, np.float64)
        size = _mean_square(self.values)
        self.total = math.sqrt(size.mean())
        # Without spatial extent (scores, 1 x 1 maps) a channel is one number, which may be near 0 by chance and says
        # nothing about the channel's size: there it is judged against the whole tensor.
        extended = math.prod(self.values.shape[2:]) > 1
        weakest = self.total * (WEAKEST_CHANNEL if extended else 1.0)
        self.by_channel = np.maximum(np.sqrt(size), weakest)

    def distance(self, actual: AnyArray) -> Distance:
        """The distance of `actual` from this; infinite for another shape and for values that are not finite."""
        if actual.shape != self.values.shape:
            return FAR
        with np.errstate(invalid="ignore", over="ignore"):
            error = _mean_square(np.subtract(actual, self.values, out=_scratch(self.values)))
        if not (np.isfinite(error).all() and math.isfinite(self.total)):
            return FAR
        if self.total == 0.0:
            return Distance(0.0, 0.0) if not error.any() else FAR
        return Distance(math.sqrt(error.mean()) / self.total, float((np.sqrt(error) / self.by_channel).max()))


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


def spread(outputs: AnyArray) -> float:
    """How much outputs (inputs, ...) vary from input to input, relative to their size: 0 for a dead network."""
    rows = np.asarray(outputs, np.float64).reshape(outputs.shape[0], -1)
    size = math.sqrt(float(np.square(rows).mean()))
    return math.sqrt(float(rows.var(axis=0).mean())) / size if size else 0.0

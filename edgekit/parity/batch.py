"""Batch consistency: a row's result must not depend on which other rows stand beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.parity.metrics import AnyArray, Distance, distance
from edgekit.parity.report import BatchCheck
from edgekit.parity.tolerance import excess

BatchRun = Callable[[AnyArray], AnyArray]


def check_batch(
    name: str, run: BatchRun, rows: AnyArray, batch: int | None, allowed: Distance, alone: AnyArray | None = None
) -> BatchCheck:
    """Each row of `rows` (N, ...) alone, against the same rows permuted and duplicated in one batch.

    `run` takes any number of rows when `batch` is None, otherwise exactly `batch`: then a row "alone" is the batch
    filled with that row. `alone` (N, ...) are the results of the single rows, where they are known.
    """
    if alone is None:
        alone = np.concatenate([run(_repeat(row, batch or 1))[:1] for row in rows])
    order = _mixed_order(len(rows), batch or len(rows) + 1)
    together = run(rows[order])
    found = distance(together, alone[order])
    passed = excess(found, allowed) <= 1.0
    reason = None if passed else "a row's result depends on the other rows of its batch"
    error = found.overall if np.isfinite(found.overall) else None
    return BatchCheck(name, passed, error, allowed.overall, reason)


def _repeat(row: AnyArray, times: int) -> AnyArray:
    return np.repeat(row[None], times, axis=0)


def _mixed_order(rows: int, length: int) -> list[int]:
    """Row numbers from the last down, over and over: out of place, and with repeats where there is room for them."""
    order = [(rows - 1 - i) % rows for i in range(length)]
    # Read backwards it must be another order, or a graph that turns its batch round would go unseen.
    return [*order[1:], order[0]] if order == order[::-1] else order

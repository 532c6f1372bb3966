"""Batch consistency: a row's result must not depend on which other rows stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.parity.metrics import AnyArray, Distance, Feeds, distance
from edgekit.parity.report import BatchCheck
from edgekit.parity.tolerance import excess

BatchRun = Callable[[Feeds], Mapping[str, AnyArray]]


def check_batch(
    name: str,
    run: BatchRun,
    rows: Sequence[Feeds],
    batch: int | None,
    allowed: Mapping[str, Distance],
    alone: Sequence[Mapping[str, AnyArray]] | None = None,
) -> BatchCheck:
    """Each of `rows` (one row of every input) alone, against the same rows permuted and duplicated in one batch.

    `run` takes any number of rows when `batch` is None, otherwise exactly `batch`: then a row "alone" is the batch
    filled with that row. `alone` are the results of the single rows, where they are known. Every output that `allowed`
    has a tolerance for is compared; the one that uses most of it is reported.
    """
    if alone is None:
        alone = [run(stack([row] * (batch or 1))) for row in rows]
    order = _mixed_order(len(rows), batch or len(rows) + 1)
    together = run(stack([rows[number] for number in order]))
    found = {
        output: _distance(together[output], [alone[number][output] for number in order], batch or 1)
        for output in allowed
        if output in together
    }
    if not found:
        return BatchCheck(name, None, None, None, "the graph has none of the network's outputs")
    worst = max(found, key=lambda output: excess(found[output], allowed[output]))
    passed = excess(found[worst], allowed[worst]) <= 1.0
    reason = None if passed else "a row's result depends on the other rows of its batch"
    error = found[worst].overall if np.isfinite(found[worst].overall) else None
    return BatchCheck(name, passed, error, allowed[worst].overall, reason)


def _distance(together: AnyArray, alone: Sequence[AnyArray], rows: int) -> Distance:
    """Of the rows in one batch from the rows alone; what has no row for each input must be the same in both."""
    if together.ndim and alone[0].ndim and len(alone[0]) == rows and len(together) == len(alone):
        return distance(together, np.concatenate([one[:1] for one in alone]))
    return max((distance(together, one) for one in alone), key=lambda found: found.overall)


def stack(rows: Sequence[Feeds]) -> Feeds:
    """Several feeds as one batch: along the first axis of every input."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _mixed_order(rows: int, length: int) -> list[int]:
    """Row numbers from the last down, over and over: out of place, and with repeats where there is room for them."""
    order = [(rows - 1 - i) % rows for i in range(length)]
    # Read backwards it must be another order, or a graph that turns its batch round would go unseen.
    return [*order[1:], order[0]] if order == order[::-1] else order

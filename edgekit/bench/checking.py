"""A runtime's outputs against the stored truth: is it still the same network that is being timed?

The tolerance is the manifest's own. Where the ladder's figure is that of an output, its tolerance is taken as it is;
where it is that of a layer inside, the outputs' distance from the truth as the manifest has it (its signal-to-noise
ratio) is their noise floor, and the usual factor makes the tolerance. Distances are over all inputs together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from edgekit.bench.record import ParityCheck
from edgekit.bench.runtimes import Runner
from edgekit.errors import InputUnusable
from edgekit.golden import Golden
from edgekit.manifest import Manifest
from edgekit.parity.metrics import AnyArray, Distance, distance
from edgekit.parity.report import Rung
from edgekit.parity.tolerance import Precision, tolerance

# bfloat16 has three bits less than float16, so its noise floor is eight times as high. No rung is climbed in it.
Arithmetic = Literal["fp32", "fp16", "bf16"]
BF16_OVER_FP16 = 8.0
# The rungs that say how far outputs in a precision are from the truth.
RUNGS: dict[Precision, tuple[str, ...]] = {"fp32": ("pytorch-fp32", "onnx", "simplified"), "fp16": ("fp16",)}
When = Literal["before", "after"]


def check(runner: Runner, golden: Golden, allowed: Mapping[str, float], when: When) -> ParityCheck:
    """Run every stored input; the first output that leaves its tolerance, else the one that uses most of it."""
    worst: tuple[float, str, float, float] | None = None
    for name, error in _errors(_outputs(runner, golden), golden.outputs):
        used = error / allowed[name]
        if worst is None or used > worst[0]:
            worst = (used, name, error, allowed[name])
    assert worst is not None  # `golden.unpack` refuses an archive without outputs
    used, name, error, most = worst
    passed = used <= 1.0
    reason = None if passed else f"{name} is off by {error:.2g}, allowed are {most:.2g}"
    return ParityCheck(when, passed, error if math.isfinite(error) else None, most, reason)


def arithmetic(precision: Precision, versions: Mapping[str, str]) -> Arithmetic:
    """What an artifact in that precision is computed in: a runtime that takes another one names it in its versions."""
    return "bf16" if versions.get("inference-precision") == "bf16" else precision


def allowances(manifest: Manifest, used: Arithmetic, golden: Golden) -> dict[str, float]:
    """The relative root-mean-square distance from the truth that each output is allowed.

    Raises InputUnusable where the manifest has no rung in that precision.
    """
    precision: Precision = "fp16" if used == "bf16" else used
    rungs = [rung for rung in manifest.parity.rungs if rung.name in RUNGS[precision]]
    if not rungs:
        raise InputUnusable(f"the manifest has no rung in {precision}, so nothing says what is still right")
    scale = BF16_OVER_FP16 if used == "bf16" else 1.0
    return {name: scale * _allowed(name, rungs, precision, golden) for name in golden.outputs[0]}


def _allowed(name: str, rungs: Sequence[Rung], precision: Precision, golden: Golden) -> float:
    own = [rung.tolerance for rung in rungs if rung.tensor == name and rung.tolerance is not None]
    floor = max((_noise(rung) for rung in rungs), default=0.0)
    size = min(outputs[name].size for outputs in golden.outputs)
    return max([*own, tolerance(Distance(floor, floor), precision, size).overall])


def _noise(rung: Rung) -> float:
    """The outputs' relative distance from the truth, from the rung's signal-to-noise ratio; 0 for the same numbers."""
    return 10 ** (-rung.snr_db / 20) if rung.snr_db is not None else 0.0


def _outputs(runner: Runner, golden: Golden) -> list[Mapping[str, AnyArray]]:
    found = []
    for given in golden.inputs:
        runner.feed(given.feeds)
        found.append(runner.outputs())
    return found


def _errors(
    found: Sequence[Mapping[str, AnyArray]], wanted: Sequence[Mapping[str, AnyArray]]
) -> Iterator[tuple[str, float]]:
    """(output, distance over all inputs); infinite for one that is missing, or has another shape."""
    for name in wanted[0]:
        ours = [outputs.get(name) for outputs in found]
        theirs = [outputs[name] for outputs in wanted]
        yield name, _distance(ours, theirs)


def _distance(ours: Sequence[AnyArray | None], theirs: Sequence[AnyArray]) -> float:
    there = [array for array in ours if array is not None]
    if len(there) < len(theirs) or any(a.shape != b.shape for a, b in zip(there, theirs, strict=True)):
        return math.inf
    if theirs[0].dtype.kind != "f":
        return max(distance(a, b).overall for a, b in zip(there, theirs, strict=True))
    together = [np.concatenate([array.ravel() for array in arrays])[None, None] for arrays in (there, theirs)]
    return distance(*together).overall

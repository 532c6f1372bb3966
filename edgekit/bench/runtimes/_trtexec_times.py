"""What trtexec writes with --exportTimes: one record for every run, in milliseconds.

Format: a JSON list of objects with start and end of enqueueing, of the copy to the GPU, of computing and of the copy
back, and the durations of the last three and of all. 8.2 adds endToEndMs, and versions before 8.6 or so write the
warm-up runs, too. Source: trtexec's own code at its tags. No file of a real run was at hand.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from edgekit.errors import InputUnusable

STAGES = ("Enq", "H2d", "Compute", "D2h")
DURATIONS = ("h2dMs", "computeMs", "d2hMs", "latencyMs")
KEYS = (*(f"{end}{stage}Ms" for stage in STAGES for end in ("start", "end")), *DURATIONS)
ROUNDING = 1e-3  # of a figure: they are printed with six digits, of 32-bit floats


@dataclass(frozen=True)
class Run:
    """One inference, in seconds. `enqueue` is the host's time, the others the device's; `begun` is when it began to
    compute, counted from the first warm-up. `latency` is both copies and the computing together.
    """

    begun: float
    enqueue: float
    h2d: float
    compute: float
    d2h: float
    latency: float


def parse_times(text: str, where: str, warmup_ms: float = 0.0) -> tuple[Run, ...]:
    """The runs that began to compute after the warm-up. Raises InputUnusable for whatever is not such a list, and for
    figures that cannot be.
    """
    try:
        records = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _unusable("not JSON", where, str(error)) from error
    if not isinstance(records, list) or not records:
        raise _unusable("not a list of runs", where, type(records).__name__ if records != [] else "an empty list")
    runs = [_run(record, f"{where}, run {number}") for number, record in enumerate(records)]
    counted = tuple(run for run in runs if run.begun * 1e3 >= warmup_ms)
    if not counted:
        raise _unusable("nothing but warm-up", where, f"{len(runs)} runs in the first {warmup_ms:g} ms")
    return counted


def _run(record: object, where: str) -> Run:
    if not isinstance(record, dict):
        raise _unusable("not an object", where, type(record).__name__)
    lacking = [key for key in KEYS if key not in record]
    if lacking:
        raise _unusable("without all its keys", where, f"no {', '.join(lacking)}")
    values = {key: _milliseconds(record[key], f"{where}, {key}") for key in KEYS}
    for stage in STAGES:
        if values[f"end{stage}Ms"] < values[f"start{stage}Ms"]:
            raise _unusable("impossible", where, f"end{stage}Ms before start{stage}Ms")
    _check_durations(values, where)
    return Run(
        begun=values["startComputeMs"] * 1e-3,
        enqueue=(values["endEnqMs"] - values["startEnqMs"]) * 1e-3,
        h2d=values["h2dMs"] * 1e-3,
        compute=values["computeMs"] * 1e-3,
        d2h=values["d2hMs"] * 1e-3,
        latency=values["latencyMs"] * 1e-3,
    )


def _milliseconds(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unusable("not a number", where, repr(value)[:80])
    try:
        number = float(value)
    except OverflowError:  # whole numbers of any length are JSON, too
        number = math.inf
    if not 0.0 <= number < math.inf:
        raise _unusable("no duration", where, f"{number:g}")
    return number


def _check_durations(values: dict[str, float], where: str) -> None:
    h2d, compute, d2h, latency = (values[key] for key in DURATIONS)
    if compute == 0.0:
        raise _unusable("impossible", where, "computeMs is zero")
    if abs(h2d + compute + d2h - latency) > ROUNDING * max(latency, compute):
        parts = f"{h2d:g} + {compute:g} + {d2h:g}"
        raise _unusable("impossible", where, f"latencyMs is {latency:g}, and its parts are {parts}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _unusable(what: str, where: str, got: str) -> InputUnusable:
    return InputUnusable(f"trtexec's times are {what}", where=where, got=got, wanted="what --exportTimes writes")

"""Whether a measurement can be relied on: every reason against it, with its figure. Nothing heavy is imported.

The limits are few and fixed; docs/decisions/0006-measuring-latency.md says where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.bench.record import ParityCheck, Telemetry, Verdict

LEAST_ROUNDS = 10
LEAST_RUNS = 30
WIDEST = 0.05  # half the 95 % interval of the ratio, as a share
MOST_DRIFT = 0.05  # second half of the rounds against the first, as a share, beyond its own interval
MOST_OTHER_LOAD = 0.10  # of the machine's processor time
MOST_STEAL = 0.05
MOST_PRESSURE = 0.25
MOST_CLOCK_CHANGE = 0.10
HOTTEST_C = 95.0
MOST_MISSED = 0.01  # of all frames; MLPerf lets its server scenario miss as many
MOST_TAIL_DRIFT = 0.10  # the tail of a soak's last third against that of its first


@dataclass(frozen=True)
class Signs:
    """What the samples of one result show. `width`: half the interval of its ratio (of its median where it has none),

    as a share; `drift`: (value, low, high) as logarithms; `humps`: how far apart two humps are, None for one.
    """

    rounds: int
    runs: int
    width: float
    drift: tuple[float, float, float]
    humps: float | None


@dataclass(frozen=True)
class Played:
    """What a scenario shows, each where it is that scenario's: None elsewhere.

    `missed` of how many frames came too late; `keeps_up` with the pace; `drift`: how much longer the tail became, as a
    share, and `tail_told`: whether it could be told at all; `loadgen`: LoadGen's own words where it says INVALID.
    """

    runs: int
    missed: tuple[int, int] | None = None
    keeps_up: bool | None = None
    tail_told: bool | None = None
    drift: float | None = None
    loadgen: tuple[str, ...] | None = None


def judge_played(played: Played, machine: Telemetry, parity: Sequence[ParityCheck]) -> Verdict:
    """Valid where nothing speaks against it."""
    reasons = (*_parity(parity), *_played(played), *_machine(machine))
    return Verdict(not reasons, reasons)


def judge(signs: Signs, machine: Telemetry, parity: Sequence[ParityCheck]) -> Verdict:
    """Valid where nothing speaks against it."""
    reasons = (*_parity(parity), *_samples(signs), *_machine(machine))
    return Verdict(not reasons, reasons)


def parity_lost(parity: Sequence[ParityCheck]) -> bool:
    """Whether it was ever seen to compute something else."""
    return any(not check.passed for check in parity)


def _parity(parity: Sequence[ParityCheck]) -> Iterator[str]:
    for check in parity:
        if not check.passed:
            yield f"parity lost, seen {check.when} measuring: {check.reason or 'the outputs are not the stored ones'}"


def _samples(signs: Signs) -> Iterator[str]:
    if signs.rounds < LEAST_ROUNDS or signs.runs < LEAST_RUNS:
        wanted = f"{LEAST_ROUNDS} and {LEAST_RUNS} are the least"
        yield f"too few samples: {signs.rounds} rounds, {signs.runs} runs; {wanted}"
    if signs.width > WIDEST:
        yield f"interval too wide: ±{signs.width:.1%}, at most ±{WIDEST:.0%} say anything"
    value, low, high = signs.drift
    if abs(value) > MOST_DRIFT and not low <= 0.0 <= high:
        yield f"drift: the second half is {value:+.1%} off the first"
    if signs.humps is not None:
        yield f"bimodal: the runs fall in two groups {signs.humps:.0%} apart"


def _played(played: Played) -> Iterator[str]:
    if played.runs < LEAST_RUNS:
        yield f"too few samples: {played.runs} runs, {LEAST_RUNS} are the least"
    if played.missed is not None and played.missed[0] > MOST_MISSED * played.missed[1]:
        missed, frames = played.missed
        yield f"missed deadlines: {missed} of {frames} frames came too late, at most {MOST_MISSED:.0%} may"
    if played.keeps_up is False:
        yield "it does not keep up with the pace: half of the inferences take longer than frames are apart"
    if played.tail_told is False:
        yield "too few samples: fewer than three windows, or too few runs in one, do not tell how the tail goes"
    if played.drift is not None and played.drift > MOST_TAIL_DRIFT:
        yield f"the tail drifts: {played.drift:+.0%} from the first third to the last, at most +{MOST_TAIL_DRIFT:.0%}"
    if played.loadgen is not None:
        yield f"LoadGen says INVALID: {', '.join(word.rstrip('.') for word in played.loadgen) or 'and gives no reason'}"


def _machine(machine: Telemetry) -> Iterator[str]:
    if machine.throttled:
        yield "throttled: the hardware slowed itself down meanwhile"
    if machine.clock_mhz is not None and machine.clock_mhz[0] < (1 - MOST_CLOCK_CHANGE) * machine.clock_mhz[1]:
        yield f"clock changed: {machine.clock_mhz[0]:.0f} to {machine.clock_mhz[1]:.0f} MHz"
    if machine.temperature_c is not None and machine.temperature_c[1] >= HOTTEST_C:
        yield f"temperature: {machine.temperature_c[1]:.0f} °C"
    if loads := list(_loads(machine)):
        yield f"another load on the machine: {', '.join(loads)}"


def _loads(machine: Telemetry) -> Iterator[str]:
    if machine.other_load is not None and machine.other_load > MOST_OTHER_LOAD:
        yield f"other processes took {machine.other_load:.0%} of the processors"
    if machine.steal is not None and machine.steal > MOST_STEAL:
        yield f"the hypervisor took {machine.steal:.0%}"
    # Where it can be told whose time it was, waiting is a consequence, and may be among the runtime's own threads.
    if machine.other_load is None and machine.pressure_cpu is not None and machine.pressure_cpu > MOST_PRESSURE:
        yield f"threads waited for a processor in {machine.pressure_cpu:.0%} of the time"

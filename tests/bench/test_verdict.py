"""Every reason not to rely on a measurement is given, with its figure; a sound one has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.bench.record import ParityCheck, Telemetry
from edgekit.bench.verdict import Signs, judge, parity_lost

SOUND = Signs(rounds=40, runs=120, width=0.01, drift=(0.01, -0.01, 0.03), humps=None)
QUIET = Telemetry(
    10.0,
    40,
    steal=0.0,
    pressure_cpu=0.05,
    load_before=0.1,
    clock_mhz=(2900.0, 3000.0),
    temperature_c=(50.0, 60.0),
    throttled=False,
    round_spread=0.05,
    other_load=0.02,
)
RIGHT = (ParityCheck("before", True, 1e-7, 1e-5), ParityCheck("after", True, 1e-7, 1e-5))
WRONG = ParityCheck("after", False, 0.3, 1e-5, "map is off by 0.3, allowed are 1e-05")


def test_a_sound_measurement_is_valid():
    assert judge(SOUND, QUIET, RIGHT).valid


def test_what_cannot_be_read_is_held_against_nobody():
    assert judge(SOUND, Telemetry(10.0, 40), ()).valid


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        (replace(SOUND, rounds=9), "too few samples: 9 rounds"),
        (replace(SOUND, runs=29), "too few samples: 40 rounds, 29 runs"),
        (replace(SOUND, width=0.06), "interval too wide: ±6.0%"),
        (replace(SOUND, drift=(0.2, 0.1, 0.3)), "drift: the second half is +20.0%"),
        (replace(SOUND, drift=(-0.2, -0.3, -0.1)), "drift: the second half is -20.0%"),
        (replace(SOUND, humps=0.4), "bimodal: the runs fall in two groups 40% apart"),
    ],
)
def test_signs_in_the_samples(signs: Signs, words: str):
    verdict = judge(signs, QUIET, RIGHT)
    assert not verdict.valid
    assert len(verdict.reasons) == 1
    assert words in verdict.reasons[0]


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (replace(QUIET, throttled=True), "throttled"),
        (replace(QUIET, clock_mhz=(2000.0, 3000.0)), "clock changed: 2000 to 3000 MHz"),
        (replace(QUIET, temperature_c=(60.0, 97.0)), "temperature: 97 °C"),
        (replace(QUIET, other_load=0.3), "other processes took 30%"),
        (replace(QUIET, steal=0.2), "the hypervisor took 20%"),
        (replace(QUIET, other_load=None, pressure_cpu=0.6), "waited for a processor in 60%"),
    ],
)
def test_signs_of_the_machine(machine: Telemetry, words: str):
    (reason,) = judge(SOUND, machine, RIGHT).reasons
    assert words in reason


@pytest.mark.parametrize(
    "signs",
    [replace(SOUND, drift=(0.2, -0.1, 0.5)), replace(SOUND, drift=(0.03, 0.02, 0.04)), replace(SOUND, rounds=10)],
)
def test_what_is_no_sign(signs: Signs):
    """A drift that its interval does not support, one that is small, and just enough rounds."""
    assert judge(signs, QUIET, RIGHT).valid


def test_waiting_of_its_own_threads_is_no_other_load():
    assert judge(SOUND, replace(QUIET, other_load=0.0, pressure_cpu=0.9), RIGHT).valid


def test_lost_parity_comes_first():
    verdict = judge(replace(SOUND, width=1.0), QUIET, (*RIGHT, WRONG))
    assert verdict.reasons[0].startswith("parity lost, seen after measuring: map is off by 0.3")
    assert parity_lost((*RIGHT, WRONG))
    assert not parity_lost(RIGHT)

"""The report names the first thing that failed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.parity.report import BatchCheck, Liveness, ParityReport, Rung
from edgekit.schema import read, to_json


def rung(name: str, passed: bool = True, against: str = "pytorch-fp64") -> Rung:
    return Rung(name, against, passed, 1e-7, 2e-7, "output", 3, 1e-6, 1e-7, 1.0, 120.0, 1.0)


ALIVE, DEAD = Liveness(0.5, 1e-5, True), Liveness(1e-7, 1e-5, False)
GOOD = ParityReport(
    passed=True,
    mode="full",
    rungs=(rung("pytorch-fp32"), rung("onnx"), rung("simplified"), rung("fp16")),
    inputs=("natural-0",),
    liveness=ALIVE,
    batch=(BatchCheck("simplified", True, 0.0, 1e-6), BatchCheck("fp16", None, None, None, "one row only")),
)


def test_nothing_failed() -> None:
    assert GOOD.first_failure() is None


@pytest.mark.parametrize("failing", [("onnx",), ("onnx", "fp16"), ("simplified",), ("fp16",), ("simplified", "fp16")])
def test_the_first_failing_rung_is_named(failing: tuple[str, ...]) -> None:
    rungs = tuple(replace(it, passed=it.name not in failing) for it in GOOD.rungs)
    assert replace(GOOD, rungs=rungs).first_failure() == failing[0]


def test_a_comparison_with_the_rung_before_counts_as_the_rungs_own() -> None:
    rungs = (*GOOD.rungs[:3], rung("simplified", False, "onnx"), rung("fp16", False))
    assert replace(GOOD, rungs=rungs).first_failure() == "simplified"


def test_a_rung_comes_before_liveness_and_liveness_before_the_batch() -> None:
    mixed = (BatchCheck("fp16", False, 0.1, 1e-6),)
    assert replace(GOOD, batch=mixed).first_failure() == "batch:fp16"
    assert replace(GOOD, liveness=DEAD, batch=mixed).first_failure() == "liveness"
    assert replace(GOOD, rungs=(rung("fp16", False),), liveness=DEAD, batch=mixed).first_failure() == "fp16"


def test_a_report_is_the_same_after_json() -> None:
    assert read(ParityReport, to_json(GOOD)) == GOOD

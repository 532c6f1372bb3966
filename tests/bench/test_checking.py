"""Parity of a runtime with the stored truth: the same network passes, planted faults do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from bench_artifacts import export

from edgekit import golden, manifest
from edgekit.bench import checking
from edgekit.bench.record import ParityCheck
from edgekit.errors import InputUnusable
from edgekit.golden import Golden
from edgekit.manifest import Manifest
from edgekit.parity.metrics import AnyArray, Feeds
from edgekit.parity.tolerance import FACTOR


class Answers:
    """A runner that gives the truth, changed by a planted fault."""

    def __init__(self, stored: Golden, fault: object = None) -> None:
        self.stored, self.fault, self.number = stored, fault, -1

    def feed(self, feeds: Feeds) -> None:
        (self.number,) = [n for n, it in enumerate(self.stored.inputs) if it.feeds is feeds]

    def outputs(self) -> Mapping[str, AnyArray]:
        truth = self.stored.outputs[self.number]["map"].astype(np.float32)
        return {"map": self.fault(truth, self.number) if callable(self.fault) else truth}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Manifest, Golden]:
    folder = export(tmp_path_factory.mktemp("made"), "net", half=True)
    return manifest.read(folder), golden.unpack(folder / "golden.npz")


def check(exported: tuple[Manifest, Golden], fault: object = None, used: checking.Arithmetic = "fp32") -> ParityCheck:
    read, stored = exported
    return checking.check(Answers(stored, fault), stored, checking.allowances(read, used, stored), "before")


def test_the_truth_passes_with_its_figure(exported):
    found = check(exported)
    assert found.passed
    assert found.when == "before"
    assert found.error < found.tolerance
    assert found.reason is None


def nan(truth: AnyArray, number: int) -> AnyArray:
    truth[0, 0, 0, 0] = np.nan
    return truth


@pytest.mark.parametrize(
    "fault",
    [
        lambda truth, number: truth * np.float32(1.001),
        lambda truth, number: np.roll(truth, 1, axis=3),
        lambda truth, number: np.where(np.arange(8)[:, None, None] == 3, 0, truth),
        lambda truth, number: truth[:, :4],
        lambda truth, number: truth * (1 if number == 0 else 1.01),
        nan,
    ],
    ids=["scaled", "shifted", "a channel lost", "another shape", "wrong for the second input", "not a number"],
)
def test_planted_faults_fail(exported, fault):
    found = check(exported, fault)
    assert not found.passed
    assert "map is off by" in found.reason


def test_an_output_that_is_missing_fails(exported):
    class Mute(Answers):
        def outputs(self) -> Mapping[str, AnyArray]:
            return {}

    read, stored = exported
    found = checking.check(Mute(stored), stored, checking.allowances(read, "fp32", stored), "after")
    assert (found.passed, found.error, found.when) == (False, None, "after")


class TestAllowances:
    def rungs(self, exported: tuple[Manifest, Golden], **changes: object) -> Manifest:
        read = exported[0]
        rungs = tuple(replace(rung, **changes) for rung in read.parity.rungs)
        return replace(read, parity=replace(read.parity, rungs=rungs))

    def test_an_outputs_own_tolerance_is_taken(self, exported):
        read = self.rungs(exported, tolerance=0.125)
        assert checking.allowances(read, "fp32", exported[1]) == {"map": 0.125}

    def test_a_layers_is_not_but_the_outputs_noise_is(self, exported):
        read = self.rungs(exported, tolerance=0.125, tensor="a layer inside", snr_db=60.0)
        wanted = 10**-3 * FACTOR["fp32"].overall
        assert checking.allowances(read, "fp32", exported[1])["map"] == pytest.approx(wanted)

    def test_bfloat16_has_three_bits_less(self, exported):
        half = checking.allowances(exported[0], "fp16", exported[1])["map"]
        assert checking.allowances(exported[0], "bf16", exported[1])["map"] == 8 * half

    def test_a_runtime_says_when_it_computes_in_bfloat16(self):
        assert checking.arithmetic("fp32", {"inference-precision": "bf16"}) == "bf16"
        assert checking.arithmetic("fp16", {"onnxruntime": "1.23"}) == "fp16"

    def test_without_a_rung_nothing_is_right(self, exported):
        read = exported[0]
        read = replace(read, parity=replace(read.parity, rungs=()))
        with pytest.raises(InputUnusable, match="no rung in fp32"):
            checking.allowances(read, "fp32", exported[1])

    def test_an_infinite_tolerance_is_never_made(self, exported):
        assert all(
            map(math.isfinite, checking.allowances(self.rungs(exported, snr_db=None), "fp32", exported[1]).values())
        )

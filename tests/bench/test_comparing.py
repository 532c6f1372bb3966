"""Two bench files: true differences are found, noise is not, and unlike things are refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_artifacts import CONTRACT, bench_file, result, rounds

from edgekit.bench import comparing
from edgekit.bench.comparing import Compared, compare
from edgekit.bench.record import BenchFile, Contract
from edgekit.errors import UsageError


def file(seconds: float, seed: int = 0, noise: float = 0.01) -> BenchFile:
    return bench_file(
        result("net", rounds(seconds, seed=seed, noise=noise)), reference=rounds(1e-3, seed=seed + 500, noise=noise)
    )


def one(first: BenchFile, second: BenchFile) -> Compared:
    (found,) = compare(first, second).shared
    return found


class TestDifferences:
    def test_five_per_cent_are_found_and_the_ratio_is_right(self):
        found = [one(file(2e-3, seed), file(2.1e-3, seed + 100)) for seed in range(20)]
        assert all(it.change == "slower" for it in found)
        assert np.median([it.ratio for it in found]) == pytest.approx(1.05, rel=0.005)

    def test_faster_is_found_as_well(self):
        assert one(file(2.1e-3), file(2e-3, 1)).change == "faster"

    def test_the_same_is_the_same(self):
        found = [one(file(2e-3, seed), file(2e-3, seed + 100)).change for seed in range(40)]
        assert found.count("the same") >= 39

    def test_a_difference_too_small_to_mean_anything_is_none(self):
        assert one(file(2e-3, noise=1e-4), file(2.1e-3, 1, noise=1e-4)).change == "slower"
        assert one(file(2e-3, noise=1e-4), file(2.01e-3, 1, noise=1e-4)).change == "the same"

    def test_a_machine_that_is_slower_today_cancels_out(self):
        slow = bench_file(result("net", rounds(4e-3, seed=7)), reference=rounds(2e-3, seed=8))
        found = one(file(2e-3), slow)
        assert found.basis == "reference"
        assert found.ratio == pytest.approx(1.0, rel=0.02)

    def test_with_another_reference_milliseconds_are_compared(self):
        other = bench_file(result("net", rounds(4e-3, seed=7)), reference=rounds(2e-3, seed=8), sha256="s" * 64)
        found = one(file(2e-3), other)
        assert found.basis == "latency"
        assert found.ratio == pytest.approx(2.0, rel=0.02)

    def test_the_intervals_hold_each_other(self):
        found = one(file(2e-3), file(2e-3, 1))
        assert found.sure[0] <= found.ci95[0] <= found.ratio <= found.ci95[1] <= found.sure[1]

    def test_what_only_one_has_is_named(self):
        both = bench_file(result("net", rounds(2e-3)), result("more", rounds(2e-3)))
        assert compare(both, file(2e-3)).only_first == ("more/onnx-fp32/onnxruntime-cpu",)
        assert compare(file(2e-3), both).only_second == ("more/onnx-fp32/onnxruntime-cpu",)


class TestRegressions:
    def test_one_beyond_the_gate_is_a_regression(self):
        assert comparing.regressions(compare(file(2e-3), file(2.4e-3, 1)), 0.05)

    def test_one_within_it_is_none(self):
        found = compare(file(2e-3), file(2.14e-3, 1))
        assert found.shared[0].change == "slower"
        assert not comparing.regressions(found, 0.10)

    def test_noise_is_never_one(self):
        """Medians may lie beyond the gate by chance: the interval knows better."""
        for seed in range(20):
            found = compare(file(2e-3, seed, noise=0.8), file(2e-3, seed + 100, noise=0.8))
            assert not comparing.regressions(found, 0.05)

    def test_what_cannot_be_told_is_said(self):
        assert comparing.undecided(compare(file(2e-3, noise=0.8), file(2e-3, 1, noise=0.8)), 0.05)
        assert not comparing.undecided(compare(file(2e-3), file(2e-3, 1)), 0.05)


class TestRefusals:
    @pytest.mark.parametrize(
        ("contract", "field"),
        [
            (replace(CONTRACT, threads=1), "threads"),
            (replace(CONTRACT, spin=False), "spin"),
            (replace(CONTRACT, transfers="excluded"), "transfers"),
            (replace(CONTRACT, clock="device"), "clock"),
            (replace(CONTRACT, cuda_graph=True), "cuda_graph"),
            (replace(CONTRACT, batch=8), "batch"),
            (replace(CONTRACT, precision="fp16"), "precision"),
            (replace(CONTRACT, warmup=0), "warmup"),
            (replace(CONTRACT, inputs="images"), "inputs"),
            (replace(CONTRACT, scenario="paced"), "scenario"),
            (replace(CONTRACT, compiled=True), "compiled"),
            (replace(CONTRACT, versions={"onnxruntime": "2"}), "versions"),
        ],
    )
    def test_another_contract_is_refused_by_the_field(self, contract: Contract, field: str):
        other = bench_file(result("net", rounds(2e-3), contract=contract))
        with pytest.raises(UsageError) as caught:
            compare(file(2e-3), other)
        assert caught.value.exit_code == 2
        assert caught.value.where == field
        assert compare(file(2e-3), other, [field]).shared

    def test_another_machine_is_refused_by_the_field(self):
        other = replace(file(2e-3), machine={"cpu": "another", "cores": "2"})
        with pytest.raises(UsageError) as caught:
            compare(file(2e-3), other)
        assert caught.value.where == "machine.cpu"
        assert "a test's and another" in str(caught.value.got)

    def test_every_field_is_named_at_once(self):
        contract = replace(CONTRACT, threads=1, spin=False)
        other = replace(bench_file(result("net", rounds(2e-3), contract=contract)), machine={"cpu": "x", "cores": "4"})
        with pytest.raises(UsageError) as caught:
            compare(file(2e-3), other)
        assert caught.value.where == "machine.cpu, machine.cores, spin, threads"

    def test_newer_software_is_compared_by_milliseconds(self):
        """Its reference has changed with it, and would hide what the software brings."""
        contract = replace(CONTRACT, versions={"onnxruntime": "2"})
        newer = bench_file(result("net", rounds(1e-3, seed=3), contract=contract), reference=rounds(5e-4, seed=4))
        (found,) = compare(file(2e-3), newer, ["versions"]).shared
        assert (found.basis, found.change) == ("latency", "faster")

    def test_nothing_in_common_is_refused(self):
        with pytest.raises(UsageError, match="nothing in common"):
            compare(file(2e-3), bench_file(result("another", rounds(2e-3))))

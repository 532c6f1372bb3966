"""Ratios and intervals: known effects are found, noise is not, and intervals hold what they say they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.bench import statistics
from edgekit.bench.statistics import Interval

LOGS = arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(2, 6)), elements=st.floats(-8, 2))


def rounds(
    generator: np.random.Generator, count: int, levels: list[float], noise: float = 0.02, bursts: float = 0.3
) -> np.ndarray:
    """Logarithms of visits: each variant's level, a random walk of the machine's speed, bursts of another load that hit

    some visits hard, and noise.
    """
    walk = np.cumsum(generator.normal(0, 0.03, count))[:, None]
    hit = generator.random((count, len(levels))) < bursts * generator.random((count, 1))
    return np.log(levels) + walk + generator.normal(0, noise, (count, len(levels))) + hit * 0.7


class TestPolish:
    @settings(deadline=None)
    @given(LOGS)
    def test_the_parts_add_up(self, logs):
        fit = statistics.polish(logs)
        assert np.allclose(fit.variants + fit.rounds[:, None] + fit.rest, logs)

    @settings(deadline=None)
    @given(LOGS)
    def test_rounds_are_measured_from_the_middle_one(self, logs):
        assert abs(np.median(statistics.polish(logs).rounds)) < 1e-9

    @settings(deadline=None)
    @given(
        st.lists(st.floats(-8, 2), min_size=2, max_size=6),
        st.lists(st.floats(-1, 1), min_size=3, max_size=15),
    )
    def test_finds_effects_that_are_exact(self, variants, machine):
        logs = np.array(variants) + np.array(machine)[:, None]
        found = statistics.polish(logs).variants
        assert np.allclose(found - found[0], np.array(variants) - variants[0], atol=1e-8)

    def test_one_mad_visit_in_ten_moves_nothing(self):
        generator = np.random.default_rng(0)
        logs = np.tile(np.log([1e-3, 2e-3, 5e-3]), (60, 1)) + generator.normal(0, 0.001, (60, 3))
        logs[::10, 1] += 3.0
        found = statistics.polish(logs).variants
        assert math.exp(found[1] - found[0]) == pytest.approx(2.0, rel=0.002)


class TestRatios:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 100), st.floats(0.1, 10))
    def test_the_interval_holds_its_own_value(self, seed, ratio):
        logs = rounds(np.random.default_rng(seed), 20, [1e-3, 1e-3 * ratio])
        found = statistics.log_ratios(logs, [0] * 20, 0, seed, 100).interval(1)
        assert found.low <= found.value <= found.high

    @settings(deadline=None, max_examples=10)
    @given(st.integers(0, 20))
    def test_another_unit_of_time_changes_nothing(self, seed):
        logs = rounds(np.random.default_rng(seed), 20, [1e-3, 2e-3, 3e-3])
        one = statistics.log_ratios(logs, [0] * 20, 0, 1, 100).interval(2)
        other = statistics.log_ratios(logs + math.log(1000), [0] * 20, 0, 1, 100).interval(2)
        assert (one.low, one.value, one.high) == pytest.approx((other.low, other.value, other.high))

    def test_the_reference_against_itself_is_one_and_certain(self):
        logs = rounds(np.random.default_rng(0), 30, [1e-3, 2e-3])
        logs[15:, 0] += 0.1
        found = statistics.log_ratios(logs, [0] * 15 + [1] * 15, 1, 0).interval(1).exp()
        assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)

    @pytest.mark.parametrize("count", [20, 60])
    def test_nineteen_intervals_in_twenty_hold_the_truth(self, count):
        """200 runs of a machine whose speed walks and that others use in bursts."""
        held = 0
        for seed in range(200):
            logs = rounds(np.random.default_rng(seed), count, [1e-3, 2e-3, 3e-3, 5e-3, 8e-3])
            found = statistics.log_ratios(logs, [0] * count, 0, seed, 300, only=[3]).interval(0).exp()
            held += found.low <= 5.0 <= found.high
        assert held / 200 >= 0.92

    def test_a_launch_that_moves_a_variant_widens_the_interval(self):
        """Three processes; in each, every variant is a few per cent faster or slower for good."""
        held, narrow = 0, 0
        for seed in range(60):
            generator = np.random.default_rng(seed)
            logs = rounds(generator, 60, [1e-3] + [2e-3] * 10, noise=0.005, bursts=0.0)
            logs += np.repeat(generator.normal(0, 0.02, (3, 11)), 20, axis=0)
            launches = np.repeat([0, 1, 2], 20).tolist()
            found = statistics.log_ratios(logs, launches, 0, seed, 300, only=[4]).interval(0).exp()
            held += found.low <= 2.0 <= found.high
            blind = statistics.log_ratios(logs, [0] * 60, 0, seed, 300, only=[4]).interval(0).exp()
            narrow += blind.low <= 2.0 <= blind.high
        assert held >= 53
        assert narrow < held - 6  # who takes them for one process is too sure of it

    def test_no_number_of_rounds_takes_away_what_lasts_longer_than_a_run(self):
        """On a machine whose visits scatter; where they do not, intervals may get narrow."""

        def width(noise: float) -> float:
            logs = rounds(np.random.default_rng(0), 3000, [1e-3, 2e-3, 3e-3], noise=noise, bursts=0.0)
            launches = np.repeat([0, 1, 2], 1000).tolist()
            return float(statistics.log_ratios(logs, launches, 0, 0, only=[1]).interval(0).exp().half_width)

        scatter = 0.08 * np.sqrt(2)
        assert width(0.08) > 1.96 * statistics.LASTING_SHARE * scatter
        assert width(0.002) < width(0.08) / 3

    @settings(deadline=None)
    @given(st.integers(1, 60), st.integers(0, 5))
    def test_neighbours_are_drawn_together(self, size, seed):
        picked = statistics.resampled(size, seed, 20)
        assert picked.shape == (20, size)
        assert ((picked >= 0) & (picked < size)).all()
        if size >= 27:  # runs of three and more: most rounds are followed by their neighbour
            assert ((np.diff(picked, axis=1) % size) == 1).mean() > 0.5

    def test_a_launch_of_one_round_counts_for_one_round(self):
        logs = np.log([[1.0, 2.0]] * 20 + [[1.0, 200.0]])
        found = statistics.log_ratios(logs, [0] * 20 + [1], 0, 0)
        assert found.values[1] == pytest.approx((20 * math.log(2) + math.log(200)) / 21)


class TestDrift:
    def test_a_step_is_seen(self):
        generator = np.random.default_rng(0)
        values = generator.normal(0, 0.01, 60) + np.repeat([0, 0.2], 30)
        found = statistics.drift(values)
        assert 0.15 < found.low < found.high < 0.25

    def test_noise_is_not(self):
        seen = 0
        for seed in range(100):
            found = statistics.drift(np.random.default_rng(seed).normal(0, 0.05, 40))
            seen += not found.low <= 0 <= found.high
        assert seen <= 14


class TestTwoHumps:
    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 200), st.sampled_from(["normal", "uniform", "laplace"]))
    def test_one_hump_is_never_two(self, seed, shape):
        values = getattr(np.random.default_rng(seed), shape)(0, 0.1, 400)
        assert statistics.two_humps(values) is None

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 200), st.floats(0.2, 0.8), st.floats(0.15, 1.0))
    def test_two_are_found_with_their_distance(self, seed, share, apart):
        generator = np.random.default_rng(seed)
        values = generator.normal(0, 0.02, 400) + apart * (generator.random(400) < share)
        assert statistics.two_humps(values) == pytest.approx(apart, abs=0.03)

    def test_a_few_outliers_are_no_hump(self):
        values = np.random.default_rng(0).normal(0, 0.01, 400)
        values[:20] += 2.0
        assert statistics.two_humps(values) is None

    def test_what_never_changes_has_none(self):
        assert statistics.two_humps(np.zeros(100)) is None


def test_percentiles_and_mean_are_over_all_runs():
    samples = ((1.0, 2.0), (3.0,), (4.0, 5.0))
    assert statistics.percentile(samples, 50) == 3.0
    assert statistics.mean(samples) == 3.0


def test_a_visit_counts_by_its_median():
    logs = statistics.visits([((1.0, 100.0, 2.0), (4.0, 2.0)), ((1.0,), (1.0,))])
    assert np.exp(logs).tolist() == [[2.0, 1.0], [pytest.approx(3.0), 1.0]]


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0, 1), st.floats(0, 1))
def test_the_interval_of_a_logarithm_keeps_its_order(value, below, above):
    found = Interval(value, value - below, value + above).exp()
    assert 0 < found.low <= found.value <= found.high

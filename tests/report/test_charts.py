"""Geometry: everything lies on the canvas, fronts are fronts, ticks are round."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.report import charts, heat
from edgekit.report.charts import Datum, scatter

POINTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30)
POSITIVE = st.floats(1e-3, 1e6)


def datum(x: float, y: float, **more: object) -> Datum:
    return Datum(x, y, 0, "a text", "0.50 · 96", "", **more)  # type: ignore[arg-type]


@given(POINTS)
def test_nothing_on_the_front_is_beaten_and_all_else_is(points: list[tuple[int, int]]) -> None:
    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    front = {points[number] for number in charts.pareto(points)}
    assert front == {it for it in points if not any(beats(other, it) for other in points)}


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20))
def test_every_mark_lies_inside_the_frame(points: list[tuple[float, float]]) -> None:
    chart = scatter("n", "t", "a", "x", "y", [datum(x, y, low=y * 0.9, high=y * 1.1) for x, y in points], best=True)
    assert chart is not None
    for mark in chart.marks:
        assert charts.LEFT <= mark.x <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= mark.y <= charts.HEIGHT - charts.BOTTOM
        assert mark.whisker is not None
        assert mark.whisker[1] <= mark.y <= mark.whisker[0]  # up is smaller
    assert all(math.isfinite(tick.at) for tick in (*chart.x.ticks, *chart.y.ticks))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_ticks_are_few_and_inside(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * abs(low):
        return
    ticks = charts.linear_ticks(low, high)
    assert 1 <= len(ticks) <= 7
    assert all(low - span * 1e-6 <= tick <= high + span * 1e-6 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(0.8, 4), (1, 1000), (0.5, 11.9), (10, 300)])
def test_a_logarithmic_axis_has_enough_ticks_and_not_too_many(low: float, high: float) -> None:
    assert 4 <= len(charts.axis("ms", [low, high], 0, 100).ticks) <= 8


def test_an_axis_over_a_wide_range_is_logarithmic_and_says_so() -> None:
    assert charts.axis("ms", [1, 3], 0, 100).logarithmic is False
    wide = charts.axis("ms", [1, 10, 100], 0, 100)
    assert wide.logarithmic is True
    assert wide.place(10) == pytest.approx(50, abs=0.1)


def test_larger_values_lie_higher() -> None:
    chart = scatter("n", "t", "a", "x", "y", [datum(1, 1), datum(2, 2)])
    assert chart is not None
    assert chart.marks[0].y > chart.marks[1].y
    assert chart.marks[0].x < chart.marks[1].x


def test_an_invalid_point_is_never_on_the_front() -> None:
    chart = scatter("n", "t", "a", "x", "y", [datum(1, 9, valid=False), datum(2, 2), datum(3, 3)], best=True)
    assert chart is not None
    ((group, line),) = chart.fronts
    assert group == 0
    invalid = chart.marks[0]
    assert f"{invalid.x:g},{invalid.y:g}" not in line
    assert f"{chart.marks[1].x:g},{chart.marks[1].y:g}" in line


def test_latencies_that_mean_different_things_have_fronts_of_their_own() -> None:
    chart = scatter("n", "t", "a", "x", "y", [datum(1, 9, group=0), datum(2, 2, group=1)], best=True)
    assert chart is not None
    assert [group for group, _ in chart.fronts] == [0, 1]
    assert all(line for _, line in chart.fronts)


def test_the_front_goes_right_before_it_goes_up() -> None:
    assert charts.stairs([(1, 9), (4, 5)]) == "1,9 4,9 4,5"


def test_labels_do_not_cover_each_other() -> None:
    close = [datum(1 + i / 1000, 1 + i / 1000) for i in range(10)]
    chart = scatter("n", "t", "a", "x", "y", [datum(0.5, 0.5), *close, datum(2, 2)], best=True)
    assert chart is not None
    assert sum(bool(mark.label) for mark in chart.marks) < len(chart.marks) - 5


def test_there_is_no_chart_of_nothing() -> None:
    assert scatter("n", "t", "a", "x", "y", []) is None


@given(POSITIVE, POSITIVE, POSITIVE)
def test_colours_follow_the_order_of_values(one: float, other: float, third: float) -> None:
    low, middle, high = sorted((one, other, third))
    steps = [heat.step(value, low, high) for value in (low, middle, high)]
    assert steps == sorted(steps)
    assert steps[0] >= 0
    assert steps[-1] <= heat.STEPS - 1
    assert low == high or steps[0] == 0

"""The table: means and intervals, its three forms, and the page that is drawn of it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgekit import schema
from edgekit.training.experiment import charts, page, table
from edgekit.training.experiment.exporting import NOTHING, Exported, Measured, Timed
from edgekit.training.experiment.request import Cell
from edgekit.training.experiment.statistics import estimate, t_quantile
from edgekit.training.experiment.table import Row, Table, groups

NETWORKS = ("mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2")
ASKED = {"data": "digits", "recipe": "mobilenet", "epochs": "3"}


def row(model: str, alpha: float | None, resolution: int, seed: int, accuracy: float) -> Row:
    slug = Cell(model, alpha, resolution, seed).slug
    params, macs = int(1e6 * (alpha or 1)), int(1e4 * resolution**2 * (alpha or 1))
    figures = (1 - accuracy, accuracy - 0.05, 1.1 - accuracy, accuracy)
    return Row(slug, model, alpha, resolution, seed, "done", params, macs, 3, 2, *figures, *figures)


def rows(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Row, ...]:
    return tuple(
        row(model, alpha, side, seed, 0.6 + 0.1 * alpha + 0.001 * side + 0.01 * seed - 0.02 * number)
        for number, model in enumerate(NETWORKS)
        for alpha in (1.0, 0.5)
        for side in (32, 64)
        for seed in seeds
    )


def made(found: Sequence[Row]) -> Table:
    return Table(ASKED, tuple(found), groups(found))


# --- intervals


@given(st.floats(0.5, 0.9999), st.integers(1, 300))
def test_students_quantiles_are_scipys(share: float, freedom: int) -> None:
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_the_interval_of_the_mean_is_scipys(values: list[float]) -> None:
    found = estimate(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    spread = stats.sem(values)
    if spread > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=spread)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_a_single_figure_has_no_interval() -> None:
    found = estimate([0.5])
    assert (found.mean, found.low, found.high, found.count) == (0.5, None, None, 1)


# --- groups


def test_a_group_is_a_network_width_and_resolution_over_its_finished_seeds() -> None:
    found = list(rows())
    found[1] = Row(*[getattr(found[1], name) for name in ("cell", "model", "alpha", "resolution", "seed")], "failed")
    first, second, *_ = groups(found)
    assert (first.model, first.alpha, first.resolution, first.val_accuracy.count) == ("mobilenet_v1", 1.0, 32, 2)
    assert second.val_accuracy.count == 3
    assert first.val_accuracy.mean == pytest.approx((found[0].val_accuracy + found[2].val_accuracy) / 2)
    assert len(groups(found)) == 12


def test_a_group_without_a_finished_cell_is_none() -> None:
    assert groups([Row("a", "mobilenet_v1", 1.0, 32, 0, "unfinished")]) == ()


# --- forms


def test_csv_holds_every_figure_in_full() -> None:
    found = rows()
    lines = list(csv.DictReader(io.StringIO(table.to_csv(found, Row))))
    assert len(lines) == len(found)
    for line, it in zip(lines, found, strict=True):
        assert float(line["val_accuracy"]) == it.val_accuracy
        assert (line["cell"], int(line["macs"]), line["reason"]) == (it.cell, it.macs, "")


def test_json_reads_back_as_the_same_table() -> None:
    found = made(rows())
    assert schema.read(Table, json.loads(json.dumps(schema.to_json(found)))) == found


def test_markdown_has_a_line_for_each_group_and_names_what_is_missing() -> None:
    lost = Row("mobilenet_v1-a1.00-r32-s9", "mobilenet_v1", 1.0, 32, 9, "failed", reason="it died")
    text = table.to_markdown(made([*rows(), lost]))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 12
    assert len({line.count("|") for line in lines}) == 1
    assert "± " in lines[2]
    assert "- mobilenet_v1-a1.00-r32-s9: failed (it died)" in text
    assert "±" not in table.to_markdown(made(rows(seeds=(0,))))


# --- the page

TIMED = tuple(
    Timed(it.cell, it.model, it.alpha, it.resolution, "onnx-fp32", "onnxruntime-cpu", 2.0, 1.9, 2.1, it.alpha == 1.0)
    for it in rows(seeds=(0,))
)


def test_the_page_overlays_the_networks_with_intervals() -> None:
    found = made(rows())
    drawn = charts.charts(found.groups, (), NETWORKS)
    accuracy = next(it for it in drawn if it.name == "accuracy-macs")
    assert len(accuracy.marks) == 12
    assert {mark.datum.series for mark in accuracy.marks} == {0, 1, 2}
    assert len(accuracy.lines) == 6
    assert accuracy.front
    for mark in accuracy.marks:
        assert mark.whisker is not None
        bottom, top = mark.whisker
        assert bottom >= mark.y >= top
    assert {it.name for it in drawn} >= {"params", "macs", "accuracy-res", "train-accuracy-res", "loss-macs"}
    assert not [it for it in drawn if it.name.startswith("latency")]


def test_better_is_higher_and_more_work_is_to_the_right() -> None:
    found = made(rows())
    accuracy = charts.charts(found.groups, (), NETWORKS)[0]
    for one, other in zip(accuracy.marks, accuracy.marks[1:], strict=False):
        assert (one.datum.y < other.datum.y) == (one.y > other.y)
        assert (one.datum.x < other.datum.x) == (one.x < other.x)


def test_latency_is_drawn_where_it_was_measured_and_valid_and_else_said_to_be_missing() -> None:
    found = made(rows())
    drawn = [it for it in charts.charts(found.groups, TIMED, NETWORKS) if it.name.startswith("latency")]
    assert [len(it.marks) for it in drawn] == [6]
    without = page.render("x", found, NOTHING)
    assert "Latency: not measured" in without
    assert "against latency" not in without
    measured = Measured(tuple(Exported(it.cell, "exports/a", True) for it in found.cells), TIMED)
    with_them = page.render("x", found, measured)
    assert "Validation accuracy against latency: onnxruntime-cpu, onnx-fp32" in with_them
    assert "not measured" not in with_them
    assert "INVALID" in with_them


def test_the_page_loads_nothing_and_lets_no_text_become_markup() -> None:
    found = made([*rows(), Row("a", "mobilenet_v1", 1.0, 32, 9, "failed", reason="<script>alert(1)</script>")])
    text = page.render('<i>"x"', found, NOTHING)
    assert "<script>alert" not in text
    assert "<i>" not in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert "default-src 'none'" in text


def test_a_page_without_a_finished_cell_is_a_page() -> None:
    text = page.render("x", made([Row("a", "mobilenet_v1", 1.0, 32, 0, "unfinished")]), NOTHING)
    assert "0 of 1" in text
    assert '<svg viewBox="0 0 400' not in text


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4))
def test_intervals_of_accuracies_end_where_accuracies_do(values: list[float]) -> None:
    found = groups([row("mobilenet_v1", 1.0, 32, seed, value) for seed, value in enumerate(values)])
    (mark,) = charts.charts(found, (), NETWORKS)[0].marks
    for end in (mark.datum.low, mark.datum.high):
        assert end is None or 0 <= end <= 100
    assert math.isfinite(mark.y)


def test_the_widths_at_the_ends_of_lines_do_not_cover_each_other() -> None:
    found = made(rows())
    for drawn in charts.charts(found.groups, (), NETWORKS):
        ends = [(line.x, line.y) for line in drawn.lines if line.label]
        for number, one in enumerate(ends):
            assert all(
                abs(one[0] - other[0]) >= charts.LABEL_WIDTH or abs(one[1] - other[1]) >= charts.LABEL_HEIGHT
                for other in ends[:number]
            )


def test_the_table_lies_where_it_is_looked_for(tmp_path: Path) -> None:
    """An empty folder has cells that nobody has begun."""
    found = table.table(tmp_path, ASKED, [Cell("mobilenet_v2", 0.5, 32, 0)], {})
    assert [it.status for it in found.cells] == ["unfinished"]
    assert found.groups == ()

"""Scenarios in a report: each result with its figures, and never among the latencies of rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import report_grids as grids

from edgekit import report
from edgekit.bench import record
from edgekit.bench.record import BenchFile, Result, Scenario
from edgekit.report.gather import gather
from edgekit.report.page import page
from edgekit.report.played import figures
from edgekit.variant import Variant

SMALL = Variant("mobilenet_v2", 0.5, 96)
FIGURES = {"frames": 150, "missed": 3, "idle": 0.875, "work_p50_s": 0.0021}
TERMS = {"rate": 30.0, "deadline_s": 0.033}


def played(folder: Path, scenario: Scenario = "paced", **changes: object) -> Result:
    """One result of a scenario of the small variant, whose folder is there."""
    made = grids.result(SMALL.slug, grids.manifest(SMALL))
    contract = replace(made.contract, scenario=scenario, terms=TERMS)
    result = replace(made, contract=contract, ratio=None, figures=FIGURES, **changes)  # type: ignore[arg-type]
    record.write(file(result), folder / record.file_of(scenario))
    return result


def file(*results: Result, **machine: str) -> BenchFile:
    made = grids.bench_file(results)
    return replace(made, references=(), machine={**made.machine, **machine})


def cells(folder: Path, bench: Path | None = None) -> list[dict[str, str]]:
    """The table of scenarios: text and small print by heading."""
    table = page(gather(folder, bench)).played
    assert table is not None
    heads = [head for head, _ in table.heads]
    return [dict(zip(heads, (f"{it.text} {it.note}" for it in row.cells), strict=True)) for row in table.rows]


def test_figures_and_terms_are_shown(tmp_path: Path) -> None:
    grids.grid(tmp_path, alphas=(0.5,), sizes=(96,))
    played(tmp_path)
    (row,) = cells(tmp_path)
    assert row["Judged by"].strip() == "frames 150, missed 3, idle 88%, work p50 ms 2.1"
    assert row["Scenario"] == "paced rate 30, deadline_s 0.033"
    assert row["Verdict"].startswith("VALID")
    for text in (report.html(gather(tmp_path)), report.markdown(gather(tmp_path))):
        assert "frames 150, missed 3, idle 88%" in text


def test_they_are_not_among_the_latencies_of_rounds(tmp_path: Path) -> None:
    grids.grid(tmp_path, alphas=(0.5,), sizes=(96,))
    before = gather(tmp_path)
    played(tmp_path)
    played(tmp_path, "soak")
    found = gather(tmp_path)
    assert found.points == before.points
    assert [it.point.result.contract.scenario for it in found.played] == ["paced", "soak"]
    assert page(found).charts == page(before).charts
    assert page(before).played is None


def test_without_rounds_it_says_that_those_are_missing(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    played(tmp_path)
    assert len(cells(tmp_path)) == 1
    assert "Latency was not measured in rounds" in report.markdown(gather(tmp_path))
    assert "Latency was not measured in rounds" in report.html(gather(tmp_path))
    assert "nothing on this page is a latency" not in report.html(gather(tmp_path))


def test_a_scenario_s_own_file_is_shown_once_and_its_contract_with_its_terms(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    played(tmp_path)
    bench = tmp_path / "bench.paced.json"
    assert len(cells(tmp_path, bench)) == 1
    contracts = page(gather(tmp_path, bench)).contracts
    assert contracts is not None
    assert "paced rate 30, deadline_s 0.033" in [cell.text for cell in contracts.rows[0].cells]
    assert ",paced," in report.csv(gather(tmp_path, bench))


def test_what_speaks_against_it_is_shown(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    made = grids.result(SMALL.slug, grids.manifest(SMALL), reasons=["missed deadlines: 3 of 150"])
    played(tmp_path, verdict=made.verdict, subject=replace(made.subject, sha256="f" * 64))
    verdict = cells(tmp_path)[0]["Verdict"]
    assert verdict.startswith("INVALID missed deadlines: 3 of 150")
    assert "not the one" in verdict


def test_another_machine_is_told(tmp_path: Path) -> None:
    grids.grid(tmp_path, alphas=(0.5,), sizes=(96,))
    result = played(tmp_path)
    assert "another machine" not in cells(tmp_path)[0]["Measured"]
    record.write(file(result, cpu="another's"), tmp_path / "bench.paced.json")
    assert "another machine or setup: another's" in cells(tmp_path)[0]["Measured"]


def test_logs_are_named(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    played(tmp_path, "offline", logs="bench.offline.logs/net/run-1")
    assert cells(tmp_path)[0]["LoadGen's logs"].strip() == "bench.offline.logs/net/run-1"


def test_each_scenario_s_figures_have_words() -> None:
    result = grids.result(SMALL.slug, grids.manifest(SMALL))
    soak = {"windows": 6, "tail_share": 0.99, "tail_s": 0.004, "worst_window": 1.25, "tail_drift": -0.013}
    assert figures(replace(result, figures=soak)) == {
        "windows": "6",
        "tail": "p99",
        "tail ms": "4",
        "worst window": "1.25 x",
        "drift": "-1.3%",
    }
    assert figures(replace(result, figures={"samples_per_s": 213.6})) == {"LoadGen samples/s": "213.6"}
    assert figures(result) == {}

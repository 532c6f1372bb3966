"""`edgekit pick` as people type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import report_grids as grids

from edgekit.cli import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("grid")
    grids.grid(found, alphas=(1.0, 0.5), sizes=(160, 96))
    return found


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["schema"], found["command"]) == (1, "pick")
    return dict(found)


def test_the_best_stands_first_and_the_others_say_why_not(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pick", str(folder), "--max-latency", "5ms", "--percentile", "99"]) == 0
    caught = capsys.readouterr()
    head, first, *others = caught.out.splitlines()
    assert "p99, ms" in head
    assert "published top-1" in head
    assert first.startswith("best  mobilenet_v2-a1.00-r160  onnxruntime-cpu fp32")
    assert len(others) == 7
    assert any("INVALID measurement: the clock changed" in line for line in others)
    assert any("over the latency by" in line for line in others)
    assert any("less accurate" in line for line in others)
    assert "accuracy was not measured" in caught.err
    assert "published by tensorflow/models" in caught.err


def test_json_has_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pick", str(folder), "--max-latency", "5000us", "--max-size", "10MB", "--json"]) == 0
    found = as_json(capsys)
    assert found["ok"] is True
    assert found["best"]["slug"] == "mobilenet_v2-a0.50-r160"
    assert found["best"]["lost"] == []
    assert found["ranked_by"] == "published-top1"
    assert found["budget"]["latency_ms"] == 5.0
    assert found["budget"]["size"] == 10e6
    assert all(it["lost"] for it in found["others"])
    assert any("accuracy was not measured" in note and "published by" in note for note in found["notes"])


def test_nothing_that_fits_is_exit_code_1_with_the_nearest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pick", str(folder), "--max-latency", "10us", "--json"]) == 1
    caught = capsys.readouterr()
    found = json.loads(caught.out)
    assert (found["ok"], found["best"], found["error"]["exit_code"]) == (False, None, 1)
    assert "nothing fits the budget" in caught.err
    assert "over the latency by" in caught.err


def test_where_no_measurement_is_valid_one_is_told_to_measure_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grids.grid(tmp_path, alphas=(0.5,), sizes=(96,))  # its smallest variant, and so its only one, is INVALID
    assert run(["pick", str(tmp_path), "--max-latency", "5ms"]) == 1
    assert "no measurement is VALID: edgekit bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--max-latency", "5"],
        ["--max-latency", "5 fortnights"],
        ["--max-latency", "5ms", "--max-size", "10"],
        ["--max-latency", "5ms", "--min-accuracy", "70"],
        ["--max-latency", "5ms", "--percentile", "100"],
        ["--max-latency", "5ms", "--runtime", "tensrot"],
    ],
)
def test_what_is_not_understood_is_exit_code_2(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pick", str(folder), *arguments]) == 2
    assert capsys.readouterr().err.startswith("edgekit pick")


def test_a_folder_that_was_not_measured_is_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grids.grid(tmp_path, alphas=(0.5,), sizes=(96,))
    (tmp_path / "bench.json").unlink()
    assert run(["pick", str(tmp_path), "--max-latency", "5ms"]) == 4
    assert "edgekit bench" in capsys.readouterr().err

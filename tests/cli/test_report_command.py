"""`edgekit report` as people type it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import report_grids as grids

from edgekit.cli import run
from edgekit.variant import Variant

SMALL = Variant("mobilenet_v2", 0.5, 96)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    grids.grid(tmp_path / "grid", alphas=(1.0, 0.5), sizes=(128, 96))
    return tmp_path / "grid"


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert (found["schema"], found["command"]) == (1, "report")
    return dict(found)


def test_it_writes_what_was_asked_for_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"html": "r.html", "markdown": "r.md", "csv": "r.csv"}
    options = [word for kind, name in names.items() for word in (f"--{kind}", str(tmp_path / name))]
    assert run(["report", str(folder), *options]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names.values())
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "r.md").read_text().startswith("# grid")
    assert (tmp_path / "r.csv").read_text().startswith("model,infer_samples_per_sec,")


def test_without_an_output_markdown_goes_to_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# grid")
    assert "| INVALID (the clock changed) |" in out


def test_json_is_one_object(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(folder), "--html", str(tmp_path / "r.html"), "--json"]) == 0
    found = as_json(capsys)
    assert found["ok"] is True
    assert (found["variants"], found["results"], found["valid"], found["invalid"]) == (4, 8, 6, 2)
    assert found["html"] == str(tmp_path / "r.html")


def test_another_benchmark_can_be_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bench.json").rename(tmp_path / "other.json")
    assert run(["report", str(folder), "--json"]) == 0
    assert as_json(capsys)["measured"] is False
    assert run(["report", str(folder), "--bench", str(tmp_path / "other.json"), "--json"]) == 0
    assert as_json(capsys)["results"] == 8


def test_a_folder_that_cannot_be_read_is_told_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("no")
    assert run(["report", str(folder), "--json"]) == 0
    caught = capsys.readouterr()
    assert json.loads(caught.out)["unreadable"] == ["broken"]
    assert "broken is left out" in caught.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere"], 4),
        (["grid", "--bench", "none.json"], 4),
        (["grid", "--html", "same", "--csv", "same"], 2),
        (["grid", "--html", "grid"], 2),
        (["grid", "--htlm", "x"], 2),
        ([], 2),
    ],
)
def test_refusals(
    folder: Path, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    assert run(["report", *arguments]) == code
    assert capsys.readouterr().err.startswith("edgekit report")

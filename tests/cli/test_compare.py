"""`edgekit compare` as people type it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_artifacts import CONTRACT, bench_file, result, rounds

from edgekit.bench import record
from edgekit.bench.record import BenchFile
from edgekit.cli import run


def stored(folder: Path, name: str, file: BenchFile) -> str:
    record.write(file, folder / name)
    return str(folder / name)


@pytest.fixture
def old(tmp_path: Path) -> str:
    return stored(tmp_path, "old.json", bench_file(result("net", rounds(2e-3)), result("gone", rounds(1e-3))))


def test_what_changed_is_named_with_its_interval(old, tmp_path, capsys):
    new = stored(tmp_path, "new.json", bench_file(result("net", rounds(2.4e-3, seed=1))))
    assert run(["compare", old, new]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("net/")]
    assert "slower" in line
    assert ".." in line
    assert "only in A: gone/onnx-fp32/onnxruntime-cpu" in out


def test_its_json(old, tmp_path, capsys):
    new = stored(tmp_path, "new.json", bench_file(result("net", rounds(2.4e-3, seed=1))))
    assert run(["compare", old, new, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["schema"], data["command"], data["ok"]) == (1, "compare", True)
    (shared,) = data["shared"]
    assert shared["change"] == "slower"
    assert shared["ci95"][0] < shared["ratio"] < shared["ci95"][1]
    assert shared["ratio"] == pytest.approx(1.2, rel=0.02)
    assert data["only_first"] == ["gone/onnx-fp32/onnxruntime-cpu"]


def test_unlike_contracts_are_refused_by_the_field(old, tmp_path, capsys):
    contract = replace(CONTRACT, threads=1)
    new = stored(tmp_path, "new.json", bench_file(result("net", rounds(2e-3), contract=contract)))
    assert run(["compare", old, new]) == 2
    assert "threads: 2 and 1" in capsys.readouterr().err
    assert run(["compare", old, new, "--across", "threads"]) == 0


def test_unlike_machines_are_refused_by_the_field(old, tmp_path, capsys):
    file = replace(bench_file(result("net", rounds(2e-3))), machine={"cpu": "another", "cores": "2"})
    assert run(["compare", old, stored(tmp_path, "new.json", file)]) == 2
    assert "machine.cpu" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"schema": 1}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_bench_file_is_refused(old, tmp_path, capsys, content):
    (tmp_path / "new.json").write_bytes(content)
    assert run(["compare", old, str(tmp_path / "new.json")]) == 4
    assert "new.json" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(old, tmp_path, capsys):
    assert run(["compare", old, str(tmp_path / "nowhere.json")]) == 4
    assert "nowhere.json" in capsys.readouterr().err

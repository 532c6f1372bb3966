"""What is brought together: variants held against their files, measurements held against what was exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import report_grids as grids

from edgekit.bench import record
from edgekit.errors import InputUnusable
from edgekit.report.gather import gather, series_names
from edgekit.variant import Variant

SMALL = Variant("mobilenet_v2", 0.5, 96)


def test_a_grid_and_its_benchmark_meet(tmp_path: Path) -> None:
    grids.grid(tmp_path, alphas=(1.0, 0.5), sizes=(128, 96))
    found = gather(tmp_path)
    assert len(found.exported) == 4
    assert len(found.points) == 8
    assert found.series == ("onnxruntime-cpu fp32", "onnxruntime-cpu fp16")
    assert all(point.exported and point.exported.slug == point.result.subject.slug for point in found.points)
    assert [point.valid for point in found.points].count(False) == 2


def test_series_stand_by_runtime_and_fp32_first(tmp_path: Path) -> None:
    file = grids.grid(tmp_path, alphas=(0.5,), sizes=(96,))
    record.write(replace(file, results=file.results[::-1]), tmp_path / "bench.json")
    assert gather(tmp_path).series == ("onnxruntime-cpu fp32", "onnxruntime-cpu fp16")


def test_one_variant_s_own_folder_will_do(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    found = gather(tmp_path / SMALL.slug)
    assert [it.slug for it in found.exported] == [SMALL.slug]
    assert found.bench is None


def test_a_benchmark_beside_another_folder_finds_the_variants(tmp_path: Path) -> None:
    file = grids.grid(tmp_path / "grid", alphas=(0.5,), sizes=(96,))
    moved = replace(
        file,
        results=tuple(
            replace(it, subject=replace(it.subject, dir=f"../grid/{it.subject.slug}")) for it in file.results
        ),
    )
    record.write(moved, tmp_path / "elsewhere" / "b.json")
    found = gather(tmp_path / "grid", tmp_path / "elsewhere" / "b.json")
    assert all(point.exported for point in found.points)


def test_a_file_that_was_exported_again_makes_its_measurement_invalid(tmp_path: Path) -> None:
    file = grids.grid(tmp_path, alphas=(0.5,), sizes=(128, 96))
    name = f"{Variant('mobilenet_v2', 0.5, 128).slug}/onnx-fp32/onnxruntime-cpu"
    old = next(it for it in file.results if it.name == name)
    record.write(grids.changed(file, name, subject=replace(old.subject, sha256="f" * 64)), tmp_path / "bench.json")
    point = next(it for it in gather(tmp_path).points if it.result.name == name)
    assert not point.valid
    assert "not the one" in point.reasons[0]


def test_a_measurement_of_a_variant_that_failed_its_parity_is_not_valid(tmp_path: Path) -> None:
    made = grids.export(tmp_path, SMALL, error=1.0)
    record.write(grids.bench_file([grids.result(SMALL.slug, made)]), tmp_path / "bench.json")
    (point,) = gather(tmp_path).points
    assert point.reasons == ("the export failed its parity at simplified",)


def test_a_measurement_without_its_export_has_no_published_accuracy(tmp_path: Path) -> None:
    grids.export(tmp_path, Variant("mobilenet_v2", 1.0, 96))
    record.write(grids.bench_file([grids.result(SMALL.slug, grids.manifest(SMALL))]), tmp_path / "bench.json")
    (point,) = gather(tmp_path).points
    assert point.exported is None
    assert point.published is None


def test_a_changed_file_is_seen(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    (tmp_path / SMALL.slug / "model.onnx").write_bytes(b"other")
    (it,) = gather(tmp_path).exported
    assert it.problems == ("model.onnx: changed since the manifest was written",)


def test_a_manifest_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{}")
    found = gather(tmp_path)
    assert [it.slug for it in found.exported] == [SMALL.slug]
    assert [it.slug for it in found.unreadable] == ["broken"]


def test_nothing_to_report_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="no exported variant there"):
        gather(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputUnusable, match="can be read"):
        gather(tmp_path)


def test_a_benchmark_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    with pytest.raises(InputUnusable):
        gather(tmp_path, tmp_path / "none.json")


def test_series_are_named_by_what_differs_and_no_more() -> None:
    one = grids.result("a", grids.manifest(SMALL))
    other = replace(one, contract=replace(one.contract, threads=2, warmup=20))
    third = replace(one, contract=replace(one.contract, runtime="torch"))
    results = (one, other, third)
    names = series_names([it.contract for it in results], [it.subject for it in results])
    assert names == ["onnxruntime-cpu fp32, threads 1", "onnxruntime-cpu fp32, threads 2", "torch fp32"]

"""From folders to what can be measured: everything that is there, verified, chosen, and told apart by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_artifacts import export

from edgekit import manifest
from edgekit.bench.finding import Found, Selection, find, manifests
from edgekit.errors import InputUnusable, UsageError
from edgekit.manifest import Engine, Receipt, sha256_file


def names(found: tuple[Found, ...]) -> list[str]:
    return [f"{it.subject.slug}/{it.subject.kind}" for it in found]


def with_engines(folder: Path, *profiles: str) -> Path:
    read = manifest.read(folder)
    engines = []
    for profile in profiles:
        file = folder / f"model.{profile}.engine"
        file.write_bytes(b"a plan for " + profile.encode())
        receipt = Receipt("fp16", {"fp16": 3}, True)
        engines.append(
            Engine(profile, "tensorrt-rtx", ("sm86",), "built", file.name, 12, sha256_file(file), receipt, None, "1")
        )
    (folder / manifest.NAME).write_bytes(manifest.encode(replace(read, engines=tuple(engines))))
    return folder


def test_a_variants_folder_has_its_graphs_and_its_module(tmp_path):
    folder = export(tmp_path, "net", half=True)
    assert names(find([folder], Selection(), tmp_path)) == ["net/onnx-fp32", "net/onnx-fp16", "net/module"]


def test_a_folder_of_folders_and_a_manifest_serve_as_well(tmp_path):
    one, other = export(tmp_path / "grid", "a"), export(tmp_path / "grid", "b")
    assert manifests(tmp_path / "grid") == [one, other]
    assert manifests(one / manifest.NAME) == [one]
    assert len(find([tmp_path / "grid", one], Selection(), tmp_path)) == 4  # what is named twice is found once


def test_engines_carry_their_profile_and_precision(tmp_path):
    folder = with_engines(export(tmp_path, "net"), "rtx")
    engine = next(it for it in find([folder], Selection(), tmp_path) if it.candidate.kind == "engine")
    assert (engine.subject.kind, engine.subject.profile, engine.precision) == ("engine", "rtx", "fp16")
    assert engine.candidate.path == folder / "model.rtx.engine"


def test_several_engines_are_told_apart(tmp_path):
    folder = with_engines(export(tmp_path, "net"), "rtx", "orin")
    assert names(find([folder], Selection(precisions=("fp16",)), tmp_path)) == ["net/engine-rtx", "net/engine-orin"]


def test_folders_of_one_name_are_told_apart_by_their_parents(tmp_path):
    one, other = export(tmp_path / "old", "net"), export(tmp_path / "new", "net")
    found = find([one, other], Selection(precisions=("fp32",)), tmp_path)
    assert [it.subject.slug for it in found if it.subject.kind == "onnx-fp32"] == ["old/net", "new/net"]


def test_paths_are_kept_relative_to_the_bench_file(tmp_path):
    folder = export(tmp_path / "grid", "net")
    assert find([folder], Selection(), tmp_path / "grid")[0].subject.dir == "net"
    assert find([folder], Selection(), tmp_path / "elsewhere")[0].subject.dir == "../grid/net"


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        (Selection(alphas=(0.5,)), {"half"}),
        (Selection(resolutions=(16,)), {"full", "half", "open"}),
        (Selection(batch=4), {"open"}),
        (Selection(batch=1), {"full", "half", "open"}),
        (Selection(alphas=(1.0,), batch=1), {"full", "open"}),
    ],
)
def test_the_selection_keeps_what_fits(tmp_path, chosen, kept):
    export(tmp_path, "full")
    export(tmp_path, "half", alpha=0.5)
    export(tmp_path, "open", batch=None)
    found = find([tmp_path], chosen, tmp_path)
    assert {it.subject.slug for it in found} == kept
    assert {it.rows(chosen.batch) for it in found if it.subject.slug == "open"} <= {chosen.batch or 1}


def test_a_selection_that_leaves_nothing_is_refused(tmp_path):
    export(tmp_path, "net")
    with pytest.raises(UsageError, match="fits what was asked for"):
        find([tmp_path], Selection(alphas=(0.1,)), tmp_path)


def test_a_changed_graph_is_refused(tmp_path):
    folder = export(tmp_path, "net")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputUnusable, match="not those that the manifest describes"):
        find([folder], Selection(), tmp_path)


def test_a_folder_without_an_export_is_refused(tmp_path):
    with pytest.raises(InputUnusable, match="no exported variant"):
        find([tmp_path], Selection(), tmp_path)


def test_a_graph_from_elsewhere_has_no_module(tmp_path):
    folder = export(tmp_path, "net")
    read = replace(manifest.read(folder), source="/somewhere/net.onnx")
    (folder / manifest.NAME).write_bytes(manifest.encode(read))
    assert names(find([folder], Selection(), tmp_path)) == ["net/onnx-fp32"]

"""What people see of a variant: everything that was found is there, and a failure cannot be overlooked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import profile
from edgekit.cli import render
from edgekit.manifest import (
    Artifact,
    Engine,
    Manifest,
    ProfileRecord,
    Receipt,
    VariantRecord,
    WeightsRecord,
)
from edgekit.parity.report import BatchCheck, Liveness, ParityReport, Rung, Saturation
from edgekit.preprocessing import IMAGENET


def rung(name: str, against: str = "pytorch-fp64", passed: bool = True) -> Rung:
    return Rung(name, against, passed, 1.5e-7, 2.5e-6, "features_3_conv", 53, 3.5e-5, 1e-6, 1.0, 120.0, 0.875)


REPORT = ParityReport(
    passed=True,
    mode="full",
    rungs=(rung("pytorch-fp32"), rung("onnx"), rung("onnx", "pytorch-fp32"), rung("fp16")),
    inputs=("natural-0",),
    liveness=Liveness(0.52, 0.0031, True),
    batch=(BatchCheck("simplified", True, 2.5e-8, 4.5e-7), BatchCheck("fp16", None, None, None, "for one row only")),
    saturation=Saturation(35, 34),
    notes=("1 clipped activations were never driven to their limit",),
)
BUILT = Engine(
    "rtx",
    "tensorrt-rtx",
    ("sm80", "sm86"),
    "built",
    "model.rtx.engine",
    5_120_000,
    "a" * 64,
    Receipt("fp16", {"fp16": 65, "fp32": 2}, True),
)
ABSENT = Engine("orin", "tensorrt", ("sm87",), "not-here", reason="is built on the board: edgekit build there")
BROKEN = Engine("cuda", "tensorrt", (), "failed", reason="the builder was killed by SIGSEGV")
MANIFEST = Manifest(
    key="k",
    created="2026-01-02T03:04:05+00:00",
    edgekit="0.1.0",
    variant=VariantRecord("mobilenet_v2", 0.5, 160, 1, 1000, {}),
    source="reference",
    weights=WeightsRecord("seed", "seed:0", "f" * 64, None, 0),
    params=1_968_680,
    macs=50_330_000,
    opset=17,
    exporter="torchscript",
    preprocessing=IMAGENET,
    artifacts=(
        Artifact("onnx-fp32", "model.onnx", "0" * 64, 7_890_000, "x", 66),
        Artifact("golden", "golden.npz", "1" * 64, 640, "x"),
    ),
    parity=REPORT,
    engines=(BUILT, ABSENT, BROKEN),
    profiles=(ProfileRecord("cpu", "0" * 64, profile.load("cpu")),),
    tools={},
    machine={},
    notes=("exported with dynamo instead of torchscript",),
    seconds=3.0,
)


def row_of(text: str, *words: str) -> str:
    """The one line that begins with these words."""
    [line] = [line for line in text.splitlines() if line.split()[: len(words)] == list(words)]
    return line


# --- the ladder


def test_every_comparison_is_shown_with_its_figure_and_its_tolerance() -> None:
    text = render.parity_table(REPORT)
    for it in REPORT.rungs:
        words = row_of(text, it.name, it.against).split()
        assert words == [it.name, it.against, "ok", "1.5e-07", "2.5e-06", "features_3_conv", "3.5e-05", "88%"]


def test_the_rows_keep_the_order_of_the_climb_under_one_heading() -> None:
    lines = render.parity_table(REPORT).splitlines()
    assert lines[0].split()[:2] == ["rung", "against"]
    assert [line.split()[0] for line in lines[1:5]] == ["pytorch-fp32", "onnx", "onnx", "fp16"]
    assert all(line[lines[0].index("against") :].startswith("pytorch-fp") for line in lines[1:5])


def test_only_a_failed_rung_says_failed() -> None:
    assert "FAILED" not in render.parity_table(REPORT)
    failed = replace(REPORT, rungs=(REPORT.rungs[0], rung("onnx", passed=False), REPORT.rungs[3]))
    text = render.parity_table(failed)
    assert "FAILED" in row_of(text, "onnx")
    assert text.count("FAILED") == 1


def test_figures_that_do_not_exist_are_not_invented() -> None:
    empty = replace(rung("onnx"), error=None, tolerance=None, tensor=None, max_abs=None, top1_agreement=None)
    assert row_of(render.parity_table(replace(REPORT, rungs=(empty,))), "onnx").split()[2:] == ["ok", "-", "-", "-"]


@pytest.mark.parametrize(("passed", "word"), [(True, "alive"), (False, "DEAD")])
def test_liveness_is_told_with_its_figures(passed: bool, word: str) -> None:
    text = render.parity_table(replace(REPORT, liveness=Liveness(0.52, 0.0031, passed)))
    assert row_of(text, "liveness:") == f"liveness: {word}, outputs vary by 0.52, wanted above 0.0031"


def test_batch_consistency_is_told_with_its_figures() -> None:
    checks = (
        *REPORT.batch,
        BatchCheck("onnx", False, 0.25, 4.5e-7, "a row depends"),
        BatchCheck("x", False, None, 1.0),
    )
    lines = [line for line in render.parity_table(replace(REPORT, batch=checks)).splitlines() if "batch of" in line]
    assert lines == [
        "batch of simplified: consistent, 2.5e-08 of 4.5e-07",
        "batch of fp16: not applicable, for one row only",
        "batch of onnx: INCONSISTENT, 2.5e-01 of 4.5e-07",
        "batch of x: INCONSISTENT, - of 1.0e+00",
    ]


def test_clipping_is_told_where_the_network_clips() -> None:
    assert "34 of 35 clipped activations" in render.parity_table(REPORT)
    assert "clip" not in render.parity_table(replace(REPORT, saturation=None))


def test_one_word_for_the_whole_ladder() -> None:
    assert render.parity_word(REPORT) == "passed (full)"
    assert render.parity_word(replace(REPORT, mode="quick")) == "passed (quick)"
    failed = replace(REPORT, rungs=(rung("onnx"), rung("fp16", passed=False)))
    assert render.parity_word(failed) == "FAILED at fp16"
    assert render.parity_word(replace(REPORT, liveness=Liveness(0, 1, False))) == "FAILED at liveness"


# --- engines


def test_an_engine_that_was_built_shows_what_was_asked_and_what_was_found() -> None:
    assert render.engine_line(BUILT) == "engine rtx: built; fp16 asked for, layers found: 65 in fp16, 2 in fp32"


@pytest.mark.parametrize("record", [ABSENT, BROKEN])
def test_an_engine_that_is_not_there_says_why(record: Engine) -> None:
    assert render.engine_line(record) == f"engine {record.profile}: {record.status}; {record.reason}"


def test_an_engine_without_a_reason_has_none() -> None:
    assert render.engine_line(replace(ABSENT, reason=None)) == "engine orin: not-here"


def test_an_engine_of_the_wrong_precision_shows_both() -> None:
    silent = replace(BUILT, status="failed", receipt=Receipt("fp16", {"fp32": 67}, False, "silently fp32"))
    assert render.engine_line(silent) == "engine rtx: failed; fp16 asked for, layers found: 67 in fp32"


def test_a_word_for_every_engine() -> None:
    assert render.engine_words(MANIFEST) == "rtx: built, orin: not-here, cuda: failed"
    assert render.engine_words(replace(MANIFEST, engines=())) == "none asked for"


# --- the whole


def test_the_details_show_files_ladder_engines_and_notes() -> None:
    text = render.details(Path("artifacts") / "mobilenet_v2-a0.50-r160", MANIFEST)
    lines = text.splitlines()
    assert lines[0] == "artifacts/mobilenet_v2-a0.50-r160  1.97 M params, 50.33 M MACs"
    assert row_of(text, "model.onnx").split() == ["model.onnx", "7.9", "MB", "66", "nodes"]
    assert row_of(text, "golden.npz").split() == ["golden.npz", "640", "B"]
    assert row_of(text, "model.rtx.engine").split() == ["model.rtx.engine", "5.1", "MB", "sm80", "sm86"]
    for part in (render.parity_table(REPORT), *map(render.engine_line, MANIFEST.engines)):
        assert render.indented(part) in text
    assert lines[-2:] == [
        "  note: exported with dynamo instead of torchscript",
        "  note: 1 clipped activations were never driven to their limit",
    ]
    assert all(line == line.rstrip() for line in lines)


def test_of_a_variant_that_was_not_reached_there_is_nothing_to_show() -> None:
    assert render.details(Path("x"), None) == ""


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1), min_size=1))
def test_indenting_moves_every_line_and_changes_none(lines: list[str]) -> None:
    assert render.indented("\n".join(lines)).split("\n") == [f"  {line}" for line in lines]

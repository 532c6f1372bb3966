"""What becomes of a profile's engine: built, not here and where then, or failed and why; never an exception."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_graphs import chain, mobile, saved

from edgekit import engines, profile
from edgekit.engines import build_engine, start_engine
from edgekit.engines.builder import Builder
from edgekit.engines.plan import read_plan_header
from edgekit.manifest import Engine, TensorSpec

RTX = profile.load("rtx")


@pytest.fixture
def fp16(tmp_path: Path) -> Path:
    return saved(mobile("fp16"), tmp_path / "model.fp16.onnx")


def test_built_for_every_target_of_the_default_profile(builder: Builder, fp16: Path) -> None:
    out = fp16.with_name("model.rtx.engine")
    engine = build_engine(RTX, fp16, out, "fp16", builder=builder)
    assert (engine.status, engine.profile, engine.flavour) == ("built", "rtx", "tensorrt-rtx")
    assert (engine.path, engine.bytes, engine.reason) == (out.name, out.stat().st_size, None)
    assert engine.receipt is not None
    assert engine.receipt.passed
    assert read_plan_header(out).targets == RTX.targets == engine.targets
    assert engine.builder == read_plan_header(out).version
    assert engine.seconds is not None


def test_a_builder_of_its_own_is_started_and_ended(fp16: Path) -> None:
    def children() -> list[str]:
        return Path("/proc/self/task").joinpath(str(Path("/proc/self").resolve().name), "children").read_text().split()

    before = children()
    assert build_engine(RTX, fp16, fp16.with_suffix(".engine"), "fp16").status == "built"
    assert children() == before


def test_the_caller_works_while_the_builder_does(builder: Builder, fp16: Path) -> None:
    pending = start_engine(RTX, fp16, fp16.with_suffix(".engine"), "fp16", builder=builder)
    assert pending.finish().status == "built"


def test_a_silent_fp32_fails_with_its_receipt(builder: Builder, tmp_path: Path) -> None:
    wide = saved(mobile("fp32"), tmp_path / "model.onnx")
    engine = build_engine(RTX, wide, tmp_path / "m.engine", "fp16", builder=builder)
    assert engine.status == "failed"
    assert engine.receipt is not None
    assert (engine.receipt.requested, engine.receipt.found, engine.receipt.passed) == ("fp16", {"fp32": 4}, False)
    assert (engine.path, engine.sha256) == (None, None)


def test_an_unusable_graph_fails_with_its_reason(builder: Builder, tmp_path: Path) -> None:
    bad = saved(chain("Det", 1), tmp_path / "model.onnx")
    engine = build_engine(RTX, bad, tmp_path / "m.engine", "fp32", builder=builder)
    assert (engine.status, engine.receipt) == ("failed", None)
    assert "Det 'node0': it is not supported" in (engine.reason or "")


def test_a_contradictory_request_fails_before_anything_is_started(fp16: Path) -> None:
    engine = build_engine(RTX, fp16, fp16.with_suffix(".engine"), "fp16", batch=(4, 2, 1))
    assert engine.status == "failed"
    assert "1 <= min <= opt <= max" in (engine.reason or "")


@pytest.mark.parametrize("name", [name for name in profile.names() if profile.load(name).where == "board"])
def test_a_boards_engine_is_built_there_by_this_command(fp16: Path, name: str) -> None:
    board = profile.load(name)
    spec = TensorSpec("input", "float32", ("batch", 3, 16, 16))
    out = fp16.with_name(f"model.{name}.engine")
    engine = build_engine(board, fp16, out, "fp16", batch=(1, 2, 4), inputs=(spec,))
    assert engine.status == "not-here"
    reason = engine.reason or ""
    assert f"TensorRT {board.tensorrt}" in reason
    assert f"trtexec --onnx=model.fp16.onnx --saveEngine=model.{name}.engine" in reason
    assert "--minShapes=input:1x3x16x16" in reason
    assert not out.exists()


def test_the_local_gpus_engine_is_built_where_there_is_one(fp16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.engines.builder.find_spec", lambda name: None)
    cuda = profile.load("cuda")
    engine = build_engine(cuda, fp16, fp16.with_suffix(".engine"), "fp16")
    assert engine.status == "not-here"
    assert "tensorrt is not installed" in (engine.reason or "")
    assert "edgekit build DIR --profile cuda" in (engine.reason or "")


def test_a_profile_without_engines_says_so(fp16: Path) -> None:
    engine = build_engine(profile.load("cpu"), fp16, fp16.with_suffix(".engine"), "fp32")
    assert engine == Engine("cpu", "none", (), "not-here", reason="profile cpu runs ONNX and builds no engine")


def test_limits_of_the_profile_reach_the_builder(builder: Builder, fp16: Path) -> None:
    starved = replace(RTX, workspace_mib=1)
    engine = build_engine(starved, fp16, fp16.with_suffix(".engine"), "fp16", builder=builder)
    assert engine.status == "failed"
    assert "larger workspace_mib" in (engine.reason or "")


@pytest.mark.parametrize("name", ["tensorrt-rtx", "tensorrt"])
def test_a_flavour_is_found_by_its_file(name: str) -> None:
    assert engines.flavour(name).flavour == name


def test_asking_for_engines_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgekit.engines, edgekit.engines.rtx, edgekit.engines.tensorrt; "
        "print(sorted({'onnx', 'polygraphy', 'tensorrt_rtx', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

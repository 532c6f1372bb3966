"""Real plans, built ahead of time by TensorRT-RTX, and every way in which a graph can fail to become one."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import chain, mobile, saved

from edgekit.engines import rtx
from edgekit.engines.builder import Builder
from edgekit.engines.plan import PlanHeader, read_plan_header
from edgekit.engines.receipt import KEPT_FP32_KEY, PrecisionMismatch
from edgekit.engines.request import BuildRequest, BuiltEngine, partial_path
from edgekit.errors import EdgekitError, InputUnusable, UsageError
from edgekit.isolation import IsolationFailed
from edgekit.manifest import Receipt

PORTABLE = ("sm80", "sm86", "sm89", "sm120", "sm121")


def build(builder: Builder, model: onnx.ModelProto, folder: Path, **request: object) -> BuiltEngine:
    asked = {"precision": "fp16", "targets": ("sm86",), **request}
    return builder.build(BuildRequest(saved(model, folder / "m.onnx"), folder / "m.engine", **asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_one_plan_for_every_target(builder: Builder, tmp_path: Path, precision: str) -> None:
    built = build(builder, mobile(precision), tmp_path, precision=precision, targets=PORTABLE)
    assert built.path == tmp_path / "m.engine"
    data = built.path.read_bytes()
    assert (built.bytes, built.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert built.receipt == Receipt(precision, {precision: 4}, passed=True)  # type: ignore[arg-type]
    assert built.log == ()
    header = read_plan_header(built.path)
    assert (header.flavour, header.size, header.targets) == ("tensorrt-rtx", built.bytes, PORTABLE)
    assert header.version == built.tensorrt_version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.engine", "m.onnx"]


@pytest.mark.parametrize("target", ["sm75", *PORTABLE])
def test_a_plan_says_in_its_header_what_it_is_for(builder: Builder, tmp_path: Path, target: str) -> None:
    built = build(builder, mobile("fp16"), tmp_path, targets=(target,))
    assert read_plan_header(built.path).targets == (target,)


def test_two_processes_write_the_same_bytes(builder: Builder, tmp_path: Path) -> None:
    first = build(builder, mobile("fp16"), tmp_path, targets=PORTABLE)
    request = BuildRequest(tmp_path / "m.onnx", tmp_path / "again.engine", "fp16", PORTABLE)
    assert rtx.build(request).sha256 == first.sha256


def test_turing_refuses_an_fp32_gemm_in_words(builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="cannot build this network") as caught:
        build(builder, mobile("fp32"), tmp_path, precision="fp32", targets=("sm75",))
    assert "FP32 GEMM is not supported" in (caught.value.got or "")
    assert "/_src/" not in str(caught.value)
    assert "cuda" not in str(caught.value).lower()
    assert "sm75" in (caught.value.hint or "")
    assert not (tmp_path / "m.engine").exists()


@pytest.mark.parametrize(("asked", "made"), [("fp16", "fp32"), ("fp32", "fp16")])
def test_another_precision_than_asked_is_not_built(builder: Builder, tmp_path: Path, asked: str, made: str) -> None:
    with pytest.raises(PrecisionMismatch) as caught:
        build(builder, mobile(made), tmp_path, precision=asked)
    assert caught.value.receipt.found == {made: 4}
    assert caught.value.exit_code == 1
    assert not (tmp_path / "m.engine").exists()


def test_a_single_silent_fp32_layer_is_found_and_a_declared_one_is_not_silent(builder: Builder, tmp_path: Path) -> None:
    model = mobile("fp16", fp32_layer="pointwise")
    with pytest.raises(PrecisionMismatch) as caught:
        build(builder, model, tmp_path)
    assert caught.value.receipt.found == {"fp16": 3, "fp32": 1}
    assert "CONVOLUTION pointwise in fp32" in str(caught.value)
    model.metadata_props.add(key=KEPT_FP32_KEY, value="pointwise")
    assert build(builder, model, tmp_path).receipt.found == {"fp16": 3, "fp32": 1}


def test_a_dynamic_batch(builder: Builder, tmp_path: Path) -> None:
    static = build(builder, mobile("fp16"), tmp_path)
    dynamic = build(builder, mobile("fp16", "batch"), tmp_path, batch=(1, 4, 8))
    assert dynamic.sha256 != static.sha256
    assert dynamic.receipt.passed


@pytest.mark.parametrize(
    ("batch_of_graph", "batch"), [("batch", None), (1, (1, 4, 8)), (4, (4, 4, 4))], ids=["no range", "static", "equal"]
)
def test_graph_and_batch_that_contradict_each_other(
    builder: Builder, tmp_path: Path, batch_of_graph: int | str, batch: tuple[int, int, int] | None
) -> None:
    with pytest.raises(UsageError, match="contradict each other") as caught:
        build(builder, mobile("fp16", batch_of_graph), tmp_path, batch=batch)
    assert caught.value.got == ("?" if batch_of_graph == "batch" else str(batch_of_graph)) + "x3x16x16"


def test_limits_reach_the_builder(builder: Builder, tmp_path: Path) -> None:
    assert build(builder, mobile("fp16"), tmp_path, workspace_mib=256, optimization_level=5).bytes


@pytest.mark.parametrize("targets", [("sm87",), ("sm86", "sm53"), ()])
def test_targets_that_rtx_does_not_have(builder: Builder, tmp_path: Path, targets: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="cannot compile for these targets") as caught:
        build(builder, mobile("fp16"), tmp_path, targets=targets)
    assert caught.value.wanted == "some of sm75, sm80, sm86, sm89, sm120, sm121"


def test_rtx_has_no_fp16_flag(builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such way to FP16") as caught:
        build(builder, mobile("fp16"), tmp_path, fp16_mode="flag")
    assert caught.value.wanted == "typed"


@pytest.mark.parametrize(
    "data",
    [b"", b"hello world " * 50, np.random.default_rng(0).bytes(4000), mobile("fp16").SerializeToString()[:-2000]],
    ids=["empty", "text", "noise", "truncated"],
)
def test_a_file_that_is_no_model(builder: Builder, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputUnusable, match=r"the file is empty|not a file that edgekit knows|truncated"):
        builder.build(BuildRequest(tmp_path / "m.onnx", tmp_path / "m.engine", "fp16", ("sm86",)))


@pytest.mark.parametrize("opset", [7, 99])
def test_an_opset_that_the_parser_would_take_without_a_word(builder: Builder, tmp_path: Path, opset: int) -> None:
    with pytest.raises(InputUnusable, match="opset") as caught:
        build(builder, chain("Relu", 2, opset), tmp_path, precision="fp32")
    assert caught.value.got == f"opset {opset}"


@pytest.mark.parametrize(
    ("op", "domain", "complaint"),
    [
        ("Det", "", "Det 'culprit': it is not supported"),  # TensorRT's own text is "false"
        ("Unheard", "", "Unheard 'culprit': it is neither an operator nor a plugin known to this TensorRT"),
        ("Own", "my.domain", "Own 'culprit': it is neither"),
    ],
)
def test_a_node_that_cannot_be_parsed_is_named(
    builder: Builder, tmp_path: Path, op: str, domain: str, complaint: str
) -> None:
    model = one_node(op, domain)
    with pytest.raises(InputUnusable, match="cannot use this graph") as caught:
        build(builder, model, tmp_path, precision="fp32")
    assert (caught.value.got or "").startswith(complaint)


def test_a_shape_that_cannot_be_is_explained_without_noise(builder: Builder, tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([7, 7], np.int64), "shape")
    with pytest.raises(InputUnusable, match="cannot use this graph") as caught:
        build(builder, one_node("Reshape", extra=shape), tmp_path, precision="fp32")
    assert "Reshape 'culprit'" in str(caught.value)
    assert "reshape changes volume" in str(caught.value)
    assert "cudaError" not in str(caught.value)


def one_node(op: str, domain: str = "", extra: TensorProto | None = None) -> onnx.ModelProto:
    inputs = ["x"] if extra is None else ["x", extra.name]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], name="culprit", domain=domain)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [] if extra is None else [extra],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_folder_that_is_not_there(builder: Builder, tmp_path: Path) -> None:
    request = BuildRequest(saved(mobile("fp16"), tmp_path / "m.onnx"), tmp_path / "no" / "m.engine", "fp16", ("sm86",))
    with pytest.raises(UsageError, match="cannot write there"):
        builder.build(request)


def test_a_new_plan_replaces_the_old_one_whole(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"old" * 10_000_000)
    built = build(builder, mobile("fp16"), tmp_path)
    assert (tmp_path / "m.engine").stat().st_size == built.bytes


def test_a_graph_that_kills_the_builder_is_an_error_and_the_next_one_is_built(tmp_path: Path) -> None:
    with limited_stack(1 << 20), rtx.builder() as mortal:
        with pytest.raises(IsolationFailed, match=r"the TensorRT-RTX builder died: SIGSEGV") as caught:
            build(mortal, chain("Relu", 600), tmp_path, precision="fp32")
        assert caught.value.where == str(tmp_path / "m.onnx")
        assert caught.value.exit_code == 4
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        assert build(mortal, mobile("fp16"), tmp_path).receipt.passed


@contextmanager
def limited_stack(soft: int) -> Iterator[None]:
    """A soft limit in bytes on the stack of the processes started inside."""
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, before)


def test_a_build_that_takes_too_long_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    with rtx.builder(timeout_s=1.5) as hurried:
        start = time.perf_counter()
        with pytest.raises(IsolationFailed, match=r"took longer than 1\.5 s and was stopped"):
            build(hurried, chain("Abs", 2000), tmp_path, precision="fp32")
        assert time.perf_counter() - start < 4
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        hurried.timeout_s = 60
        assert build(hurried, mobile("fp16"), tmp_path).receipt.passed


def test_nothing_is_printed(builder: Builder, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(builder, mobile("fp16"), tmp_path)
    with pytest.raises(InputUnusable):
        build(builder, chain("Det", 1), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_builder_neither_loads_torch_nor_much_memory(tmp_path: Path) -> None:
    with rtx.builder() as fresh:
        build(fresh, mobile("fp16"), tmp_path, targets=PORTABLE)
        assert "libtorch" not in Path(f"/proc/{fresh.pid}/maps").read_text()
        peak_kib = int(Path(f"/proc/{fresh.pid}/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak_kib < 350 << 10


def test_ctrl_c_does_not_end_a_build(builder: Builder, tmp_path: Path) -> None:
    request = BuildRequest(saved(mobile("fp16"), tmp_path / "m.onnx"), tmp_path / "m.engine", "fp16", ("sm86",))
    builder.submit(request)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGINT)
    assert builder.result().receipt.passed


def test_this_machine_can_build() -> None:
    assert rtx.available() is None


def test_closing_in_the_middle_of_a_build_leaves_nothing(tmp_path: Path) -> None:
    building = rtx.builder()
    request = BuildRequest(saved(chain("Abs", 2000), tmp_path / "m.onnx"), tmp_path / "m.engine", "fp32", ("sm86",))
    building.submit(request)
    partial_path(request.out_path, building.pid or 0).write_bytes(b"half a plan")  # as if it were writing
    start = time.perf_counter()
    building.close()
    assert time.perf_counter() - start < 1
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_relative_paths_mean_the_callers_folder(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(builder, mobile("fp16"), tmp_path)  # it runs, in another folder
    monkeypatch.chdir(tmp_path)
    built = builder.build(BuildRequest(Path("m.onnx"), Path("second.engine"), "fp16", ("sm86",)))
    assert built.path == Path("second.engine")
    assert (tmp_path / "second.engine").is_file()


def in_the_worker(code: str) -> str:
    """What a script prints that runs in the builder's own process, past the checks in front of TensorRT."""
    setup = f"""
import os, sys
os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
sys.path[:] = {sys.path!r}
from pathlib import Path
from edgekit.engines import worker
from edgekit.engines.request import BuildRequest
from edgekit.errors import InputUnusable
"""
    return subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, check=True).stdout


def test_fp32_is_not_tf32(tmp_path: Path) -> None:
    path = saved(mobile("fp32"), tmp_path / "m.onnx")
    printed = in_the_worker(f"""
request = BuildRequest(Path({str(path)!r}), Path("unused"), "fp32", ("sm86",))
with worker._captured_log() as log:
    builder, network = worker.CreateNetwork(strongly_typed=True)()
    worker._parse(network, request.onnx_path, worker.screen(request.onnx_path, 25), log)
    for config in (builder.create_builder_config(), worker._config(network, request)(builder, network)):
        print(config.get_flag(worker.trt.BuilderFlag.TF32))
""")
    assert printed == "True\nFalse\n", "TensorRT's default, and ours"


@pytest.mark.parametrize("content", ["", "hello world " * 50])
def test_an_empty_network_is_refused_even_where_the_parser_is_content(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.onnx").write_text(content)
    printed = in_the_worker(f"""
with worker._captured_log() as log:
    builder, network = worker.CreateNetwork(strongly_typed=True)()
    try:
        worker._parse(network, Path({str(tmp_path / "m.onnx")!r}), worker.Screened((), (), frozenset()), log)
    except InputUnusable as error:
        print(error.got)
""")
    assert printed == "0 layers, 0 outputs\n"


def test_a_plan_whose_header_contradicts_the_request_is_thrown_away(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def for_another_target(path: Path) -> PlanHeader:
        return replace(read_plan_header(path), targets=("sm89",))

    monkeypatch.setattr("edgekit.engines.builder.read_plan_header", for_another_target)
    with pytest.raises(EdgekitError, match="the plan is not what was asked for"):
        build(builder, mobile("fp16"), tmp_path)
    assert not (tmp_path / "m.engine").exists()

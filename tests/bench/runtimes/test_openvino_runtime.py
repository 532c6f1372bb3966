"""OpenVINO as something to be measured: names exactly the graph's, and no other precision than was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bench_graphs import FEED, FEEDS, candidate, convolutions
from onnx import TensorProto, helper
from subjects import half

from edgekit.bench.runtimes import Candidate, Runner, Runtime, Settings, _openvino, runtime
from edgekit.bench.runtimes.openvino_bf16 import missing_units
from edgekit.errors import GateFailed, InputUnusable, UsageError

ONE = Settings(threads=1, strict=True)
OPENVINO: Runtime = runtime("openvino")
BF16: Runtime = runtime("openvino-bf16")


def opened(found: Candidate, settings: Settings = ONE) -> Runner:
    runner = OPENVINO.open(found, settings)
    runner.feed(FEEDS)
    return runner


def plain(found: Candidate, feed: np.ndarray = FEED) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(found.path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": feed})[0]


def test_it_runs_here_and_says_what_it_is() -> None:
    assert OPENVINO.missing() is None
    assert set(OPENVINO.versions()) == {"openvino", "inference-precision"}
    assert BF16.versions()["inference-precision"] == "bf16"


def test_float32_is_computed_in_float32(tmp_path: Path) -> None:
    found = candidate(tmp_path, convolutions())
    np.testing.assert_allclose(opened(found).outputs()["features"], plain(found), rtol=1e-4, atol=1e-5)


def test_every_run_is_timed_and_leaves_the_outputs_right(tmp_path: Path) -> None:
    runner = opened(candidate(tmp_path, convolutions()))
    before = runner.outputs()["features"]
    samples = runner.sample(5)
    assert len(samples) == 5
    assert all(seconds > 0 for seconds in samples)
    np.testing.assert_array_equal(runner.outputs()["features"], before)


def test_outputs_are_copies(tmp_path: Path) -> None:
    runner = opened(candidate(tmp_path, convolutions()))
    before = runner.outputs()["features"]
    kept = before.copy()
    runner.feed({"input": -FEED})
    runner.outputs()
    np.testing.assert_array_equal(before, kept)


def test_inputs_are_copied_and_can_be_replaced(tmp_path: Path) -> None:
    found, own = candidate(tmp_path, convolutions()), FEED.copy()
    runner = opened(found)
    runner.feed({"input": own})
    own[:] = 0
    np.testing.assert_allclose(runner.outputs()["features"], plain(found), rtol=1e-4, atol=1e-5)


def test_an_open_batch_takes_what_it_is_fed(tmp_path: Path) -> None:
    runner = OPENVINO.open(candidate(tmp_path, convolutions(batch="batch")), ONE)
    for rows in (1, 3):
        runner.feed({"input": np.repeat(FEED, rows, axis=0)})
        assert runner.outputs()["features"].shape == (rows, 8, 16, 16)


def several_outputs() -> bytes:
    """Outputs in another order than they are made in, one of them the same tensor as another."""
    nodes = [
        helper.make_node("Relu", ["input"], ["positive"]),
        helper.make_node("Identity", ["positive"], ["same"]),
        helper.make_node("Neg", ["input"], ["negative"]),
        helper.make_node("Cast", ["negative"], ["half"], to=TensorProto.FLOAT16),
    ]
    shape = [1, 8, 16, 16]
    outputs = [("half", TensorProto.FLOAT16)] + [(name, TensorProto.FLOAT) for name in ("same", "negative", "positive")]
    graph = helper.make_graph(
        nodes,
        "several",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_outputs_have_the_names_of_the_file(tmp_path: Path) -> None:
    found = opened(candidate(tmp_path, several_outputs())).outputs()
    assert list(found) == ["half", "same", "negative", "positive"]
    np.testing.assert_array_equal(found["same"], np.maximum(FEED, 0))
    np.testing.assert_array_equal(found["positive"], np.maximum(FEED, 0))
    np.testing.assert_array_equal(found["negative"], -FEED)
    assert found["half"].dtype == np.float32
    np.testing.assert_array_equal(found["half"], (-FEED).astype(np.float16))


def test_inputs_go_to_their_own_places(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("b", "a")]
    graph = helper.make_graph(
        [helper.make_node("Sub", ["a", "b"], ["difference"])],
        "two",
        values,
        [helper.make_tensor_value_info("difference", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    runner = OPENVINO.open(candidate(tmp_path, model), ONE)
    runner.feed({"a": np.full((1, 3), 5, np.float32), "b": np.full((1, 3), 2, np.float32)})
    np.testing.assert_array_equal(runner.outputs()["difference"], np.full((1, 3), 3, np.float32))


def test_a_half_precision_graph_runs(tmp_path: Path) -> None:
    full = plain(candidate(tmp_path, convolutions()))
    found = opened(candidate(tmp_path, half(convolutions()), "onnx-fp16")).outputs()["features"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, full, atol=0.02 * float(np.abs(full).max()))


def test_bfloat16_is_a_runtime_of_its_own(tmp_path: Path) -> None:
    found = candidate(tmp_path, convolutions())
    full = opened(found).outputs()["features"]
    if BF16.missing() is not None:
        with pytest.raises(GateFailed, match="another precision"):
            BF16.open(found, ONE)
        return
    runner = BF16.open(found, ONE)
    runner.feed(FEEDS)
    gap = float(np.abs(runner.outputs()["features"] - full).max() / np.abs(full).max())
    assert 2**-14 < gap < 2**-5, "eight bits of mantissa, and not float32's"


def test_another_precision_than_asked_for_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: what is compiled is not what was asked for."""
    compiling = _openvino._compile
    monkeypatch.setattr(_openvino, "_compile", lambda path, threads, _precision: compiling(path, threads, "f32"))
    with pytest.raises(GateFailed) as caught:
        _openvino.open_graph(candidate(tmp_path, convolutions()).path, ONE, "bf16")
    assert (caught.value.got, caught.value.wanted) == ("f32", "bf16")


@pytest.mark.parametrize(
    ("flags", "lacks"),
    [("fpu avx512_bf16 sse", False), ("fpu amx_bf16", False), ("fpu avx2 bf16x", True), (None, True)],
)
def test_bfloat16_needs_its_instructions(flags: str | None, lacks: bool, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert (missing_units(file) is not None) == lacks


def test_where_it_runs_and_on_what(tmp_path: Path) -> None:
    runner = opened(candidate(tmp_path, convolutions()))
    assert runner.placement is not None
    assert runner.placement.share("CPU") == 1.0
    assert (runner.threads, runner.spin, runner.transfers, runner.cuda_graph) == (1, False, "none", None)


@pytest.mark.parametrize("feeds", [{}, {"image": FEED}, {**FEEDS, "more": FEED}])
def test_other_names_are_refused(tmp_path: Path, feeds: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputUnusable, match="not the network's inputs"):
        opened(candidate(tmp_path, convolutions())).feed(feeds)


def test_a_wrong_shape_is_refused_and_what_was_fed_stays(tmp_path: Path) -> None:
    found = candidate(tmp_path, convolutions())
    runner = opened(found)
    with pytest.raises(InputUnusable, match="cannot run"):
        runner.feed({"input": FEED[:, :3]})
    np.testing.assert_allclose(runner.outputs()["features"], plain(found), rtol=1e-4, atol=1e-5)


def test_no_run_before_the_inputs(tmp_path: Path) -> None:
    runner = OPENVINO.open(candidate(tmp_path, convolutions()), ONE)
    with pytest.raises(UsageError, match="nothing was fed"):
        runner.sample(1)
    with pytest.raises(UsageError, match="nothing was fed"):
        runner.outputs()


@pytest.mark.parametrize("data", [b"not a graph", b"\x00" * 64])
def test_a_broken_file_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputUnusable) as caught:
        OPENVINO.open(candidate(tmp_path, data), ONE)
    assert caught.value.where == str(tmp_path / "model.onnx")


def test_an_operator_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Unheard", ["input"], ["output"], domain="example.org")],
        "strange",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.org", 1)]
    found = candidate(tmp_path, helper.make_model(graph, opset_imports=opsets, ir_version=9))
    with pytest.raises(InputUnusable, match="OpenVINO cannot load"):
        OPENVINO.open(found, ONE)


@pytest.mark.parametrize(
    "settings", [Settings(compiled=True), Settings(cuda_graph=True), Settings(transfers="included")]
)
def test_settings_that_the_cpu_has_not_are_refused(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(UsageError):
        opened(candidate(tmp_path, convolutions()), replace(settings, threads=1))

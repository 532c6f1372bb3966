"""Simplification in its own process: smaller graphs, the same function, the same bytes, and no harm from bad ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import InputUnusable
from edgekit.graph.simplify import SPARE_BYTES, Simplifier
from edgekit.isolation import IsolationFailed


@pytest.fixture(scope="module")
def simplifier() -> Iterator[Simplifier]:
    with Simplifier() as shared:
        yield shared


def simplified(simplifier: Simplifier, model: onnx.ModelProto) -> onnx.ModelProto:
    simplifier.submit(model.SerializeToString())
    return onnx.load_model_from_string(simplifier.result().model_bytes)


def block(channels: int = 8, batch: int | str = 1) -> onnx.ModelProto:
    """Conv, batch-norm, ReLU6 with Constant limits, an Identity, and a shape computed at run time."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((random.random(shape) + 0.5).astype(np.float32), name)

    def scalar(name: str, number: float) -> onnx.NodeProto:
        return helper.make_node(
            "Constant", [], [name], value=numpy_helper.from_array(np.array(number, np.float32), "v")
        )

    nodes = []
    last = "input"
    for i in range(2):
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"conv{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"conv{i}", *(f"{k}{i}" for k in "sbmv")], [f"bn{i}"]),
            scalar(f"low{i}", 0),
            scalar(f"high{i}", 6),
            helper.make_node("Clip", [f"bn{i}", f"low{i}", f"high{i}"], [f"clip{i}"]),
            helper.make_node("Identity", [f"clip{i}"], [f"same{i}"]),
        ]
        last = f"same{i}"
    nodes += [
        helper.make_node("Constant", [], ["flat"], value=numpy_helper.from_array(np.array([0, -1], np.int64), "v")),
        helper.make_node("Reshape", [last, "flat"], ["output"]),
    ]
    weights = [weight("w0", channels, 3, 3, 3), weight("w1", channels, channels, 3, 3)]
    weights += [weight(f"{k}{i}", channels) for i in range(2) for k in "sbmv"]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, channels * 64])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, batch: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((batch, 3, 8, 8)).astype(np.float32)
    output: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = session.run(["output"], {"input": x})[0]
    return output


@pytest.mark.parametrize("batch", [1, "batch"])
def test_the_graph_shrinks_and_computes_the_same(simplifier: Simplifier, batch: int | str) -> None:
    model = block(batch=batch)
    after = simplified(simplifier, model)
    assert [node.op_type for node in after.graph.node] == ["Conv", "Clip", "Conv", "Clip", "Reshape"]
    onnx.checker.check_model(after, full_check=True)
    assert [v.SerializeToString() for v in (*after.graph.input, *after.graph.output)] == [
        v.SerializeToString() for v in (*model.graph.input, *model.graph.output)
    ]
    rows = 1 if batch == 1 else 3
    np.testing.assert_allclose(run(after, rows), run(model, rows), rtol=1e-5, atol=1e-5)


def test_node_counts_and_the_limits_shared_by_all_relu6(simplifier: Simplifier) -> None:
    simplifier.submit(block().SerializeToString())
    result = simplifier.result()
    assert (result.nodes_before, result.nodes_after, result.constants_folded) == (14, 5, True)
    after = onnx.load_model_from_string(result.model_bytes)
    limits = {name for node in after.graph.node if node.op_type == "Clip" for name in node.input[1:]}
    assert len(limits) == 2
    assert limits <= {tensor.name for tensor in after.graph.initializer}


def test_no_record_of_the_run_is_left(simplifier: Simplifier) -> None:
    after = simplified(simplifier, block())
    assert not any(entry.key.startswith("onnxsim") for entry in after.metadata_props)


def test_two_processes_write_the_same_bytes(simplifier: Simplifier) -> None:
    model_bytes = block(channels=24).SerializeToString()
    simplifier.submit(model_bytes)
    first = simplifier.result().model_bytes
    with Simplifier() as other:
        other.submit(model_bytes)
        assert other.result().model_bytes == first


def expanding(op: str) -> onnx.ModelProto:
    """A file of a few hundred bytes whose constants are 92 MB when written out."""
    shape = numpy_helper.from_array(np.array([1, 64, 600, 600], np.int64), "shape")
    one = numpy_helper.from_array(np.ones((1, 64, 1, 1), np.float32), "one")
    makers = {
        "ConstantOfShape": [helper.make_node("ConstantOfShape", ["shape"], ["c"])],
        "Expand": [helper.make_node("Expand", ["one", "shape"], ["c"])],
        "Expand, Add": [
            helper.make_node("Expand", ["one", "shape"], ["e"]),
            helper.make_node("Add", ["e", "one"], ["c"]),
        ],
    }
    sized = [1, 64, 600, 600]
    graph = helper.make_graph(
        [*makers[op], helper.make_node("Add", ["x", "c"], ["y"])],
        "expanding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sized)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sized)],
        [shape, one],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Expand, Add"])
def test_a_small_file_stays_small(simplifier: Simplifier, op: str) -> None:
    model_bytes = expanding(op).SerializeToString()
    simplifier.submit(model_bytes)
    result = simplifier.result()
    assert len(result.model_bytes) < 10 * len(model_bytes) < SPARE_BYTES
    assert result.constants_folded == (op != "Expand, Add")


@pytest.mark.parametrize(
    ("model_bytes", "complaint"),
    [
        (b"", "holds no graph"),
        (b"hello world " * 20, "not an ONNX model"),
        (np.random.default_rng(0).bytes(5000), "not an ONNX model"),
        (block().SerializeToString()[:-1000], "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    ],
    ids=["empty", "text", "noise", "truncated", "no graph"],
)
def test_what_is_no_model_is_named(simplifier: Simplifier, model_bytes: bytes, complaint: str) -> None:
    simplifier.submit(model_bytes)
    with pytest.raises(InputUnusable, match=complaint):
        simplifier.result()


def test_a_graph_that_onnxsim_refuses_is_named(simplifier: Simplifier) -> None:
    model = block()
    model.graph.node[-1].input[0] = "nowhere"
    with pytest.raises(InputUnusable, match="cannot simplify this graph") as caught:
        simplified(simplifier, model)
    assert "nowhere" in (caught.value.got or "")


def test_more_than_a_protobuf_can_hold_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InputUnusable, match="too large to simplify"):
        Simplifier().submit(bytes(2**31))


def test_a_time_limit_holds_and_the_next_graph_is_served() -> None:
    with Simplifier(timeout_s=0.01) as hurried:
        hurried.submit(block().SerializeToString())
        with pytest.raises(IsolationFailed, match=r"took longer than 0\.01 s"):
            hurried.result()
        hurried.timeout_s = 60
        hurried.submit(block().SerializeToString())
        assert hurried.result().nodes_after == 5


def test_the_process_does_not_load_torch() -> None:
    with Simplifier() as fresh:
        simplified(fresh, block())
        assert "libtorch" not in Path(f"/proc/{fresh.pid}/maps").read_text()
        peak_kib = int(Path(f"/proc/{fresh.pid}/status").read_text().split("VmHWM:")[1].split()[0])
    assert peak_kib < 200 << 10


def test_the_callers_side_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgekit.graph.simplify; "
        "print(sorted({'onnx', 'onnxsim', 'onnxruntime', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""`edgekit export FILE.onnx`: graphs from elsewhere are proven against themselves, or refused with a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekit import golden, manifest, recheck
from edgekit.cli import run
from edgekit.errors import InputUnusable
from edgekit.graph.fp16 import kept_fp32
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = pytest.mark.xdist_group("graph subject")

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
OUT = ["--no-engine", "--out", "artifacts"]
Result = dict[str, Any]


# Graphs


def value(name: str, shape: Sequence[int | str] | None, kind: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    """A node without a name, as helpers make it."""
    return helper.make_node(op, inputs.split(), [output], **attributes)


def saved(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> Path:
    held = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def drawn(*shape: int, scale: float = 1.0) -> np.ndarray:
    """Weights that keep the size of what goes through them, but for `scale`."""
    values = np.random.default_rng(shape).standard_normal(shape) * scale / np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float32)


IMAGE = [value("x", [1, 3, 32, 32])]
SCORES = [value("y", [1, 8])]
STEM = node("Conv", "x w1", "a", pads=[1] * 4)
HEAD = [node("GlobalAveragePool", "last", "p"), node("Flatten", "p", "y")]


def small(path: Path, body: Sequence[NodeProto], **weights: np.ndarray) -> Path:
    """An image through a convolution (`a`) and some nodes (to `last`), averaged to eight scores."""
    return saved(path, [STEM, *body, *HEAD], IMAGE, SCORES, {"w1": drawn(8, 3, 3, 3), **weights})


def write_any_size(path: Path) -> Path:
    """Batch, height and width are open."""
    nodes = [
        node("Conv", "x w1 b1", "a", pads=[1] * 4, strides=[2, 2]),
        node("Relu", "a", "r"),
        node("Conv", "r w2", "c", pads=[1] * 4),
        node("Relu", "c", "d"),
        node("GlobalAveragePool", "d", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f w3", "y"),
    ]
    weights = {"w1": drawn(8, 3, 3, 3), "b1": drawn(8, 1)[:, 0], "w2": drawn(16, 8, 3, 3), "w3": drawn(16, 10)}
    return saved(path, nodes, [value("x", ["batch", 3, "height", "width"])], [value("y", ["batch", 10])], weights)


def write_two(path: Path) -> Path:
    """An image and five words by number; two outputs, one of them read inside as well, without a declared shape."""
    nodes = [
        node("Conv", "image w1", "a", pads=[1] * 4),
        node("GlobalAveragePool", "a", "p"),
        node("Flatten", "p", "f"),
        node("Gather", "table ids", "e"),
        node("ReduceMean", "e", "m", axes=[1], keepdims=0),
        node("Add", "f m", "score"),
        node("MatMul", "score w2", "feat"),
    ]
    weights = {"w1": drawn(8, 3, 3, 3), "table": drawn(50, 8, scale=3), "w2": drawn(8, 4)}
    inputs = [value("image", ["n", 3, 32, 32]), value("ids", ["n", 5], INT64)]
    return saved(path, nodes, inputs, [value("score", None), value("feat", None)], weights)


def write_hot(path: Path) -> Path:
    """Squares of some hundreds leave the range of half precision; their roots are back in it."""
    body = [node("Mul", "a a", "b"), node("Sqrt", "b", "c"), node("Conv", "c w2", "last", pads=[1] * 4)]
    return small(path, body, w1=drawn(8, 3, 3, 3, scale=900), w2=drawn(8, 8, 3, 3))


def write_quantised(path: Path) -> Path:
    body = [node("QuantizeLinear", "a s z", "q"), node("DequantizeLinear", "q s z", "last")]
    return small(path, body, s=np.array(0.05, np.float32), z=np.array(0, np.int8))


def write_branched(path: Path) -> Path:
    def branch(op: str) -> GraphProto:
        return helper.make_graph([node(op, "a", f"{op}.y")], op, [], [value(f"{op}.y", None)])

    body = [
        node("ReduceMean", "a", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        helper.make_node("If", ["c"], ["last"], then_branch=branch("Tanh"), else_branch=branch("Sigmoid")),
    ]
    return small(path, body, zero=np.array(0, np.float32))


def write_dead(path: Path) -> Path:
    return small(path, [node("Mul", "a zero", "z"), node("Add", "z one", "last")], zero=zeros(), one=zeros() + 1)


def zeros() -> np.ndarray:
    return np.zeros(1, np.float32)


# Running


def edgekit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A real process; the command line is the one that the entry point runs."""
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *arguments]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


GOOD: dict[str, Callable[[Path], Path]] = {
    "any_size": write_any_size,
    "two": write_two,
    "hot": write_hot,
    "quantised": write_quantised,
    "branched": write_branched,
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Result]]:
    """All good graphs, exported in one go; their folder, and the results by name."""
    folder = tmp_path_factory.mktemp("graphs")
    files = [write(folder / f"{name}.onnx").name for name, write in GOOD.items()]
    done = edgekit("export", *files, *OUT, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = {variant["variant"]["model"]: variant for variant in json.loads(done.stdout)["variants"]}
    assert list(found) == list(GOOD)
    return folder, found


def artifacts(exported: tuple[Path, dict[str, Result]], name: str) -> Path:
    return exported[0] / exported[1][name]["dir"]


def kinds(result: Result) -> list[str]:
    return [artifact["kind"] for artifact in result["artifacts"]]


def figures(parity: Result) -> list[tuple[object, ...]]:
    return [(rung["name"], rung["tensor"], rung["error"], rung["tolerance"]) for rung in parity["rungs"]]


class TestWhatCanBeCarried:
    @pytest.mark.parametrize("name", GOOD)
    def test_every_rung_passed_and_none_is_missing(self, exported, name):
        parity = exported[1][name]["parity"]
        halves = [("fp16", "original"), ("fp16", "simplified")] if name != "quantised" else []
        assert parity["passed"] is True
        assert [(rung["name"], rung["against"]) for rung in parity["rungs"]] == [("simplified", "original"), *halves]
        assert all(rung["error"] <= rung["tolerance"] for rung in parity["rungs"])

    def test_parity_climbs_again_to_the_same_figures(self, exported):
        done = edgekit("parity", "artifacts", "--json", cwd=exported[0])
        assert done.returncode == 0, done.stderr
        again = {Path(variant["dir"]).name: variant["parity"] for variant in json.loads(done.stdout)["variants"]}
        for name, result in exported[1].items():
            assert figures(again[name]) == figures(result["parity"])

    @pytest.mark.parametrize("name", GOOD)
    def test_the_golden_outputs_are_those_of_the_file(self, exported, name):
        session = CpuSession((exported[0] / f"{name}.onnx").read_bytes(), optimise=False)
        stored = golden.unpack(artifacts(exported, name) / "golden.npz")
        assert len(stored.inputs) > 2
        for given, wanted in zip(stored.inputs, stored.outputs, strict=True):
            for output, found in session(given.feeds).items():
                np.testing.assert_array_equal(found, wanted[output])

    @pytest.mark.parametrize("name", GOOD)
    def test_the_manifest_says_where_it_came_from(self, exported, name):
        found, _ = manifest.read_verified(artifacts(exported, name))
        assert found.source == f"{name}.onnx"
        assert found.weights.kind == "own"
        assert found.exporter == "original"
        assert found.macs > 0

    @pytest.mark.parametrize("name", GOOD)
    def test_inputs_and_outputs_keep_their_names_and_types_in_every_graph(self, exported, name):
        before = onnx.load(exported[0] / f"{name}.onnx").graph
        for file in artifacts(exported, name).glob("*.onnx"):
            after = onnx.load(file).graph
            assert interface(after.input) == interface(before.input), file.name
            assert interface(after.output) == interface(before.output), file.name
            onnx.checker.check_model(onnx.load(file))

    def test_a_second_run_finds_it_done_and_a_changed_file_does_not(self, tmp_path, capsys):
        file = write_branched(tmp_path / "branched.onnx")
        first, again = (self._cached(file, capsys) for _ in range(2))
        small(file, [node("Relu", "a", "last")])
        assert (first, again, self._cached(file, capsys)) == (False, True, False)

    def _cached(self, file: Path, capsys: pytest.CaptureFixture[str]) -> bool:
        options = ["--no-engine", "--parity", "quick", "--precision", "fp32", "--json"]
        assert run(["export", str(file), "--out", str(file.parent / "artifacts"), *options]) == 0
        return bool(json.loads(capsys.readouterr().out)["variants"][0]["cached"])


def interface(values: Sequence[ValueInfoProto]) -> list[tuple[str, int]]:
    return [(one.name, one.type.tensor_type.elem_type) for one in values]


def shapes(values: Sequence[ValueInfoProto]) -> list[list[int | str]]:
    return [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in values]


class TestOpenAxes:
    def test_they_are_closed_at_the_usual_size(self, exported):
        graph = onnx.load(artifacts(exported, "any_size") / "model.onnx").graph
        assert shapes((*graph.input, *graph.output)) == [[1, 3, 224, 224], [1, 10]]

    def test_or_as_it_is_asked_for(self, exported):
        out = exported[0] / "sized"
        sizes = ["--res", "64", "--batch", "2"]
        assert run(["export", str(exported[0] / "any_size.onnx"), *sizes, "--no-engine", "--out", str(out)]) == 0
        folder = out / "any_size-r64-b2"
        for file in ("model.onnx", "model.fp16.onnx"):
            graph = onnx.load(folder / file).graph
            assert shapes((*graph.input, *graph.output)) == [[2, 3, 64, 64], [2, 10]]
        assert {given.feeds["x"].shape for given in golden.unpack(folder / "golden.npz").inputs} == {(2, 3, 64, 64)}

    def test_the_batch_stays_open_where_that_is_asked_for(self, exported, capsys):
        options = ["--res", "32", "--dynamic-batch", "--no-engine", "--out", str(exported[0] / "open"), "--json"]
        assert run(["export", str(exported[0] / "any_size.onnx"), *options]) == 0
        (variant,) = json.loads(capsys.readouterr().out)["variants"]
        for file in ("model.onnx", "model.fp16.onnx"):
            graph = onnx.load(Path(variant["dir"]) / file)
            assert shapes((*graph.graph.input, *graph.graph.output)) == [["batch", 3, 32, 32], ["batch", 10]]
            assert CpuSession(graph)({"x": np.zeros((5, 3, 32, 32), np.float32)})["y"].shape == (5, 10)
        assert variant["macs"] == 16 * 16 * (8 * 27 + 16 * 72) + 160  # of one image
        assert [(check["name"], check["passed"]) for check in variant["parity"]["batch"]] == [
            ("simplified", True),
            ("fp16", True),
        ]
        found, folder = manifest.read_verified(Path(variant["dir"]))
        assert all(check.passed for check in recheck.climb_again(found, folder).batch)

    def test_rows_that_mix_in_an_open_batch_are_caught(self, tmp_path, capsys):
        """Every row gets the mean over the batch: alone it is right, and in company it is not."""
        body = [node("ReduceMean", "a", "m", axes=[0], keepdims=1), node("Add", "a m", "last")]
        path = small(tmp_path / "mixing.onnx", body)
        graph = onnx.load(path)
        for end in (*graph.graph.input, *graph.graph.output):
            end.type.tensor_type.shape.dim[0].dim_param = "n"
        onnx.save(graph, path)
        out = str(tmp_path / "out")
        assert run(["export", str(path), "--dynamic-batch", "--no-engine", "--out", out]) == 1
        assert "parity failed at rung batch:simplified" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            (["--res", "64"], "the size of this graph is fixed"),
            (["--batch", "2"], "the batch of this graph is fixed"),
            (["--dynamic-batch"], "the batch of this graph is fixed"),
        ],
    )
    def test_a_size_that_the_graph_has_closed_is_refused(self, exported, capsys, options, what):
        out = ["--out", str(exported[0] / "refused"), "--no-engine"]
        assert run(["export", str(exported[0] / "hot.onnx"), *options, *out]) == 2
        said = capsys.readouterr().err
        assert what in said
        assert options[0] in said

    def test_its_own_size_is_not(self, exported, tmp_path):
        out = ["--out", str(tmp_path), "--no-engine", "--parity", "quick", "--precision", "fp32"]
        assert run(["export", str(exported[0] / "hot.onnx"), "--res", "32", "--batch", "1", *out]) == 0


class TestSeveralInputsAndOutputs:
    def test_whole_numbers_stay_below_what_they_index(self, exported):
        stored = golden.unpack(artifacts(exported, "two") / "golden.npz")
        for given in stored.inputs:
            assert given.feeds["ids"].dtype == np.int64
            assert given.feeds["ids"].max() < 50
            assert given.feeds["image"].shape == (1, 3, 32, 32)
        assert len({given.feeds["ids"].tobytes() for given in stored.inputs}) > 1

    def test_both_outputs_are_compared_and_kept(self, exported):
        stored = golden.unpack(artifacts(exported, "two") / "golden.npz")
        assert all(set(outputs) == {"score", "feat"} for outputs in stored.outputs)
        found, _ = manifest.read_verified(artifacts(exported, "two"))
        half = found.artifact("onnx-fp16")
        assert half is not None
        assert [(spec.name, spec.dtype, spec.shape) for spec in (*half.inputs, *half.outputs)] == [
            ("image", "float32", (1, 3, 32, 32)),
            ("ids", "int64", (1, 5)),
            ("score", "float32", (1, 8)),
            ("feat", "float32", (1, 4)),
        ]


class TestWhatHalfPrecisionCannotHold:
    def test_it_stays_in_fp32_and_that_is_said(self, exported):
        folder = artifacts(exported, "hot")
        (note,) = manifest.read(folder).notes
        assert note.startswith("what leaves the range of half precision stays in FP32")
        kept = kept_fp32(onnx.load(folder / "model.fp16.onnx"))
        half = onnx.load(folder / "model.fp16.onnx").graph
        assert {one.op_type for one in half.node if one.name in kept} == {"Mul", "Sqrt"}
        assert {tensor.data_type for tensor in half.initializer} == {TensorProto.FLOAT16}

    def test_what_comes_out_is_finite_and_right(self, exported):
        folder = artifacts(exported, "hot")
        stored = golden.unpack(folder / "golden.npz")
        session = CpuSession((folder / "model.fp16.onnx").read_bytes(), optimise=False)
        for given, wanted in zip(stored.inputs, stored.outputs, strict=True):
            np.testing.assert_allclose(session(given.feeds)["y"], wanted["y"], atol=0.01 * np.abs(wanted["y"]).max())

    def test_a_quantised_graph_is_carried_in_fp32_with_a_note(self, exported):
        assert kinds(exported[1]["quantised"]) == ["onnx-fp32"]
        (note,) = manifest.read(artifacts(exported, "quantised")).notes
        assert note.startswith("there is no FP16 graph: the graph cannot be converted to FP16")
        assert "QuantizeLinear" in note

    def test_or_refused_where_fp16_is_insisted_on(self, exported, tmp_path, capsys):
        out = ["--precision", "fp16", "--out", str(tmp_path / "artifacts"), "--no-engine"]
        assert run(["export", str(exported[0] / "quantised.onnx"), *out]) == 4
        assert "the graph cannot be converted to FP16" in capsys.readouterr().err
        assert not (tmp_path / "artifacts" / "quantised").exists()

    def test_a_branch_is_carried_in_both(self, exported):
        assert kinds(exported[1]["branched"]) == ["onnx-fp32", "onnx-fp16"]
        ops = {one.op_type for one in onnx.load(artifacts(exported, "branched") / "model.fp16.onnx").graph.node}
        assert "If" in ops


# What cannot be carried


def write_truncated(path: Path) -> Path:
    write_any_size(path)
    path.write_bytes(path.read_bytes()[:1500])
    return path


def write_cycle(path: Path) -> Path:
    body = [node("Add", "a d", "b"), node("Neg", "b", "d"), node("Relu", "d", "last")]
    return small(path, body)


def write_missing(path: Path) -> Path:
    return small(path, [node("Add", "a gone", "last")])


def write_unknown(path: Path) -> Path:
    return small(path, [node("Frobnicate", "a", "last")])


def write_escaping(path: Path) -> Path:
    """The weights lie in the folder above."""
    (path.parent.parent / "secret.bin").write_bytes(bytes(32))
    model = onnx.load(write_missing(path))
    tensor = model.graph.initializer.add(name="gone", data_type=FLOAT, dims=[8, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    path.write_bytes(model.SerializeToString())
    return path


def write_text(path: Path) -> Path:
    path.write_text("not a graph at all")
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated": (write_truncated, "the ONNX file is truncated"),
    "cycle": (write_cycle, "the graph has a cycle"),
    "missing": (write_missing, "reads a tensor that nothing makes"),
    "unknown": (write_unknown, "an operator that nobody knows"),
    "escaping": (write_escaping, "the weights of gone cannot be taken from where the model says"),
    "text": (write_text, "text.onnx"),
}


class TestWhatCannotBeCarried:
    @pytest.mark.parametrize("name", BAD)
    def test_it_is_refused_with_its_reason_and_leaves_nothing_behind(self, name, tmp_path, capfd):
        write, reason = BAD[name]
        (tmp_path / "model").mkdir()
        file = write(tmp_path / "model" / f"{name}.onnx")
        out = tmp_path / "artifacts"
        assert run(["export", str(file), "--no-engine", "--out", str(out)]) == 4
        said = capfd.readouterr().err
        assert reason in said
        assert f"{name}.onnx" in said
        assert "Traceback" not in said
        assert not [path for path in out.glob("*") if path.is_dir()]

    def test_in_a_real_process_too_and_the_good_one_beside_them_is_done(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        files = [write(folder / f"{name}.onnx").name for name, (write, _) in BAD.items() if name != "text"]
        good = small(folder / "good.onnx", [node("Relu", "a", "last")]).name
        options = ["--parity", "quick", "--precision", "fp32", *OUT]
        done = edgekit("export", *files, good, *options, "--json", cwd=folder)
        assert done.returncode == 4
        assert "Traceback" not in done.stderr
        results = {one["variant"]["model"]: one for one in json.loads(done.stdout)["variants"]}
        assert results["good"]["error"] is None
        assert results["good"]["parity"]["passed"] is True
        assert all(results[Path(name).stem]["error"] for name in files)
        assert [path.name for path in (folder / "artifacts").iterdir() if path.is_dir()] == ["good"]

    def test_a_graph_that_ignores_its_input_proves_nothing(self, tmp_path, capfd):
        file = write_dead(tmp_path / "dead.onnx")
        assert run(["export", str(file), "--no-engine", "--out", str(tmp_path / "artifacts")]) == 1
        assert "a network that ignores its input agrees with anything" in capfd.readouterr().err
        assert [path.name for path in (tmp_path / "artifacts").iterdir() if path.is_dir()] == ["dead.failed"]

    def test_a_file_that_is_not_there(self, tmp_path, capfd):
        assert run(["export", str(tmp_path / "nothing.onnx"), "--no-engine"]) in (2, 4)
        assert "nothing.onnx" in capfd.readouterr().err


def write_old(path: Path, opset: int = 6) -> Path:
    """What ONNX Runtime has for so old an opset: a convolution, and an activation."""
    nodes = [node("Conv", "x w1", "a", pads=[1] * 4), node("Elu", "a", "y", alpha=0.5)]
    return saved(path, nodes, IMAGE, [value("y", [1, 4, 32, 32])], {"w1": drawn(4, 3, 3, 3)}, opset)


class TestOldOpsets:
    """ONNX's own converter raises them, and the file itself is what the result is held against, bit for bit."""

    @pytest.mark.parametrize("opset", [6, 7, 8])
    def test_a_file_that_is_too_old_to_build_is_raised_and_that_is_noted(self, opset, tmp_path):
        file = write_old(tmp_path / "old.onnx", opset)
        done = edgekit("export", str(file), *OUT, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found = manifest.read_verified(tmp_path / "artifacts" / "old")[0]
        assert f"converted from opset {opset} to 17: every output is the same, bit for bit" in found.notes
        delivered = onnx.load(tmp_path / "artifacts" / "old" / "model.onnx")
        assert [entry.version for entry in delivered.opset_import if entry.domain == ""] == [17]
        stored = golden.unpack(tmp_path / "artifacts" / "old" / "golden.npz")
        theirs, ours = (CpuSession(data) for data in (file.read_bytes(), delivered.SerializeToString()))
        for given in stored.inputs:
            np.testing.assert_allclose(ours(given.feeds)["y"], theirs(given.feeds)["y"], rtol=1e-5, atol=1e-6)

    def test_one_that_changes_what_the_graph_computes_is_refused(self, tmp_path, capfd, monkeypatch):
        def other(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
            model = onnx.version_converter.convert_version(model, opset)
            elu = next(made for made in model.graph.node if made.op_type == "Elu")
            elu.attribute[0].f = 0.5000001
            return model

        monkeypatch.setattr("edgekit.subjects.graph.upgraded", other)
        file = write_old(tmp_path / "old.onnx")
        assert run(["export", str(file), "--no-engine", "--out", str(tmp_path / "artifacts")]) == 4
        said = capfd.readouterr().err
        assert "the model's opset is out of range" in said
        assert "opset 6, and converting it to 17 fails: it computes something else: output y" in " ".join(said.split())

    def test_one_that_nothing_can_be_held_against_is_refused(self, tmp_path, capfd):
        """ONNX Runtime has no Add of opset 6."""
        nodes = [node("Add", "x x", "y")]
        file = saved(tmp_path / "old.onnx", nodes, IMAGE, [value("y", [1, 3, 32, 32])], opset=6)
        assert run(["export", str(file), "--no-engine", "--out", str(tmp_path / "artifacts")]) == 4
        said = " ".join(capfd.readouterr().err.split())
        assert "the model's opset is out of range" in said
        assert "ONNX Runtime cannot load the graph" in said

    def test_one_that_is_too_old_for_the_builder_only_goes_on_as_it_is(self, tmp_path, monkeypatch):
        def refuses(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
            raise InputUnusable("there is no way")

        monkeypatch.setattr("edgekit.subjects.graph.upgraded", refuses)
        file = write_old(tmp_path / "old.onnx", 8)
        assert run(["export", str(file), "--no-engine", "--out", str(tmp_path / "artifacts")]) == 0
        delivered = onnx.load(tmp_path / "artifacts" / "old" / "model.onnx")
        assert [entry.version for entry in delivered.opset_import if entry.domain == ""] == [8]

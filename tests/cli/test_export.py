"""`edgekit export` as people type it: real exports in real processes, and what happens when things go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from edgekit import golden, manifest
from edgekit.cli import run

# One network for all of these: small, and complete.
SMALL = ["--alpha", "0.35", "--res", "96"]
QUICK = ["--parity", "quick", "--precision", "fp32", "--no-engine"]


def edgekit(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A real process; the command line is the one that the entry point runs."""
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *arguments]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path]:
    """The main job's result and folder, at a small size."""
    folder = tmp_path_factory.mktemp("exported")
    done = edgekit("export", "mobilenet_v2", *SMALL, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


class TestTheMainJob:
    def test_writes_the_five_files_of_the_contract(self, exported):
        folder = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96"
        names = {path.name for path in folder.iterdir()}
        assert names == {"model.onnx", "model.fp16.onnx", "model.rtx.engine", "golden.npz", "manifest.json"}

    def test_its_json_is_the_contracts(self, exported):
        result = exported[0]
        assert (result["schema"], result["command"], result["ok"]) == (1, "export", True)
        (variant,) = result["variants"]
        assert variant["variant"]["model"] == "mobilenet_v2"
        assert (variant["variant"]["alpha"], variant["variant"]["resolution"], variant["variant"]["batch"]) == (
            0.35,
            96,
            1,
        )
        assert variant["cached"] is False
        assert variant["error"] is None
        assert [artifact["kind"] for artifact in variant["artifacts"]] == ["onnx-fp32", "onnx-fp16"]

    def test_every_rung_of_the_ladder_is_there_and_passed(self, exported):
        parity = exported[0]["variants"][0]["parity"]
        assert parity["passed"] is True
        names = list(dict.fromkeys(rung["name"] for rung in parity["rungs"]))
        assert names == ["pytorch-fp32", "onnx", "simplified", "fp16"]
        for rung in parity["rungs"]:
            assert rung["error"] <= rung["tolerance"]

    def test_the_engine_is_a_real_plan_in_the_precision_asked_for(self, exported):
        (engine,) = exported[0]["variants"][0]["engines"]
        assert engine["status"] == "built", engine["reason"]
        assert engine["receipt"]["requested"] == "fp16"
        assert engine["receipt"]["found"] == {"fp16": 53}
        plan = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96" / engine["path"]
        assert plan.read_bytes()[:4] == b"vtrt"
        assert plan.stat().st_size == engine["bytes"]

    def test_the_graphs_are_clean_and_typed(self, exported):
        folder = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96"
        for name in ("model.onnx", "model.fp16.onnx"):
            graph = onnx.load(folder / name).graph
            operators = {node.op_type for node in graph.node}
            assert operators <= {"Conv", "Clip", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Cast"}, name
            assert [value.name for value in graph.input] == ["input"]
            assert [value.name for value in graph.output] == ["logits"]
            types = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
            assert types == {onnx.TensorProto.FLOAT}, name

    def test_the_golden_file_replays_in_onnx_runtime(self, exported):
        import onnxruntime

        folder = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96"
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        with np.load(folder / "golden.npz") as stored:
            for values, wanted in zip(stored["input.input"], stored["output.logits"], strict=True):
                np.testing.assert_allclose(session.run(None, {"input": values})[0], wanted, rtol=1e-3, atol=1e-4)

    def test_parity_climbs_again_from_the_folder(self, exported):
        done = edgekit("parity", "artifacts", "--json", cwd=exported[1])
        assert done.returncode == 0, done.stderr
        (variant,) = json.loads(done.stdout)["variants"]
        assert variant["parity"]["passed"] is True

    def test_a_swapped_onnx_is_noticed_and_bisect_names_its_node(self, exported, tmp_path):
        source = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96"
        folder = tmp_path / "swapped"
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        model = onnx.load(folder / "model.onnx")
        (node,) = [node for node in model.graph.node if node.name == "blocks.3.depthwise.conv"]
        pads = next(attribute for attribute in node.attribute if attribute.name == "pads")
        pads.ints[:] = [0, 0, 2, 2]
        onnx.save(model, folder / "model.onnx")
        for command in ("parity", "inspect"):
            done = edgekit(command, str(folder), cwd=tmp_path)
            assert done.returncode == 4, done.stderr
            assert "model.onnx: changed since the manifest was written" in done.stderr
        done = edgekit("parity", str(folder), "--bisect", cwd=tmp_path)
        assert done.returncode == 1
        assert "blocks.3.depthwise.conv (Conv)" in done.stderr

    def test_stored_outputs_that_are_not_the_networks_are_refused(self, exported, tmp_path, capsys):
        """The hashes fit: somebody has made another golden.npz, and a manifest for it."""
        source = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96"
        folder = tmp_path / "forged"
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        assert run(["parity", str(folder)]) == 0
        stored = golden.unpack(folder / "golden.npz")
        stored.outputs[1]["logits"][0, 7] *= 1 + 1e-6
        _replace_golden(folder, golden.pack(stored.inputs, stored.outputs))
        assert run(["parity", str(folder)]) == 4
        assert "the stored outputs are not this network's" in capsys.readouterr().err

    def test_inputs_that_cannot_be_read_are_refused(self, exported, tmp_path, capsys):
        source = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96"
        folder = tmp_path / "cut"
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        _replace_golden(folder, (folder / "golden.npz").read_bytes()[:-100])
        assert run(["parity", str(folder)]) == 4
        assert "cannot read the stored inputs" in capsys.readouterr().err

    def test_build_adds_an_engine_to_the_folder(self, exported):
        done = edgekit("build", "artifacts", "--profile", "rtx-turing", "--json", cwd=exported[1])
        assert done.returncode == 0, done.stderr
        folder = exported[1] / "artifacts" / "mobilenet_v2-a0.35-r96"
        found, _ = manifest.read_verified(folder)
        assert {(engine.profile, engine.status) for engine in found.engines} == {
            ("rtx", "built"),
            ("rtx-turing", "built"),
        }
        assert (folder / "model.rtx-turing.engine").read_bytes()[:4] == b"vtrt"

    def test_a_board_gets_its_onnx_and_is_told_where_the_engine_is_built(self, tmp_path):
        done = edgekit("export", "mobilenet_v2", *SMALL, "--profile", "jetson-nano-jp465", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (variant,) = json.loads(done.stdout)["variants"]
        (engine,) = variant["engines"]
        assert engine["status"] == "not-here"
        assert "trtexec" in engine["reason"]
        assert "8.2.1" in engine["reason"]
        model = onnx.load(tmp_path / variant["dir"] / "model.onnx")
        assert model.opset_import[0].version == 13


class TestGrids:
    def test_a_second_run_keeps_everything_and_a_change_rebuilds(self, tmp_path, capsys):
        command = [
            "export",
            "mobilenet_v2",
            "--alpha",
            "0.35,0.5",
            "--res",
            "96,64",
            *QUICK,
            "--out",
            str(tmp_path),
            "--json",
        ]

        def cached(*more: str) -> list[bool]:
            assert run([*command, *more]) == 0
            return [variant["cached"] for variant in json.loads(capsys.readouterr().out)["variants"]]

        assert cached() == [False] * 4
        assert cached() == [True] * 4
        assert cached("--seed", "1") == [False] * 4
        (tmp_path / "mobilenet_v2-a0.50-r64" / "model.onnx").write_bytes(b"not it")
        assert cached("--seed", "1") == [True, True, True, False]
        assert cached("--seed", "1", "--force") == [False] * 4

    def test_every_size_is_what_a_direct_export_gives(self, tmp_path, capsys):
        together, alone = tmp_path / "together", tmp_path / "alone"
        shared = ["export", "mobilenet_v2", "--alpha", "0.35", *QUICK]
        assert run([*shared, "--res", "96,64,128", "--out", str(together)]) == 0
        for res in ("64", "128"):
            assert run([*shared, "--res", res, "--out", str(alone)]) == 0
            name = f"mobilenet_v2-a0.35-r{res}/model.onnx"
            assert (together / name).read_bytes() == (alone / name).read_bytes()

    def test_killed_in_the_middle_it_keeps_what_is_finished_and_goes_on(self, tmp_path):
        argv = [sys.executable, "-c", "from edgekit.cli import main; main()", "export", "mobilenet_v2"]
        argv += ["--alpha", "0.35,0.5", "--res", "64,96,128,160", *QUICK, "--out", str(tmp_path), "--jobs", "2"]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(lambda: len(_finished(tmp_path)) >= 2)
        process.kill()
        process.wait()
        finished = {path.parent.name: path.stat().st_mtime_ns for path in _finished(tmp_path)}
        _wait_for(lambda: not _writers(tmp_path))
        done = edgekit(*argv[3:], "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(_finished(tmp_path)) == 8
        assert not list(tmp_path.glob(".*.partial-*"))
        for name, written in finished.items():
            assert (tmp_path / name / "manifest.json").stat().st_mtime_ns == written

    def test_ctrl_c_ends_within_a_second_with_130(self, tmp_path):
        argv = [sys.executable, "-c", "from edgekit.cli import main; main()", "export", "mobilenet_v2"]
        argv += ["--alpha", "1,0.75,0.5", "--res", "224,192", "--out", str(tmp_path)]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        _wait_for(lambda: list(tmp_path.glob(".*.partial-*")))
        os.killpg(process.pid, signal.SIGINT)
        start = time.perf_counter()
        _, said = process.communicate(timeout=30)
        # The contract says a second; the rest is for a machine that other tests keep busy.
        assert time.perf_counter() - start < 5
        assert process.returncode == 130
        assert b"interrupted" in said
        assert b"Traceback" not in said

    def test_two_at_once_in_one_folder(self, tmp_path):
        with manifest.locked(tmp_path):
            done = edgekit("export", "mobilenet_v2", *SMALL, *QUICK, "--out", str(tmp_path), cwd=tmp_path)
        assert done.returncode == 2
        assert "another edgekit is writing to this folder" in done.stderr
        assert str(os.getpid()) in done.stderr


def _wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _finished(folder: Path) -> list[Path]:
    """The manifests of finished variants; one that is still in a hidden folder is none yet."""
    return list(folder.glob("[!.]*/manifest.json"))


def _replace_golden(folder: Path, data: bytes) -> None:
    """Another golden.npz, with a manifest that says so."""
    (folder / "golden.npz").write_bytes(data)
    found = manifest.read(folder)
    artifacts = tuple(
        replace(it, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) if it.kind == "golden" else it
        for it in found.artifacts
    )
    (folder / manifest.NAME).write_bytes(manifest.encode(replace(found, artifacts=artifacts)))


def _writers(folder: Path) -> list[str]:
    """Processes that still hold the folder's lock."""
    lock = (folder / ".edgekit.lock").stat().st_ino
    return [line for line in Path("/proc/locks").read_text().splitlines() if f":{lock} " in line]


class TestWeights:
    @pytest.fixture
    def state(self):
        from edgekit import sources
        from edgekit.variant import Variant

        variant = Variant("mobilenet_v2", 0.35, 96, num_classes=10)
        return sources.network(variant, sources.SeedWeights(3)).state_dict()

    def test_a_checkpoint_brings_its_classes(self, state, tmp_path, capsys):
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
        weights = ["--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out"), "--json"]
        assert run(["export", "mobilenet_v2", *SMALL, *QUICK, *weights]) == 0
        (variant,) = json.loads(capsys.readouterr().out)["variants"]
        graph = onnx.load(Path(variant["dir"]) / "model.onnx").graph
        assert graph.output[0].type.tensor_type.shape.dim[1].dim_value == 10

    def test_a_changed_checkpoint_is_exported_again(self, state, tmp_path, capsys):
        path = tmp_path / "w.pt"
        command = [
            "export",
            "mobilenet_v2",
            *SMALL,
            *QUICK,
            "--weights",
            str(path),
            "--out",
            str(tmp_path / "o"),
            "--json",
        ]
        torch.save(state, path)
        assert run(command) == 0
        state["classifier.bias"][0] += 1
        torch.save(state, path)
        assert run(command) == 0
        first, second = (json.loads(line)["variants"][0] for line in capsys.readouterr().out.splitlines())
        assert second["cached"] is False
        assert first["artifacts"][0]["sha256"] != second["artifacts"][0]["sha256"]

    def test_a_dead_network_is_refused_by_name(self, state, tmp_path, capsys):
        dead = {name: torch.zeros_like(t) if name == "classifier.weight" else t for name, t in state.items()}
        dead["classifier.bias"] = torch.arange(10.0)
        torch.save(dead, tmp_path / "dead.pt")
        command = [
            "export",
            "mobilenet_v2",
            *SMALL,
            *QUICK,
            "--weights",
            str(tmp_path / "dead.pt"),
            "--out",
            str(tmp_path),
        ]
        assert run(command) == 1
        assert "liveness" in capsys.readouterr().err
        assert (tmp_path / "mobilenet_v2-a0.35-r96.failed" / "manifest.json").is_file()
        assert not (tmp_path / "mobilenet_v2-a0.35-r96").exists()


BAD = [
    (["mobilnet_v2"], 2, "mobilenet_v2"),
    (["mobilenet_v2", "--alpha", "0"], 2, "alpha"),
    (["mobilenet_v2", "--alpha", "-0.5"], 2, "alpha"),
    (["mobilenet_v2", "--alpha", "nan"], 2, "alpha"),
    (["mobilenet_v2", "--alpha", "wide"], 2, "--alpha"),
    (["mobilenet_v2", "--alpha", ","], 2, "--alpha"),
    (["mobilenet_v2", "--alpha", "0.001", "--option", "rounding=published"], 2, "0.0625"),
    (["mobilenet_v2", "--res", "0"], 2, "--res"),
    (["mobilenet_v2", "--res", "7"], 2, "32"),
    (["mobilenet_v2", "--res", "161"], 2, "160 or 192"),
    (["mobilenet_v2", "--res", "1e9"], 2, "8192"),
    (["mobilenet_v2", "--res", "160.5"], 2, "--res"),
    (["mobilenet_v2", "--batch", "0"], 2, "--batch"),
    (["mobilenet_v2", "--num-classes", "0"], 2, "--num-classes"),
    (["mobilenet_v2", "--option", "rounding"], 2, "KEY=VALUE"),
    (["mobilenet_v2", "--option", "rounding=publish"], 2, "published"),
    (["mobilenet_v2", "--option", "round=published"], 2, "rounding"),
    (["mobilenet_v2", "--precision", "fp61"], 2, "fp16"),
    (["mobilenet_v2", "--precision", "fp32", "--profile", "rtx-turing"], 2, "fp16"),
    (["mobilenet_v2", "--profile", "rxt"], 2, "rtx"),
    (["mobilenet_v2", "--parity", "ful"], 2, "full"),
    (["mobilenet_v2", "--jobs", "0"], 2, "--jobs"),
    (["mobilenet_v2", "--weights", "gone.pt"], 4, "gone.pt"),
    (["mobilenet_v2", "--images", "gone"], 4, "gone"),
    (["mobilenet_v1", "--weights", "default"], 2, "mobilenet_v2"),
    (["mobilenet_v2", "--alpha", "0.5", "--weights", "default"], 2, "alpha 1"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), BAD, ids=[" ".join(bad[0]) for bad in BAD])
def test_a_mistake_gets_one_clear_message_and_leaves_nothing(arguments, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["export", *arguments, "--json"]) == code
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["ok"] is False
    assert said in captured.err
    assert "Traceback" not in captured.err
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".edgekit.lock"]
    assert left == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, ""),
        (b"PK\x03\x04" + b"\0" * 200, ""),
        (b"just some text\n", ""),
    ],
    ids=["empty", "image", "broken zip", "text"],
)
def test_a_file_that_is_no_checkpoint(content, said, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert run(["export", "mobilenet_v2", *SMALL, *QUICK, "--weights", str(path), "--out", str(tmp_path / "out")]) == 4
    err = capsys.readouterr().err
    assert said in err
    assert "weights.pt" in err
    assert "Traceback" not in err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert run(["export", "mobilenet_v2", *SMALL, *QUICK, "--out", str(tmp_path / "taken")]) == 2
    assert run(["export", "mobilenet_v2", *SMALL, *QUICK, "--out", "/proc/edgekit"]) == 2
    assert "cannot write there" in capsys.readouterr().err


def test_a_full_disk_behind_stdout_is_an_exit_code_and_no_traceback():
    with Path("/dev/full").open("w") as full:
        argv = [sys.executable, "-c", "from edgekit.cli import main; main()", "profiles"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr

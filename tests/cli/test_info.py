"""`models`, `profiles`, `doctor`, `inspect` and `lint` as people type them, and the help of every command.

Most run in this process, through the entry point's own function; a few as real processes. The help texts are held
against tests/cli/golden/*.txt: after a change that is meant, run

    EDGEKIT_UPDATE_GOLDEN=1 python -m pytest tests/cli/test_info.py -k help

and read the difference before committing it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from command_line import Edgekit, Ran
from onnx import TensorProto, helper, numpy_helper

from edgekit import environment, manifest, profile
from edgekit.cli import COMMANDS as EVERY
from edgekit.cli import application
from edgekit.cli.style import app as style_app
from edgekit.environment import Environment, Finding
from edgekit.manifest import (
    Artifact,
    Engine,
    Manifest,
    ProfileRecord,
    Receipt,
    Staging,
    VariantRecord,
    WeightsRecord,
)
from edgekit.parity.report import BatchCheck, Liveness, ParityReport, Rung
from edgekit.preprocessing import Preprocessing

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
COUNTS: dict[str, Any] = json.loads((ROOT / "tests/reference/model_counts.json").read_text())
INFO = ("models", "profiles", "doctor", "inspect", "lint")
GROUPS = ("style",)
STYLE = [f"style {name}" for name in typer.main.get_command(style_app).commands]
COMMANDS = sorted([name for name in EVERY if name not in GROUPS] + STYLE)


def golden_of(command: str) -> Path:
    """The file with a command's help; "" is edgekit itself."""
    return GOLDEN / f"{command.replace(' ', '-') or 'edgekit'}.txt"


def process(*arguments: object, cwd: Path = ROOT) -> Ran:
    command = [sys.executable, "-c", "from edgekit.cli import main; main()", *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def assert_refused(ran: Ran, code: int, *words: str) -> None:
    """One clear message on stderr, nothing on stdout, the right exit code, no traceback."""
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert ran.err.startswith("edgekit")
    for word in words:
        assert word in ran.err


# --- help


@pytest.mark.parametrize("command", ["", *GROUPS, *COMMANDS])
def test_help_is_as_it_was_agreed(command: str, edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    ran = edgekit(*command.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    file = golden_of(command)
    if os.environ.get("EDGEKIT_UPDATE_GOLDEN"):
        file.write_text(ran.out)
    how = "if this change is meant: EDGEKIT_UPDATE_GOLDEN=1 python -m pytest tests/cli/test_info.py -k help"
    assert file.is_file(), how
    assert ran.out == file.read_text(), how


def test_every_golden_help_has_its_command() -> None:
    wanted = [golden_of(command) for command in ("", *GROUPS, *COMMANDS)]
    assert sorted(GOLDEN.glob("*.txt")) == sorted(wanted)


@pytest.mark.parametrize("columns", ["40", "300"])
def test_help_does_not_depend_on_a_wide_terminal(
    columns: str, edgekit: Edgekit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert set((GOLDEN / "models.txt").read_text().split()) == set(edgekit("models", "--help").out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_options(command: str) -> None:
    text = golden_of(command).read_text()
    assert all(option in text for option in ("--json", "--quiet", "--verbose"))


# --- models


def test_the_list_names_every_network_with_its_figures_in_macs(edgekit: Edgekit) -> None:
    text = edgekit("models").out
    assert "MACs" in text.splitlines()[0]
    assert "FLOP" not in text
    rows = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert {"mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"} <= set(rows)
    assert "3.50 M" in rows["mobilenet_v2"]
    assert "301 M" in rows["mobilenet_v2"]
    assert "rounding=divisible8|published" in rows["mobilenet_v2"]


def test_a_width_and_a_resolution_change_the_figures(edgekit: Edgekit) -> None:
    [network] = edgekit("models", "mobilenet_v2", "--alpha", ".5", "--res", "160", "--json").json["models"]
    assert (network["params"], network["macs"]) == (1_968_680, 50_184_000)
    assert network["variant"]["alpha"] == 0.5
    assert network["variant"]["resolution"] == 160


def test_classes_and_options_change_the_figures(edgekit: Edgekit) -> None:
    arguments = ["models", "mobilenet_v2", "--json"]
    plain, small, published = (
        edgekit(*arguments, *more).json["models"][0]["params"]
        for more in ([], ["--num-classes", "10"], ["--option", "rounding=published", "--alpha", "0.35"])
    )
    assert plain - small == 990 * (1280 + 1)
    assert published < small


def test_the_layers_add_up_to_the_network(edgekit: Edgekit) -> None:
    [network] = edgekit("models", "mobilenet_v1", "--json").json["models"]
    for figure in ("params", "macs"):
        assert sum(layer[figure] for layer in network["layers"]) == network[figure]
    assert network["layers"][0]["name"] == "stem.conv"
    assert network["layers"][-1]["output_shape"] == [1000]


def test_the_layer_table_ends_in_totals_and_its_shares_in_a_whole(edgekit: Edgekit) -> None:
    lines = edgekit("models", "mobilenet_v2").out.splitlines()
    assert lines[-1].split() == ["total", "142", "layers", "3,504,872", "300,774,272", "100.0%"]
    shares = [float(share) for line in lines[:-1] for share in re.findall(r"([\d.]+)%$", line)]
    assert sum(shares) == pytest.approx(100, abs=2.7)  # 53 of them, each rounded to a tenth
    assert any("stem.conv" in line and "32 x 112 x 112" in line and "864" in line for line in lines)


MISTAKES = [
    (["models", "mobilenet_v9"], "did you mean mobilenet_v"),
    (["models", "--alpha", "0"], "width multiplier"),
    (["models", "--alpha", "-0.5"], "width multiplier"),
    (["models", "--alpha", "nan"], "width multiplier"),
    (["models", "--alpha", "1e9"], "width multiplier"),
    (["models", "--alpha", "wide"], "not a number"),
    (["models", "--alpha", "1,0.5"], "one value at a time"),
    (["models", "--alpha", ""], "empty"),
    (["models", "--res", "0"], "out of range"),
    (["models", "--res", "7"], "cannot take this resolution"),
    (["models", "mobilenet_v2", "--res", "161"], "160 or 192"),
    (["models", "--res", "1e9"], "out of range"),
    (["models", "--res", "inf"], "not a whole number"),
    (["models", "--res", "224.5"], "not a whole number"),
    (["models", "--res", "-224"], "out of range"),
    (["models", "--num-classes", "0"], "out of range"),
    (["models", "--num-classes", "many"], "--num-classes"),
    (["models", "--option", "rounding=published"], "one network"),
    (["models", "mobilenet_v2", "--option", "rounding"], "KEY=VALUE"),
    (["models", "mobilenet_v2", "--option", "rounding=up"], "divisible8"),
    (["models", "mobilenet_v2", "--option", "width=2"], "no option called 'width'"),
    (["models", "mobilenet_v2", "--alpha", "0.01", "--option", "rounding=published"], "no channel"),
    (["profiles", "rtxx"], "did you mean rtx"),
    (["profiles", "./nothing.toml"], "nothing.toml"),
    (["lint"], "Missing argument"),
    (["lint", "model.onnx", "--profile", "nano"], "jetson-nano"),
    (["inspect", "--verify"], "--verify"),
    (["doctor", "me"], "me"),
    (["model"], "model"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_on_the_command_line_is_told_in_one_message(
    arguments: Sequence[str], words: str, edgekit: Edgekit
) -> None:
    assert_refused(edgekit(*arguments), 2, words)


@pytest.mark.parametrize(
    "arguments", [["models", "mobilenet_v2", "--res", "161"], ["profiles", "x"], ["models", "--num-classes", "z"]]
)
def test_a_mistake_is_one_json_object_where_json_was_asked_for(arguments: list[str], edgekit: Edgekit) -> None:
    ran = edgekit(*arguments, "--json")
    assert ran.code == 2
    assert ran.json["command"] == arguments[0]
    assert ran.json["error"]["exit_code"] == 2
    assert ran.json["error"]["what"]


def test_a_number_may_be_typed_in_any_of_the_usual_ways(edgekit: Edgekit) -> None:
    ran = edgekit("models", "mobilenet_v2", "--alpha", "1", "--res", "2.24e2", "--json")
    assert ran.json["models"][0]["macs"] == 300_774_272


# --- profiles


def test_the_list_has_every_profile_on_one_line(edgekit: Edgekit) -> None:
    lines = edgekit("profiles").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == profile.names()
    board = next(line for line in lines if line.startswith("jetson-orin-jp62"))
    assert "built on the board" in board
    assert "TensorRT 10.3.0" in board


@pytest.mark.parametrize("name", profile.names())
def test_a_profile_in_full_reads_back_as_itself(name: str, edgekit: Edgekit, tmp_path: Path) -> None:
    text = edgekit("profiles", name).out
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    assert tomllib.loads(text)["opset"] == profile.load(name).opset
    assert profile.load(str(path)) == profile.load(name)


def test_profiles_as_json_carry_the_hash_that_artifacts_are_kept_under(edgekit: Edgekit) -> None:
    everything = edgekit("profiles", "--json").json["profiles"]
    assert [one["name"] for one in everything] == profile.names()
    [rtx] = edgekit("profiles", "rtx", "--json").json["profiles"]
    assert rtx in everything
    assert rtx["sha256"] == profile.digest(profile.load("rtx"))
    assert rtx["targets"] == list(profile.load("rtx").targets)


def test_a_profile_of_ones_own_is_validated_with_all_its_mistakes(edgekit: Edgekit, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('description = "x"\nflavor = "tensorrt"\nprecisions = ["fp61"]\nopset = "17"\n')
    assert_refused(edgekit("profiles", path), 2, "flavour", "precisions", "opset", str(path))
    path.write_text('description = "x"\nflavour = "none"\nprecisions = ["fp32"]\n')
    assert 'description = "x"' in edgekit("profiles", path).out


# --- doctor


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the doctor find what a test says; what is really found here is tests/test_environment.py's business."""

    def given(*findings: Finding) -> None:
        monkeypatch.setattr(environment, "examine", lambda: Environment({"os": "Some Linux"}, findings))

    return given


FINE = Finding("package", "torch", "ok", "2.14.1", required=True)
GONE = Finding("package", "onnxsim", "missing", "not installed", "pip install 'onnxsim>=0.4.36'", required=True)
NO_GPU = Finding("gpu", "NVIDIA GPU", "not here", "no nvidia-smi on the PATH")


def test_the_doctor_is_content_when_an_export_can_be_made(edgekit: Edgekit, examined: Callable[..., None]) -> None:
    examined(FINE, NO_GPU)
    ran = edgekit("doctor")
    assert ran.code == 0
    assert "ok        torch  2.14.1" in ran.out
    assert "not here  NVIDIA GPU" in ran.out
    assert ran.out.splitlines()[-1] == "exports can be made here"


def test_the_doctor_exits_with_3_and_says_what_is_missing_and_how_to_get_it(
    edgekit: Edgekit, examined: Callable[..., None]
) -> None:
    examined(FINE, GONE)
    ran = edgekit("doctor")
    assert ran.code == 3
    assert "pip install 'onnxsim>=0.4.36'" in ran.out
    assert ran.out.splitlines()[-1] == "exports cannot be made here: onnxsim"
    data = edgekit("doctor", "--json").json
    assert data["lacking"] == ["onnxsim"]
    assert data["machine"] == {"os": "Some Linux"}
    assert data["findings"][1] == {
        "area": "package",
        "name": "onnxsim",
        "status": "missing",
        "detail": "not installed",
        "hint": "pip install 'onnxsim>=0.4.36'",
        "required": True,
    }


# --- inspect


def small_model(opset: int = 17) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["logits"], "act")],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, 6, 6])],
        [numpy_helper.from_array(np.full((2, 3, 3, 3), 0.1, np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tests").SerializeToString()
    )


def rtx_plan() -> bytes:
    """The header that TensorRT-RTX 1.7.1 writes for sm86, and nothing behind it that anyone here reads."""
    size = 64
    head = b"vtrt" + bytes(4) + (2).to_bytes(8, "little") + size.to_bytes(8, "little")
    return (head + bytes([1, 7, 1, 116]) + b"vtrt" + (4).to_bytes(4, "little")).ljust(size, b"\0")


RUNG = Rung("onnx", "pytorch-fp64", True, 1.5e-6, 4.1e-6, "blocks.1", 53, 4.4e-6, 1e-5, 1.0, 110.0, 1.0)


def described(files: tuple[Artifact, ...], engine: Engine) -> Manifest:
    rtx = profile.load("rtx")
    return Manifest(
        key="k" * 64,
        created="2026-01-02T03:04:05+00:00",
        edgekit="0.1.0",
        variant=VariantRecord("mobilenet_v2", 0.5, 160, 1, 1000, {"rounding": "published"}),
        source="reference",
        weights=WeightsRecord("seed", "seed:0", "a" * 64, None, 0),
        params=1_968_680,
        macs=50_184_000,
        opset=17,
        exporter="torchscript",
        preprocessing=Preprocessing(),
        artifacts=files,
        parity=ParityReport(
            True,
            "full",
            (RUNG, replace(RUNG, name="fp16", error=None, passed=False, reason="NaN")),
            ("natural-0", "black"),
            Liveness(0.8, 0.46, True),
            (BatchCheck("onnx", True, 0.0, 1e-4),),
        ),
        engines=(engine,),
        profiles=(ProfileRecord("rtx", profile.digest(rtx), rtx),),
        tools={"torch": "2.14.1"},
        machine={"os": "Some Linux", "cores": "2"},
        notes=("a note",),
        seconds=1.25,
    )


@pytest.fixture
def variant(tmp_path: Path) -> Path:
    """A variant's folder, written by the one writer there is."""
    folder = tmp_path / "mobilenet_v2-a0.50-r160"
    staging = Staging(folder)
    plan, model = rtx_plan(), small_model()
    staging.write("model.rtx.engine", plan)
    staging.write("model.onnx", model)
    plan_hash, model_hash = staging.digest("model.rtx.engine"), staging.digest("model.onnx")
    receipt = Receipt("fp16", {"fp16": 52, "fp32": 1}, True)
    built = Engine("rtx", "tensorrt-rtx", ("sm86",), "built", "model.rtx.engine", len(plan), plan_hash, receipt)
    staging.commit(described((Artifact("onnx-fp32", "model.onnx", model_hash, len(model), "tests", 2),), built))
    return folder


def test_a_variant_is_shown_with_everything_that_was_proven(edgekit: Edgekit, variant: Path) -> None:
    ran = edgekit("inspect", variant)
    assert ran.code == 0
    for words in (
        "1.97 M params, 50.18 M MACs",
        "mobilenet_v2, alpha 0.5, 160 pixels, batch 1, rounding=published",
        "NCHW RGB float32",
        "mean 0.485 0.456 0.406",
        "fp16 asked for, layers found: 52 in fp16, 1 in fp32",
        "torch 2.14.1",
        "a note",
        "2 files verified",
    ):
        assert words in ran.out
    rung = next(line for line in ran.out.splitlines() if line.split()[:2] == ["onnx", "pytorch-fp64"])
    assert rung.split()[2:5] == ["ok", "1.5e-06", "4.1e-06"]
    assert next(line for line in ran.out.splitlines() if line.split()[:1] == ["fp16"]).split()[2] == "FAILED"


def test_the_manifest_itself_shows_the_same(edgekit: Edgekit, variant: Path) -> None:
    data = edgekit("inspect", variant / "manifest.json", "--json").json
    assert data["kind"] == "manifest"
    assert data["manifest"] == edgekit("inspect", variant, "--json").json["manifest"]
    assert data["manifest"]["params"] == 1_968_680
    assert data["manifest"]["profiles"][0]["name"] == "rtx"


def swap_the_model(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(small_model(opset=13))


def delete_the_engine(folder: Path) -> None:
    (folder / "model.rtx.engine").unlink()


def edit_the_manifest(folder: Path) -> None:
    path = folder / manifest.NAME
    path.write_text(path.read_text().replace('"macs": 50184000', '"macs": 1'))


def cut_the_manifest(folder: Path) -> None:
    path = folder / manifest.NAME
    path.write_text(path.read_text()[:100])


TAMPERED = [
    (swap_the_model, "model.onnx: changed"),
    (delete_the_engine, "model.rtx.engine: missing"),
    (edit_the_manifest, "changed after it was written"),
    (cut_the_manifest, "not JSON"),
]


@pytest.mark.parametrize(("tamper", "words"), TAMPERED)
def test_what_was_tampered_with_is_named(
    edgekit: Edgekit, variant: Path, tamper: Callable[[Path], None], words: str
) -> None:
    tamper(variant)
    assert_refused(edgekit("inspect", variant), 4, words)
    ran = edgekit("inspect", variant, "--json")
    assert ran.json["error"]["exit_code"] == 4


def test_an_onnx_file_is_shown_in_figures(edgekit: Edgekit, tmp_path: Path) -> None:
    path = tmp_path / "without-a-suffix"
    path.write_bytes(small_model())
    text = edgekit("inspect", path).out
    for words in (
        "ai.onnx 17",
        "tests",
        "input: float32 batch x 3 x 8 x 8",
        "logits: float32 batch x 2 x 6 x 6",
        "Conv",
    ):
        assert words in text
    data = edgekit("inspect", path, "--json").json
    assert data["kind"] == "onnx"
    assert data["onnx"]["params"] == 54
    assert data["onnx"]["nodes"] == {"Conv": 1, "Relu": 1}
    assert data["onnx"]["initializer_bytes"] == {"float32": 216}


def test_a_plan_is_shown_by_its_header(edgekit: Edgekit, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(rtx_plan())
    assert "sm86" in edgekit("inspect", path).out
    plan = edgekit("inspect", path, "--json").json["plan"]
    assert (plan["flavour"], plan["version"], plan["targets"]) == ("tensorrt-rtx", "1.7.1.116", ["sm86"])


def test_a_plan_with_metadata_in_front_is_refused_as_such(edgekit: Edgekit, tmp_path: Path) -> None:
    metadata = b'{"description": "from another exporter"}'
    path = tmp_path / "model.engine"
    path.write_bytes(len(metadata).to_bytes(4, "little") + metadata + rtx_plan())
    assert_refused(edgekit("inspect", path), 4, "metadata in front")


def test_the_golden_arrays_are_listed(edgekit: Edgekit, tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, inputs=np.zeros((2, 1, 3, 8, 8), np.float32), names=np.array(["a", "b"]))
    assert "2 x 1 x 3 x 8 x 8" in edgekit("inspect", path).out
    arrays = edgekit("inspect", path, "--json").json["arrays"]
    assert [(array["name"], array["dtype"]) for array in arrays] == [("inputs", "float32"), ("names", "text")]


UNUSABLE = [
    (None, "no such file"),
    (b"", "empty"),
    (b"hello, world", "not a file that edgekit knows"),
    (b'{"name": "someone else\'s"}', "not an edgekit manifest"),
    (b"{", "not JSON"),
    (small_model()[:-20], "truncated"),
    (rtx_plan()[:-1], "cut short"),
    (b"PK\x03\x04 and no more", "truncated or broken"),
]


@pytest.mark.parametrize(("data", "words"), UNUSABLE, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("command", ["inspect", "lint"])
def test_a_file_that_cannot_be_used_is_refused(
    command: str, data: bytes | None, words: str, edgekit: Edgekit, tmp_path: Path
) -> None:
    path = tmp_path / "given"
    if data is not None:
        path.write_bytes(data)
    other_kind = command == "lint" and data is not None and data[:1] in (b"{", b"v")
    assert_refused(edgekit(command, path), 4, "not an ONNX file" if other_kind else words, str(path))


def test_a_folder_without_a_manifest_is_refused(edgekit: Edgekit, tmp_path: Path) -> None:
    assert_refused(edgekit("inspect", tmp_path), 4, "no manifest")


def test_a_folder_of_variants_says_how_to_name_one(edgekit: Edgekit, variant: Path) -> None:
    assert_refused(edgekit("inspect", variant.parent), 4, "no manifest", str(variant))


# --- lint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_model())
    return path


def test_a_graph_that_a_target_takes_passes(edgekit: Edgekit, model: Path) -> None:
    ran = edgekit("lint", model, "--profile", "rtx")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "0 errors, 0 warnings for profile rtx"
    assert edgekit("lint", model, "--profile", "rtx", "--json").json["findings"] == []


def test_what_a_target_does_not_take_is_an_error_and_exit_code_1(edgekit: Edgekit, model: Path) -> None:
    ran = edgekit("lint", model, "--profile", "jetson-nano-jp46")
    assert ran.code == 1
    assert "opset 17 is above 13" in ran.out
    assert ran.out.splitlines()[-1].startswith("1 error, ")
    data = edgekit("lint", model, "--profile", "jetson-nano-jp46", "--json").json
    assert (data["profile"], data["errors"]) == ("jetson-nano-jp46", 1)
    assert data["findings"][0]["severity"] == "error"
    assert data["findings"][0]["hint"]


def test_warnings_alone_leave_the_exit_code_0(edgekit: Edgekit, model: Path) -> None:
    loaded = onnx.load(model)
    loaded.graph.node.append(helper.make_node("Relu", ["input"], ["unused"], "dead"))
    onnx.save(loaded, model)
    ran = edgekit("lint", model, "--profile", "rtx", "--json")
    assert ran.code == 0
    assert ran.json["errors"] == 0
    assert [finding["rule"] for finding in ran.json["findings"]] == ["dead-node"]


def test_without_a_profile_the_general_rules_hold(edgekit: Edgekit, model: Path) -> None:
    assert edgekit("lint", model, "--json").json["profile"] is None
    assert "targets in general" in edgekit("lint", model).out


def test_a_profile_of_ones_own_can_be_linted_against(edgekit: Edgekit, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('description = "x"\nflavour = "none"\nprecisions = ["fp32"]\nopset = 13\n')
    assert edgekit("lint", model, "--profile", mine, "--json").json["profile"] == "mine"


def test_weights_beside_the_model_are_linted_and_those_outside_refused(
    edgekit: Edgekit, model: Path, tmp_path: Path
) -> None:
    loaded = onnx.load(model)
    onnx.save(loaded, model, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").write_bytes(np.full(54, np.nan, np.float32).tobytes())
    ran = edgekit("lint", model, "--profile", "rtx", "--json")
    assert (ran.code, [finding["rule"] for finding in ran.json["findings"]]) == (1, ["non-finite"])
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    model.rename(moved / "model.onnx")
    (moved / "w.bin").symlink_to(tmp_path / "w.bin")
    assert_refused(edgekit("lint", moved / "model.onnx"), 4, "w.bin", "own folder")


# --- real processes


def test_as_a_process_a_result_is_on_stdout_alone(model: Path) -> None:
    ran = process("inspect", model, "--json", cwd=model.parent)
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["onnx"]["params"] == 54


def test_as_a_process_a_refusal_is_on_stderr_alone(tmp_path: Path) -> None:
    assert_refused(process("inspect", "nothing.onnx", cwd=tmp_path), 4, "nothing.onnx")
    assert_refused(process("profiles", "nano", cwd=tmp_path), 2, "jetson-nano")


def test_as_a_process_an_output_that_is_not_read_ends_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'from edgekit.cli import main; main()' profiles | true"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", EVERY)
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    real = typer.main.get_command(application(name)).commands[name]  # type: ignore[attr-defined]
    assert (real.help or "").split("\n\n")[0].replace("\n", " ") == EVERY[name].summary

"""Every reference network, and one of every other source, all the way through the command line: proven, or refused."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

pytestmark = [pytest.mark.xdist_group("every-network"), pytest.mark.usefixtures("one_thread")]

NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.score, self.tag = nn.Linear(16, 3), nn.Linear(16, 4)

    def forward(self, ids):
        x = torch.tanh(self.mix(self.embed(ids)))
        return {"score": self.score(x.mean(1)), "tags": self.tag(x)}

def make(width: int = 8):
    return Net(width)

def text():
    return Text(), torch.randint(0, 50, (1, 12))
"""


@dataclass(frozen=True)
class Done:
    """What an export left."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def variant(self) -> dict[str, Any]:
        """The only variant's part of the JSON."""
        result = json.loads(self.out)
        assert result["ok"] is (self.code == 0)
        (variant,) = result["variants"]
        return dict(variant)


def export(folder: Path, *arguments: str) -> Done:
    """`edgekit export`, in a process of its own."""
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", "export", *arguments, "--json"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    return Done(done.returncode, done.stdout, done.stderr, folder)


def proven(done: Done) -> dict[str, Any]:
    """The variant, after a look at all that makes it proven."""
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    variant = done.variant
    parity = variant["parity"]
    assert variant["error"] is None
    assert parity["passed"] is True
    assert parity["liveness"]["passed"] is True
    assert {"onnx", "simplified", "fp16"} <= {rung["name"] for rung in parity["rungs"]}
    assert all(rung["passed"] for rung in parity["rungs"])
    for name in ("model.onnx", "model.fp16.onnx", "golden.npz", "manifest.json"):
        assert (done.folder / variant["dir"] / name).is_file()
    return variant


def consistent(variant: dict[str, Any]) -> bool:
    """Whether rows were seen to be independent, in every precision."""
    return {check["name"]: check["passed"] for check in variant["parity"]["batch"]} == {
        "simplified": True,
        "fp16": True,
    }


def built(variant: dict[str, Any]) -> bool:
    """Whether there is an engine, in the precision asked for."""
    (engine,) = variant["engines"]
    receipt = engine["receipt"]
    return engine["status"] == "built" and receipt["passed"] and set(receipt["found"]) == {receipt["requested"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["densenet_bc", "--option", "depth=22"],
        ["se_mobilenet_style", "--alpha", "0.25", "--res", "64"],
        ["resnet50_transfer", "--res", "64", "--num-classes", "2"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_reference_network_becomes_an_engine(arguments: list[str], tmp_path: Path) -> None:
    variant = proven(export(tmp_path, *arguments))
    assert consistent(variant)
    assert built(variant)


def test_a_style_network_of_an_odd_size_keeps_it_and_its_reflection_and_norms(tmp_path: Path) -> None:
    variant = proven(export(tmp_path, "se_mobilenet_style", "--alpha", "0.25", "--res", "50"))
    assert consistent(variant)
    assert built(variant)
    for name in ("model.onnx", "model.fp16.onnx"):
        graph = onnx.load(tmp_path / variant["dir"] / name).graph
        shapes = [[dim.dim_value for dim in it.type.tensor_type.shape.dim] for it in (*graph.input, *graph.output)]
        assert shapes == [[1, 3, 50, 50]] * 2
        modes = {node.attribute[0].s for node in graph.node if node.op_type == "Pad"}
        assert modes == {b"reflect"}
        assert "InstanceNormalization" in {node.op_type for node in graph.node}
    fp16 = next(rung for rung in variant["parity"]["rungs"] if rung["name"] == "fp16")
    assert fp16["psnr_db"] > 50
    assert fp16["ssim"] > 0.999
    assert fp16["top1_agreement"] is None


@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        (["inception_v3", "--res", "75"], 106),
        (["inception_v3", "--res", "75", "--option", "variant=torchvision"], 95),
        (["inception_resnet_v2", "--res", "75"], 133),
        (["inception_v4", "--res", "75"], 150),
    ],
    ids=lambda value: "".join(value[0::4]) if isinstance(value, list) else str(value),
)
def test_an_inception_is_proven_layer_by_layer(arguments: list[str], layers: int, tmp_path: Path) -> None:
    variant = proven(export(tmp_path, *arguments, "--no-engine"))
    assert consistent(variant)
    assert {rung["tensors"] for rung in variant["parity"]["rungs"] if rung["against"] == "pytorch-fp64"} == {layers}


@pytest.mark.parametrize(
    "source", ["torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small", "timm:test_efficientnet"]
)
def test_a_librarys_network_is_proven(source: str, tmp_path: Path) -> None:
    variant = proven(export(tmp_path, source, "--res", "64", "--no-engine"))
    assert Path(variant["dir"]).name == f"{source.replace(':', '-')}-r64"
    assert consistent(variant)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with somebody's own networks in it."""
    (tmp_path / "net.py").write_text(NETWORKS)
    return tmp_path


def test_a_factory_with_an_option_is_proven(folder: Path) -> None:
    variant = proven(export(folder, "net.py:make", "--res", "32", "--option", "width=4"))
    assert variant["params"] == 3 * 9 * 4 + 4 + 2 * 4 + 4 * 5 + 5
    assert consistent(variant)
    assert built(variant)


def test_whole_numbers_in_and_two_outputs_out(folder: Path) -> None:
    variant = proven(export(folder, "net.py:text", "--no-engine"))
    model = onnx.load(folder / variant["dir"] / "model.onnx")
    assert [it.type.tensor_type.elem_type for it in model.graph.input] == [onnx.TensorProto.INT64]
    assert [it.name for it in model.graph.output] == ["score", "tags"]
    # The graph of one row has its size in it; what cannot be checked is said, and why.
    for check in variant["parity"]["batch"]:
        assert check["passed"] is True or (check["passed"] is None and "one row only" in check["reason"])


def test_an_archive_of_torchscript_is_proven(folder: Path) -> None:
    module, example = _own_network(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its archives are everywhere
        import torch

        torch.jit.save(torch.jit.trace(module, example), folder / "traced.pt")
    assert consistent(proven(export(folder, "traced.pt", "--res", "32", "--no-engine")))


def test_an_archive_of_torch_export_is_proven(folder: Path) -> None:
    import torch

    module, example = _own_network(folder)
    torch.export.save(torch.export.export(module, (example,)), folder / "net.pt2")
    proven(export(folder, "net.pt2", "--no-engine"))


def _own_network(folder: Path) -> tuple[Any, Any]:
    import torch

    names: dict[str, Any] = {"__name__": "net"}
    exec((folder / "net.py").read_text(), names)
    torch.manual_seed(0)
    return names["make"]().eval(), torch.rand(1, 3, 32, 32)


BAD_FACTORIES = [
    ("def make(): raise ValueError('no weights here')", [], 4, "no weights here"),
    ("def make(): return [1, 2, 3]", [], 4, "a list"),
    ("def make(): pass", [], 4, "None"),
    ("def make(width=4): return Net(width)", ["--option", "with=3"], 2, "did you mean width?"),
    ("def make(width=4): return Net(width)", ["--num-classes", "3"], 2, "--num-classes"),
    ("def make(width): return Net(width)", [], 2, "--option width=VALUE"),
    ("def mike(): return Net(4)", [], 2, "did you mean mike?"),
    ("import edgekit_no_such_package\ndef make(): return Net(4)", [], 3, "edgekit_no_such_package"),
    ("def make(:", [], 4, "bad.py"),
]


@pytest.mark.parametrize(("code", "arguments", "exit_code", "said"), BAD_FACTORIES, ids=lambda value: str(value)[:40])
def test_a_bad_factory_gets_one_clear_message(
    code: str,
    arguments: list[str],
    exit_code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from edgekit.cli import run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text(NETWORKS.partition("def make")[0] + textwrap.dedent(code))
    assert run(["export", "bad.py:make", "--res", "32", "--no-engine", *arguments, "--json"]) == exit_code
    out, err = capfd.readouterr()
    assert json.loads(out)["ok"] is False
    assert said in err
    assert err.count("edgekit export:") == 1
    assert "Traceback" not in err


def test_what_a_factory_prints_stays_out_of_the_json(tmp_path: Path) -> None:
    code = "import os\ndef make():\n    print('printed')\n    os.write(1, b'written\\n')\n    return Net(4)\n"
    (tmp_path / "loud.py").write_text(NETWORKS.partition("def make")[0] + code)
    done = export(tmp_path, "loud.py:make", "--res", "32", "--no-engine")
    proven(done)
    assert "printed" not in done.out
    assert "printed" in done.err
    assert "written" not in done.out

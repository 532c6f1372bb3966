"""Networks that leave height and width open: one graph and one engine for all sizes, proven at two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit import cli
from edgekit.engines.request import BuildRequest
from edgekit.errors import UsageError
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("open")
    words = ["export", "se_mobilenet_style", "--alpha", "0.25", "--res", "64", "--option", "dynamic_size=true"]
    assert cli.run([*words, "--out", str(out), "--quiet"]) == 0
    return out / "se_mobilenet_style-a0.25-r64-dynamic_size-true"


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx"])
def test_the_graph_leaves_height_and_width_open(folder: Path, name: str) -> None:
    graph = onnx.load(folder / name).graph
    for value in (graph.input[0], graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        assert [dims[2].dim_param, dims[3].dim_param] == ["height", "width"]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 70), (129, 64)])
def test_it_takes_any_size_and_gives_it_back(folder: Path, height: int, width: int) -> None:
    image = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    assert CpuSession((folder / "model.onnx").read_bytes())({"input": image})["output"].shape == image.shape


def test_it_is_proven_at_two_sizes_and_counted_at_the_one_that_was_asked_for(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parity"]["passed"]
    assert "other-size" in manifest["parity"]["inputs"]
    assert manifest["parity"]["rungs"][-1]["psnr_db"] > 40
    with np.load(folder / "golden.npz") as golden:
        sides = sorted({array.shape[-1] for name, array in golden.items() if name.startswith("input@")})
    assert sides == [64, 80]
    assert manifest["variant"]["resolution"] == 64
    counted = cli_json("models", "se_mobilenet_style", "--alpha", "0.25", "--res", "64")
    assert manifest["macs"] == counted["models"][0]["macs"]


def test_its_engine_is_built(folder: Path) -> None:
    (engine,) = json.loads((folder / "manifest.json").read_text())["engines"]
    assert (engine["status"], engine["receipt"]["requested"]) == ("built", "fp16")


@pytest.mark.parametrize("sides", [(64, 32, 128), (0, 32, 64)])
def test_sides_that_contradict_each_other_are_refused(sides: tuple[int, int, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        BuildRequest(tmp_path / "m.onnx", tmp_path / "m.engine", "fp16", ("sm86",), sides=sides)


def cli_json(*words: str) -> dict[str, list[dict[str, int]]]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.run([*words, "--json"]) == 0
    found: dict[str, list[dict[str, int]]] = json.loads(out.getvalue())
    return found

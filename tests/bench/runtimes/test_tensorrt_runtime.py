"""TensorRT engines as something to be measured: nothing of it runs without a GPU, so what can be held is held.

Every attribute of TensorRT's classes that the runner touches is in the lists taken from each version's Python package.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import polygraphy.backend.trt
import polygraphy.datatype
import pytest
import torch

import edgekit.bench.runtimes
from edgekit.bench.runtimes import Candidate, Settings, runtime
from edgekit.errors import InputUnusable, MachineLacks

REFERENCE = Path(__file__).parents[2] / "reference" / "tensorrt_api.json"
API: dict[str, dict[str, list[str]]] = json.loads(REFERENCE.read_text())
SOURCE = (Path(edgekit.bench.runtimes.__file__).parent / "_tensorrt.py").read_text()
CLASSES = {"engine": "ICudaEngine", "_engine": "ICudaEngine", "_context": "IExecutionContext"}
NAMES = ["tensorrt", "tensorrt-rtx"]
FULL = b"ftrt" + bytes(12) + (64).to_bytes(8, "little") + bytes([10, 3, 0, 0]) + bytes(36)
RTX = b"vtrt" + FULL[4:16] + len(FULL).to_bytes(8, "little") + bytes([1, 7, 1, 116]) + b"vtrt" + bytes(32)
FILES = {"tensorrt": FULL, "tensorrt-rtx": RTX}


def touched() -> set[tuple[str, str]]:
    """(class, attribute) for `engine.attribute`, `self._context.attribute` and `trt.Class.attribute`."""
    found = set()
    for node in ast.walk(ast.parse(SOURCE)):
        match node:
            case ast.Attribute(value=ast.Name(id=variable) | ast.Attribute(attr=variable), attr=name) if (
                variable in CLASSES
            ):
                found.add((CLASSES[variable], name))
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="trt"), attr=owner), attr=name):
                found.add((owner, name))
    return found


def test_the_scan_sees_what_is_there() -> None:
    seen = touched()
    assert ("IExecutionContext", "execute_async_v3") in seen
    assert ("IExecutionContext", "set_tensor_address") in seen
    assert ("ICudaEngine", "create_execution_context") in seen
    assert ("ICudaEngine", "get_tensor_dtype") in seen
    assert ("TensorIOMode", "INPUT") in seen
    assert len(seen) >= 10


@pytest.mark.parametrize("version", API)
def test_every_attribute_exists(version: str) -> None:
    missing = [f"{owner}.{name}" for owner, name in sorted(touched()) if name not in API[version][owner]]
    assert missing == [], f"TensorRT {version}"


def test_the_attributes_of_the_other_packages_exist() -> None:
    """Those of PyTorch and Polygraphy, which are installed, are looked up in them."""
    for name in ("Stream", "Event", "CUDAGraph", "graph", "stream", "current_stream", "is_available"):
        assert hasattr(torch.cuda, name)
        assert f"torch.cuda.{name}" in SOURCE
    assert {"record", "synchronize", "elapsed_time"} <= set(dir(torch.cuda.Event))
    assert {"synchronize", "cuda_stream"} <= set(dir(torch.cuda.Stream))
    assert "replay" in dir(torch.cuda.CUDAGraph)
    assert {"graph", "stream"} <= set(inspect.signature(torch.cuda.graph.__init__).parameters) | {"graph"}
    assert callable(polygraphy.backend.trt.EngineFromBytes)
    assert hasattr(polygraphy.datatype.DataType, "from_dtype")
    assert hasattr(polygraphy.datatype.DataType, "to_dtype")


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_it_says_so(name: str, tmp_path: Path) -> None:
    found = runtime(name)
    lacking = found.missing()
    path = tmp_path / "model.engine"
    path.write_bytes(FILES[name])
    with pytest.raises((MachineLacks, InputUnusable)) as caught:  # with a GPU, the made-up file is what is wrong
        found.open(Candidate(tmp_path, "engine", path, ""), Settings())
    if lacking is not None:
        assert isinstance(caught.value, MachineLacks)
        assert caught.value.wanted == lacking


@pytest.mark.parametrize(
    ("name", "data"), [("tensorrt", RTX), ("tensorrt-rtx", FULL), ("tensorrt", b""), ("tensorrt-rtx", b"onnx")]
)
def test_another_kind_of_file_is_refused_first(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(data)
    with pytest.raises(InputUnusable) as caught:
        runtime(name).open(Candidate(tmp_path, "engine", path, ""), Settings())
    assert caught.value.where == str(path)

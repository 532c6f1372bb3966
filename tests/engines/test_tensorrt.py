"""Full TensorRT on a machine without it: its absence has a name, whatever is installed in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_graphs import mobile, saved

from edgekit.engines import tensorrt
from edgekit.engines.request import BuildRequest
from edgekit.errors import MachineLacks


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    return BuildRequest(saved(mobile("fp16"), tmp_path / "m.onnx"), tmp_path / "m.engine", "fp16")


def has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/dev/nvhost-gpu").exists()


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the search path with an empty package `tensorrt` in it."""
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(package.parent))
    return package


@pytest.mark.parametrize("kind", ["namespace", "package"])
def test_an_empty_shell_of_the_package_is_told_from_tensorrt(planted: Path, request_: BuildRequest, kind: str) -> None:
    if kind == "package":
        (planted / "__init__.py").write_text("__version__ = '10.3.0'\n")
    assert tensorrt.available() == "the Python package tensorrt is an empty shell: it has no Builder"
    with pytest.raises(MachineLacks, match="TensorRT cannot build here") as caught:
        tensorrt.build(request_)
    assert caught.value.got == "the Python package tensorrt is an empty shell: it has no Builder"


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_driver_that_is_what_is_missing(planted: Path, request_: BuildRequest) -> None:
    (planted / "__init__.py").write_text("__version__ = '10.3.0'\nclass Builder: ...\n")
    reason = tensorrt.available()
    assert reason is not None
    assert "NVIDIA" in reason
    with pytest.raises(MachineLacks) as caught:
        tensorrt.build(request_)
    assert caught.value.got == reason


def test_a_package_that_breaks_while_it_is_imported(planted: Path) -> None:
    (planted / "__init__.py").write_text("import libnvinfer_that_is_not_there\n")
    assert "libnvinfer_that_is_not_there" in (tensorrt.available() or "")


def test_without_the_package_nothing_is_started(monkeypatch: pytest.MonkeyPatch, request_: BuildRequest) -> None:
    monkeypatch.setattr("edgekit.engines.builder.find_spec", lambda name: None)
    assert tensorrt.available() == "the Python package tensorrt is not installed"
    with pytest.raises(MachineLacks) as caught:
        tensorrt.build(request_)
    assert "edgekit-trt[tensorrt]" in (caught.value.hint or "")

"""ONNX Runtime's GPU providers: they are never measured where they do not run, and say what they lack."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
from bench_graphs import FEEDS, candidate, convolutions

from edgekit.bench.runtimes import Runtime, Settings, _onnxruntime, _presence, onnxruntime_tensorrt, runtime
from edgekit.errors import EdgekitError, GateFailed, InputUnusable, MachineLacks, UsageError

GPU = ["onnxruntime-cuda", "onnxruntime-tensorrt"]
PROVIDERS = {"onnxruntime-cuda": _onnxruntime.CUDA, "onnxruntime-tensorrt": _onnxruntime.TENSORRT}
NO_DRIVER = "an NVIDIA GPU and its driver"


@pytest.mark.parametrize("name", GPU)
def test_without_a_driver_it_is_the_driver_that_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _presence.missing_gpu.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: (_ for _ in ()).throw(OSError))
    assert NO_DRIVER in (runtime(name).missing() or "")
    _presence.missing_gpu.cache_clear()


@pytest.mark.parametrize(
    ("start", "devices", "says"), [(999, 0, "CUDA error 999"), (0, 0, "the driver finds none"), (0, 2, None)]
)
def test_a_driver_is_asked_for_its_gpus(
    start: int, devices: int, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's two functions are played here: what is tested is how their answers are read."""

    def count_devices(address: object) -> int:
        ctypes.cast(address, ctypes.POINTER(ctypes.c_int))[0] = devices
        return 0

    driver = SimpleNamespace(cuInit=lambda _flags: start, cuDeviceGetCount=count_devices)
    _presence.missing_gpu.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: driver)
    found = _presence.missing_gpu()
    _presence.missing_gpu.cache_clear()
    assert found is None if says is None else says in (found or "")


def test_with_a_gpu_the_packages_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_tensorrt, "missing_gpu", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "onnxruntime-gpu" in (onnxruntime_tensorrt.RUNTIME.missing() or "")
    monkeypatch.setattr(onnxruntime_tensorrt, "missing_provider", lambda _name: None)
    assert "TensorRT's libraries" in (onnxruntime_tensorrt.RUNTIME.missing() or "")


@pytest.mark.parametrize("name", GPU)
def test_no_provider_falls_back_silently(name: str, tmp_path: Path) -> None:
    """Where it cannot run, ONNX Runtime itself would go on with the CPU; here that is an error, strict or not."""
    found: Runtime = runtime(name)
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        with pytest.raises(MachineLacks, match="has no"):
            found.open(candidate(tmp_path, convolutions()), Settings())
    elif found.missing() is not None:
        with pytest.raises((GateFailed, InputUnusable)):
            found.open(candidate(tmp_path, convolutions()), Settings())
    else:
        runner = found.open(candidate(tmp_path, convolutions()), Settings())
        runner.feed(FEEDS)
        assert runner.placement is None or runner.placement.share(PROVIDERS[name]) > 0


@pytest.mark.parametrize("name", GPU)
def test_an_onnxruntime_without_the_provider_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MachineLacks, match=PROVIDERS[name]) as caught:
        runtime(name).open(candidate(tmp_path, convolutions()), Settings())
    assert caught.value.hint == "pip install onnxruntime-gpu"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (Settings(), ("cpu", "included")),
        (Settings(transfers="included"), ("cpu", "included")),
        (Settings(transfers="excluded"), ("cuda", "excluded")),
        (Settings(cuda_graph=True), ("cuda", "excluded")),
        (Settings(cuda_graph=False), ("cpu", "included")),
    ],
)
def test_tensors_lie_where_the_transfers_say(settings: Settings, found: tuple[str, str]) -> None:
    assert _onnxruntime._where_tensors_lie(settings) == found


@pytest.mark.parametrize("settings", [Settings(transfers="none"), Settings(cuda_graph=True, transfers="included")])
def test_transfers_that_cannot_be_are_refused(settings: Settings) -> None:
    with pytest.raises(UsageError):
        _onnxruntime._where_tensors_lie(settings)


@pytest.mark.parametrize("name", GPU)
def test_compiling_is_not_its_setting(name: str, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="no such setting"):
        runtime(name).open(candidate(tmp_path, convolutions()), Settings(compiled=True))


def test_the_options_exist_in_the_installed_providers() -> None:
    """An unknown option is an error at load time, on a machine that nobody here has; the libraries list theirs."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    options = {"cuda": ["use_tf32", "enable_cuda_graph"], "tensorrt": ["trt_fp16_enable", "trt_cuda_graph_enable"]}
    if _presence.missing_provider("cuda") is not None:
        assert _onnxruntime.CUDA not in onnxruntime.get_available_providers()
        return
    for name, words in options.items():
        library = (folder / f"libonnxruntime_providers_{name}.so").read_bytes()
        assert [word for word in words if word.encode() not in library] == []

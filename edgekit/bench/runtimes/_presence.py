"""What is installed here, and whether there is a GPU: asked without importing anything heavy."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path

ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def installed(*distributions: str) -> dict[str, str]:
    """The versions of those of these distributions that are installed, by name."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def missing_module(module: str, install: str) -> str | None:
    """What to install where `module` cannot be imported; None where it is there. It is not imported."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f"the Python package {module}: {install}"


def missing_provider(name: str) -> str | None:
    """What to install where ONNX Runtime is not here, or was built without the provider "cuda" or "tensorrt"."""
    spec = importlib.util.find_spec("onnxruntime")
    library = Path(spec.origin or "").parent / "capi" / f"libonnxruntime_providers_{name}.so" if spec else None
    if library is not None and library.is_file():
        return None
    return f"an ONNX Runtime with {name}: pip install onnxruntime-gpu"


@lru_cache(maxsize=1)
def missing_gpu() -> str | None:
    """Why no CUDA program can run here, None where one can. The driver itself is asked; nothing is set up on a GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "an NVIDIA GPU and its driver (libcuda.so.1 is not there)"
    code = cuda.cuInit(0)
    if code != 0:
        return f"an NVIDIA driver that starts (cuInit says: CUDA error {code})"
    count = ctypes.c_int()
    code = cuda.cuDeviceGetCount(ctypes.byref(count))
    return None if code == 0 and count.value else "an NVIDIA GPU (the driver finds none)"

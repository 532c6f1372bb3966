"""What is asked of a library to see whether it really works: runs in a process of its own, for `environment.examine`.

A probe returns what it found. Whatever else happens, an import that fails or a crash in native code, happens in the
isolated process and is told by it.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TorchFound:
    """The CUDA that PyTorch was built for, None for a build without it, and the GPUs that it can use."""

    cuda: str | None
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Providers:
    """The execution providers that this ONNX Runtime was compiled with."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class RtxFound:
    """The compute capabilities for which TensorRT-RTX has compiled a network of one node, here and now."""

    targets: tuple[str, ...]


@dataclass(frozen=True)
class ProviderFound:
    """Which execution provider ran the node that was meant for another, and what the library complained about."""

    ran_on: str
    complaint: str


@dataclass(frozen=True)
class TensorRTFound:
    """The version of full TensorRT, None for an empty namespace that only looks like it; why it cannot build."""

    version: str | None
    complaint: str


@dataclass(frozen=True)
class Provider:
    """A request: run one node with this ONNX Runtime execution provider."""

    name: str


def probe(request: object) -> object:
    """Answer one request: what a library is called in `environment.PACKAGES`, or a `Provider`."""
    found: object
    match request:
        case "torch":
            found = _torch()
        case "onnx":
            found = _newest_opset()
        case "onnxruntime":
            found = _providers()
        case Provider(name):
            found = _ran_on(name)
        case "onnxsim":
            found = _simplify()
        case "tensorrt-rtx":
            found = _rtx_targets()
        case "tensorrt":
            found = _tensorrt()
        case _:
            raise ValueError(f"no probe for {request!r}")
    return found


def _torch() -> TorchFound:
    import torch

    torch.nn.functional.relu(torch.zeros(1))
    cuda = torch.cuda
    devices = range(cuda.device_count()) if cuda.is_available() else range(0)
    return TorchFound(torch.version.cuda, tuple(_cuda_device(number) for number in devices))


def _cuda_device(number: int) -> str:
    import torch

    major, minor = torch.cuda.get_device_capability(number)
    return f"{torch.cuda.get_device_name(number)} (sm{major}{minor})"


def _newest_opset() -> int:
    import onnx

    onnx.checker.check_model(_convolution())
    return int(onnx.defs.onnx_opset_version())


def _convolution() -> bytes:
    """A model of one 3x3 convolution: (1, 1, 4, 4) to (1, 1, 2, 2), which every execution provider can run."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _providers() -> Providers:
    import onnxruntime

    return Providers(tuple(onnxruntime.get_available_providers()))


def _ran_on(provider: str) -> ProviderFound:
    """Ask for one provider and read from ONNX Runtime's own profile which one ran the convolution.

    The list of available providers says what was compiled in, and a session that falls back to the CPU says nothing.
    """
    import json

    import numpy as np
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "probe")
        with _stderr_to(Path(folder) / "stderr"):
            session = onnxruntime.InferenceSession(_convolution(), options, providers=[provider])
            (output,) = session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text())
        complaint = _complaint((Path(folder) / "stderr").read_text(errors="replace"))
    if not np.allclose(output, 9.0):
        raise ValueError(f"a convolution of ones gave {output.ravel().tolist()} instead of nines")
    return ProviderFound(_node_provider(events), complaint)


def _node_provider(events: list[dict[str, object]]) -> str:
    """The provider in the first event of a kernel; events of the session itself name none."""
    for event in events:
        arguments = event.get("args")
        if isinstance(arguments, dict) and arguments.get("provider"):
            return str(arguments["provider"])
    raise ValueError("the profile names no provider")


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Send what native code prints to a file."""
    kept = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _complaint(log: str) -> str:
    """The part of ONNX Runtime's log that says why a provider could not be loaded; "" when there is none."""
    found = re.search(r"with error: ([^\n]+)", log) or re.search(r"(Failed to create [^\n]+)", log)
    return re.sub(r"\x1b\[[0-9;]*m", "", found.group(1)).strip() if found else ""


def _simplify() -> int:
    from edgekit.graph.simplify import SimplifyRequest
    from edgekit.graph.simplify_worker import serve_request

    return serve_request(SimplifyRequest(_convolution(), 1 << 20)).nodes_after


def _rtx_targets() -> RtxFound:
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    capabilities = trt.ComputeCapability.__members__.items()
    targets = (name.lower() for name, value in capabilities if name.startswith("SM") and _compiles(builder, value))
    return RtxFound(tuple(targets))


def _compiles(builder: object, capability: object) -> bool:
    import tensorrt_rtx as trt

    assert isinstance(builder, trt.Builder)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    layer = network.add_activation(network.add_input("x", trt.float16, (1, 1, 4, 4)), trt.ActivationType.RELU)
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)
    return builder.build_serialized_network(network, config) is not None


def _tensorrt() -> TensorRTFound:
    """Full TensorRT. A builder needs a driver; a package of stubs imports as a namespace without one."""
    import tensorrt

    if not hasattr(tensorrt, "Builder"):
        return TensorRTFound(None, "")
    try:
        tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    except (TypeError, RuntimeError) as error:  # pybind11's words for a factory that returned nothing
        return TensorRTFound(str(tensorrt.__version__), str(error))
    return TensorRTFound(str(tensorrt.__version__), "")

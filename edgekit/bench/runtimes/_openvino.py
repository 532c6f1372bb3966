"""Graphs in OpenVINO, compiled for the CPU: one request, whose tensors stay where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Literal

import numpy as np
import onnx
import openvino  # type: ignore[import-untyped, import-not-found, unused-ignore]  # no stubs; an extra

from edgekit.bench.record import Placement, Transfers
from edgekit.bench.runtimes import ArtifactKind, Settings
from edgekit.bench.runtimes._arrays import check_names, copy_out
from edgekit.bench.runtimes._settings import refuse, refuse_transfers, usable_cores
from edgekit.errors import GateFailed, InputUnusable, UsageError
from edgekit.parity.metrics import AnyArray, Feeds

DEVICE = "CPU"
NOT_COMPUTED = frozenset({"Const", "Input", "Output"})  # what the compiled graph holds beside its operations
Precision = Literal["f32", "f16", "bf16"]


@dataclass(frozen=True)
class Names:
    """What a graph's inputs and outputs are called, in its order. OpenVINO may know a tensor by several names."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def declared(kind: ArtifactKind) -> Precision:
    """The precision to compute an artifact of that kind in, on this CPU."""
    can_half = "FP16" in openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return "f16" if kind == "onnx-fp16" and can_half else "f32"


def open_graph(path: Path, settings: Settings, precision: Precision) -> OpenVinoRunner:
    """The graph, compiled to be computed in `precision`, with one request at a time and a stated number of threads."""
    refuse(settings, "cuda_graph", "compiled")
    refuse_transfers(settings)
    threads = settings.threads or usable_cores()
    names = _names(path)
    compiled = _compile(path, threads, precision)
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != precision:
        raise GateFailed("OpenVINO computes in another precision", where=str(path), got=found, wanted=precision)
    return OpenVinoRunner(compiled, names)


def _names(path: Path) -> Names:
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's exceptions have no public base class
        raise InputUnusable("this is not an ONNX file", where=str(path), got=str(error)) from error
    weights = {tensor.name for tensor in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in weights)
    return Names(inputs, tuple(value.name for value in graph.output))


def _compile(path: Path, threads: int, precision: Precision) -> openvino.CompiledModel:
    wanted = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    try:
        return openvino.Core().compile_model(path, DEVICE, wanted)
    except Exception as error:  # it raises RuntimeError, and others for what it does not convert
        raise InputUnusable("OpenVINO cannot load the graph", where=str(path), got=str(error).strip()) from error


class OpenVinoRunner:
    """A compiled graph with its inputs in place. See `Runner`."""

    transfers: Transfers = "none"
    cuda_graph: bool | None = None

    def __init__(self, compiled: openvino.CompiledModel, names: Names) -> None:
        self._request, self._names = compiled.create_infer_request(), names
        self._fed: dict[str, openvino.Tensor] = {}
        self.placement: Placement | None = _placement(compiled)
        self.threads: int | None = compiled.get_property("INFERENCE_NUM_THREADS")
        self.spin: bool | None = False if self.threads == 1 else None  # its scheduler's own business

    def feed(self, feeds: Feeds) -> None:
        """Copy the inputs, and run once on them. Raises InputUnusable where the graph cannot be run on them."""
        check_names(feeds, self._names.inputs)
        tensors = {name: openvino.Tensor(np.array(feeds[name], order="C")) for name in self._names.inputs}
        try:
            self._put(tensors)
            self._request.infer(None, share_outputs=True)
        except Exception as error:
            if self._fed:
                self._put(self._fed)
            raise InputUnusable("OpenVINO cannot run the graph", got=str(error).strip()) from error
        self._fed = tensors

    def _put(self, tensors: Mapping[str, openvino.Tensor]) -> None:
        for number, name in enumerate(self._names.inputs):
            self._request.set_input_tensor(number, tensors[name])

    def sample(self, count: int) -> Sequence[float]:
        """Seconds of `count` runs by the host's clock; the outputs stay in OpenVINO's own tensors."""
        self._check_fed()
        run, clock = self._request.infer, perf_counter_ns
        starts, ends = [0] * count, [0] * count
        for number in range(count):
            starts[number] = clock()
            run(None, share_outputs=True)
            ends[number] = clock()
        return [(end - start) * 1e-9 for start, end in zip(starts, ends, strict=True)]

    def outputs(self) -> Mapping[str, AnyArray]:
        """One more run's outputs by the names that the ONNX file gives them."""
        self._check_fed()
        self._request.infer(None, share_outputs=True)
        found = enumerate(self._names.outputs)
        return {name: copy_out(self._request.get_output_tensor(number).data) for number, name in found}

    def _check_fed(self) -> None:
        if not self._fed:
            raise UsageError("nothing was fed yet", wanted="feed() before the first run")

    def close(self) -> None:
        """Let go of the graph and its tensors."""
        del self._request
        self._fed = {}


def _placement(compiled: openvino.CompiledModel) -> Placement:
    """The operations of the compiled graph, all on the one device that it was compiled for."""
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    return Placement({DEVICE: sum(kind not in NOT_COMPUTED for kind in kinds)})

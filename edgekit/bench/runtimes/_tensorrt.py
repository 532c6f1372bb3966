"""An engine of TensorRT or TensorRT-RTX on the GPU: PyTorch's memory, streams and events around its own `execute`.

Unverified: no GPU was at hand. Polygraphy loads the engine; its runner is not used for the runs, as it copies on the
host in between, and the events are to enclose nothing else than the work of one inference.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from polygraphy.backend.common import BytesFromPath
from polygraphy.backend.trt import EngineFromBytes
from polygraphy.datatype import DataType
from polygraphy.exception import PolygraphyException
from torch import Tensor

from edgekit.bench.record import Placement, Transfers
from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes._arrays import check_names, copy_out
from edgekit.bench.runtimes._settings import refuse
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.parity.metrics import AnyArray, Feeds

RTX = os.environ.get("POLYGRAPHY_USE_TENSORRT_RTX") == "1"
trt = importlib.import_module("tensorrt_rtx" if RTX else "tensorrt")

Engine = Any  # TensorRT has no type stubs; its classes are checked by name in test_tensorrt_runtime.py
Context = Any


def open_engine(path: Path, settings: Settings, *, rtx: bool) -> TensorRTRunner:
    """The engine with a context of its own."""
    if rtx is not RTX:
        raise UsageError("one process speaks to one TensorRT", hint="measure each of them in a process of its own")
    if not torch.cuda.is_available():
        raise MachineLacks("this PyTorch cannot use the GPU", hint="install a PyTorch built with CUDA")
    refuse(settings, "compiled")
    if settings.transfers == "none":
        raise UsageError("a GPU has transfers", got="none", wanted="included or excluded")
    try:
        engine = EngineFromBytes(BytesFromPath(str(path)))()
    except PolygraphyException as error:
        raise InputUnusable("TensorRT cannot load the engine", where=str(path), got=str(error).strip()) from error
    return TensorRTRunner(engine, settings)


@dataclass(frozen=True)
class _Buffers:
    """A tensor's memory on both sides, by name: `host` is pinned, so that copies need not wait."""

    host: Mapping[str, Tensor]
    device: Mapping[str, Tensor]

    def copy_in(self, names: Sequence[str]) -> None:
        """To the GPU, in the current stream."""
        for name in names:
            self.device[name].copy_(self.host[name], non_blocking=True)

    def copy_out(self, names: Sequence[str]) -> None:
        """From the GPU, in the current stream."""
        for name in names:
            self.host[name].copy_(self.device[name], non_blocking=True)


class TensorRTRunner:
    """An engine with its inputs in place. A run begins when the one before has ended. See `Runner`."""

    placement: Placement | None = None
    threads: int | None = None
    spin: bool | None = None

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._context: Context = engine.create_execution_context()
        if self._context is None:
            raise InputUnusable("TensorRT makes no context for the engine", hint="the GPU may have too little memory")
        self.transfers: Transfers = settings.transfers or "included"
        self.cuda_graph: bool | None = bool(settings.cuda_graph)
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped upstream
        self._buffers: _Buffers | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def feed(self, feeds: Feeds) -> None:
        """Put the inputs into pinned memory and onto the GPU, and run once; a CUDA graph is captured after that."""
        check_names(feeds, self._inputs)
        for name in self._inputs:
            if not self._context.set_input_shape(name, tuple(feeds[name].shape)):
                raise InputUnusable("the engine does not take this shape", where=name, got=str(feeds[name].shape))
        self._buffers = self._allocate(feeds)
        self._graph = None
        with torch.cuda.stream(self._stream):
            self._once(self._buffers)
            self._stream.synchronize()
            if self.cuda_graph:
                self._graph = self._capture(self._buffers)
        self._stream.synchronize()

    def _allocate(self, feeds: Feeds) -> _Buffers:
        host = {name: torch.tensor(feeds[name]).pin_memory() for name in self._inputs}
        for name in self._outputs:
            dtype = DataType.to_dtype(DataType.from_dtype(self._engine.get_tensor_dtype(name)), "torch")
            host[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=dtype).pin_memory()
        device = {name: tensor.to("cuda") for name, tensor in host.items()}
        for name, tensor in device.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        return _Buffers(host, device)

    def _once(self, buffers: _Buffers) -> None:
        """Enqueue one inference into the current stream, with copies where they count."""
        if self.transfers == "included":
            buffers.copy_in(self._inputs)
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise InputUnusable("TensorRT cannot run the engine")
        if self.transfers == "included":
            buffers.copy_out(self._outputs)

    def _capture(self, buffers: _Buffers) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._once(buffers)
        except RuntimeError as error:
            raise InputUnusable("the engine cannot be captured in a CUDA graph", got=str(error).strip()) from error
        return graph

    def sample(self, count: int) -> Sequence[float]:
        """Seconds of `count` runs by the GPU's clock, from when the stream comes to the first of its work to its last.

        Without a CUDA graph that includes waiting for the host to enqueue the rest.
        """
        buffers, graph = self._fed(), self._graph
        start, end = _event(), _event()
        seconds = [0.0] * count
        with torch.cuda.stream(self._stream):
            for number in range(count):
                start.record()
                if graph is None:
                    self._once(buffers)
                else:
                    graph.replay()
                end.record()
                end.synchronize()
                seconds[number] = start.elapsed_time(end) * 1e-3
        return seconds

    def outputs(self) -> Mapping[str, AnyArray]:
        """One more run's outputs, by the way that is timed."""
        buffers = self._fed()
        with torch.cuda.stream(self._stream):
            if self._graph is None:
                self._once(buffers)
            else:
                self._graph.replay()
            buffers.copy_out(self._outputs)
        self._stream.synchronize()
        return {name: copy_out(buffers.host[name].numpy()) for name in self._outputs}

    def _fed(self) -> _Buffers:
        if self._buffers is None:
            raise UsageError("nothing was fed yet", wanted="feed() before the first run")
        return self._buffers

    def close(self) -> None:
        """Let go of the graph, the context and the memory, in this order."""
        self._graph = self._buffers = None
        del self._context, self._engine


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # untyped upstream

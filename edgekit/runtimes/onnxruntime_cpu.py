"""ONNX Runtime on the CPU: the reference executor of a graph on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from edgekit.errors import InputUnusable
from edgekit.parity.metrics import AnyArray

# onnxruntime-gpu looks for GPUs while it is imported and warns where there are none; only errors matter here.
onnxruntime.set_default_logger_severity(3)


class CpuSession:
    """A graph ready to run. `extra` names intermediate tensors to hand back with the graph's own outputs."""

    def __init__(self, model: bytes | onnx.ModelProto, extra: Sequence[str] = ()) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # as in PyTorch here: on a busy machine a second one costs more than it gives
        # Its arena keeps the largest run's memory for ever, once for every session.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # what fails is raised as an error, too
        try:
            self._session = onnxruntime.InferenceSession(
                _with_outputs(model, extra), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise InputUnusable("ONNX Runtime cannot load the graph", got=str(error).strip()) from error
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, values: AnyArray) -> Mapping[str, AnyArray]:
        """One input array to all outputs by name; float16 tensors come back as float32."""
        try:
            results = self._session.run(None, {self.inputs[0]: values})
        except Exception as error:
            raise InputUnusable("ONNX Runtime cannot run the graph", got=str(error).strip()) from error
        return {name: _at_least_float32(array) for name, array in zip(self.outputs, results, strict=True)}


def _with_outputs(model: bytes | onnx.ModelProto, extra: Sequence[str]) -> bytes:
    if not extra:
        return model if isinstance(model, bytes) else bytes(model.SerializeToString())
    widened = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
    present = {name for node in widened.graph.node for name in node.output}
    added = [onnx.ValueInfoProto(name=name) for name in extra if name in present]
    # Protobuf serialises repeated fields by concatenation: the outputs are appended without copying the weights.
    tail = onnx.ModelProto(graph=onnx.GraphProto(output=added)).SerializeToString()
    return bytes((model if isinstance(model, bytes) else model.SerializeToString()) + tail)


def _at_least_float32(array: AnyArray) -> AnyArray:
    return array.astype(np.float32) if array.dtype == np.float16 else array

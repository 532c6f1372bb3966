"""ONNX Runtime on the CPU: the reference executor of a graph on the host.

`CpuSession` runs in this process: for graphs that were made here. One from elsewhere goes to `isolated.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import _pybind_state

from edgekit.errors import InputUnusable
from edgekit.parity.metrics import AnyArray, Feeds

# onnxruntime-gpu looks for GPUs while it is imported and warns where there are none; only errors matter here.
onnxruntime.set_default_logger_severity(3)

# What can be fed and looked at: numpy has no name for bfloat16, the types of eight bits and fewer, and complex ones
# have no kernels here.
TENSORS = re.compile(r"tensor\((float|double|float16|bool|string|u?int(8|16|32|64))\)")


class CpuSession:
    """A graph ready to run. `extra` names intermediate tensors to hand back with the graph's own outputs.

    Without `optimise`, every node is run as the file has it: nothing is fused, folded or laid out anew. `folder` is
    where a serialised model's external data lie. Raises InputUnusable for a graph that ONNX Runtime refuses, and for
    outputs that are no tensors, or of a type that cannot be looked at.
    """

    def __init__(
        self,
        model: bytes | onnx.ModelProto,
        extra: Sequence[str] = (),
        *,
        optimise: bool = True,
        folder: Path | None = None,
    ) -> None:
        added = _missing_outputs(model, extra) if extra else []
        try:
            self._session = onnxruntime.InferenceSession(
                _with_outputs(model, added), _options(optimise, folder), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise InputUnusable("ONNX Runtime cannot load the graph", got=str(error).strip()) from error
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = _tensors(self._session.get_outputs(), set(added))
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, feeds: Feeds, wanted: Sequence[str] | None = None) -> Mapping[str, AnyArray]:
        """The `wanted` outputs by name, or all of them; float16 tensors come back as float32."""
        names = self.outputs if wanted is None else list(wanted)
        try:
            results = self._session.run(names, dict(feeds))
        except Exception as error:
            raise InputUnusable("ONNX Runtime cannot run the graph", got=str(error).strip()) from error
        return {name: _at_least_float32(array) for name, array in zip(names, results, strict=True)}


@lru_cache(maxsize=1)
def operators() -> frozenset[tuple[str, str]]:
    """Every operator that ONNX Runtime knows, as (domain, name); ONNX's own domain is ""."""
    return frozenset((schema.domain, schema.name) for schema in _pybind_state.get_all_operator_schema())


def _options(optimise: bool, folder: Path | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as in PyTorch here: on a busy machine a second one costs more than it gives
    # Its arena keeps the largest run's memory for ever, once for every session.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4  # what fails is raised as an error, too
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def _tensors(values: Sequence[onnxruntime.NodeArg], added: set[str]) -> list[str]:
    """The names of the outputs; intermediates that cannot be looked at are left out."""
    strange = [value for value in values if not TENSORS.fullmatch(value.type)]
    for value in strange:
        if value.name not in added:
            raise InputUnusable(
                "the graph has an output that cannot be compared",
                where=f"output {value.name}",
                got=value.type,
                wanted="tensors of floats (16 to 64 bits), whole numbers, booleans or text",
                hint="cut the graph before that output: onnx.utils.extract_model",
            )
    return [value.name for value in values if value not in strange]


def _missing_outputs(model: bytes | onnx.ModelProto, extra: Sequence[str]) -> list[str]:
    """Those of `extra` that the graph makes, and does not hand out already."""
    graph = (onnx.load_model_from_string(model) if isinstance(model, bytes) else model).graph
    present = {name for node in graph.node for name in node.output} - {value.name for value in graph.output}
    return [name for name in extra if name in present]


def _with_outputs(model: bytes | onnx.ModelProto, added: Sequence[str]) -> bytes:
    serialised = model if isinstance(model, bytes) else bytes(model.SerializeToString())
    if not added:
        return serialised
    # Protobuf serialises repeated fields by concatenation: the outputs are appended without copying the weights.
    outputs = [onnx.ValueInfoProto(name=name) for name in added]
    return serialised + bytes(onnx.ModelProto(graph=onnx.GraphProto(output=outputs)).SerializeToString())


def _at_least_float32(array: AnyArray) -> AnyArray:
    return array.astype(np.float32) if array.dtype == np.float16 else array

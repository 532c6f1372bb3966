"""Tiny ONNX models, made in a line: what the tests of strangers' graphs look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Axes = Sequence[int | str | None] | None


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node named for its first output; names are separated by spaces, and "-" is one that is left out."""
    read, made = ([name.strip("-") for name in names.split()] for names in (inputs, outputs))
    domain = attributes.pop("domain", "")
    return helper.make_node(op, read, made, name=attributes.pop("name", made[0]), domain=domain, **attributes)


def value(name: str, axes: Axes = (1, 3), kind: int = FLOAT) -> ValueInfoProto:
    """An input or output; axes None leaves the rank open."""
    return helper.make_tensor_value_info(name, kind, axes)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto] = (),
    outputs: Sequence[ValueInfoProto | str] = ("y",),
    weights: Mapping[str, NDArray[Any]] | None = None,
    name: str = "g",
) -> GraphProto:
    """A graph; outputs that are names only are floats of any shape."""
    declared = [value(output, None) if isinstance(output, str) else output for output in outputs]
    stored = [numpy_helper.from_array(np.asarray(array), key) for key, array in (weights or {}).items()]
    return helper.make_graph(nodes, name, inputs, declared, stored)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto] | None = None,
    outputs: Sequence[ValueInfoProto | str] = ("y",),
    weights: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> ModelProto:
    """A model; without inputs it has one, x, of 1 x 3 floats."""
    made = graph(nodes, [value("x")] if inputs is None else inputs, outputs, weights)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(made, opset_imports=imports, ir_version=8)


def function(name: str, nodes: Sequence[NodeProto], domain: str = "own") -> onnx.FunctionProto:
    """A local function from x to y."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function(domain, name, ["x"], ["y"], nodes, imports)

"""What a graph does with the numbers that it is given: which of them make sense cannot be seen from a shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgekit.graph.scopes import scopes
from edgekit.parity.metrics import AnyArray

# What hands whole numbers on with their values: what reads its output reads the input.
TRANSPARENT = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
INDEXING = ("Gather", "GatherElements")  # their second input indexes the first, along an axis
COMPARING = ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
# Inputs that say how something is to be done, how large and along which axes: by operator, their positions.
PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "Loop": (0,),
    "MaxUnpool": (1, 2),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "RoiAlign": (1, 2),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
MAX_CONSTANT = 1 << 12  # values of a constant that are looked at


@dataclass(frozen=True)
class Meaning:
    """`below` is the smallest size that the numbers index, `choices` are what they are compared with, and `parameter`
    says that they are sizes, axes and the like themselves.
    """

    below: int | None = None
    choices: tuple[int, ...] = ()
    parameter: bool = False


def meaning(model: ModelProto, name: str) -> Meaning:
    """What the graph, and the graphs inside it, do with the numbers of that input."""
    uses = _Uses(model)
    below: list[int] = []
    choices: list[int] = []
    parameter = False
    for node, position in uses.of(name):
        below += uses.indexed(node, position)
        choices += uses.compared(node, position)
        parameter = parameter or is_parameter(node, position)
    return Meaning(min(below, default=None), tuple(sorted(set(choices))), parameter)


def is_parameter(node: NodeProto, position: int) -> bool:
    """Whether the node takes that input for how something is to be done, and not for what it is done to."""
    axes = position == 1 and node.op_type.startswith("Reduce")
    return axes or position in PARAMETERS.get(node.op_type, ())


class _Uses:
    """Who reads what, in the main graph and in those inside its nodes; names are unique across them."""

    def __init__(self, model: ModelProto) -> None:
        self.readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        self.tensors: dict[str, TensorProto] = {}
        for scope in scopes(model):
            if scope.function is None:
                self.tensors |= {tensor.name: tensor for tensor in scope.initializers}
                for node in scope.nodes:
                    self._add(node)

    def _add(self, node: NodeProto) -> None:
        for position, name in enumerate(node.input):
            self.readers[name].append((node, position))
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                self.tensors[node.output[0]] = attribute.t

    def of(self, name: str) -> Iterator[tuple[NodeProto, int]]:
        """Every node that gets the values of `name`, and as which of its inputs."""
        waiting, seen = [name], {name}
        while waiting:
            for node, position in self.readers[waiting.pop()]:
                yield node, position
                handed_on = node.op_type in TRANSPARENT and (position == 0 or node.op_type == "Concat")
                new = [output for output in node.output if handed_on and output not in seen]
                seen.update(new)
                waiting += new

    def indexed(self, node: NodeProto, position: int) -> list[int]:
        """The sizes of what the node looks up with that input."""
        if position == 1 and node.op_type in INDEXING:
            data, axis = self.tensors.get(node.input[0]), _attribute(node, "axis", 0)
            return [data.dims[axis]] if data is not None and -len(data.dims) <= axis < len(data.dims) else []
        if position == 0 and node.op_type == "OneHot" and len(node.input) > 1:
            return [int(value) for value in self._values(node.input[1])[:1]]
        return []

    def compared(self, node: NodeProto, position: int) -> list[int]:
        """The constants that the node compares that input with."""
        if node.op_type not in COMPARING or len(node.input) != 2:
            return []
        return [int(value) for value in self._values(node.input[1 - position]) if float(value).is_integer()]

    def _values(self, name: str) -> AnyArray:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL or np.prod(tensor.dims) > MAX_CONSTANT:
            return np.empty(0)
        if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
            return np.empty(0)
        return np.asarray(numpy_helper.to_array(tensor)).ravel()


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(onnx.helper.get_attribute_value(a)) for a in node.attribute if a.name == name), default)

"""What a graph wants to be fed: the types and shapes of its inputs, and sizes for the axes that it leaves open."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from edgekit.errors import InputUnusable, UsageError, did_you_mean

BATCH, CHANNELS = 1, 3  # sizes of axes that nothing is known of
IMAGE_CHANNELS = (1, 3)
MAX_FEED_BYTES = 1 << 30

# A name decides before a position does: some networks have their sequence in front.
BATCH_NAME = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
SEQUENCE_NAME = re.compile(r"seq|len|time|token|frame|sample", re.IGNORECASE)
SPATIAL_NAME = re.compile(r"height|width|^(h|w)$", re.IGNORECASE)
NOT_NAMES = ("", "?", "None", "-1")

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
INTEGERS = (
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
)
FEEDABLE = (*FLOATS, *INTEGERS, TensorProto.BOOL, TensorProto.STRING)

GIVE_IT = "give it in an .npz file, or as test_data_set_0/input_0.pb beside the model"


@dataclass(frozen=True)
class Usual:
    """Sizes for open axes that nothing is known of: an image's height and width, the steps of a sequence."""

    height: int = 224
    width: int = 224
    sequence: int = 32


# What to try in turn, since a graph that leaves an axis open may still not take every size: the usual images, lines of
# text, and for sound the windows of voice detectors.
ALTERNATIVES = (
    Usual(),
    Usual(256, 256, 512),
    Usual(48, 320, 576),
    Usual(32, 320, 128),
    Usual(64, 64, 1),
    Usual(32, 32, 256),
    Usual(640, 640, 1024),
    Usual(299, 299, 16000),
)


@dataclass(frozen=True)
class Slot:
    """An input to be fed: its ONNX type, and for each axis a size, a name, or None where nothing is known.

    `axes` None: not even the rank is known. `channels` is the axis of an image's colours, None where it is no image.
    """

    name: str
    kind: int
    axes: tuple[int | str | None, ...] | None
    channels: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy has it."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.kind))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, once every axis has one."""
        sizes = tuple(axis for axis in self.axes or () if isinstance(axis, int))
        assert self.axes is not None
        assert len(sizes) == len(self.axes)
        return sizes


def slots(model: ModelProto) -> list[Slot]:
    """The inputs that a caller feeds: those that are initializers too have a value already.

    Raises InputUnusable for what is no tensor, and for types that numpy or ONNX Runtime cannot hand over.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    return [_slot(value, model) for value in model.graph.input if value.name not in held]


def sized(wanted: Sequence[Slot], sizes: Mapping[str, int], usual: Usual = ALTERNATIVES[0]) -> list[Slot]:
    """The same inputs with a size for every axis. The axes of one name have one size.

    `sizes` sets axes by name, as "input.2" by position, and as "batch", which otherwise is 1. What is left is `usual`.
    Raises UsageError for sizes of no axis, and InputUnusable for an input of unknown rank and for what would not fit
    in memory.
    """
    _check_sizes(wanted, sizes)
    known = dict(sizes)
    closed = [replace(slot, axes=_close(slot, sizes, known, usual)) for slot in wanted]
    total = sum(math.prod(slot.shape) * slot.dtype.itemsize for slot in closed)
    if total > MAX_FEED_BYTES:
        largest = max(closed, key=lambda slot: math.prod(slot.shape))
        raise InputUnusable(
            "the graph's inputs are too large",
            where=f"input {largest.name}",
            got=f"{'x'.join(map(str, largest.shape))}, {total} bytes in all",
            wanted=f"at most {MAX_FEED_BYTES}",
            hint="export the network for smaller inputs",
        )
    return closed


def _slot(value: ValueInfoProto, model: ModelProto) -> Slot:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type not in FEEDABLE:
        known = tensor.elem_type in TensorProto.DataType.values()
        got = TensorProto.DataType.Name(tensor.elem_type).lower() if known else f"type {tensor.elem_type}"
        raise InputUnusable(
            "the graph has an input that cannot be fed",
            where=f"input {value.name}",
            got=f"a tensor of {got}" if kind == "tensor_type" else str(kind).removesuffix("_type"),
            wanted="tensors of floats (16 to 64 bits), whole numbers, booleans or text",
            hint="cut the graph behind that input: onnx.utils.extract_model",
        )
    if not tensor.HasField("shape"):
        return Slot(value.name, tensor.elem_type, None)
    axes: list[int | str | None] = []
    for axis in tensor.shape.dim:
        size = axis.dim_value if axis.HasField("dim_value") and axis.dim_value >= 0 else None
        axes.append(size if size is not None else axis.dim_param if axis.dim_param not in NOT_NAMES else None)
    return _as_image(Slot(value.name, tensor.elem_type, tuple(axes)), model)


def _as_image(slot: Slot, model: ModelProto) -> Slot:
    """An input with four axes, one of them of one or three channels, is an image, whichever way it lies."""
    if slot.axes is None or len(slot.axes) != 4 or slot.kind not in (*FLOATS, TensorProto.UINT8):
        return slot
    batch, second, third, fourth = slot.axes
    if not isinstance(second, int) and fourth not in IMAGE_CHANNELS:
        open_ended = CHANNELS if not isinstance(third, int) and not isinstance(fourth, int) else second
        second = _channels_of_conv(slot.name, model) or open_ended
    slot = replace(slot, axes=(batch, second, third, fourth))
    if second in IMAGE_CHANNELS:
        return replace(slot, channels=1)
    return replace(slot, channels=3) if fourth in IMAGE_CHANNELS else slot


def _channels_of_conv(name: str, model: ModelProto) -> int | None:
    """How many channels the convolution that reads the input wants."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] == name and node.input[1] in weights:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            return int(weights[node.input[1]].dims[1] * groups)
    return None


def _close(slot: Slot, sizes: Mapping[str, int], known: dict[str, int], usual: Usual) -> tuple[int, ...]:
    """A size for every axis; `known` are those of the names so far, and is added to."""
    if slot.axes is None:
        where, hint = f"input {slot.name}", GIVE_IT
        raise InputUnusable("the graph does not say how many axes an input has", where=where, hint=hint)
    closed: list[int] = []
    for number, axis in enumerate(slot.axes):
        closed.append(axis if isinstance(axis, int) else _open_size(slot, number, axis, sizes, known, usual))
    return tuple(closed)


def _open_size(
    slot: Slot, number: int, name: str | None, sizes: Mapping[str, int], known: dict[str, int], usual: Usual
) -> int:
    size = sizes.get(f"{slot.name}.{number}")
    if size is None and name is not None:
        size = known.get(name)
    if size is None:
        size = _usual_size(slot, number, name, sizes.get("batch", BATCH), usual)
    if name is not None:
        known.setdefault(name, size)
    return size


def _usual_size(slot: Slot, number: int, name: str | None, batch: int, usual: Usual) -> int:
    # Height and width are the last two axes, but for the channels.
    width = number == (2 if slot.channels == 3 else 3)
    spatial = usual.width if width else usual.height
    for pattern, size in ((BATCH_NAME, batch), (SEQUENCE_NAME, usual.sequence), (SPATIAL_NAME, spatial)):
        if name is not None and pattern.search(name):
            return size
    if number == 0 or _is_state(slot, number):
        return batch
    return spatial if slot.channels is not None else usual.sequence


def _is_state(slot: Slot, number: int) -> bool:
    """Whether the axis is the middle one of (layers, ?, width): a recurrent network's state, and the batch."""
    return (
        slot.axes is not None and len(slot.axes) == 3 and number == 1 and _fixed(slot.axes[0]) and _fixed(slot.axes[2])
    )


def _fixed(axis: int | str | None) -> bool:
    return isinstance(axis, int)


def _check_sizes(wanted: Sequence[Slot], sizes: Mapping[str, int]) -> None:
    axes = [(slot, number, axis) for slot in wanted for number, axis in enumerate(slot.axes or ())]
    keys = [axis for _, _, axis in axes if isinstance(axis, str)]
    keys += [f"{slot.name}.{number}" for slot, number, axis in axes if not isinstance(axis, int)]
    for key, size in sizes.items():
        if key not in keys and key != "batch":
            hint = did_you_mean(key, list(dict.fromkeys(keys))) or "every axis of the inputs has its size already"
            raise UsageError("the graph leaves no such axis open", got=key, hint=hint)
        if size < 1:
            raise UsageError("an axis cannot have that size", where=key, got=str(size), wanted="1 or more")

"""The inputs of a network as texts: `NAME:DTYPE:SHAPE`."""

from __future__ import annotations

import re

from edgekit.errors import UsageError, did_you_mean
from edgekit.manifest import TensorSpec

BATCH = "batch"
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
LARGEST_DIM = 2**31 - 1
WANTED = "NAME:DTYPE:SHAPE, for example image:float32:batch,3,224,224 or ids:int64:batch,128"

_NAME = re.compile(r"[^\W\d]\w*")


def parse_input_spec(text: str) -> TensorSpec:
    """An input as the user describes it; `batch` may stand for the first dimension, and an empty SHAPE is a scalar.

    Raises UsageError for anything else.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise UsageError("this does not describe an input", where="--input", got=text, wanted=WANTED)
    name, dtype, shape = (part.strip() for part in parts)
    if not _NAME.fullmatch(name):
        raise UsageError("this cannot be the name of an input", where="--input", got=name or text, wanted=WANTED)
    if dtype not in DTYPES:
        hint = did_you_mean(dtype, list(DTYPES))
        raise UsageError(f"input {name} has an unknown type", where="--input", got=dtype, wanted=WANTED, hint=hint)
    dims = shape.split(",") if shape else []
    return TensorSpec(name, dtype, tuple(_dim(text, place, dim.strip()) for place, dim in enumerate(dims)))


def parse_input_specs(texts: list[str] | tuple[str, ...]) -> tuple[TensorSpec, ...]:
    """All inputs, in the order of the network's. Raises UsageError for a mistake, and for one name twice."""
    specs = tuple(parse_input_spec(text) for text in texts)
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError("the same input twice", where="--input", got=name)
    return specs


def describe(specs: tuple[TensorSpec, ...]) -> str:
    """The inputs as they would be typed."""
    return " ".join(f"{spec.name}:{spec.dtype}:{','.join(map(str, spec.shape))}" for spec in specs)


def _dim(text: str, place: int, dim: str) -> int | str:
    if dim == BATCH and place == 0:
        return BATCH
    if dim.isascii() and dim.isdecimal() and 1 <= int(dim) <= LARGEST_DIM:
        return int(dim)
    wanted = f"a whole number from 1 to {LARGEST_DIM}" + (f", or {BATCH}" if place == 0 else "")
    hint = f"{BATCH} is the first dimension" if dim == BATCH else WANTED
    raise UsageError(
        f"not a size for dimension {place}", where="--input", got=f"{dim!r} in {text}", wanted=wanted, hint=hint
    )

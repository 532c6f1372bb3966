"""ONNX files from anywhere, checked before anything native sees them.

The one place that decides whether a file may go on: `read_model` for whoever only looks at it (its format, and where
its weights lie), `take` for whoever runs it. What a certain target does not take is for `engines/screen.py` and
`graph/lint.py` to say.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto, helper

from edgekit import contents
from edgekit.errors import InputUnusable
from edgekit.graph.structure import Traits, check_structure

OTHER_KINDS = {"manifest": "a manifest or its folder", "plan": "a TensorRT plan", "arrays": "an archive of arrays"}
MAX_PROTOBUF_BYTES = 2**31 - 1  # a limit of the format; larger models keep their weights beside the file
# Types of which several values share a byte, and how many bits each has.
PACKED_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}


@dataclass(frozen=True)
class Incoming:
    """A sound model with all its weights in memory, and what is unusual about it. Training parts are left out."""

    model: ModelProto
    traits: Traits


def take(path: Path) -> Incoming:
    """The model in `path`, ready to be run and carried on: read, checked in full, weights loaded.

    Raises InputUnusable, with what is wrong, for everything that native code should not be given.
    """
    model = read_model(path, weights=False)
    traits = check(model, str(path))
    _load_weights(model, path)
    del model.training_info[:]
    return Incoming(model, traits)


def check(model: ModelProto, where: str) -> Traits:
    """What is unusual about a model that is sound in structure and data; `where` names it in messages.

    Raises InputUnusable for a graph that is none (`structure.check_structure`), for tensors whose values do not fit
    their type and shape, and for sparse ones. Weights in other files are `read_model`'s to check.
    """
    traits = check_structure(model, where)
    for tensor in _tensors(model):
        _check_data(tensor, where)
    if any(True for _ in _sparse(model)):
        raise InputUnusable(
            "the model keeps weights as sparse tensors",
            where=where,
            got=next(_sparse(model)).values.name or "one without a name",
            wanted="dense weights: a few bytes of a sparse tensor may unfold to any size",
            hint="export the model with dense weights",
        )
    return traits


def read_model(path: Path, *, weights: bool) -> ModelProto:
    """The model in `path`; with `weights`, what it keeps in other files is loaded too, otherwise only checked.

    Raises InputUnusable for a file that is no ONNX model, is too large or broken, and for weights in files that are
    missing, too short, or outside the model's own folder.
    """
    kind = contents.recognise(path)
    if kind != "onnx":
        hint = f"its ONNX files lie in {path if path.is_dir() else path.parent}" if kind == "manifest" else None
        raise InputUnusable("this is not an ONNX file", where=str(path), got=OTHER_KINDS[kind], hint=hint)
    model = _parse(path)
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _external_range(tensor, path)
    if weights:
        _load_weights(model, path)
    return model


def _load_weights(model: ModelProto, path: Path) -> None:
    external = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    _check_total(external, path)
    try:
        for tensor in external:
            _load(tensor, path)
    except OSError as error:
        raise InputUnusable("the model's external data cannot be loaded", where=str(path), got=str(error)) from error


def _load(tensor: TensorProto, path: Path) -> None:
    held = _external_range(tensor, path)
    with held.file.open("rb") as file:
        file.seek(held.begin)
        values = file.read(held.length)
    tensor.raw_data = values
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _parse(path: Path) -> ModelProto:
    size = path.stat().st_size
    if size > MAX_PROTOBUF_BYTES:
        raise InputUnusable(
            "the ONNX file is too large",
            where=str(path),
            got=f"{size} bytes",
            wanted=f"at most {MAX_PROTOBUF_BYTES}: a protobuf ends at 2 GB",
            hint="keep the weights as external data",
        )
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        if "MaxDepth" in str(error):
            what, wanted = (
                "the ONNX file is nested too deeply",
                "graphs inside graphs 31 deep at most, as protobuf has it",
            )
            raise InputUnusable(what, where=str(path), wanted=wanted) from error
        raise InputUnusable("the ONNX file is corrupt", where=str(path), got=str(error)) from error


def _check_total(external: Sequence[TensorProto], path: Path) -> None:
    """Weights in other files may be many times as large as these: several tensors may share the same bytes."""
    total = sum(tensor_bytes(tensor) or 0 for tensor in external)
    if total > MAX_PROTOBUF_BYTES:
        raise InputUnusable(
            "the model's weights are too large",
            where=str(path),
            got=f"{total} bytes in other files",
            wanted=f"at most {MAX_PROTOBUF_BYTES}: what is carried on is one file",
            hint="export a smaller network, or a part of it",
        )


@dataclass(frozen=True)
class _Range:
    """Where in which file the values of a tensor lie, in bytes."""

    file: Path
    begin: int
    length: int


def _external_range(tensor: TensorProto, model: Path) -> _Range:
    """Where the values are. Raises InputUnusable unless they lie in the model's own folder, all of them."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(entries.get("location", ""))
    folder = Path(os.path.realpath(model.parent))
    data = Path(os.path.realpath(folder / location))
    if not location.name or location.is_absolute() or not data.is_relative_to(folder):
        raise _bad_external(tensor, model, str(location), "a file in the model's own folder")
    if not data.is_file():
        raise _bad_external(tensor, model, f"{location}, which is missing", "the file beside the model")
    wanted = tensor_bytes(tensor) or 0
    begin, length = _begin_and_length(tensor, model, entries, wanted)
    if begin + length > data.stat().st_size:
        got = f"{location}, {data.stat().st_size} bytes"
        raise _bad_external(tensor, model, got, f"at least {begin + length} bytes")
    if length != wanted:
        raise _bad_external(tensor, model, f"{length} bytes of {location}", f"{wanted} for shape {list(tensor.dims)}")
    return _Range(data, begin, length)


def _begin_and_length(tensor: TensorProto, model: Path, entries: dict[str, str], wanted: int) -> tuple[int, int]:
    """Offset and length in the file; without a length it is what the shape wants."""
    numbers = [entries.get("offset", "0"), entries.get("length", str(wanted))]
    if not all(number.isdecimal() and number.isascii() and len(number) < 20 for number in numbers):
        raise _bad_external(tensor, model, f"offset and length {', '.join(numbers)}", "whole numbers")
    begin, length = map(int, numbers)
    return begin, length


def _bad_external(tensor: TensorProto, model: Path, got: str, wanted: str) -> InputUnusable:
    what = f"the weights of {tensor.name or 'a tensor'} cannot be taken from where the model says"
    return InputUnusable(what, where=str(model), got=got, wanted=wanted, hint="export the model as a single file")


def _check_data(tensor: TensorProto, where: str) -> None:
    """The values must be as many as the shape says. Nothing is decoded."""
    wanted = tensor_bytes(tensor)
    if wanted is None:
        got = f"type {tensor.data_type}, shape {list(tensor.dims)}"
        raise _bad_data(tensor, where, got, "a known type, and sizes of 0 or more")
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    if tensor.HasField("raw_data"):
        found, unit = len(tensor.raw_data), "bytes"
    else:
        found, unit = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))), "values"
        wanted = _fields(tensor)
    if found != wanted:
        raise _bad_data(tensor, where, f"{found} {unit}", f"{wanted} for shape {list(tensor.dims)}")


def tensor_bytes(tensor: TensorProto) -> int | None:
    """The size of the values by type and shape; None where type or shape make no sense, 0 for strings."""
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        return None
    if any(size < 0 for size in tensor.dims):
        return None
    if tensor.data_type == TensorProto.STRING:
        return 0
    bits = PACKED_BITS.get(TensorProto.DataType.Name(tensor.data_type))
    if bits is None:
        bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-_values(tensor) * bits // 8)


def _fields(tensor: TensorProto) -> int:
    """How many entries the values take where they are not raw bytes: two for a complex number, fewer if packed."""
    count = _values(tensor)
    bits = PACKED_BITS.get(TensorProto.DataType.Name(tensor.data_type))
    if bits is not None:
        return -(-count * bits // 8)
    return 2 * count if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else count


def _values(tensor: TensorProto) -> int:
    return math.prod(int(size) for size in tensor.dims)


def _bad_data(tensor: TensorProto, where: str, got: str, wanted: str) -> InputUnusable:
    what = f"the values of {tensor.name or 'a tensor'} do not fit its type and shape"
    return InputUnusable(what, where=where, got=got, wanted=wanted, hint="the file is damaged: export it again")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the model: in its graph, in graphs inside nodes, in local functions and for training."""
    for held in _holders(model):
        if isinstance(held, GraphProto):
            yield from held.initializer
        elif isinstance(held, AttributeProto):
            # By what is there and not by what the attribute's type says: the two may disagree.
            yield from held.tensors
            if held.HasField("t"):
                yield held.t
    for sparse in _sparse(model):
        yield from (sparse.values, sparse.indices)


def _sparse(model: ModelProto) -> Iterator[onnx.SparseTensorProto]:
    for held in _holders(model):
        if isinstance(held, GraphProto):
            yield from held.sparse_initializer
        elif isinstance(held, AttributeProto):
            yield from held.sparse_tensors
            if held.HasField("sparse_tensor"):
                yield held.sparse_tensor


def _holders(model: ModelProto) -> Iterator[GraphProto | AttributeProto | FunctionProto]:
    """Everything in the model that may hold tensors, however deep; nothing recurses."""
    waiting: list[GraphProto | AttributeProto | FunctionProto] = [model.graph, *model.functions]
    waiting += [graph for training in model.training_info for graph in (training.initialization, training.algorithm)]
    while waiting:
        held = waiting.pop()
        yield held
        if isinstance(held, AttributeProto):
            waiting += [held.g, *held.graphs] if held.HasField("g") else held.graphs
        else:
            waiting += [attribute for node in held.node for attribute in node.attribute]
            if isinstance(held, FunctionProto):
                waiting += held.attribute_proto

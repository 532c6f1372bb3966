"""ONNX files from anywhere, checked before anything native sees them: format, size, and where their weights lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model

from edgekit import contents
from edgekit.errors import InputUnusable

OTHER_KINDS = {"manifest": "a manifest or its folder", "plan": "a TensorRT plan", "arrays": "an archive of arrays"}
MAX_PROTOBUF_BYTES = 2**31 - 1  # a limit of the format; larger models keep their weights beside the file


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
            _check_external(tensor, path)
    if weights:
        _load_external(model, path)
    return model


def _load_external(model: ModelProto, path: Path) -> None:
    try:
        load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise InputUnusable("the model's external data cannot be loaded", where=str(path), got=str(error)) from error


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
        raise InputUnusable("the ONNX file is corrupt", where=str(path), got=str(error)) from error


def _check_external(tensor: TensorProto, model: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = PurePosixPath(entries.get("location", ""))
    folder = Path(os.path.realpath(model.parent))
    data = Path(os.path.realpath(folder / location))
    if not location.name or location.is_absolute() or not data.is_relative_to(folder):
        raise _bad_external(tensor, model, str(location), "a file in the model's own folder")
    if not data.is_file():
        raise _bad_external(tensor, model, f"{location}, which is missing", "the file beside the model")
    begin, length = _range(tensor, model, entries)
    if begin + length > data.stat().st_size:
        got = f"{location}, {data.stat().st_size} bytes"
        raise _bad_external(tensor, model, got, f"at least {begin + length} bytes")


def _range(tensor: TensorProto, model: Path, entries: dict[str, str]) -> tuple[int, int]:
    """Offset and length in the file; a length that is not given is at least nothing."""
    numbers = [entries.get(key, "0") for key in ("offset", "length")]
    if not all(number.isdecimal() and number.isascii() and len(number) < 20 for number in numbers):
        raise _bad_external(tensor, model, f"offset and length {', '.join(numbers)}", "whole numbers")
    begin, length = map(int, numbers)
    return begin, length


def _bad_external(tensor: TensorProto, model: Path, got: str, wanted: str) -> InputUnusable:
    what = f"the weights of {tensor.name or 'a tensor'} cannot be taken from where the model says"
    return InputUnusable(what, where=str(model), got=got, wanted=wanted, hint="export the model as a single file")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the model: in its graph, in graphs inside nodes, in local functions and for training."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    """By what is there and not by what the attribute's type says: the two may disagree."""
    yield from attribute.tensors
    for sparse in attribute.sparse_tensors:
        yield from (sparse.values, sparse.indices)
    for graph in attribute.graphs:
        yield from _graph_tensors(graph)
    if attribute.HasField("t"):
        yield attribute.t
    if attribute.HasField("sparse_tensor"):
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    if attribute.HasField("g"):
        yield from _graph_tensors(attribute.g)

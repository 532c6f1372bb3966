"""Inputs that came with the network: the user's arrays, or the test data that ONNX's model zoo puts beside a model."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, numpy_helper

from edgekit.arrays import list_arrays
from edgekit.errors import InputUnusable
from edgekit.graph.incoming import tensor_bytes
from edgekit.graph.interface import FLOATS, INTEGERS, MAX_FEED_BYTES, Slot
from edgekit.parity.metrics import AnyArray

Arrays = dict[str, AnyArray]


def beside(model: Path) -> Path | None:
    """The folder of a model when it has test data in the way of ONNX's model zoo: test_data_set_0/input_0.pb."""
    return model.parent if any(model.parent.glob("test_data_set_*/input_0.pb")) else None


def read_given(path: Path, wanted: Sequence[Slot]) -> list[tuple[str, Arrays]]:
    """Every set of inputs in `path`, with a name for each, its arrays by input and of the input's own type.

    `path` is an .npz of arrays by name, an .npy for the only input, a folder of either, or a folder with
    test_data_set_N or input_N.pb in it. Raises InputUnusable for what cannot be read, and for arrays that are missing,
    of another type or shape, or for no input.
    """
    found = [(source.name, _read(source, wanted)) for source in _sources(path)]
    if not found:
        wanted_text = "an .npz or .npy file, or a folder of them or of test_data_set_N"
        raise InputUnusable("there are no inputs", where=str(path), wanted=wanted_text)
    return [(name, _fitted(arrays, wanted, path / name)) for name, arrays in found]


def _sources(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if any(path.glob("input_*.pb")):
        return [path]
    sets = [folder for folder in path.glob("test_data_set_*") if any(folder.glob("input_*.pb"))]
    arrays = [file for file in path.iterdir() if file.suffix in (".npz", ".npy")]
    return sorted(sets or arrays, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """So that 10 comes after 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]


def _read(path: Path, wanted: Sequence[Slot]) -> Arrays:
    if path.is_dir():
        return _read_protobufs(path, wanted)
    if path.suffix == ".npz":
        # A few bytes of an archive may unfold to any size.
        _check_size(path, sum(array.bytes for array in list_arrays(path)))
    _check_size(path, path.stat().st_size)
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {wanted[0].name if len(wanted) == 1 else path.stem: loaded}
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputUnusable("the inputs cannot be read", where=str(path), got=str(error)) from error


def _read_protobufs(folder: Path, wanted: Sequence[Slot]) -> Arrays:
    """input_0.pb is the first input; a tensor that bears an input's name is that one."""
    names = [slot.name for slot in wanted]
    arrays: Arrays = {}
    for number, file in enumerate(sorted(folder.glob("input_*.pb"), key=_natural)):
        _check_size(file, file.stat().st_size)
        tensor = _tensor(file)
        fallback = names[number] if number < len(names) else file.stem
        arrays[tensor.name if tensor.name in names else fallback] = numpy_helper.to_array(tensor)
    return arrays


def _tensor(file: Path) -> TensorProto:
    try:
        tensor = TensorProto()
        tensor.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise InputUnusable("the file holds no tensor", where=str(file), wanted="a TensorProto") from error
    size = tensor_bytes(tensor)
    if size is None or size > MAX_FEED_BYTES or tensor.data_location == TensorProto.EXTERNAL:
        # Sequences and optionals are written without saying so, and read as such nonsense.
        wanted = "a tensor of a known type with its values in it: sequences, optionals and maps are not supported"
        raise InputUnusable("the file holds no usable tensor", where=str(file), wanted=wanted)
    return tensor


def _check_size(file: Path, size: int) -> None:
    if size > MAX_FEED_BYTES:
        wanted = f"at most {MAX_FEED_BYTES}"
        raise InputUnusable("the inputs are too large", where=str(file), got=f"{size} bytes", wanted=wanted)


def _fitted(arrays: Mapping[str, AnyArray], wanted: Sequence[Slot], path: Path) -> Arrays:
    names = [slot.name for slot in wanted]
    if set(arrays) != set(names):
        raise InputUnusable(
            "the given inputs are not the graph's",
            where=str(path),
            got=", ".join(sorted(arrays)) or "none",
            wanted=", ".join(names),
        )
    return {slot.name: _fit(arrays[slot.name], slot, path) for slot in wanted}


def _fit(array: AnyArray, slot: Slot, path: Path) -> AnyArray:
    """The array in the input's type, where that loses nothing that matters, and only if its shape is right."""
    axes = slot.axes
    fits = axes is None or (
        array.ndim == len(axes)
        and all(not isinstance(axis, int) or axis == size for axis, size in zip(axes, array.shape, strict=True))
    )
    if not fits:
        wanted = "x".join("?" if axis is None else str(axis) for axis in axes or ()) or "a scalar"
        raise _unfit(slot, path, "x".join(map(str, array.shape)) or "a scalar", wanted)
    if slot.kind == TensorProto.STRING and array.dtype.kind in "UO":
        return array.astype(object)
    return _in_type(array, slot, path)


def _in_type(array: AnyArray, slot: Slot, path: Path) -> AnyArray:
    if array.dtype == slot.dtype:
        return array
    same_kind = (slot.kind in FLOATS and array.dtype.kind == "f") or (
        slot.kind in INTEGERS and array.dtype.kind in "iu"
    )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(slot.dtype) if same_kind else array
    if not same_kind or (slot.kind in INTEGERS and not np.array_equal(cast, array)):
        raise _unfit(slot, path, f"values of {array.dtype}", f"{slot.dtype}")
    return cast


def _unfit(slot: Slot, path: Path, got: str, wanted: str) -> InputUnusable:
    return InputUnusable(f"the given input {slot.name} does not fit", where=str(path), got=got, wanted=wanted)

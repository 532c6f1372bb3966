"""golden.npz: the ladder's inputs, and what the truth makes of them, for whoever wants to check a deployment.

`names` and `ordinary` say what each input is; `input.NAME` and `output.NAME` hold one array for each of the network's
inputs and outputs, with the ladder's inputs along the first axis: (n, batch, ...). Where shapes differ from one to the
next there is an array for each, `output@0.NAME` and on.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import InputUnusable
from edgekit.parity.ladder import Input
from edgekit.parity.metrics import AnyArray

INPUT, OUTPUT = "input", "output"
# What numpy raises for files that are no archive of arrays, or a broken one.
BROKEN = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, EOFError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Golden:
    """The inputs of a climb, and the truth's outputs for each, by name."""

    inputs: list[Input]
    outputs: list[dict[str, AnyArray]]


def pack(inputs: Sequence[Input], outputs: Sequence[Mapping[str, AnyArray]]) -> bytes:
    """The archive's bytes."""
    arrays = {
        "names": np.array([given.name for given in inputs]),
        "ordinary": np.array([given.ordinary for given in inputs]),
        **_columns(INPUT, [given.feeds for given in inputs]),
        **_columns(OUTPUT, outputs),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _columns(prefix: str, rows: Sequence[Mapping[str, AnyArray]]) -> dict[str, AnyArray]:
    columns: dict[str, AnyArray] = {}
    for name in rows[0]:
        values = [_storable(row[name]) for row in rows]
        if len({value.shape for value in values}) == 1:
            columns[f"{prefix}.{name}"] = np.stack(values)
        else:
            columns |= {f"{prefix}@{number}.{name}": value for number, value in enumerate(values)}
    return columns


def _storable(array: AnyArray) -> AnyArray:
    """Texts come as Python objects, which an archive must not hold."""
    return array.astype(np.str_) if array.dtype.kind == "O" else array


def unpack(path: Path) -> Golden:
    """What the archive holds. Raises InputUnusable for a file that is no such archive."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return _unpacked(dict(stored))
    except BROKEN as error:
        raise InputUnusable("cannot read the stored inputs", where=str(path), got=str(error)) from error


def _unpacked(arrays: dict[str, AnyArray]) -> Golden:
    names, ordinary = arrays.pop("names"), arrays.pop("ordinary")
    feeds, outputs = (_rows(prefix, arrays, len(names)) for prefix in (INPUT, OUTPUT))
    flags = zip(names, feeds, ordinary, strict=True)
    return Golden([Input(str(name), feed, bool(is_one)) for name, feed, is_one in flags], outputs)


def _rows(prefix: str, arrays: Mapping[str, AnyArray], count: int) -> list[dict[str, AnyArray]]:
    rows: list[dict[str, AnyArray]] = [{} for _ in range(count)]
    for key, values in arrays.items():
        kind, _, name = key.partition(".")
        which, one_of_many, number = kind.partition("@")
        if which != prefix:
            continue
        if one_of_many:
            rows[int(number)][name] = values
        else:
            for row, value in zip(rows, values, strict=True):
                row[name] = np.asarray(value)
    if len({frozenset(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(f"not every input has the same {prefix}s")
    return rows

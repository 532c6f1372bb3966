"""Whatever is finished on the disk at once, so that a killed run loses what is in flight and nothing else.

The file lies beside the bench file and is only ever added to: a first line that says what is measured, then a line for
each round, or for each artifact that a scenario was played with. The same command finds it and goes on; another
artifact, setting or machine makes another first line, and everything starts afresh.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from edgekit import schema
from edgekit.bench.telemetry import Reading
from edgekit.errors import UsageError
from edgekit.manifest import disk_errors

Line = TypeVar("Line")


@dataclass(frozen=True)
class RoundLine:
    """One round of one runtime: the seconds of each run, by name, and what the machine did. `launch` numbers the
    process that measured it.
    """

    runtime: str
    launch: int
    samples: dict[str, tuple[float, ...]]
    reading: Reading


class Journal(Generic[Line]):
    """What is finished so far, oldest first; `add` puts one more on the disk."""

    def __init__(self, file: io.BufferedRandom, lines: list[Line]) -> None:
        self._file = file
        self.lines = lines

    def add(self, line: Line) -> None:
        """Write it and hand it to the system: what was handed over survives this process."""
        with disk_errors(Path(self._file.name)):
            self._file.write(_encoded(schema.to_json(line)))
            self._file.flush()
        self.lines.append(line)


def path_beside(out: Path) -> Path:
    """Where the lines of a bench file are while it is being made."""
    return out.with_name(f".{out.name}.journal.jsonl")


@contextlib.contextmanager
def opened(out: Path, key: str, kind: type[Line]) -> Iterator[Journal[Line]]:
    """The journal of a bench file, with the lines, dataclasses of that kind, that an earlier run with this key left.

    Raises UsageError where another process is writing it. It stays on the disk; `forget` removes it.
    """
    path = path_beside(out)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                "another edgekit is measuring into this file",
                where=str(out),
                hint="wait for it, or give this one another --out",
            ) from error
        yield Journal(file, _resumed(file, key, kind))


def forget(out: Path) -> None:
    """Remove the journal: the bench file holds it all."""
    with disk_errors(path_beside(out)):
        path_beside(out).unlink(missing_ok=True)


def _resumed(file: io.BufferedRandom, key: str, kind: type[Line]) -> list[Line]:
    """The lines that are there; the file ends behind the last whole one, or is begun again with this key."""
    file.seek(0)
    first, *rest = file.read().split(b"\n")
    lines: list[Line] = []
    with disk_errors(Path(file.name)):
        if first + b"\n" != _head(key):
            file.truncate(0)
            file.write(_head(key))
            file.flush()
            return lines
        end = len(_head(key))
        for text in rest[:-1]:  # behind the last end of a line is nothing, or one that was cut off
            if (line := _decoded(text, kind)) is None:
                break
            lines.append(line)
            end += len(text) + 1
        file.truncate(end)
    return lines


def _head(key: str) -> bytes:
    return _encoded({"schema": 1, "key": key})


def _encoded(data: schema.JSON) -> bytes:
    return (json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n").encode()


def _decoded(text: bytes, kind: type[Line]) -> Line | None:
    try:
        return schema.read(kind, json.loads(text))
    except (ValueError, RecursionError):  # SchemaError is a ValueError
        return None

"""An engine file run by trtexec, a process for every sample."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.bench.record import Placement
from edgekit.bench.runtimes._trtexec_program import Choice, Program, call
from edgekit.bench.runtimes._trtexec_times import Run, parse_times
from edgekit.errors import GateFailed, InputUnusable, UsageError
from edgekit.parity.metrics import AnyArray, Feeds

WARM_UP_MS = 200  # trtexec's own default, said explicitly
LIMIT_S = 300.0  # for loading an engine and some runs of it; a large one takes tens of seconds to load
UNQUOTED = re.compile(r"[\w./-]+")  # names that can stand in an option that separates with colons and commas


class TrtexecRunner:
    """An engine file and the program that runs it. Every `sample` is a process of its own, which loads it anew.

    `placement` is not told. `runs` has everything that is known of the runs that were sampled last. See `Runner`.
    """

    placement: Placement | None = None
    threads: int | None = None

    def __init__(self, program: Program, engine: Path, choice: Choice, limit_s: float = LIMIT_S) -> None:
        self._program, self._engine, self._choice, self._limit_s = program, engine, choice, limit_s
        self.transfers = choice.transfers
        self.cuda_graph: bool | None = choice.cuda_graph
        self.spin: bool | None = choice.spin
        self.runs: tuple[Run, ...] = ()
        self._shapes: dict[str, str] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="edgekit-trtexec-"))
        # Also where nobody closes it: an input may be large.
        self._remove_files = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def feed(self, feeds: Feeds) -> None:
        """Write the inputs as the raw files that trtexec loads, and run once on them."""
        for name in feeds:
            if not UNQUOTED.fullmatch(name):
                raise InputUnusable("trtexec cannot be told of an input with such a name", got=name)
        files = {name: self._folder / f"input{number}.bin" for number, name in enumerate(feeds)}
        for name, file in files.items():
            np.ascontiguousarray(feeds[name]).tofile(file)
        self._shapes = {name: "x".join(map(str, feeds[name].shape)) for name in feeds}
        self._files = files
        self.outputs()

    def sample(self, count: int) -> Sequence[float]:
        """Seconds of `count` runs by the device's clock: both copies and the computing, or the computing alone."""
        times = self._folder / "times.json"
        times.unlink(missing_ok=True)
        self._execute([f"--iterations={count}", f"--warmUp={WARM_UP_MS}", f"--exportTimes={times}"], self._choice)
        self.runs = parse_times(_read(times), str(times), WARM_UP_MS)[:count]
        if len(self.runs) < count:
            raise InputUnusable("trtexec made fewer runs than asked", got=str(len(self.runs)), wanted=str(count))
        return [run.latency if self.transfers == "included" else run.compute for run in self.runs]

    def outputs(self) -> Mapping[str, AnyArray]:
        """What one run gives, by name, in float32: trtexec writes numbers as text."""
        file = self._folder / "outputs.json"
        file.unlink(missing_ok=True)
        copied = Choice("included", self._choice.spin, self._choice.cuda_graph)  # or there is nothing to write
        self._execute(["--iterations=1", "--warmUp=0", f"--exportOutput={file}"], copied)
        return parse_outputs(_read(file), str(file))

    def _execute(self, options: Sequence[str], choice: Choice) -> None:
        if not self._shapes:
            raise UsageError("nothing was fed yet", wanted="feed() before the first run")
        command = [str(self._program.path), f"--loadEngine={self._engine}", *self._inputs(), "--duration=0", *options]
        log = call([*command, *choice.options(self._program.version)], self._folder, self._limit_s)
        if wrong := choice.contradictions(log):
            raise GateFailed("trtexec runs otherwise than it was told", where=str(self._engine), got="; ".join(wrong))

    def _inputs(self) -> list[str]:
        loaded = ",".join(f"{name}:{file}" for name, file in self._files.items())
        shapes = ",".join(f"{name}:{shape}" for name, shape in self._shapes.items())
        return [f"--loadInputs={loaded}", f"--shapes={shapes}"]

    def close(self) -> None:
        """Remove the files."""
        self._remove_files()


def parse_outputs(text: str, where: str) -> Mapping[str, AnyArray]:
    """What --exportOutput writes: a list of {name, dimensions: "1x1000", values}. Raises InputUnusable for the rest."""
    try:
        tensors = {it["name"]: _tensor(it["dimensions"], it["values"]) for it in json.loads(text)}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputUnusable(
            "trtexec's outputs are not what --exportOutput writes", where=where, got=str(error)
        ) from error
    if not tensors:
        raise InputUnusable("trtexec wrote no outputs", where=where)
    return tensors


def _tensor(dimensions: str, values: list[float]) -> AnyArray:
    shape = tuple(int(size) for size in dimensions.split("x") if size)
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} values for {dimensions}")
    return np.array(values, np.float32).reshape(shape)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError) as error:
        raise InputUnusable("trtexec left no such file", where=str(file), got=str(error)) from error

"""trtexec as a program: its options for every version, its time limit, and what it says. Nothing heavy is imported."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.bench.record import Transfers
from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes._settings import refuse
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.isolation import IsolationFailed

BANNER = re.compile(r"\[TensorRT v(\d+)\]")
HELP_LIMIT_S = 60.0
TAIL_LINES = 8
EXPLICIT_DEFAULTS = (11,)  # from this version on, transfers are off, and spinning and CUDA graphs on, unless one says
NO_GRAPH = "not permitted under CUDA graph capture"


@dataclass(frozen=True)
class Program:
    """A trtexec that runs, and its version as (major, minor, patch)."""

    path: Path
    version: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """What every version is told explicitly."""

    transfers: Transfers
    spin: bool
    cuda_graph: bool

    def options(self, version: tuple[int, ...]) -> list[str]:
        """The options that make it so; none that the version lacks. Source: tests/reference/trtexec_flags.json."""
        undo = version >= EXPLICIT_DEFAULTS
        included = ["--includeDataTransfers"] if undo else []
        asleep = ["--noSpinWait"] if undo else []
        plain = ["--noCudaGraph"] if undo else []
        return [
            *(included if self.transfers == "included" else ["--noDataTransfers"]),
            *(["--useSpinWait"] if self.spin else asleep),
            *(["--useCudaGraph"] if self.cuda_graph else plain),
        ]

    def contradictions(self, log: str) -> list[str]:
        """What trtexec says of itself that is otherwise. It need not say it."""
        wanted = {
            "Data transfers": self.transfers == "included",
            "Spin-wait": self.spin,
            "CUDA Graph": self.cuda_graph,
        }
        found = []
        for name, on in wanted.items():
            said = re.search(rf"\b{name}: (Enabled|Disabled)", log)
            if said and (said[1] == "Enabled") != on:
                found.append(said[0])
        return [*found, *([NO_GRAPH] if self.cuda_graph and NO_GRAPH in log else [])]


def choose(settings: Settings) -> Choice:
    """The settings with their defaults: with transfers, as the caller of a network has them; no spinning, no graph."""
    refuse(settings, "compiled")
    if settings.transfers == "none":
        raise UsageError("a GPU has transfers", got="none", wanted="included or excluded")
    return Choice(settings.transfers or "included", bool(settings.spin), bool(settings.cuda_graph))


def ask_version(path: Path) -> Program:
    """The program with its version. Raises MachineLacks where it does not run, or is something else."""
    log = call([str(path), "--help"], Path.cwd(), HELP_LIMIT_S, must_pass=False)
    banner = BANNER.search(log)
    if banner is None:
        raise MachineLacks("this trtexec does not say its version", where=str(path), got=_tail(log))
    return Program(path, decode_version(int(banner[1])))


def decode_version(number: int) -> tuple[int, int, int]:
    """(major, minor, patch) of the number in trtexec's first line: 8601 is 8.6.1, 100300 is 10.3.0."""
    major = 1000 if number < 10_000 else 10_000
    return number // major, number % major // 100, number % 100


def call(command: Sequence[str], folder: Path, limit_s: float, *, must_pass: bool = True) -> str:
    """What the program printed. Raises MachineLacks where it cannot be started, IsolationFailed where it dies or takes
    longer than `limit_s` seconds, InputUnusable where it says that it failed.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, process_group=0
            )
        except OSError as error:
            raise MachineLacks(
                "trtexec cannot be started", where=command[0], got=error.strerror or str(error)
            ) from error
        code = _wait(process, limit_s)
        said.seek(0)
        log = said.read().decode(errors="replace")
    if code is None:
        raise IsolationFailed(f"trtexec took longer than {limit_s:g} s and was stopped", got=_tail(log))
    if code < 0:
        raise IsolationFailed(f"trtexec died: {signal.Signals(-code).name}", got=_tail(log))
    if must_pass and (code != 0 or "&&&& PASSED" not in log):
        raise InputUnusable("trtexec cannot run the engine", got=_tail(log) or f"exit code {code}")
    return log


def _wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """The exit code; None where it had to be ended, with whatever it had started."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(log: str) -> str:
    """Its errors, or its last lines where it names none."""
    lines = [line for line in log.strip().splitlines() if line.strip()]
    errors = [line for line in lines if "[E]" in line]
    return "\n".join((errors or lines)[-TAIL_LINES:])

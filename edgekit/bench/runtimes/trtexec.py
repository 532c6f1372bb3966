"""TensorRT's own program, which every JetPack has: it needs no Python package. Unverified: it needs a GPU.

It times with the device's clock. Data transfers, spinning and CUDA graphs are set explicitly for every version, as 11.0
changed what it does by default. What is tested without a GPU: how it is called, and how its answers are read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from edgekit.bench.record import Clock
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Settings
from edgekit.bench.runtimes._presence import missing_gpu
from edgekit.bench.runtimes._trtexec_program import ask_version, choose
from edgekit.engines.plan import read_plan_header
from edgekit.engines.trtexec import PROGRAM
from edgekit.errors import InputUnusable, MachineLacks


class Trtexec:
    """Engines of full TensorRT, each `sample` in a process of its own. See `Runtime`."""

    name = "trtexec"
    clock: Clock = "device"
    kinds: tuple[ArtifactKind, ...] = ("engine",)
    flavour: str | None = "tensorrt"

    def missing(self) -> str | None:
        """The program, or a GPU for it."""
        if find_program() is None:
            return f"trtexec, which comes with TensorRT (neither on the PATH nor {PROGRAM})"
        return missing_gpu()

    def versions(self) -> Mapping[str, str]:
        """The TensorRT that it says it is of; nothing where there is none."""
        path = find_program()
        return {} if path is None else {"tensorrt": ".".join(map(str, ask_version(path).version))}

    def open(self, candidate: Candidate, settings: Settings) -> Runner:
        """An engine of full TensorRT. Raises MachineLacks without the program, InputUnusable for another file,
        UsageError for settings that it does not have; what it says of the engine is raised by `feed`.
        """
        from edgekit.bench.runtimes._trtexec import TrtexecRunner

        path = find_program()
        if path is None:
            raise MachineLacks("trtexec is not here", hint="it comes with TensorRT; every JetPack has it")
        header = read_plan_header(candidate.path)
        if header.flavour != "tensorrt":
            raise InputUnusable(
                "trtexec runs engines of full TensorRT",
                where=str(candidate.path),
                got=header.flavour,
                wanted="tensorrt",
            )
        return TrtexecRunner(ask_version(path), candidate.path.absolute(), choose(settings))


def find_program() -> Path | None:
    """Where trtexec is: on the PATH, or where JetPack and the packages of TensorRT put it."""
    found = shutil.which("trtexec")
    if found is not None:
        return Path(found)
    return Path(PROGRAM) if os.access(PROGRAM, os.X_OK) and Path(PROGRAM).is_file() else None


RUNTIME = Trtexec()

"""Settings that a runtime does not have are refused; those that nobody chose get a value that can be recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from edgekit.bench.runtimes import Settings
from edgekit.errors import UsageError

CPUS = Path("/sys/devices/system/cpu")


def refuse(settings: Settings, *names: Literal["cuda_graph", "compiled", "spin"]) -> None:
    """Raise UsageError where one of these is on: for runtimes that cannot do it."""
    for name in names:
        if getattr(settings, name):
            raise UsageError("this runtime has no such setting", where=name, got="on", wanted="off")


def refuse_transfers(settings: Settings) -> None:
    """Raise UsageError where transfers are asked for: on the CPU there are none."""
    if settings.transfers not in (None, "none"):
        raise UsageError("nothing is transferred on the CPU", got=settings.transfers, wanted="none")


def usable_cores(root: Path = CPUS) -> int:
    """The cores that this process may run on; two hardware threads of one core count once, as they share its units."""
    return len({_siblings(root, cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(root: Path, cpu: int) -> str:
    try:
        return (root / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:  # nobody says: a core of its own
        return str(cpu)

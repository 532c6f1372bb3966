"""How many threads a runtime gets that is not told."""

from __future__ import annotations

import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")


def usable_cores(root: Path = CPUS) -> int:
    """The cores that this process may run on; two hardware threads of one core count once, as they share its units."""
    return len({_siblings(root, cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(root: Path, cpu: int) -> str:
    try:
        return (root / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:  # nobody says: a core of its own
        return str(cpu)

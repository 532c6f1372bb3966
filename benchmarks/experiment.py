"""The bar of `edgekit experiment`: killed again and again, in processes and on Ray, it ends with the same table.

    python benchmarks/experiment.py                # 3 networks x 2 widths x 2 resolutions on digits, about 10 minutes
    python benchmarks/experiment.py --quick        # 3 x 1 x 2, one epoch

Four runs of the same experiment by the command line's own function, each in a process of its own:
undisturbed; the process killed twice and one of its workers once, each in the middle of a cell, the same command going
on each time; undisturbed on a local Ray cluster of two worker processes; and on one of which a worker is killed in the
middle of a cell. All signals are SIGKILL. The tables (csv, json, md) have to be the same byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgekit import environment
from edgekit.plan import tool_versions

RESULTS = Path(__file__).parent / "results" / "experiment.json"
TABLES = ("table.csv", "table.json", "table.md")
CODE = """
import sys, typer
from edgekit.cli.experiment import experiment
app = typer.Typer()
app.command()(experiment)
app()
"""
WAIT_S = 600.0


@dataclass
class Told:
    """One run: how often it was started, what was killed and where that cell was, and what came of it."""

    name: str
    starts: int = 0
    kills: list[str] = field(default_factory=list)
    seconds: float = 0.0
    exit_code: int | None = None
    tables: dict[str, str] = field(default_factory=dict)


class Run:
    """One experiment in one folder, as often as it is started."""

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self.folder, self.told = folder / name, Told(name)
        self.command = [sys.executable, "-c", CODE, *arguments, "--out", str(self.folder)]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, or let it go on."""
        self.told.starts += 1
        self.log = (self.folder.parent / f"{self.told.name}.log").open("ab")
        self.before = self._checkpoints()
        return subprocess.Popen(self.command, stdout=self.log, stderr=self.log)

    def kill_in_a_cell(self, parent: subprocess.Popen[bytes], choose: Callable[[int], int | None], what: str) -> None:
        """Wait until a cell has a new checkpoint and is not over, and kill what `choose` finds then."""
        deadline = time.monotonic() + WAIT_S
        victim = None
        while victim is None:
            if parent.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.told.name}: there was nothing to kill")
            time.sleep(0.05)
            fresh = [slug for slug, when in self._checkpoints().items() if self.before.get(slug) != when]
            victim = choose(parent.pid) if fresh else None
        os.kill(victim, signal.SIGKILL)
        self.told.kills.append(f"{what}, {_going(self.folder)}")

    def end(self, parent: subprocess.Popen[bytes]) -> None:
        """Wait for the end, and take down the tables."""
        self.told.exit_code = parent.wait()
        self.log.close()
        for name in TABLES:
            with contextlib.suppress(FileNotFoundError):
                self.told.tables[name] = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def _checkpoints(self) -> dict[str, int]:
        found = {}
        for path in self.folder.glob("cells/*/state.ckpt"):
            with contextlib.suppress(FileNotFoundError):
                found[path.parent.name] = path.stat().st_mtime_ns
        return found


def _going(folder: Path) -> str:
    """Where the cells were that had begun: finished epochs, and steps that were written."""
    cells = [path.parent for path in sorted(folder.glob("cells/*/state.ckpt"))]
    return "; ".join(f"{cell.name} after {_lines(cell / 'steps.csv')} steps" for cell in cells)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def _itself(pid: int) -> int:
    return pid


def _worker(pid: int) -> int | None:
    return next((child for child in _below(pid) if b"edgekit.isolation" in _command(child)), None)


def _ray_worker(pid: int) -> int | None:
    return next((child for child in _below(pid) if _command(child).startswith(b"ray::_train")), None)


def _below(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(path.parent.name), *_below(int(path.parent.name))]
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


Kill = tuple[Callable[[int], int | None], str]
PARENT: Kill = (_itself, "the experiment's process")
WORKER: Kill = (_worker, "a worker process")
RAY: Kill = (_ray_worker, "a Ray worker process")


def play(name: str, arguments: list[str], folder: Path, kills: list[Kill]) -> Told:
    """One run with its kills, to its end."""
    run, start = Run(name, arguments, folder), time.perf_counter()
    parent = run.start()
    for choose, what in kills:
        run.kill_in_a_cell(parent, choose, what)
        if choose is _itself:
            parent.wait()
            parent = run.start()
        else:
            run.before = run._checkpoints()
    run.end(parent)
    run.told.seconds = round(time.perf_counter() - start, 1)
    print(f"{name}: exit code {run.told.exit_code}, {run.told.starts} starts, {run.told.seconds} s", file=sys.stderr)
    return run.told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="keep the folders of the runs there")
    given = parser.parse_args()
    grid = [
        "--alpha",
        "0.25" if given.quick else "0.35,0.25",
        "--res",
        "32,64",
        "--epochs",
        "1" if given.quick else "2",
    ]
    arguments = ["--data", "digits", *grid, "--batch", "64", "--jobs", "2", "--threads", "1", "--checkpoint-every", "2"]
    ray = [*arguments, "--ray", "local"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        runs = [
            play("undisturbed", arguments, folder, []),
            play("killed", arguments, folder, [PARENT, WORKER, PARENT]),
            play("ray", ray, folder, []),
            play("ray-killed", ray, folder, [RAY]),
        ]
        table = (folder / "undisturbed" / "table.md").read_text().splitlines()
    same = all(run.tables == runs[0].tables and run.exit_code == 0 for run in runs)
    body = {
        "command": " ".join(arguments),
        "same_tables": same,
        "runs": [asdict(run) for run in runs],
        "table": table,
        "machine": environment.stamp(),
        "tools": tool_versions(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(body, indent=1) + "\n")
    print("\n".join(table))
    print("the same table four times" if same else "THE TABLES DIFFER")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()

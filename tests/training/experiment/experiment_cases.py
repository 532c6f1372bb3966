"""Small experiments on a few made-up images, as values, and as a process that can be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.training.experiment import folder
from edgekit.training.experiment.request import NETWORKS, Experiment
from edgekit.training.recipe import RECIPES
from edgekit.training.sources import parse_data

IMAGES = 8  # of each class


def images(place: Path) -> Path:
    """Two classes that differ in colour, with noise on them."""
    noise = np.random.default_rng(0)
    for name, colour in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
        (place / name).mkdir(parents=True)
        for number in range(IMAGES):
            pixels = np.clip(np.array(colour) + noise.normal(0, 60, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


def small(data: Path, **changes: object) -> Experiment:
    """Six cells of a few steps; a checkpoint after each."""
    plain = Experiment(
        networks=NETWORKS,
        alphas=(0.25,),
        resolutions=(32, 64),
        seeds=(0,),
        data=parse_data(str(data)),
        recipe=replace(RECIPES["mobilenet"], epochs=2, batch=4),
        workers=0,
        checkpoint_every_s=0.0,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


PROCESS = """
import sys
from pathlib import Path
from experiment_cases import small
from edgekit.training.experiment import running

data, out, jobs, ray = sys.argv[1:]
running.run(small(Path(data)), Path(out), running.Place(int(jobs), 2, ray or None))
"""


def process(data: Path, out: Path, jobs: int = 2, ray: str = "") -> subprocess.Popen[str]:
    """The experiment of `small` in a process of its own, with warnings as errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROCESS, str(data), str(out), str(jobs), ray],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def begun(out: Path, experiment: Experiment) -> Callable[[], bool]:
    """Whether a cell has got a checkpoint since this was called, and is not over yet."""
    files = [folder.run_of(out, cell) / "state.ckpt" for cell in experiment.cells]

    def times() -> dict[Path, int]:
        found = {}
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
        return found

    before = times()
    return lambda: any(before.get(path) != time for path, time in times().items())


def children(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found

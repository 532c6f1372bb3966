"""ONNX files that nobody here made end proven, or with a reason that says what is in the way: none crashes or grows.

`benchmarks/real_graphs.py` takes all of them; these are the quick ones of every kind.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import golden, manifest
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = pytest.mark.xdist_group("real graphs")

BACKEND = "backend/test/data"
FILES = {
    "squeezenet": ("onnx", f"{BACKEND}/light/light_squeezenet.onnx"),
    "sigmoid": ("onnxruntime", "datasets/sigmoid.onnx"),
    "relu": ("onnx", f"{BACKEND}/simple/test_single_relu_model/model.onnx"),
    "sequence": ("onnx", f"{BACKEND}/simple/test_sequence_model4/model.onnx"),
    "depthwise": ("onnx", f"{BACKEND}/pytorch-converted/test_Conv2d_depthwise_padded/model.onnx"),
    "pool": ("onnx", f"{BACKEND}/pytorch-converted/test_AvgPool2d/model.onnx"),
    "gradient": ("onnx", f"{BACKEND}/simple/test_gradient_of_add/model.onnx"),
}
PROVEN = ("sigmoid", "relu", "sequence", "depthwise")  # the last is of opset 6
GROWTH, ROOM = 3, 50 << 20  # what may be left on disk for each byte of the file, and besides, for inputs of any size


@dataclass(frozen=True)
class Ending:
    """What became of a file; `error` None: it is proven."""

    source: Path
    dir: Path | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True)
class Run:
    """The process that took all the files, and what became of each, by name."""

    code: int
    said: str
    endings: Mapping[str, Ending]


def found(package: str, file: str) -> Path | None:
    """The file in an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    paths = spec.submodule_search_locations if spec else None
    return next((path for root in paths or () if (path := Path(root) / file).is_file()), None)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Copies of those that are installed, each under a name of its own, in one run."""
    folder = tmp_path_factory.mktemp("real")
    sources = {name: path for name, place in FILES.items() if (path := found(*place)) is not None}
    copies = [str(shutil.copy(path, folder / f"{name}.onnx")) for name, path in sources.items()]
    argv = ["export", *copies, "--no-engine", "--jobs", "1", "--out", str(folder / "artifacts"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", "from edgekit.cli import main; main()", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.stdout, done.stderr
    results = {result["variant"]["model"]: result for result in json.loads(done.stdout)["variants"]}
    endings = {name: Ending(folder / f"{name}.onnx", left(folder, name), results[name]["error"]) for name in sources}
    return Run(done.returncode, done.stderr, endings)


def left(folder: Path, name: str) -> Path | None:
    """The folder of artifacts, proven or failed."""
    return next((path for end in ("", ".failed") if (path := folder / "artifacts" / f"{name}{end}").is_dir()), None)


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest, ran: Run) -> str:
    """Every file: onnx brings them all."""
    assert request.param in ran.endings
    return str(request.param)


def test_the_run_ends_in_an_orderly_way(ran: Run) -> None:
    assert ran.code in (0, 1, 4)
    assert "Traceback" not in ran.said


def test_each_is_proven_or_says_what_is_in_the_way(ran: Run, name: str) -> None:
    ending = ran.endings[name]
    if ending.error is None:
        assert ending.dir is not None
        assert manifest.read_verified(ending.dir)[0].passed
    else:
        assert ending.error["exit_code"] in (1, 4)
        assert ending.error["what"]
        assert ending.error["found"] or ending.error["where"]


def test_a_file_that_is_at_fault_leaves_nothing_where_good_ones_are_expected(ran: Run, name: str) -> None:
    ending = ran.endings[name]
    if ending.error is not None:
        assert ending.dir is None or ending.dir.name == f"{name}.failed"


def test_nothing_grows_on_disk(ran: Run, name: str) -> None:
    ending = ran.endings[name]
    files = ending.dir.rglob("*") if ending.dir else []
    assert sum(path.stat().st_size for path in files) < GROWTH * ending.source.stat().st_size + ROOM


@pytest.mark.parametrize("proven", PROVEN)
def test_what_is_proven_computes_what_the_file_does(ran: Run, proven: str) -> None:
    """Not by the ladder's own word: the delivered graph runs beside the file itself."""
    ending = ran.endings[proven]
    assert ending.error is None
    assert ending.dir is not None
    stored = golden.unpack(ending.dir / "golden.npz")
    theirs, ours = (CpuSession(path.read_bytes()) for path in (ending.source, ending.dir / "model.onnx"))
    for given in stored.inputs:
        wanted, got = theirs(given.feeds), ours(given.feeds)
        assert list(got) == list(wanted)
        for output in wanted:
            np.testing.assert_allclose(got[output], wanted[output], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("refused", "what"),
    [("pool", "the model's opset is out of range"), ("gradient", "ONNX Runtime cannot load the graph")],
)
def test_some_cannot_be_carried_and_are_refused_by_name(ran: Run, refused: str, what: str) -> None:
    ending = ran.endings[refused]
    assert ending.error is not None
    assert ending.error["what"] == what
    assert ending.dir is None

"""PyTorch as something to be measured: the very module that was exported, in a stated layout and number of threads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit import golden, manifest
from edgekit.bench.runtimes import Candidate, Runner, Settings
from edgekit.bench.runtimes.torch import RUNTIME
from edgekit.cli import run
from edgekit.errors import InputUnusable, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = Settings(threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifacts")
    arguments = ["--alpha", "0.35", "--res", "96", "--precision", "fp32", "--no-engine", "--out", str(out), "--quiet"]
    assert run(["export", "mobilenet_v2", *arguments]) == 0
    return next(path.parent for path in out.rglob("manifest.json"))


def candidate(folder: Path) -> Candidate:
    return Candidate(folder, "module", folder / "manifest.json", "")


@pytest.fixture
def runner(folder: Path) -> Iterator[Runner]:
    opened = RUNTIME.open(candidate(folder), ONE)
    yield opened
    opened.close()


def test_it_runs_here_and_says_what_it_is() -> None:
    assert RUNTIME.missing() is None
    assert RUNTIME.versions() == {"torch": torch.__version__.partition("+")[0], "memory-format": "channels-last"}


def test_it_gives_what_was_exported(folder: Path, runner: Runner) -> None:
    stored = golden.unpack(folder / "golden.npz")
    for given, wanted in zip(stored.inputs, stored.outputs, strict=True):
        runner.feed(given.feeds)
        found = runner.outputs()
        assert set(found) == {"logits"} <= set(wanted)
        np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-3, atol=1e-4)


def test_every_run_is_timed(folder: Path, runner: Runner) -> None:
    runner.feed(golden.unpack(folder / "golden.npz").inputs[0].feeds)
    assert len(runner.sample(3)) == 3
    assert all(seconds > 0 for seconds in runner.sample(2))


def test_threads_are_set_whatever_others_did(folder: Path, runner: Runner) -> None:
    runner.feed(golden.unpack(folder / "golden.npz").inputs[0].feeds)
    torch.set_num_threads(2)
    runner.sample(1)
    assert torch.get_num_threads() == 1
    assert (runner.threads, runner.spin, runner.transfers) == (1, False, "none")


def test_how_several_threads_wait_is_not_claimed(folder: Path) -> None:
    assert RUNTIME.open(candidate(folder), Settings(threads=2)).spin is None


def test_other_names_are_refused(runner: Runner) -> None:
    with pytest.raises(InputUnusable, match="not the network's inputs"):
        runner.feed({"image": np.zeros((1, 3, 96, 96), np.float32)})


def test_a_wrong_shape_is_refused(runner: Runner) -> None:
    with pytest.raises(InputUnusable, match="cannot run"):
        runner.feed({"input": np.zeros((1, 4, 96, 96), np.float32)})


def test_no_run_before_the_inputs(runner: Runner) -> None:
    with pytest.raises(UsageError, match="nothing was fed"):
        runner.sample(1)


@pytest.mark.parametrize("settings", [Settings(cuda_graph=True), Settings(transfers="included")])
def test_settings_that_it_has_not_are_refused(folder: Path, settings: Settings) -> None:
    with pytest.raises(UsageError):
        RUNTIME.open(candidate(folder), settings)


def test_other_weights_than_were_exported_are_refused(folder: Path, tmp_path: Path) -> None:
    """A planted fault: the checkpoint was trained on after the export."""
    from edgekit import sources
    from edgekit.variant import Variant

    network = sources.network(Variant("mobilenet_v2", 0.35, 96, 1), sources.parse_weights("none"))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = ["--alpha", "0.35", "--res", "96", "--weights", str(tmp_path / "weights.pt"), "--precision", "fp32"]
    assert run(["export", "mobilenet_v2", *options, "--no-engine", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    exported = next(path.parent for path in (tmp_path / "out").rglob("manifest.json"))
    RUNTIME.open(candidate(exported), ONE)
    with torch.no_grad():
        next(network.parameters()).add_(1e-3)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputUnusable, match="not the weights that were exported"):
        RUNTIME.open(candidate(exported), ONE)


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable) as caught:
        RUNTIME.open(candidate(tmp_path), ONE)
    assert str(tmp_path) in (caught.value.where or "")


def test_the_loaded_module_is_the_manifest_s(folder: Path) -> None:
    assert manifest.read(folder).weights.kind == "seed"


# Without vector instructions and precompiled headers it compiles three files less, in a fifth of the time.
QUICK = {"TORCHINDUCTOR_VEC_ISA_OK": "0", "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}

FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""

COMPILED = """
import json, sys
from pathlib import Path
import numpy as np
from edgekit import golden
from edgekit.bench.runtimes import Candidate, Settings
from edgekit.bench.runtimes.torch import RUNTIME
from edgekit.errors import MachineLacks
folder = Path(sys.argv[1])
stored = golden.unpack(folder / "golden.npz")
runner = RUNTIME.open(Candidate(folder, "module", folder, ""), Settings(threads=1, compiled=True))
try:
    runner.feed(stored.inputs[0].feeds)
except MachineLacks as error:
    print(json.dumps({"lacks": str(error)}))
    sys.exit()
gap = max(float(np.abs(found - stored.outputs[0][name]).max()) for name, found in runner.outputs().items())
print(json.dumps({"gap": gap, "samples": len(runner.sample(2)), "kind": type(runner._module).__name__}))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one convolution: compiling takes seconds."""
    home = tmp_path_factory.mktemp("small")
    (home / "net.py").write_text(FACTORY)
    arguments = ["--res", "16", "--precision", "fp32", "--no-engine", "--out", str(home / "out"), "--quiet"]
    assert run(["export", f"{home}/net.py:make", *arguments]) == 0
    return next(path.parent for path in home.rglob("manifest.json"))


def compiled(folder: Path, path: str, cache: Path) -> dict[str, object]:
    """What COMPILED says in a process that finds programs in `path` only."""
    environment = {key: value for key, value in os.environ.items() if key != "CXX"}
    environment |= {"PATH": path, "TORCHINDUCTOR_CACHE_DIR": str(cache), **QUICK}
    arguments = [sys.executable, "-c", COMPILED, str(folder)]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
    return found


def test_compiled_it_gives_the_same(small: Path, tmp_path: Path) -> None:
    found = compiled(small, os.environ["PATH"], tmp_path)
    if shutil.which("g++") is None:
        assert "C++ compiler" in str(found["lacks"])
        return
    assert found["samples"] == 2
    assert found["kind"] == "OptimizedModule"
    assert float(str(found["gap"])) < 1e-5


def test_without_a_compiler_it_says_what_is_needed(small: Path, tmp_path: Path) -> None:
    found = compiled(small, str(tmp_path), tmp_path)
    assert "apt-get install g++" in str(found["lacks"])

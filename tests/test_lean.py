"""What is left out of PyTorch is left out of nothing that is made with it, and is there for whoever asks."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgekit import lean, models, pipeline, profile, sources
from edgekit.journey import Journey
from edgekit.models import info
from edgekit.plan import Plan
from edgekit.variant import Variant

needs_a_tested_release = pytest.mark.skipif(
    not lean.is_tested(torch.__version__), reason=f"PyTorch {torch.__version__} is imported as a whole (lean.TESTED)"
)
PREPARE = """
import sys
from edgekit import lean
lean.import_torch()
import torch
assert lean.KERNELS_WITHOUT_DATA not in sys.modules
assert not hasattr(torch, "_meta_registrations")
"""
# The command line: notes who fetches what was left out, in whatever process, and says at its end whether it was.
COMMAND = """
import sys, traceback
from edgekit import cli, lean
complete, note = lean.complete, sys.argv.pop(1)
def noted():
    with open(note, "a") as file: file.write("".join(traceback.format_stack()))
    return complete()
lean.complete = noted
code = cli.run(sys.argv[1:])
print(lean.KERNELS_WITHOUT_DATA not in sys.modules)
sys.exit(code)
"""
CONVOLVE = "torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8, device='meta'), torch.zeros(4, 3, 3, 3, device='meta'))"


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("installed", "tested"),
    [("2.14.1+cu130", True), ("2.14.1", True), ("2.14.2", False), ("2.14.10", False), ("", False)],
)
def test_every_build_of_a_release_is_that_release_and_another_patch_is_none(installed: str, tested: bool) -> None:
    assert lean.is_tested(installed) is tested


@needs_a_tested_release
def test_what_was_left_out_comes_when_it_is_asked_for() -> None:
    said = python(
        f"{PREPARE}\n"
        f"try: {CONVOLVE}\n"
        "except NotImplementedError: print('without')\n"
        f"print(lean.complete(), tuple({CONVOLVE}.shape), lean.complete())\n"
        "import torchvision, torch._meta_registrations\n"
        "torch.Generator()\n"
    )
    assert said.split("\n")[:2] == ["without", "True (1, 4, 6, 6) False"]


@needs_a_tested_release
def test_whoever_imports_it_gets_the_real_one() -> None:
    python(f"{PREPARE}\nimport torch._meta_registrations\n{CONVOLVE}\nassert not lean.complete()")


@needs_a_tested_release
def test_optional_packages_are_there_afterwards() -> None:
    python(f"{PREPARE}\nassert lean.OPTIONAL not in sys.modules\nassert not torch.cuda._utils._HAS_CUDA_BINDINGS")


@needs_a_tested_release
def test_the_exporter_that_needs_it_fetches_it() -> None:
    python(
        f"{PREPARE}\n"
        "from edgekit.graph.from_torch import export_onnx\n"
        "layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()\n"
        "assert export_onnx(layer, torch.zeros(1, 3, 8, 8), 18, 'dynamo')\n"
        "assert not lean.complete()\n"
    )


def test_a_program_that_exports_keeps_a_whole_pytorch(tmp_path: Path) -> None:
    """Only the command's own process does without."""
    python(
        "import sys\nfrom pathlib import Path\nfrom edgekit import lean, pipeline, profile, sources\n"
        "from edgekit.plan import Plan\nfrom edgekit.variant import Variant\n"
        "cpu, out = profile.load('cpu'), Path(sys.argv[1])\n"
        "plan = Plan(sources.SeedWeights(0), (cpu,), ('fp32',), parity='quick', out=out)\n"
        "(outcome,) = pipeline.export_grid([Variant('mobilenet_v2', 0.1, 32)], plan)\nassert outcome.error is None\n"
        "assert lean.KERNELS_WITHOUT_DATA in sys.modules\nimport torchvision",
        str(tmp_path),
    )


def test_another_release_is_imported_as_a_whole() -> None:
    python(
        "import sys\nfrom edgekit import lean\nlean.TESTED = ('1.0',)\nlean.import_torch()\n"
        "assert lean.KERNELS_WITHOUT_DATA in sys.modules\nassert not lean.complete()"
    )


def test_a_pytorch_that_is_there_already_is_left_alone() -> None:
    lean.import_torch()
    assert not lean.complete()
    assert torch.empty(1, device="meta").add(1).shape == (1,)


def test_what_fails_without_is_tried_again_with_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and only where something had been left out: a failure that comes again is the variant's."""
    left = [True]
    walks = tmp_path / "walks"
    walk = Journey.walk

    def failing(self: Journey, *given: object) -> object:
        with walks.open("a") as file:
            file.write("x")
        if left:
            raise RuntimeError("no kernel for that")
        return walk(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(lean, "complete", lambda: bool(left) and left.pop())
    monkeypatch.setattr(Journey, "walk", failing)
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path / "out")
    outcomes = pipeline.export_grid([Variant("mobilenet_v2", 0.1, side) for side in (32, 64)], plan)
    assert [outcome.error and outcome.error.details() for outcome in outcomes] == [None, None]
    assert len(walks.read_text()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", models.names())
def test_a_network_becomes_the_same_files_without_it(name: str, tmp_path: Path) -> None:
    """The command imports as little as it can; this process has all of it."""
    about = info(name)
    alpha = 0.35 if about.has_alpha else None
    side = about.smallest + 32
    variant = [name, "--res", str(side), *(["--alpha", str(alpha)] if alpha else [])]
    how = ["--no-engine", "--parity", "quick", "--out", str(tmp_path / "lean")]
    left_out = python(COMMAND, str(tmp_path / "fetched"), "export", *variant, *how)
    assert left_out.splitlines()[-1] == str(lean.is_tested(torch.__version__))
    assert not (tmp_path / "fetched").exists()
    plan = Plan(sources.SeedWeights(0), (profile.load("rtx"),), engines=False, parity="quick", out=tmp_path / "full")
    (outcome,) = pipeline.export_grid([Variant(name, alpha, side)], plan)
    assert outcome.error is None
    for file in ("model.onnx", "model.fp16.onnx", "golden.npz"):
        here, there = outcome.directory / file, tmp_path / "lean" / outcome.directory.name / file
        assert hashlib.sha256(here.read_bytes()).digest() == hashlib.sha256(there.read_bytes()).digest(), file

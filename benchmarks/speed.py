"""edgekit's export against the loop that everyone writes, side by side: whole processes, paired rounds, medians.

    python benchmarks/speed.py               # everything: about 5 minutes a round on two cores
    python benchmarks/speed.py --rounds 5 --only start main grid-quick

Every round runs every contestant once, in fresh random order, so that a slow minute of the machine hits all alike.
Ratios are taken within a round; what is printed and stored is their median, with the smallest and the largest.
The loops are written below, in `NAIVE`: a fresh network per variant, torch.onnx.export, onnx.checker, onnxsim, and
ONNX Runtime against PyTorch on three inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit import environment
from edgekit.plan import tool_versions

# With byte code, as an installation has it: some environments forbid to write it, and a checkout then has none.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
RESULTS = Path(__file__).parent / "results" / "speed.json"
ALPHAS, RESOLUTIONS = "1,0.75,0.5,0.35", "224,192,160,128,96"

NAIVE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, onnx, onnxruntime, onnxsim, torch, torchvision
dynamo, out = sys.argv[1] == "dynamo", sys.argv[2]
for alpha in (1, 0.75, 0.5, 0.35):
    for res in (224, 192, 160, 128, 96):
        model = torchvision.models.mobilenet_v2(width_mult=alpha).eval()
        path = f"{out}/v2-{alpha}-{res}.onnx"
        torch.onnx.export(model, (torch.randn(1, 3, res, res),), path, input_names=["input"], dynamo=dynamo)
        onnx.checker.check_model(path)
        simple, ok = onnxsim.simplify(onnx.load(path))
        assert ok
        onnx.save(simple, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for _ in range(3):
            x = torch.randn(1, 3, res, res)
            with torch.no_grad():
                wanted = model(x).numpy()
            np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], wanted, rtol=1e-3, atol=1e-5)
"""


@dataclass(frozen=True)
class Contestant:
    """One whole process. `argv` gets a fresh folder, or the one of `warm_from` with that contestant's results."""

    name: str
    argv: Callable[[str], list[str]]
    part: str
    warm_from: str | None = None


@dataclass(frozen=True)
class Bar:
    """`contestant` takes at most `limit` times what `reference` takes (or at least, for a speed-up)."""

    name: str
    contestant: str
    reference: str
    limit: float
    figure: str = "seconds"
    speedup: bool = False


def python(code: str) -> Callable[[str], list[str]]:
    return lambda _folder: [sys.executable, "-c", code]


def naive(kind: str) -> Callable[[str], list[str]]:
    return lambda folder: [sys.executable, "-c", NAIVE, kind, folder]


def edgekit(*arguments: str) -> Callable[[str], list[str]]:
    return lambda _folder: [str(Path(sys.executable).parent / "edgekit"), *arguments]


def export(*arguments: str) -> Callable[[str], list[str]]:
    return lambda folder: [*edgekit("export", "mobilenet_v2")(folder), *arguments, "--out", folder, "--quiet"]


GRID = ("--alpha", ALPHAS, "--res", RESOLUTIONS, "--no-engine")
CONTESTANTS = (
    Contestant("import typer, rich", python("import typer, rich"), "start"),
    Contestant("edgekit --help", edgekit("--help"), "start"),
    Contestant("edgekit profiles", edgekit("profiles"), "start"),
    Contestant("import torch", python("import torch"), "main"),
    Contestant("main job", export("--alpha", "0.5", "--res", "160"), "main"),
    Contestant("grid, quick", export(*GRID, "--precision", "fp32", "--parity", "quick"), "grid-quick"),
    Contestant("grid, full", export(*GRID), "grid-full"),
    Contestant("grid, full, warm", export(*GRID), "grid-full", warm_from="grid, full"),
    Contestant("loop, torchscript", naive("torchscript"), "loop-torchscript"),
    Contestant("loop, default", naive("dynamo"), "loop-default"),
)
BARS = (
    Bar("--help at most 3 times import typer, rich", "edgekit --help", "import typer, rich", 3),
    Bar("profiles at most 3 times import typer, rich", "edgekit profiles", "import typer, rich", 3),
    Bar("main job at most 3 times import torch", "main job", "import torch", 3),
    Bar("quick grid 25 times faster than the default loop", "grid, quick", "loop, default", 25, speedup=True),
    Bar("quick grid 5 times faster than the torchscript loop", "grid, quick", "loop, torchscript", 5, speedup=True),
    Bar("full grid 12 times faster than the default loop", "grid, full", "loop, default", 12, speedup=True),
    Bar("warm grid at most half of import torch", "grid, full, warm", "import torch", 0.5),
    Bar("quick grid's memory at most 1.3 times import torch", "grid, quick", "import torch", 1.3, "peak_mb"),
    Bar("full grid's memory at most 1.3 times import torch", "grid, full", "import torch", 1.3, "peak_mb"),
)

Round = dict[str, dict[str, float]]


def run(argv: list[str]) -> dict[str, float]:
    """Wall seconds, and the peak resident memory of the largest process among it and its descendants."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{argv[:3]} failed:\n{said.decode(errors='replace')[-2000:]}")
    process.returncode = 0
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss / 1024}


def one_round(chosen: list[Contestant], scratch: Path) -> Round:
    measured: Round = {}
    order = [contestant for contestant in chosen if contestant.warm_from is None]
    random.shuffle(order)
    for contestant in order:
        folder = scratch / contestant.name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        measured[contestant.name] = run(contestant.argv(str(folder)))
        for warm in (c for c in chosen if c.warm_from == contestant.name):
            measured[warm.name] = run(warm.argv(str(folder)))
    return measured


def judge(rounds: list[Round]) -> list[dict[str, object]]:
    """Every bar whose contestants ran: the median ratio over the rounds, its range, and whether it holds."""
    rows: list[dict[str, object]] = []
    for bar in BARS:
        pairs = [(r[bar.contestant][bar.figure], r[bar.reference][bar.figure]) for r in rounds if _ran(r, bar)]
        if not pairs:
            continue
        ratios = sorted(there / here if bar.speedup else here / there for here, there in pairs)
        median = statistics.median(ratios)
        holds = median >= bar.limit if bar.speedup else median <= bar.limit
        row = {"bar": bar.name, "limit": bar.limit, "median": round(median, 2), "holds": holds}
        rows.append(row | {"smallest": round(ratios[0], 2), "largest": round(ratios[-1], 2), "rounds": len(ratios)})
    return rows


def _ran(one: Round, bar: Bar) -> bool:
    return bar.contestant in one and bar.reference in one


def main() -> None:
    parser = argparse.ArgumentParser(description="edgekit's export against the usual loop")
    parser.add_argument("--rounds", type=int, default=3)
    parts = list(dict.fromkeys(contestant.part for contestant in CONTESTANTS))
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--no-store", action="store_true", help="print only")
    arguments = parser.parse_args()
    chosen = [contestant for contestant in CONTESTANTS if contestant.part in arguments.only]
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as scratch:
        run(export("--alpha", "0.25", "--res", "96")(scratch))  # writes the byte code
        for number in range(arguments.rounds):
            rounds.append(one_round(chosen, Path(scratch)))
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    for contestant in chosen:
        seconds = statistics.median(one[contestant.name]["seconds"] for one in rounds)
        peak = statistics.median(one[contestant.name]["peak_mb"] for one in rounds)
        print(f"{contestant.name:24} {seconds:8.2f} s {peak:8.0f} MB")
    bars = judge(rounds)
    for row in bars:
        verdict = "holds" if row["holds"] else "FAILS"
        print(f"{verdict}  {row['bar']}: {row['median']} ({row['smallest']}-{row['largest']})")
    if not arguments.no_store:
        RESULTS.parent.mkdir(exist_ok=True)
        command = "python benchmarks/speed.py " + " ".join(sys.argv[1:])
        stored = {"command": command, "machine": environment.stamp(), "tools": tool_versions()}
        RESULTS.write_text(json.dumps(stored | {"bars": bars, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()

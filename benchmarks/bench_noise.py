"""Can `edgekit bench` be trusted on a machine that others use? Its own bars, under neighbours that come in bursts.

    python benchmarks/bench_noise.py                        # everything: about 12 minutes on two cores
    python benchmarks/bench_noise.py --only aa ab --priority realtime

A neighbour is a busy loop bound to one core: at work for 50 ms on average, then away for 100 ms, both random.
Every comparison is a whole `edgekit bench` in processes of its own. With `realtime` the measuring threads go before the
neighbours, which needs root; with `normal` they wait their turn, and what the protocol does against noise stands alone.

aa        one neighbour: the same artifact under two names, in one file and from file to file; significant differences
ab        one neighbour: 21 equal layers against 20, which is 5 % more work
overhead  the harness against a bare loop around the same ONNX Runtime session, one thread
grid      two neighbours: 20 variants of MobileNetV2, 15 s each run; how far independent runs are apart, and how often
          the 95 % interval of one holds the mean of the others (a perfect one would in 92.6 % for 6 runs: the mean of
          five has an error, too)
kill      kill -9 in the middle, then the same command again
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np

from edgekit import environment, golden
from edgekit.bench import comparing, record, worker
from edgekit.bench.comparing import SURE, Rounds
from edgekit.bench.journal import path_beside
from edgekit.bench.record import BenchFile
from edgekit.bench.runtimes import Candidate, Settings, runtime
from edgekit.plan import tool_versions

RESULTS = Path(__file__).parent / "results" / "bench_noise.json"
ALPHAS, RESOLUTIONS = "1,0.75,0.5,0.35", "224,192,160,128,96"
LAYERS = """
from torch import nn

def _layer(before, after, stride):
    conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    nn.init.orthogonal_(conv.weight)  # so that twenty of them leave something to compare
    return conv

def _chain(count, channels):
    return nn.Sequential(_layer(3, channels, 2), *(_layer(channels, channels, 1) for _ in range(count)))

def twenty(): return _chain(20, 24)
def twenty_one(): return _chain(21, 24)
def tiny(): return _chain(2, 8)
"""
NEIGHBOUR = """
import os, random, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
while True:
    end = time.perf_counter() + random.expovariate(1 / 0.05)
    while time.perf_counter() < end:
        pass
    time.sleep(random.expovariate(1 / 0.1))
"""


@contextmanager
def neighbours(cores: Sequence[int]) -> Iterator[None]:
    """Other people's processes, one for each of these cores."""
    started = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(core)]) for core in cores]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def edgekit(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A real command, its exit code for the caller to judge: on a busy machine it may well say INVALID."""
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout)


def bench(out: Path, seconds: float, priority: str, seed: int, *folders: Path) -> BenchFile:
    """One benchmark of ONNX Runtime on the CPU that uses all its time."""
    flag = "--priority" if priority == "realtime" else "--no-priority"
    done = edgekit(
        *("bench", *map(str, folders), "--runtime", "onnxruntime-cpu", "--precision", "fp32", "--no-memory", flag),
        *("--max-time", f"{seconds:g}", "--target", "0.01", "--seed", str(seed), "--out", str(out), "--quiet"),
    )
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return record.read(out)


def export(folder: Path) -> None:
    """What is measured: the grid, two copies of one of its variants, and chains of equal layers."""
    (folder / "layers.py").write_text(LAYERS)
    options = ("--precision", "fp32", "--no-engine", "--quiet", "--out")
    quick = ("--alpha", ALPHAS, "--res", RESOLUTIONS, "--parity", "quick")
    made = [edgekit("export", "mobilenet_v2", *quick, *options, str(folder / "grid"))]
    for name in ("twenty", "twenty_one"):
        made.append(edgekit("export", f"{folder}/layers.py:{name}", "--res", "96", *options, str(folder / name)))
    made.append(edgekit("export", f"{folder}/layers.py:tiny", "--res", "64", *options, str(folder / "tiny")))
    for done in made:
        if done.returncode:
            raise SystemExit(done.stderr)
    for name in ("one", "two"):
        shutil.copytree(folder / "grid" / "mobilenet_v2-a0.50-r160", folder / name / "mobilenet_v2-a0.50-r160")


def variant(folder: Path) -> Path:
    """The one variant in a folder."""
    return next(path.parent for path in folder.glob("*/manifest.json"))


Figures = dict[str, object]


def aa(folder: Path, priority: str, count: int, seconds: float) -> Figures:
    """The same artifact under two names."""
    ratios, within, files = [], 0, []
    for number in range(count + 1):
        files.append(bench(folder / "aa.json", seconds, priority, number, folder / "one", folder / "two"))
        if number < count:
            change, ratio = _within(files[-1])
            within += change != "the same"
            ratios.append(ratio)
    across = [comparing.compare(one, other).shared[0] for one, other in itertools.pairwise(files)]
    return {
        "comparisons": count,
        "significant_in_one_file": within,
        "significant_between_files": sum(it.change != "the same" for it in across),
        "largest_difference_in_one_file": max(abs(ratio - 1) for ratio in ratios),
        "largest_difference_between_files": max(abs(it.ratio - 1) for it in across),
        "other_load": _loads(files),
    }


def _within(file: BenchFile) -> tuple[str, float]:
    """What the second result is to the first, of one file."""
    one, other = sorted(file.results, key=lambda result: result.name)
    found = Rounds(file, one.contract.runtime).ratio(other, one).interval(0, SURE).exp()
    return comparing.change(found), found.value


def ab(folder: Path, priority: str, count: int, seconds: float) -> Figures:
    """5 % more work."""
    found, files = [], []
    for number in range(count):
        names = (variant(folder / "twenty"), variant(folder / "twenty_one"))
        files.append(bench(folder / "ab.json", seconds, priority, number, *names))
        slow, quick = sorted(files[-1].results, key=lambda result: -(result.subject.macs or 0))
        interval = Rounds(files[-1], slow.contract.runtime).ratio(slow, quick).interval(0, SURE).exp()
        found.append((comparing.change(interval), interval.value))
    return {
        "comparisons": count,
        "found": sum(change == "slower" for change, _ in found),
        "called_faster": sum(change == "faster" for change, _ in found),
        "ratios": sorted(round(ratio, 4) for _, ratio in found),
        "other_load": _loads(files),
    }


def grid(folder: Path, priority: str, count: int, seconds: float) -> Figures:
    """Independent runs of 20 variants."""
    files = [
        bench(folder / f"grid{number}.json", seconds, priority, number, folder / "grid") for number in range(count)
    ]
    by_name = [{result.name: result.ratio for result in file.results} for file in files]
    names = sorted(by_name[0])
    logs = np.log([[run[name].value for name in names] for run in by_name])
    apart = [
        abs(math.expm1(one - other))
        for a, b in itertools.combinations(logs, 2)
        for one, other in zip(a, b, strict=True)
    ]
    held = []
    for number, run in enumerate(by_name):
        others = np.exp(np.delete(logs, number, axis=0).mean(axis=0))
        held += [run[name].ci95[0] <= truth <= run[name].ci95[1] for name, truth in zip(names, others, strict=True)]
    widths = [(ratio.ci95[1] - ratio.ci95[0]) / 2 / ratio.value for run in by_name for ratio in run.values()]
    return {
        "runs": count,
        "variants": len(names),
        "seconds": seconds,
        "rounds": [file.telemetry.rounds for file in files],
        "apart_median": float(np.median(apart)),
        "apart_p95": float(np.percentile(apart, 95)),
        "coverage": sum(held) / len(held),
        "half_width_median": float(np.median(widths)),
        "other_load": _loads(files),
        "pressure": [file.telemetry.pressure_cpu for file in files],
    }


def _loads(files: Sequence[BenchFile]) -> dict[str, float | None]:
    loads = [file.telemetry.other_load for file in files if file.telemetry.other_load is not None]
    return {"least": min(loads, default=None), "median": statistics.median(loads), "most": max(loads, default=None)}


def overhead(folder: Path, _priority: str, _count: int, seconds: float) -> Figures:
    """The median of the harness's samples against that of a bare loop, in turns, around the same session."""
    small, large = variant(folder / "tiny"), folder / "grid" / "mobilenet_v2-a0.35-r96"
    return {name: _overhead(path, seconds) for name, path in (("near_0.1_ms", small), ("near_1_ms", large))}


def _overhead(path: Path, seconds: float) -> Figures:
    candidate = Candidate(path, "onnx-fp32", path / "model.onnx", "")
    runner = runtime("onnxruntime-cpu").open(candidate, Settings(threads=1))
    feeds = golden.unpack(path / "golden.npz").inputs[0].feeds
    runner.feed(feeds)
    held = worker._Held(worker.Load("onnxruntime-cpu", candidate, Settings(threads=1), "fp32"), runner, [feeds])
    worker.state.held[:] = [held]
    runs = worker._warm_up(runner).runs()
    session, binding = runner._session, runner._binding()

    def bare() -> list[float]:
        times = []
        for _ in range(runs):
            start = perf_counter()
            session.run_with_iobinding(binding)
            times.append(perf_counter() - start)
        return times

    # Both in turns, in random order; each begins with as many runs that do not count.
    ways: dict[str, Callable[[], Sequence[float]]] = {"bare": bare, "harness": lambda: worker._round((0,), (runs,))[0]}
    medians: dict[str, list[float]] = {name: [] for name in ways}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in random.sample(list(ways), 2):
            if name == "bare":
                runner.sample(max(1, round(runs * worker.SETTLING)))
            medians[name].append(statistics.median(ways[name]()))
    bare_s, harness_s = (statistics.median(medians[name]) for name in ways)
    ratios = [h / b for h, b in zip(medians["harness"], medians["bare"], strict=True)]
    added = statistics.median(ratios) - 1
    return {"bare_ms": bare_s * 1e3, "harness_ms": harness_s * 1e3, "added": added, "turns": len(ratios)}


def kill(folder: Path, priority: str, _count: int, seconds: float) -> Figures:
    """kill -9 after some rounds; how many the second run found."""
    out = folder / "kill.json"
    flag = "--priority" if priority == "realtime" else "--no-priority"
    arguments = ["bench", str(folder / "one"), "--runtime", "onnxruntime-cpu", "--precision", "fp32", "--no-memory"]
    arguments += [flag, "--max-time", f"{seconds:g}", "--target", "0.01", "--out", str(out)]
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *arguments]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while _kept(out) < 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = _kept(out)
    edgekit(*arguments)
    file = record.read(out)
    launches = file.references[0].launches
    return {"rounds_when_killed": kept, "rounds_of_before_in_the_result": launches.count(0), "rounds": len(launches)}


def _kept(out: Path) -> int:
    """Whole rounds in the journal; the first line is none."""
    try:
        return max(0, path_beside(out).read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0))


PARTS: dict[str, tuple[Callable[[Path, str, int, float], Figures], Callable[[], Sequence[int]], int, float]] = {
    # name: what, which cores have neighbours, how many comparisons, seconds of measuring in each
    "overhead": (overhead, list, 1, 8.0),
    "kill": (kill, list, 1, 6.0),
    "aa": (aa, lambda: cores()[:1], 20, 3.0),
    "ab": (ab, lambda: cores()[:1], 10, 3.0),
    "grid": (grid, lambda: cores()[:2], 6, 15.0),
}
WITHOUT_PRIORITY = ("overhead",)  # it is one process, which asks for none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--priority", nargs="+", choices=("realtime", "normal"), default=["realtime", "normal"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    found: dict[str, object] = json.loads(chosen.out.read_text())["figures"] if chosen.out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        export(Path(scratch))
        for name, priority in itertools.product(chosen.only, chosen.priority):
            if name in WITHOUT_PRIORITY and priority != chosen.priority[0]:
                continue
            what, busy, count, seconds = PARTS[name]
            title = name if name in WITHOUT_PRIORITY else f"{name}, {priority}"
            before = os.getloadavg()[0]
            with neighbours(busy()):
                figures = what(Path(scratch), priority, count, seconds)
            found[title] = {"load_before": before, "neighbours": len(busy()), **figures}
            print(title, json.dumps(found[title]), flush=True)
            _store(chosen.out, found)


def _store(out: Path, found: dict[str, object]) -> None:
    out.parent.mkdir(exist_ok=True)
    data = {
        "command": "python benchmarks/bench_noise.py",
        "machine": environment.stamp(),
        "tools": tool_versions(),
        "figures": found,
    }
    out.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()

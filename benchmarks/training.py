"""Does training reach what it should, in the time that it may take? Whole `edgekit train` commands, with their seeds.

    python benchmarks/training.py digits --seed 0 1 2
    python benchmarks/training.py fashion
    python benchmarks/training.py densenet
    python benchmarks/training.py transfer distil --seed 0 1 2

Each command starts afresh, in a process of its own; its seconds are those of the whole process, PyTorch's start, the
validation of every epoch and all checkpoints among them. `digits`, `fashion` and `densenet` have a bar: a validation
accuracy, and the minutes on two cores. `transfer` and `distil` compare: the same training with and without what is
learnt elsewhere. What was measured is kept in results/training.json, by name and seed; a new figure takes the old
one's place.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit import environment
from edgekit.plan import tool_versions

RESULTS = Path(__file__).parent / "results" / "training.json"
SMALL = ("mobilenet_v2", "--alpha", "0.35", "--res", "32")
COSINE = ("--schedule", "cosine", "--warmup-epochs", "0.5")
DIGITS = (*SMALL, "--data", "digits", "--augment", "light", "--batch", "32", "--lr", "0.003", *COSINE)
FASHION = (
    *SMALL,
    *("--data", "fashion-mnist", "--augment", "none", "--batch", "128", "--lr", "0.003"),
    *("--schedule", "cosine", "--warmup-epochs", "1"),
)
# At 28 pixels, as the images are: 32 take a third longer. In bf16, of which a core with AMX does 1.6 times as much.
DENSENET = (
    "densenet_bc",
    *("--option", "depth=40", "--res", "28", "--data", "fashion-mnist"),
    *("--epochs", "3", "--augment", "none", "--precision", "bf16", *COSINE),
)


@dataclass(frozen=True)
class Bar:
    """What a training has to reach: a validation accuracy, within so many minutes."""

    arguments: tuple[str, ...]
    accuracy: float
    minutes: float


BARS = {
    "digits": Bar((*DIGITS, "--epochs", "20"), 0.97, 3),
    "fashion": Bar((*FASHION, "--epochs", "11"), 0.90, 15),
    "densenet": Bar(DENSENET, 0.91, 30),
}


@dataclass(frozen=True)
class Figure:
    """One training: the command, what it reached, and how long the whole process took."""

    command: str
    accuracy: float
    loss: float
    best_epoch: int
    epochs: int
    params: int
    seconds: float
    images_per_s: float


def train(out: Path, seed: int, *arguments: str) -> Figure:
    """Run `edgekit train` and wait for it."""
    words = ["train", *arguments, "--seed", str(seed)]
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *words, "--out", str(out), "--json"]
    began = time.monotonic()
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        sys.exit(f"edgekit {' '.join(words)}: exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    best, history = found["best"], found["history"]
    return Figure(
        "edgekit " + " ".join(words).replace(f"{out.parent}/", ""),  # as typed beside the other runs
        best["val_accuracy"],
        best["val_loss"],
        best["epoch"],
        len(history),
        found["params"],
        round(seconds, 1),
        round(sum(epoch["samples_per_s"] for epoch in history) / len(history), 1),
    )


def against_a_bar(name: str, folder: Path, seed: int, extra: tuple[str, ...]) -> dict[str, Any]:
    """One of the bars, by name."""
    bar = BARS[name]
    figure = train(folder / "run", seed, *bar.arguments, *extra)
    passed = figure.accuracy >= bar.accuracy and figure.seconds <= bar.minutes * 60
    return {"accuracy_bar": bar.accuracy, "minutes_bar": bar.minutes, "passed": passed, **asdict(figure)}


def transfer(folder: Path, seed: int) -> dict[str, Any]:
    """180 digits to learn from: from nothing, from features that an epoch of clothes has made, frozen or thawed."""
    few = (*DIGITS, "--val-share", "0.9", "--epochs", "40")
    train(folder / "clothes", seed, *FASHION, "--epochs", "2")
    known = ("--weights", str(folder / "clothes" / "best.safetensors"))
    ways: dict[str, tuple[str, ...]] = {
        "from nothing": (),
        "features frozen": (*known, "--freeze"),
        "thawed bit by bit": (*known, "--freeze", "--unfreeze-at", "0.2,0.4", "--layer-decay", "0.9"),
        "all at once": known,
    }
    return {name: asdict(train(folder / name.replace(" ", "-"), seed, *few, *how)) for name, how in ways.items()}


def distil(folder: Path, seed: int) -> dict[str, Any]:
    """A short training of a narrow network, alone and with a wide one as its teacher."""
    wide = (*DIGITS, "--alpha", "1", "--epochs", "15")
    narrow = (*DIGITS, "--epochs", "6")
    teacher = train(folder / "teacher", seed, *wide)
    alone = train(folder / "alone", seed, *narrow)
    taught = train(folder / "taught", seed, *narrow, "--distil-from", str(folder / "teacher"))
    return {"teacher": asdict(teacher), "alone": asdict(alone), "taught": asdict(taught)}


COMPARISONS: dict[str, Callable[[Path, int], dict[str, Any]]] = {"transfer": transfer, "distil": distil}


def keep(name: str, seed: int, figures: dict[str, Any]) -> None:
    """Put the figures into the results, with the machine that they are from."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found.setdefault(name, {})[str(seed)] = {
        **figures,
        "machine": environment.stamp(),
        "tools": tool_versions(),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Run what is named, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[*BARS, *COMPARISONS])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--keep", type=Path, help="leave the runs in this folder")
    parser.add_argument("--with", dest="extra", default="", help="more options for the bars, as in '--precision bf16'")
    arguments = parser.parse_args()
    for name in arguments.names:
        for seed in arguments.seed:
            with tempfile.TemporaryDirectory() as scratch:
                folder = (arguments.keep or Path(scratch)) / f"{name}-{seed}"
                if name in BARS:
                    figures = against_a_bar(name, folder, seed, tuple(arguments.extra.split()))
                else:
                    figures = COMPARISONS[name](folder, seed)
            keep(name, seed, figures)
            print(json.dumps({name: {seed: figures}}, indent=1))


if __name__ == "__main__":
    main()

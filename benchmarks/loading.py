"""Is loading the bottleneck? Training steps on JPEG files against the same steps on tensors in memory, side by side.

    python benchmarks/loading.py                 # about 4 minutes on two cores
    python benchmarks/loading.py --rounds 9 --images 768 --workers 1

A network learns from photos of 500 x 375 pixels: once decoded by worker processes as training does it, once from a
tensor that holds the very same batches. Everything else is the same loop, the augmentation on the batch included. Both
have the same number of PyTorch threads: the cores that the workers leave. The two run in turns, in fresh random order,
so that a slow minute of the machine hits both; ratios are taken within a round, and their median is what counts.

The photos are cut from those that come with scikit-image, at random places and sizes, and saved at quality 90.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from skimage import data as photos
from torch import Tensor, nn

from edgekit import environment, models
from edgekit.plan import tool_versions
from edgekit.preprocessing import IMAGENET
from edgekit.training.augment import Augment
from edgekit.training.labelled import Labelled, open_data
from edgekit.training.loading import Batches
from edgekit.training.sources import parse_data

RESULTS = Path(__file__).parent / "results" / "loading.json"
SIDE, ALPHA, CLASSES = 160, 0.35, 4
WIDTH, HEIGHT = 500, 375
BAR = 0.9  # samples a second from files, over those from memory


def write_photos(root: Path, count: int) -> None:
    """`count` photos in folders of four classes, each a random part of a real one."""
    chosen = random.Random(0)
    taken = [Image.fromarray(picture()) for picture in (photos.astronaut, photos.chelsea, photos.coffee, photos.rocket)]
    for number in range(count):
        photo = taken[number % CLASSES]
        share = chosen.uniform(0.6, 1)
        width = share * min(photo.width, photo.height * WIDTH / HEIGHT)
        left = chosen.uniform(0, photo.width - width)
        top = chosen.uniform(0, photo.height - width * HEIGHT / WIDTH)
        box = (left, top, left + width, top + width * HEIGHT / WIDTH)
        folder = root / str(number % CLASSES)
        folder.mkdir(exist_ok=True)
        picture = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box)
        picture.save(folder / f"{number:05}.jpg", quality=90)


class Loop:
    """Training as it goes on: the same network, optimiser and augmentation for whatever gives the batches."""

    def __init__(self) -> None:
        self.network = models.load("mobilenet_v2").build(ALPHA, CLASSES).train()
        self.optimiser = torch.optim.Adam(self.network.parameters(), 1e-3)
        self.augment = Augment("standard", IMAGENET, classes=CLASSES)
        self.generator = torch.Generator().manual_seed(0)

    def run(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Samples a second over all batches, from the first that is asked for to the last step's end."""
        start, count = time.perf_counter(), 0
        for images, labels in batches:
            inputs, targets = self.augment(images, labels, self.generator)
            self.optimiser.zero_grad()
            nn.functional.cross_entropy(self.network(inputs), targets).backward()
            self.optimiser.step()
            count += len(labels)
        return count / (time.perf_counter() - start)


def decoding_pace(data: Labelled, batch: int) -> float:
    """Samples a second of one process that decodes and does nothing else."""
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in Batches(data, batch, seed=0, epoch=0, shuffle=True, workers=0, roam=True))
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="loading from files against tensors in memory")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=576, help="in an epoch, which is what a round measures")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--no-store", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(max(1, environment.usable_cores() - arguments.workers))
    with tempfile.TemporaryDirectory() as scratch:
        write_photos(Path(scratch), arguments.images)
        rounds, alone = measure(Path(scratch), arguments)
    ratios = sorted(one["files"] / one["memory"] for one in rounds)
    median = statistics.median(ratios)
    figures = {name: statistics.median(one[name] for one in rounds) for name in ("files", "memory")}
    print(f"files {figures['files']:.1f}, memory {figures['memory']:.1f} samples/s; decoding alone {alone:.1f}")
    verdict = "holds" if median >= BAR else "FAILS"
    print(f"{verdict}  files at least {BAR} of memory: {median:.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})")
    if not arguments.no_store:
        store(rounds, ratios, median, alone)


def measure(folder: Path, arguments: argparse.Namespace) -> tuple[list[dict[str, float]], float]:
    """Samples a second of both in each round, and of decoding alone. The first epoch of each warms up."""
    data = open_data(parse_data(str(folder)), SIDE, contract=IMAGENET, val_share=0.01).train
    loop = Loop()

    def epoch(number: int) -> Batches:
        return Batches(
            data,
            arguments.batch,
            seed=0,
            epoch=number,
            shuffle=True,
            workers=arguments.workers,
            drop_last=True,
            roam=True,
        )

    held = list(epoch(0))
    loop.run(held[:4])
    rounds = []
    for number in range(arguments.rounds):
        contestants = {"files": epoch(number + 1), "memory": held}
        order = random.sample(sorted(contestants), 2)
        one = {name: loop.run(contestants[name]) for name in order}
        rounds.append(one | {"load": os.getloadavg()[0]})
        print(f"round {number + 1} of {arguments.rounds}: {one}", file=sys.stderr)
    return rounds, decoding_pace(data, arguments.batch)


def store(rounds: list[dict[str, float]], ratios: list[float], median: float, alone: float) -> None:
    """What was measured, how and where."""
    bar = {
        "bar": "samples a second from files at least 0.9 of those from memory",
        "limit": BAR,
        "median": round(median, 3),
    }
    bar |= {
        "holds": median >= BAR,
        "smallest": round(ratios[0], 3),
        "largest": round(ratios[-1], 3),
        "rounds": len(rounds),
    }
    about = (
        f"mobilenet_v2, alpha {ALPHA}, {SIDE} pixels, JPEGs of {WIDTH} x {HEIGHT}, {torch.get_num_threads()} thread(s)"
    )
    stored = {
        "command": "python benchmarks/loading.py " + " ".join(sys.argv[1:]),
        "what": about,
        "machine": environment.stamp(),
        "tools": tool_versions(),
        "bars": [bar],
        "decoding_alone_samples_per_s": round(alone, 1),
        "rounds": [{name: round(value, 2) for name, value in one.items()} for one in rounds],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()

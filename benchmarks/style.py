"""Style transfer's two bars on real photos: a picture optimised, and a network that learns.

    python benchmarks/style.py                      # both: a few minutes on two cores that do nothing else
    python benchmarks/style.py --only optimise --seeds 0 1 2

The photos are scikit-image's and scikit-learn's. No trained features can be had without a network, so the measured runs
use untrained ones (`--weights none`); with `--weights default` or FILE the same runs use VGG-19's.

    optimise   a 128-pixel pair: the loss of the picture as written is 90 per cent below the first, within 2 minutes
    train      five photos: the mean loss of the last 20 steps is at most half that of the first 20, within 10 minutes
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import skimage
import sklearn
from PIL import Image

from edgekit import environment
from edgekit.plan import tool_versions
from edgekit.training.style import optimise, pictures, train
from edgekit.training.style.request import (
    Features,
    Objective,
    OptimiseRequest,
    TrainRequest,
    default_layers,
    parse_weights,
)

RESULTS = Path(__file__).parent / "results" / "style.json"
SKIMAGE, SKLEARN = Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"
CONTENT, STYLE = SKIMAGE / "chelsea.png", SKLEARN / "flower.jpg"
PHOTOS = (
    *(SKIMAGE / name for name in ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")),
    SKLEARN / "china.jpg",
)
LIMITS = {"optimise": (0.9, 120.0), "train": (0.5, 600.0)}
LAYERS = ((("relu1_2", 1 / 3), ("relu2_2", 1 / 3), ("relu3_1", 1 / 3)), (("relu2_2", 1.0),))
STYLE_WEIGHT = 50.0  # of the training; at 1000 and so few steps a texture is all that is learnt


@dataclass(frozen=True)
class Result:
    """One run: the losses at both ends, the share that is gone, and what it took."""

    bar: str
    what: str
    seed: int
    trained_features: bool
    first: float
    last: float
    untouched: float | None
    fall: float
    steps: int
    seconds: float
    load_before: float
    holds: bool


def judged(bar: str, what: str, seed: int, trained: bool, ends: tuple[float, float], **rest: float | None) -> Result:
    fall, seconds = 1 - ends[1] / ends[0], float(rest["seconds"] or 0)
    least, most = LIMITS[bar]
    untouched, steps, load = rest["untouched"], int(rest["steps"] or 0), float(rest["load"] or 0)
    holds = fall >= least and seconds <= most
    return Result(bar, what, seed, trained, *ends, untouched, fall, steps, seconds, load, holds)


def run_optimise(features: Features, seed: int, start: str, keep: Path | None) -> Result:
    request = OptimiseRequest(
        CONTENT,
        STYLE,
        features,
        Objective(*default_layers("vgg19", "optimise")),
        128,
        start,
        seed,
        80,  # type: ignore[arg-type]
    )
    load, begun = os.getloadavg()[0], time.perf_counter()
    done = optimise.optimise(request)
    seconds = time.perf_counter() - begun
    if keep:
        pictures.write(done.picture, keep / f"optimise-{start}-{seed}.png")
    ends = (done.history[0].loss, done.final.loss)
    trained = not isinstance(features.weights, int)
    figures = {"untouched": None, "steps": done.final.number, "seconds": seconds, "load": load}
    return judged("optimise", f"from {start}", seed, trained, ends, **figures)


def run_train(features: Features, seed: int, network: str, steps: int, keep: Path | None) -> Result:
    tail = "bounded" if network == "residual" else "plain"
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "photos"
        data.mkdir()
        for photo in PHOTOS:
            with Image.open(photo) as image:
                image.convert("RGB").save(data / f"{photo.stem}.png")
        request = TrainRequest(
            STYLE,
            data,
            features,
            Objective(*LAYERS, STYLE_WEIGHT),
            network,
            0.5,
            tail,
            128,
            64,
            2,
            steps,
            5e-3,
            seed,  # type: ignore[arg-type]
        )
        load, begun = os.getloadavg()[0], time.perf_counter()
        done = train.train(request, Path(scratch) / "run", train.Pace(steps, steps))
        seconds = time.perf_counter() - begun
        if keep:
            preview = pictures.read(Path(scratch) / "run" / "previews" / f"step-{steps:06}.png")
            pictures.write(preview, keep / f"train-{network}-{seed}.png")
    run = done.run
    figures = {"untouched": run.untouched, "steps": run.done, "seconds": seconds, "load": load}
    return judged("train", network, seed, run.trained_features, (run.first, run.last), **figures)


def main() -> None:
    parser = argparse.ArgumentParser(description="style transfer's bars")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=sorted(LIMITS), default=sorted(LIMITS))
    parser.add_argument("--steps", type=int, default=600, help="of the training")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures, to be looked at")
    parser.add_argument("--no-store", action="store_true", help="print only")
    arguments = parser.parse_args()
    results: list[Result] = []
    for seed in arguments.seeds:
        features = Features("vgg19", parse_weights(arguments.weights, seed))
        for start in ("content", "noise") if "optimise" in arguments.only else ():
            results.append(run_optimise(features, seed, start, arguments.pictures))
            show(results[-1])
        for network in ("se_mobilenet_style", "residual") if "train" in arguments.only else ():
            results.append(run_train(features, seed, network, arguments.steps, arguments.pictures))
            show(results[-1])
    if not arguments.no_store:
        RESULTS.parent.mkdir(exist_ok=True)
        command = "python benchmarks/style.py " + " ".join(sys.argv[1:])
        stored = {"command": command.strip(), "machine": environment.stamp(), "tools": tool_versions()}
        rows = [asdict(result) for result in results]
        RESULTS.write_text(json.dumps(stored | {"cores": os.cpu_count(), "results": rows}, indent=1) + "\n")
    sys.exit(0 if all(result.holds for result in results) else 1)


def show(result: Result) -> None:
    verdict = "holds" if result.holds else "FAILS"
    ends = f"{result.first:.4g} -> {result.last:.4g} ({-result.fall:+.1%})"
    print(f"{verdict}  {result.bar}, {result.what}, seed {result.seed}: {ends}, {result.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

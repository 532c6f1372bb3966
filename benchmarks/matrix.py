"""Every reference network in every form that it has, and torchvision's, up the whole ladder: what fails is a false
alarm, or a network that is refused.

    python benchmarks/matrix.py                    # 24 minutes of exports, added up
    python benchmarks/matrix.py --only style       # those with this in their name
    python benchmarks/matrix.py --list             # what there is to do, and nothing is done

The graphs are edgekit's own and right, so every gate that does not pass is either a false alarm or a network that is
refused with a reason; both are in the table. Engines are built for one form of each reference network, for all the GPU
generations of the profile.

The results are written after every few exports. What an earlier run of the same code with the same tools has found is
kept: run it again and it goes on. What the exports leave on the disk is deleted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgekit import environment, models, pipeline, profile, sources
from edgekit.errors import EdgekitError
from edgekit.manifest import Manifest
from edgekit.parity.report import Rung
from edgekit.pipeline import Outcome
from edgekit.plan import Plan, code_digest, tool_versions
from edgekit.variant import Variant

RESULTS = Path(__file__).parent / "results" / "matrix.json"
SCHEMA = 1
ALPHAS = (1.0, 0.75, 0.5, 0.35)
RESOLUTIONS = (224, 192, 160, 128, 96)
ROUNDINGS = ("divisible8", "published")
TORCHVISION = (
    *("mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet50", "densenet121", "googlenet"),
    *("shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0", "regnet_y_400mf", "squeezenet1_1", "convnext_tiny"),
    "vit_b_16",
)
# The first form of each network that gets engines, too: small, so that building takes seconds.
ENGINE_SIZE = 128


@dataclass(frozen=True)
class Case:
    """One network in one form at one size; `source` is the word for it on the command line."""

    source: str
    variant: Variant
    engines: bool = False

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return f"{self.variant.slug}{' with engines' if self.engines else ''}"


@dataclass(frozen=True)
class Climbed:
    """One comparison: the share of its tolerance that was used (above 1 it failed; None: it has no figure)."""

    rung: str
    against: str
    passed: bool
    used: float | None
    tensor: str | None


@dataclass(frozen=True)
class Row:
    """What became of one case. `liveness` is the outputs' spread over the least that is accepted; `engine` what the
    engine for the profile's GPUs has become.
    """

    name: str
    passed: bool
    first_failure: str | None
    reason: str | None
    rungs: tuple[Climbed, ...]
    liveness: float | None
    engine: str | None
    notes: tuple[str, ...]
    seconds: float


def cases() -> Iterator[Case]:
    """All of them, those that share their weights one after the other."""
    yield from _forms("mobilenet_v1", ALPHAS, RESOLUTIONS, {"rounding": ROUNDINGS})
    yield from _forms("mobilenet_v2", ALPHAS, RESOLUTIONS, {"rounding": ROUNDINGS})
    both = ("true", "false")
    yield from _forms("c_mobilenet_v2", ALPHAS, RESOLUTIONS, {"rounding": ROUNDINGS, "shortcut_act": both})
    tails = ("plain", "bounded", "published")
    yield from _forms("se_mobilenet_style", ALPHAS, (64, 100, 224), {"rounding": ROUNDINGS, "tail": tails})
    yield from _forms("se_mobilenet_style", (1.0, 0.35), (96,), {"dynamic_size": ("true",), "tail": tails})
    widths = {"depth": ("40", "100"), "growth": ("12", "24"), "reduction": ("0.5", "1.0"), "bottleneck": both}
    yield from _forms("densenet_bc", (None,), (32, 64), widths)
    yield from _forms("densenet_bc", (None,), (32,), {"dropout": ("0.2",)})
    yield from _forms("resnet50_transfer", (None,), (64, 160, 224), {"last_relu": both})
    yield from _forms("inception_v3", (None,), (96, 160, 299), {"variant": ("published", "torchvision")})
    yield from _forms("inception_v4", (None,), (96, 160, 299), {"variant": ("published", "released")})
    scales = ("1.0", "0.2")
    yield from _forms("inception_resnet_v2", (None,), (96, 160, 299), {"variant": ("published",), "scale": scales})
    yield from _forms("inception_resnet_v2", (None,), (96, 160, 299), {"variant": ("released",)})
    yield from _batches()
    yield from (_of_torchvision(name) for name in TORCHVISION)
    yield from map(_with_engines, models.names())


def _forms(
    model: str, alphas: Iterable[float | None], resolutions: tuple[int, ...], options: Mapping[str, tuple[str, ...]]
) -> Iterator[Case]:
    for values in itertools.product(*options.values()):
        chosen = tuple(zip(options, values, strict=True))
        for alpha, resolution in itertools.product(alphas, resolutions):
            yield Case(model, Variant(model, alpha, resolution, options=chosen))


def _batches() -> Iterator[Case]:
    """Several rows, and any number of them: one small form of each network."""
    for model in models.names():
        info = models.info(model)
        for batch in (3, None):
            alpha = 0.5 if info.has_alpha else None
            yield Case(model, Variant(model, alpha, max(info.smallest, 96), batch))


def _of_torchvision(name: str) -> Case:
    text = f"torchvision:{name}"
    return Case(text, Variant(sources.parse_source(text).slug, None, None))


def _with_engines(model: str) -> Case:
    info = models.info(model)
    side = max(ENGINE_SIZE // info.stride * info.stride, info.smallest)
    return Case(model, Variant(model, 1.0 if info.has_alpha else None, side), engines=True)


def together(wanted: Iterable[Case]) -> list[list[Case]]:
    """Cases that differ in size only: they share weights, and mostly their graph."""
    groups: dict[object, list[Case]] = defaultdict(list)
    for case in wanted:
        one = case.variant
        groups[case.source, one.alpha, one.batch, one.options, case.engines].append(case)
    return list(groups.values())


def walk(group: list[Case], out: Path, jobs: int) -> list[Row]:
    """Carry cases that belong together through the journey."""
    source = sources.parse_source(group[0].source)
    known = source.kind == "reference"
    plan = Plan(
        sources.SeedWeights(0) if known else sources.parse_weights("none", source=source),
        (profile.load("rtx"),),
        engines=group[0].engines,
        out=out,
        sources=() if known else (source,),
        force=True,
    )
    variants = [case.variant for case in group]
    try:
        outcomes = pipeline.export_grid(variants, plan, jobs)
    except EdgekitError as error:
        outcomes = [Outcome(variant, out, 0.0, error=error) for variant in variants]
    rows = [row(case, outcome) for case, outcome in zip(group, outcomes, strict=True)]
    shutil.rmtree(out, ignore_errors=True)
    return rows


def row(case: Case, outcome: Outcome) -> Row:
    """The figures of one outcome."""
    found, error = outcome.manifest, outcome.error
    return Row(
        case.name,
        error is None,
        _first_failure(found, error),
        _reason(found, error),
        tuple(map(_climbed, found.parity.rungs)) if found else (),
        round(found.parity.liveness.spread / found.parity.liveness.wanted, 3) if found else None,
        ", ".join(f"{one.status}: {' '.join(one.targets)}" for one in found.engines) or None if found else None,
        found.notes if found else (),
        round(outcome.seconds, 2),
    )


def _first_failure(found: Manifest | None, error: EdgekitError | None) -> str | None:
    if error is None:
        return None
    return (found.parity.first_failure() if found else None) or error.what


def _reason(found: Manifest | None, error: EdgekitError | None) -> str | None:
    if error is None:
        return None
    reasons = [rung.reason for rung in found.parity.rungs if rung.reason] if found else []
    return reasons[0] if reasons else "; ".join(f"{label}: {text}" for label, text in error.details())[:400]


def _climbed(rung: Rung) -> Climbed:
    known = rung.error is not None and rung.tolerance is not None
    used = round(rung.error / rung.tolerance, 4) if known else None  # type: ignore[operator]  # both known
    return Climbed(rung.name, rung.against, rung.passed, used, rung.tensor)


def summary(rows: list[Row]) -> str:
    """One line for the eye, and one for every failure."""
    failed = [one for one in rows if not one.passed]
    largest: dict[str, float] = {}
    for climbed in itertools.chain.from_iterable(one.rungs for one in rows if one.passed):
        largest[climbed.rung] = max(largest.get(climbed.rung, 0.0), climbed.used or 0.0)
    shares = ", ".join(f"{rung} {share:.2f}" for rung, share in largest.items())
    lives = [one.liveness for one in rows if one.passed and one.liveness is not None]
    engines = Counter(one.engine for one in rows if one.engine)
    liveness = f"least liveness: {min(lives, default=0):.2f} times what is wanted"
    lines = [
        f"{len(rows)} exports, {len(failed)} false alarms or refusals",
        f"largest share of a tolerance used: {shares}; {liveness}",
        *(f"engines {engine}: {count}" for engine, count in engines.items()),
        *(f"FAILED {one.name}: {one.first_failure}: {one.reason}" for one in failed),
    ]
    return "\n".join(lines)


def kept(path: Path, stamp: Mapping[str, object]) -> dict[str, Row]:
    """The rows of an earlier run of the same code with the same tools."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    if any(stored.get(key) != value for key, value in stamp.items()):
        return {}
    return {
        one["name"]: Row(**one | {"rungs": tuple(Climbed(**rung) for rung in one["rungs"])}) for one in stored["rows"]
    }


def _write(rows: Iterable[Row], stamp: Mapping[str, object], path: Path) -> None:
    listed = list(rows)
    stored = {**stamp, "command": "python benchmarks/matrix.py", "environment": environment.stamp()}
    stored |= {"exports": len(listed), "failed": [one.name for one in listed if not one.passed]}
    stored |= {"summary": summary(listed).splitlines(), "rows": [asdict(one) for one in listed]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1) + "\n")


def main() -> int:
    """Walk what is not done; exit code 1 where something failed."""
    arguments = _arguments()
    stamp = {"schema": SCHEMA, "code": code_digest(), "tools": tool_versions()}
    chosen = [case for case in cases() if arguments.only in case.name]
    done = kept(arguments.out, stamp)
    missing = [case for case in chosen if case.name not in done]
    print(f"{len(chosen)} cases, {len(missing)} to do", file=sys.stderr, flush=True)
    if arguments.list:
        print("\n".join(case.name for case in chosen))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        for group in together(missing):
            for one in walk(group, Path(scratch) / "out", arguments.jobs):
                done[one.name] = one
                print(_line(len(done), one), file=sys.stderr, flush=True)
            if not arguments.only or arguments.out != RESULTS:
                _write(done.values(), stamp, arguments.out)
    rows = [done[case.name] for case in chosen]
    print(summary(rows))
    return 0 if all(one.passed for one in rows) else 1


def _line(number: int, one: Row) -> str:
    used = " ".join("?" if rung.used is None else f"{rung.used:.2f}" for rung in one.rungs)
    verdict = "ok" if one.passed else f"FAILED at {one.first_failure}: {one.reason}"
    return f"{number} {one.name}: {verdict}; used {used}; {one.engine or ''} {one.seconds:.1f} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every network in every form, up the whole ladder.")
    parser.add_argument("--only", default="", help="a part of the name; writes only to --out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

"""ONNX files that nobody here made, one after the other through the whole journey: what becomes of each, and why.

    pip install --no-deps rapidocr-onnxruntime magika silero-vad     # what is not installed is left out, and said so
    python benchmarks/real_graphs.py                                 # about ten minutes on two cores
    python benchmarks/real_graphs.py --only silero                   # those with this in their name

A file ends proven (with its engine, or with the reason why there is none), at a gate (its parity is not proven, and
the rung is named), or refused before it gets that far. Anything else - a crash, a hang, a small file that becomes a
large one - is a fault of edgekit's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from edgekit import environment, pipeline, profile, sources
from edgekit.errors import EdgekitError, GateFailed
from edgekit.manifest import Manifest
from edgekit.plan import Plan, tool_versions
from edgekit.variant import Variant

RESULTS = Path(__file__).parent / "results" / "real_graphs.json"
PACKAGES = ("onnx", "onnxruntime", "rapidocr_onnxruntime", "magika", "silero_vad")


@dataclass(frozen=True)
class Row:
    """One file. `written` is what it left on the disk, in bytes; `engine` what became of the profile's engine."""

    file: str
    bytes: int
    outcome: str
    reason: str | None
    rungs: int
    precisions: tuple[str, ...]
    engine: str | None
    notes: tuple[str, ...]
    written: int
    seconds: float


def packaged(only: str) -> Iterator[tuple[str, Path]]:
    """(name, path) of every ONNX file in the packages."""
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            print(f"not installed: {package}", file=sys.stderr)
            continue
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.onnx")):
            name = f"{package}/{path.relative_to(root)}"
            if only in name:
                yield name, path


def walk(name: str, path: Path, scratch: Path) -> Row:
    """Take one file as far as it goes."""
    start = time.perf_counter()
    source = sources.parse_source(str(path))
    plan = Plan(
        sources.OwnWeights(0), (profile.load("rtx"),), out=scratch / "out", sources=(source,), insists=False, force=True
    )
    outcome = pipeline.export_grid([Variant(source.slug, None, None)], plan)[0]
    written = sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file())
    shutil.rmtree(scratch / "out", ignore_errors=True)
    seconds = round(time.perf_counter() - start, 2)
    found = outcome.manifest
    return Row(
        name,
        path.stat().st_size,
        _outcome(found, outcome.error),
        _reason(outcome.error, path),
        len(found.parity.rungs) if found else 0,
        tuple(artifact.kind for artifact in found.artifacts if artifact.nodes) if found else (),
        found.engines[0].status if found and found.engines else None,
        found.notes if found else (),
        written,
        seconds,
    )


def _outcome(found: Manifest | None, error: EdgekitError | None) -> str:
    if error is None:
        return "proven"
    if found is not None and found.parity.passed:
        return "proven, no engine"
    return "at a gate" if isinstance(error, GateFailed) else "refused"


def _reason(error: EdgekitError | None, path: Path) -> str | None:
    if error is None:
        return None
    details = [f"{label}: {text}" for label, text in error.details() if label not in ("do", "where")]
    return "; ".join([error.what, *details]).replace(str(path), path.name)[:400]


def main() -> None:
    parser = argparse.ArgumentParser(description="What becomes of strangers' ONNX files.")
    parser.add_argument("--only", default="", help="a part of the name")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in packaged(arguments.only):
            rows.append(walk(name, path, Path(scratch)))
            print(f"{rows[-1].outcome:18} {rows[-1].seconds:6.1f} s  {name}  {rows[-1].reason or ''}", flush=True)
    counts = dict(Counter(row.outcome for row in rows).most_common())
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    stored = {"command": "python benchmarks/real_graphs.py", "machine": environment.stamp(), "tools": tool_versions()}
    stored |= {"outcomes": counts, "files": [asdict(row) for row in rows]}
    arguments.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()

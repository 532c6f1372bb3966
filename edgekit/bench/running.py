"""A whole benchmark: every runtime in turn, and the bench file that it leaves. Nothing prints here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from edgekit import __version__, environment, manifest, schema
from edgekit.bench import advice, journal, runtimes, telemetry
from edgekit.bench.assembling import Assembled, assemble
from edgekit.bench.finding import Found
from edgekit.bench.journal import Journal, RoundLine
from edgekit.bench.protocol import Course, Limits, Listener, measure
from edgekit.bench.record import BenchFile, NotMeasured, write
from edgekit.bench.runtimes import Runtime, Settings
from edgekit.bench.worker import Load
from edgekit.errors import EdgekitError, GateFailed, MachineLacks
from edgekit.parity.tolerance import Precision


@dataclass(frozen=True)
class Request:
    """What to measure and how. `named` are the runtimes that were asked for by name; none means every one that runs
    here. `batch` is for variants with an open one.
    """

    found: tuple[Found, ...]
    out: Path
    named: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    limits: Limits = field(default_factory=Limits)
    batch: int | None = None
    images: tuple[Path, ...] = ()
    seed: int = 0
    command: str = "edgekit bench"


@dataclass(frozen=True)
class Finished:
    """The bench file as it stands on disk, and what went wrong with anything that was asked for by name."""

    file: BenchFile
    errors: tuple[EdgekitError, ...]


def run(request: Request, listen: Listener) -> Finished:
    """Measure everything, write the bench file where there is a result, and forget the rounds it was made of.

    Raises UsageError for an unknown runtime. What cannot run is among `not_measured`.
    """
    chosen = [runtimes.runtime(name) for name in request.named or runtimes.names()]
    not_measured, errors = absent(chosen, request)
    ready = [it for it in chosen if it.missing() is None and suited(it, request.found)]
    parts: list[Assembled] = []
    with journal.opened(request.out, key_of(request, ready), RoundLine) as kept:
        for runtime in ready:
            part, failed = _measured(runtime, request, kept, listen)
            parts.append(part)
            not_measured += [missing for missing, _ in failed]
            errors += [error for _, error in failed if request.named]
        file = _file(request, parts, not_measured, kept)
        if file.results:  # an earlier benchmark is worth more than a file without figures
            write(file, request.out)
        journal.forget(request.out)
    return Finished(file, tuple(errors))


def suited(runtime: Runtime, found: Sequence[Found]) -> list[Found]:
    """What the runtime can take of it: of engines, those of its own kind of TensorRT."""
    fitting = [it for it in found if it.candidate.kind in runtime.kinds]
    return [it for it in fitting if it.candidate.kind != "engine" or it.candidate.flavour == runtime.flavour]


def absent(chosen: Sequence[Runtime], request: Request) -> tuple[list[NotMeasured], list[EdgekitError]]:
    """What cannot be measured here, and why: the runtime is not there, or takes none of what was found."""
    missing: list[NotMeasured] = []
    errors: list[EdgekitError] = []
    for runtime in chosen:
        lacks = runtime.missing()
        if lacks is None and suited(runtime, request.found):
            continue
        missing += as_not_measured(runtime, lacks or f"something to run: {' or '.join(runtime.kinds)}", request.found)
        if request.named:
            errors.append(_lacking(runtime, lacks) if lacks else _nothing_for(runtime))
    return missing, errors


def as_not_measured(runtime: Runtime, needs: str, found: Sequence[Found]) -> list[NotMeasured]:
    """A line for each artifact that it could have taken; for each variant, where there is none."""
    fitting = [(it.subject.slug, it.subject.kind) for it in suited(runtime, found)]
    named = fitting or dict.fromkeys((it.subject.slug, runtime.kinds[0]) for it in found)
    return [NotMeasured(slug, kind, runtime.name, needs) for slug, kind in named]


def _lacking(runtime: Runtime, needs: str) -> EdgekitError:
    return MachineLacks(f"{runtime.name} cannot run here", where="--runtime", got=f"needs {needs}")


def _nothing_for(runtime: Runtime) -> EdgekitError:
    return MachineLacks(
        f"there is nothing here that {runtime.name} could run",
        where="--runtime",
        wanted=f"one of: {', '.join(runtime.kinds)}",
        hint="edgekit export makes graphs, edgekit build makes engines",
    )


def _measured(
    runtime: Runtime, request: Request, kept: Journal[RoundLine], listen: Listener
) -> tuple[Assembled, list[tuple[NotMeasured, EdgekitError]]]:
    """The results of one runtime, and what it could not be made to run."""
    found = suited(runtime, request.found)
    settings = replace(request.settings, strict=bool(request.named))
    loads = [load_of(runtime, it, settings, request) for it in found]
    course = measure(runtime, found, loads, kept, request.limits, request.seed, listen)
    part = assemble(course, found, settings, request.batch, bool(request.images))
    there = {result.name for result in part.results}
    failed = [
        _failure(course, it) for it in found if f"{it.subject.slug}/{it.subject.kind}/{runtime.name}" not in there
    ]
    return part, failed


def load_of(runtime: Runtime, found: Found, settings: Settings, request: Request) -> Load:
    """What the measuring process is to open."""
    precision = cast(Precision, found.precision)
    return Load(runtime.name, found.candidate, settings, precision, found.rows(request.batch), request.images)


def _failure(course: Course, found: Found) -> tuple[NotMeasured, EdgekitError]:
    name = f"{found.subject.slug}/{found.subject.kind}/{course.runtime.name}"
    error = course.failures.get(name) or GateFailed(f"{name} has no samples", hint="give it a longer --max-time")
    got = f" ({error.got})" if error.got else ""
    return NotMeasured(found.subject.slug, found.subject.kind, course.runtime.name, f"{error.what}{got}"), error


def key_of(request: Request, ready: Sequence[Runtime]) -> str:
    """One hash over what a round depends on; how long to go on is none of it."""
    return manifest.cache_key(
        {
            "edgekit": __version__,
            "found": [[it.subject.slug, it.subject.kind, it.subject.sha256, it.precision] for it in request.found],
            "versions": {it.name: dict(it.versions()) for it in ready},
            "settings": schema.to_json(replace(request.settings, strict=bool(request.named))),
            "machine": dict(environment.stamp()),
            "batch": request.batch,
            "images": [manifest.sha256_file(path) for path in request.images],
            "seed": request.seed,
        }
    )


def _file(
    request: Request, parts: Sequence[Assembled], not_measured: Sequence[NotMeasured], kept: Journal[RoundLine]
) -> BenchFile:
    spreads = [part.machine.round_spread for part in parts if part.machine.round_spread is not None]
    loads = [part.machine.load_before for part in parts if part.machine.load_before is not None]
    readings = [line.reading for line in kept.lines]
    machine = telemetry.summarise(readings, loads[0] if loads else telemetry.load(), max(spreads, default=None))
    priorities = [part.machine.priority for part in parts if part.machine.priority is not None]
    file = BenchFile(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        edgekit=__version__,
        command=request.command,
        machine=environment.stamp(),
        telemetry=replace(machine, priority=min(priorities, default=None)),
        results=tuple(result for part in parts for result in part.results),
        not_measured=tuple(not_measured),
        seed=request.seed,
        references=tuple(part.reference for part in parts if part.reference is not None),
    )
    return replace(file, advice=advice.advise(file))

"""`edgekit export`: the journey, for one variant or a grid."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import parse, render
from edgekit.cli.output import Json, Output, Quiet, Verbose, error_json, millions, reporting, table
from edgekit.errors import UsageError
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from edgekit.manifest import VariantRecord
    from edgekit.pipeline import Event, Outcome
    from edgekit.plan import Plan
    from edgekit.sources import Source
    from edgekit.variant import Variant


def export(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Reference networks (edgekit models), torchvision:NAME, timm:NAME, package.module:factory, "
            "file.py:factory, FILE.onnx, an archive of TorchScript or torch.export, or the folder of a training run.",
        ),
    ],
    alpha: Annotated[list[str] | None, typer.Option(help="Width multipliers, for example 1,0.75,0.5.")] = None,
    res: Annotated[list[str] | None, typer.Option(help="Input resolutions in pixels, for example 224,160.")] = None,
    batch: Annotated[int, typer.Option(help="Rows in a batch.")] = 1,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Leave the batch open.")] = False,
    num_classes: Annotated[int | None, typer.Option(help="Classes; default: as many as the weights have.")] = None,
    weights: Annotated[
        str, typer.Option(help="A checkpoint, 'default' (published ones) or 'none' (random, or the source's own).")
    ] = "none",
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    option: Annotated[list[str] | None, typer.Option(help="A network's own option, KEY=VALUE.")] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", help="What a factory's network takes: NAME:DTYPE:SHAPE.")
    ] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16; default: both.")] = None,
    profile: Annotated[list[str] | None, typer.Option(help="Export profiles (edgekit profiles); default: rtx.")] = None,
    images: Annotated[Path | None, typer.Option(help="An image or a folder of them, as inputs of the ladder.")] = None,
    parity: Annotated[str, typer.Option(help="full: every layer, against float64. quick: outputs only.")] = "full",
    exporter: Annotated[str, typer.Option(help="torch.onnx's exporter: auto, torchscript, dynamo.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the artifacts.")] = Path("artifacts"),
    jobs: Annotated[int | None, typer.Option(help="Worker processes; default: one for each core.")] = None,
    no_engine: Annotated[bool, typer.Option("--no-engine", help="Stop at the ONNX graphs.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build again what is already there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Carry networks from PyTorch to ONNX and TensorRT engines, and prove every step.

    Writes one folder for each variant: model.onnx, model.fp16.onnx, an engine for each profile, golden.npz and
    manifest.json. What is already there and unchanged is kept. Exit code 1 when a gate fails.
    """
    with reporting("export", as_json, quiet, verbose) as output:
        start = time.perf_counter()
        named = parse_sources(sources)
        grid = parse_grid(named, alpha, res, None if dynamic_batch else batch, num_classes, option)
        plan = make_plan(
            named, grid, weights, seed, input_, precision, profile, images, parity, exporter, out, no_engine, force
        )
        outcomes = run_grid(grid, plan, parse.jobs(jobs), output)
        output.code = max((o.error.exit_code for o in outcomes if o.error), default=0)
        _report(outcomes, time.perf_counter() - start, output)


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """What the words on the command line stand for. Two that would share a folder are refused."""
    from edgekit import sources

    named = list(dict.fromkeys(sources.parse_source(text) for text in parse.words(texts)))
    for one, other in itertools.combinations(named, 2):
        if one.slug == other.slug:
            raise UsageError(
                "two sources would go to the same folder",
                where="SOURCE",
                got=f"{one.text} and {other.text}",
                hint="export them one by one, each to its own --out",
            )
    return named


def parse_grid(
    sources: Sequence[Source],
    alpha: list[str] | None,
    res: list[str] | None,
    batch: int | None,
    num_classes: int | None,
    option: list[str] | None,
) -> list[Variant]:
    """Every source at every width and resolution asked for, or at its own."""
    from edgekit.variant import Grid

    resolutions = parse.whole_numbers("--res", res)
    variants: list[Variant] = []
    for source in sources:
        width, size = _own_size(source)
        alphas: tuple[float | None, ...] = parse.numbers("--alpha", alpha) or (width,)
        sizes = resolutions or (size,)
        variants += Grid((source.slug,), alphas, sizes, batch, num_classes, parse.pairs("--option", option))
    return list(dict.fromkeys(variants))


def _own_size(source: Source) -> tuple[float | None, int | None]:
    """The width and resolution of a source for which none are asked: None where it has none, or says so itself."""
    from edgekit import models

    if source.kind == "run":
        from edgekit.sources import from_run

        run = from_run.describe(source)
        return run.alpha, run.resolution
    if source.kind != "reference":
        return None, None
    about = models.info(source.name)
    return 1.0 if about.has_alpha else None, about.default_resolution


def make_plan(
    named: Sequence[Source],
    variants: Sequence[Variant],
    weights: str,
    seed: int,
    inputs: list[str] | None,
    precision: list[str] | None,
    profile: list[str] | None,
    images: Path | None,
    parity: str,
    exporter: str,
    out: Path,
    no_engine: bool,
    force: bool,
) -> Plan:
    """What to do with them. Raises UsageError for what can be seen to be wrong."""
    from edgekit import profile as profiles
    from edgekit import sources
    from edgekit.images import find_images
    from edgekit.plan import EXPORTERS, MAX_IMAGES, PARITIES, PRECISIONS, Plan

    chosen = {source.slug: sources.parse_weights(weights, source=source, seed=seed) for source in named}
    plan = Plan(
        weights=next(iter(chosen.values())),
        sources=tuple(named),
        weights_by_model=tuple(chosen.items()),
        inputs=sources.parse_input_specs(inputs or []),
        profiles=tuple(profiles.load(name) for name in parse.words(profile or ["rtx"])),
        insists=bool(precision),
        precisions=parse.choices("--precision", precision or list(PRECISIONS), PRECISIONS),
        engines=not no_engine,
        parity=parse.choice("--parity", parity, PARITIES),
        exporter=parse.choice("--exporter", exporter, EXPORTERS),
        images=tuple(find_images(images, MAX_IMAGES)) if images else (),
        out=out,
        force=force,
    )
    for variant in variants:
        sources.check(variant, chosen[variant.model], plan.source(variant))
    plan.check()
    return plan


def run_grid(variants: Sequence[Variant], plan: Plan, jobs: int, output: Output) -> list[Outcome]:
    """Export them, and show how far it is."""
    from edgekit.pipeline import export_grid

    if plan.weights.kind == "seed":
        output.detail("random weights: good for latency and parity, not for accuracy")
    with _Display(variants, output) as display:
        return export_grid(variants, plan, jobs, display.hear, own_process=True)


class _Display:
    """Progress on stderr: a live bar in a terminal, a line for each finished variant elsewhere."""

    def __init__(self, variants: Sequence[Variant], output: Output) -> None:
        self.total, self.output = len(variants), output
        self.done = 0
        self.live: Progress | None = None
        self.bar: TaskID | None = None
        self.stages: dict[str, str] = {}

    def __enter__(self) -> _Display:
        if sys.stderr.isatty() and not self.output.quiet:
            self.live, self.bar = _progress(self.total)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def hear(self, event: Event | None) -> None:
        """One event of the pipeline; None means that a moment has passed."""
        from edgekit.pipeline import Outcome, Stage

        if isinstance(event, Stage):
            self.stages[event.variant.slug] = event.name
        elif isinstance(event, Outcome):
            self.stages.pop(event.variant.slug, None)
            self.done += 1
            self._finished(event)
        if self.live is not None and self.bar is not None:
            busy = ", ".join(f"{slug}: {stage}" for slug, stage in self.stages.items())
            idle = "" if self.done == self.total else "loading PyTorch"
            self.live.update(self.bar, completed=self.done, busy=busy or idle, refresh=True)

    def _finished(self, outcome: Outcome) -> None:
        word = "FAILED" if outcome.error else "kept" if outcome.cached else "proven"
        line = f"[{self.done}/{self.total}] {outcome.variant.slug}: {word} in {outcome.seconds:.1f} s"
        if self.live is not None:
            self.live.console.print(line, highlight=False, markup=False)
        else:
            self.output.note(line)


def _progress(total: int) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    # No refresh thread: workers are forked while this is on the screen.
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[busy]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    live = Progress(*columns, console=Console(stderr=True), auto_refresh=False, expand=True)
    return live, live.add_task("export", total=total, busy="loading PyTorch")


def _report(outcomes: Sequence[Outcome], seconds: float, output: Output) -> None:
    for outcome in outcomes:
        if outcome.error is not None:
            output.failure(outcome.error)
    data: dict[str, JSON] = {"seconds": round(seconds, 3), "variants": [_json(outcome) for outcome in outcomes]}
    text = render.details(outcomes[0].directory, outcomes[0].manifest) if len(outcomes) == 1 else _overview(outcomes)
    output.result(data, text, ok=output.code == 0)


def _json(outcome: Outcome) -> JSON:
    found = outcome.manifest
    shared: dict[str, JSON] = {
        "variant": _variant_json(found.variant if found else outcome.variant),
        "dir": str(outcome.directory),
        "params": found.params if found else None,
        "macs": found.macs if found else None,
        "seconds": round(outcome.seconds, 3),
        "cached": outcome.cached,
    }
    return {
        **shared,
        "artifacts": [_artifact_json(a) for a in found.artifacts if a.kind != "golden"] if found else [],
        "parity": to_json(found.parity) if found else None,
        "engines": to_json(found.engines) if found else [],
        "notes": list(found.notes) if found else [],
        "error": error_json(outcome.error) if outcome.error else None,
    }


def _variant_json(variant: Variant | VariantRecord) -> JSON:
    data = to_json(variant)
    assert isinstance(data, dict)
    return data | {"options": dict(variant.options)}


def _artifact_json(artifact: object) -> JSON:
    data = to_json(artifact)
    assert isinstance(data, dict)
    return {key: data[key] for key in ("kind", "path", "sha256", "bytes", "nodes", "inputs", "outputs")}


def _overview(outcomes: Sequence[Outcome]) -> str:
    rows = [["variant", "params", "MACs", "parity", "engines", "seconds"]]
    for outcome in outcomes:
        found = outcome.manifest
        rows.append(
            [
                outcome.variant.slug,
                millions(found.params) if found else "-",
                millions(found.macs) if found and found.macs is not None else "-",
                render.parity_word(found.parity) if found else "not reached",
                render.engine_words(found) if found else "-",
                "kept" if outcome.cached else f"{outcome.seconds:.1f}",
            ]
        )
    return table(rows, right=(1, 2, 5))

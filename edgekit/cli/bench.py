"""`edgekit bench`: the latency of what an export left, with intervals and a verdict."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import parse, scenario
from edgekit.cli.compare import comparison_json, comparison_table
from edgekit.cli.output import Json, Output, Quiet, Verbose, error_json, reporting, table
from edgekit.errors import EdgekitError, GateFailed, MachineLacks, UsageError
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from edgekit.bench.comparing import Comparison
    from edgekit.bench.finding import Selection
    from edgekit.bench.playing import Step
    from edgekit.bench.playing_worker import Part
    from edgekit.bench.protocol import Limits, Progress
    from edgekit.bench.record import BenchFile, Result, Scenario
    from edgekit.bench.running import Finished, Request

PRECISIONS = ("fp32", "fp16", "int8")
MOST_IMAGES = 16  # all of them are held in memory while it is measured
PLAIN_LINE_S = 5.0


def bench(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|SOURCE...",
            help="Folders of exported variants, or what to export first, as edgekit export takes it.",
        ),
    ],
    runtime: Annotated[list[str] | None, typer.Option(help="Runtimes, by name; default: all that run here.")] = None,
    alpha: Annotated[list[str] | None, typer.Option(help="Only these width multipliers.")] = None,
    res: Annotated[list[str] | None, typer.Option(help="Only these input resolutions.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only these: fp32, fp16, int8.")] = None,
    batch: Annotated[int | None, typer.Option(help="Only these batches; rows, where the batch is open.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for one inference; default: the runtime's own.")] = None,
    spin: Annotated[
        bool | None, typer.Option("--spin/--no-spin", help="Keep waiting threads busy; default: as the runtime does.")
    ] = None,
    cuda_graph: Annotated[
        bool | None, typer.Option("--cuda-graph/--no-cuda-graph", help="Replay a recorded CUDA graph.")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="torch.compile instead of eager PyTorch.")] = False,
    min_time: Annotated[float, typer.Option(help="Seconds to measure at the least, for each runtime.")] = 1.0,
    max_time: Annotated[float, typer.Option(help="Seconds to measure at most, for each runtime.")] = 30.0,
    target: Annotated[str, typer.Option(help="Stop when every ratio is known to within so many per cent.")] = "2",
    images: Annotated[
        Path | None, typer.Option(help="An image or a folder of them, instead of made-up inputs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of visits.")] = 0,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure the memory each takes alone.")] = True,
    priority: Annotated[
        bool, typer.Option("--priority/--no-priority", help="Go before other processes, where that is allowed.")
    ] = True,
    play: Annotated[
        str,
        typer.Option("--scenario", help="Not rounds but: paced, soak, single-stream, multi-stream, offline."),
    ] = "rounds",
    rate: Annotated[float | None, typer.Option(help="paced: frames a second; default: 30.")] = None,
    deadline: Annotated[
        str | None, typer.Option(help="paced: when a frame must be done, as 33ms; default: when the next comes.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of a scenario; default: 60, LoadGen's at least 10.")
    ] = None,
    window: Annotated[float | None, typer.Option(help="soak: seconds of a window; default: 10.")] = None,
    logs: Annotated[
        Path | None, typer.Option(help="Where LoadGen's logs go; default: a folder beside the bench file.")
    ] = None,
    artifacts: Annotated[Path, typer.Option(help="Where what has to be exported first goes.")] = Path("artifacts"),
    out: Annotated[
        Path | None,
        typer.Option(help="The bench file; default: bench.json in the folder, a scenario's bench.SCENARIO.json."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a report, one page for a browser.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="A bench file to compare with.")] = None,
    fail_if: Annotated[
        str | None, typer.Option(help="With --baseline: slower:5% is exit code 1 if it is sure.")
    ] = None,
    across: Annotated[
        list[str] | None, typer.Option(help="With --baseline: fields of machine or contract that may differ.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure latencies in rounds of random order, as ratios to a fixed reference with 95 % intervals.

    Raw samples, what they mean and where they were taken go to bench.json. A killed run goes on where it was. Exit
    code 1 when outputs are wrong, a measurement is INVALID, or, with --baseline, something became slower beyond doubt.

    A scenario is played with one after the other: at a camera's pace (paced), for a long time (soak), or as MLPerf's
    LoadGen asks (single-stream, multi-stream, offline).
    """
    with reporting("bench", as_json, quiet, verbose) as output:
        from edgekit.bench.protocol import Limits
        from edgekit.bench.runtimes import Settings

        kind = scenario.chosen(play, _given(context))
        gate = _gate(fail_if, baseline)
        limits = Limits(_percent("--target", target), min_time, max_time, memory=memory, priority=priority)
        _check(limits, threads, batch)
        before = _read(baseline)
        options = scenario.Options(rate, duration, deadline, window, logs)
        scenario.part(kind, options, Path("bench.json"))  # what makes no sense is refused before anything is exported
        folders = _folders(targets, alpha, res, precision, batch, artifacts, output)
        request = _request(
            folders,
            _selection(alpha, res, precision, batch),
            out or _default_out(folders, kind),
            parse.words(runtime or []),
            Settings(threads, spin, cuda_graph, None, compiled),
            limits,
            batch,
            images,
            seed,
        )
        finished = _run(request, scenario.part(kind, options, request.out), output)
        comparison = _compare(before, finished.file, parse.words(across or []))
        _write_html(html, folders, request.out)
        errors = [*finished.errors, *_failures(finished.file, comparison, gate)]
        _report(finished.file, request.out, comparison, errors, output)


# --- what was asked for


def _given(context: typer.Context) -> set[str]:
    """The parameters that stand on the command line, defaults or not."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _percent(option: str, text: str) -> float:
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 < share < 10:
        raise UsageError("not a percentage", where=option, got=text, wanted="a number above 0, for example 2%")
    return share


def _gate(fail_if: str | None, baseline: Path | None) -> float | None:
    """The share from which on slower is a failure."""
    if fail_if is None:
        return None
    found = re.fullmatch(r"slower:(.+)", fail_if.strip())
    if found is None:
        raise UsageError("unknown condition", where="--fail-if", got=fail_if, wanted="slower:PERCENT%, as slower:5%")
    if baseline is None:
        raise UsageError("slower than what?", where="--fail-if", hint="name the older bench file with --baseline")
    return _percent("--fail-if", found[1])


def _check(limits: Limits, threads: int | None, batch: int | None) -> None:
    if not 0 < limits.max_s <= 86_400 or not 0 <= limits.min_s <= limits.max_s:
        got = f"{limits.min_s:g} to {limits.max_s:g}"
        raise UsageError("not a time to measure in", where="--min-time, --max-time", got=got, wanted="0 to 86400 s")
    for option, value in (("--threads", threads), ("--batch", batch)):
        if value is not None and not 1 <= value <= 4096:
            raise UsageError("out of range", where=option, got=str(value), wanted="1 to 4096")


def _read(baseline: Path | None) -> BenchFile | None:
    from edgekit.bench import record

    return record.read(baseline) if baseline else None


def _selection(
    alpha: list[str] | None, res: list[str] | None, precision: list[str] | None, batch: int | None
) -> Selection:
    from edgekit.bench.finding import Selection

    precisions = parse.choices("--precision", precision, PRECISIONS) if precision else ()
    return Selection(parse.numbers("--alpha", alpha), parse.whole_numbers("--res", res), precisions, batch)


def _folders(
    targets: Sequence[str],
    alpha: list[str] | None,
    res: list[str] | None,
    precision: list[str] | None,
    batch: int | None,
    artifacts: Path,
    output: Output,
) -> list[Path]:
    """The folders that were named, and those of what had to be exported first."""
    words = parse.words(targets)
    folders = [Path(word) for word in words if _is_folder(word)]
    names = [word for word in words if not _is_folder(word)]
    return folders + (_exported(names, alpha, res, precision, batch, artifacts, output) if names else [])


def _is_folder(word: str) -> bool:
    from edgekit.manifest import NAME
    from edgekit.training import run_folder

    path = Path(word)
    return path.name == NAME or (path.is_dir() and not run_folder.is_run(path))


def _exported(
    names: list[str],
    alpha: list[str] | None,
    res: list[str] | None,
    precision: list[str] | None,
    batch: int | None,
    artifacts: Path,
    output: Output,
) -> list[Path]:
    """Export as `edgekit export` does; what is there already is kept."""
    from edgekit.cli import export

    sources = export.parse_sources(names)
    grid = export.parse_grid(sources, alpha, res, batch or 1, None, None)
    given = ("none", 0, None, precision, None, None, "full", "auto", artifacts, False, False)
    plan = export.make_plan(sources, grid, *given)
    outcomes = export.run_grid(grid, plan, parse.jobs(None), output)
    failed = [outcome.error for outcome in outcomes if outcome.error]
    if failed:
        raise failed[0]
    return [outcome.directory for outcome in outcomes]


def _default_out(folders: Sequence[Path], kind: Scenario) -> Path:
    """In the folder that was named; beside the variants' folders where they have one place; else here."""
    from edgekit.bench.record import file_of

    places = {(folder if folder.is_dir() else folder.parent) for folder in folders}
    if len(places) > 1:
        places = {place.parent for place in places}
    return (places.pop() if len(places) == 1 else Path()) / file_of(kind)


def _request(
    folders: Sequence[Path],
    selection: Selection,
    out: Path,
    named: tuple[str, ...],
    settings: object,
    limits: Limits,
    batch: int | None,
    images: Path | None,
    seed: int,
) -> Request:
    from edgekit.bench.finding import find
    from edgekit.bench.running import Request
    from edgekit.bench.runtimes import Settings
    from edgekit.images import find_images

    assert isinstance(settings, Settings)
    return Request(
        found=find(folders, selection, out.parent),
        out=out,
        named=named,
        settings=settings,
        limits=limits,
        batch=batch,
        images=tuple(find_images(images, MOST_IMAGES)) if images else (),
        seed=seed,
        command=shlex.join(["edgekit", *sys.argv[1:]]),
    )


# --- while it runs


def _run(request: Request, part: Part | None, output: Output) -> Finished:
    from edgekit.bench import playing, running

    with _Display(output) as display:
        return playing.run(request, part, display.follow) if part else running.run(request, display.hear)


class _Display:
    """Progress on stderr: a live bar in a terminal, a line now and then elsewhere."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.live: Bar | None = None
        self.bar: TaskID | None = None
        self.last_line = 0.0
        self.last_stage = ""

    def __enter__(self) -> _Display:
        if sys.stderr.isatty() and not self.output.quiet:
            self.live, self.bar = _bar()
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def hear(self, progress: Progress) -> None:
        """One step of the measuring."""
        left = "" if progress.left_s is None else f"at most {progress.left_s:.0f} s left"
        self._show(f"{progress.runtime}: {progress.stage}", progress.done, _state(progress), left)

    def follow(self, step: Step) -> None:
        """One step of a scenario."""
        self._show(f"{step.name}: {step.stage}", step.done, f" {step.done:.0%}", f"about {step.left_s:.0f} s left")

    def _show(self, stage: str, done: float, state: str, left: str) -> None:
        busy = f"{state}, {left}" if left else state
        if self.live is not None and self.bar is not None:
            self.live.update(self.bar, completed=done, description=stage, busy=busy)
            self.live.refresh()
        elif stage != self.last_stage or time.monotonic() - self.last_line > PLAIN_LINE_S:
            self.output.note(f"{stage}{busy}")
            self.last_stage, self.last_line = stage, time.monotonic()


def _state(progress: Progress) -> str:
    width = "" if progress.width is None else f", ±{progress.width:.1%}"
    return f" {progress.rounds} rounds{width}" if progress.stage == "measuring" else f" {progress.done:.0%}"


def _bar() -> tuple[Bar, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[busy]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    # No refresh thread: it would take a core from what is measured.
    live = Progress(*columns, console=Console(stderr=True), auto_refresh=False, expand=True)
    return live, live.add_task("loading", total=1.0, busy="")


# --- afterwards


def _compare(before: BenchFile | None, now: BenchFile, across: Sequence[str]) -> Comparison | None:
    from edgekit.bench import comparing

    return comparing.compare(before, now, across) if before and now.results else None


def _write_html(html: Path | None, folders: Sequence[Path], out: Path) -> None:
    if html is None:
        return
    from edgekit.report import write_html

    folder = folders[0] if len(folders) == 1 else out.parent
    write_html(folder, out, html)


def _failures(file: BenchFile, comparison: Comparison | None, gate: float | None) -> list[EdgekitError]:
    """What makes the command fail. With a gate, noise alone is no failure: only wrong outputs and a sure regression."""
    from edgekit.bench import comparing, verdict

    errors: list[EdgekitError] = []
    if not file.results:
        needs = "; ".join(dict.fromkeys(f"{it.runtime}: {it.needs}" for it in file.not_measured))
        errors.append(MachineLacks("nothing could be measured", got=needs or None))
    lost = [result for result in file.results if verdict.parity_lost(result.parity)]
    errors += [GateFailed(f"{it.name} does not compute what was exported", got=it.verdict.reasons[0]) for it in lost]
    if gate is None:
        errors += [_invalid(it) for it in file.results if not it.verdict.valid and it not in lost]
    elif comparison is not None:
        errors += [_slower(it, gate) for it in comparing.regressions(comparison, gate)]
    return errors


def _invalid(result: Result) -> EdgekitError:
    return GateFailed(f"INVALID: {result.name}", got="; ".join(result.verdict.reasons))


def _slower(found: object, gate: float) -> EdgekitError:
    from edgekit.bench.comparing import Compared

    assert isinstance(found, Compared)
    low, high = found.sure
    got = f"{found.ratio - 1:+.1%}, with 99 % certainty {low - 1:+.1%} to {high - 1:+.1%}"
    return GateFailed(f"{found.name} has become slower", got=got, wanted=f"at most +{gate:.1%}")


def _report(
    file: BenchFile, out: Path, comparison: Comparison | None, errors: Sequence[EdgekitError], output: Output
) -> None:
    for error in _without_repeats(errors):
        output.failure(error)
    output.code = max((error.exit_code for error in errors), default=0)
    data = _json(file, out)
    if comparison is not None:
        data["comparison"] = comparison_json(comparison)
    data["errors"] = [error_json(error) for error in errors]
    output.result(data, _text(file, out, comparison), ok=output.code == 0)


def _without_repeats(errors: Sequence[EdgekitError]) -> list[EdgekitError]:
    """INVALID results that share their reasons are said in one breath: on a busy machine there is one for each."""
    invalid = [error for error in errors if error.what.startswith("INVALID")]
    if len(invalid) < 2:
        return list(errors)
    reasons = list(dict.fromkeys(reason for error in invalid for reason in (error.got or "").split("; ")))
    shown = "\n".join(reasons[:6] + ([f"and {len(reasons) - 6} more reasons"] if len(reasons) > 6 else []))
    rest = [error for error in errors if error not in invalid]
    return [*rest, GateFailed(f"INVALID: {len(invalid)} of the measurements", got=shown)]


def _json(file: BenchFile, out: Path) -> dict[str, JSON]:
    return {
        "out": str(out),
        "environment": {**file.machine, "telemetry": to_json(file.telemetry)},
        "results": [_result_json(result) for result in file.results],
        "not_measured": [
            {"variant": it.slug, "artifact": it.kind, "runtime": it.runtime, "needs": it.needs}
            for it in file.not_measured
        ],
        "advice": list(file.advice),
    }


def _result_json(result: Result) -> JSON:
    contract, latency = to_json(result.contract), to_json(result.latency)
    assert isinstance(contract, dict)
    subject = result.subject
    return {
        "name": result.name,
        "variant": to_json(subject.variant),
        "artifact": {"kind": subject.kind, "sha256": subject.sha256, "bytes": subject.bytes},
        "runtime": result.contract.runtime,
        "contract": {**contract, "warmup_s": result.warmup_s},
        "latency_ms": latency,
        "ratio": to_json(result.ratio),
        "throughput_per_s": result.throughput_per_s,
        "samples": sum(map(len, result.samples)),
        "rounds": len(result.samples),
        "verdict": "VALID" if result.verdict.valid else "INVALID",
        "reasons": list(result.verdict.reasons),
        "placement": to_json(result.placement),
        "memory": to_json(result.memory),
        "parity": to_json(result.parity),
        "power_w": result.power_w,
        "figures": to_json(result.figures),
        "logs": result.logs,
    }


def _text(file: BenchFile, out: Path, comparison: Comparison | None) -> str:
    blocks = _tables(file) if file.results else []
    if comparison is not None:
        blocks.append(comparison_table(comparison))
    blocks += [f"advice: {sentence}" for sentence in file.advice]
    blocks += _absent_lines(file)
    blocks += [f"{out}: samples, contract, environment"] if file.results else []
    return "\n".join(blocks)


def _tables(file: BenchFile) -> list[str]:
    """The results, and what their figures are: those of rounds, or those of a scenario."""
    if file.results[0].contract.scenario == "rounds":
        return [_table(file), f"ratios to {_references(file)}; {_machine_line(file)}"]
    return [scenario.text(file), f"{scenario.setting(file)}; {_machine_line(file)}", *scenario.logs(file)]


def _table(file: BenchFile) -> str:
    rows = [["variant", "artifact", "runtime", "ratio", "±", "p50 ms", "p90", "p99", "verdict"]]
    for result in file.results:
        ratio, latency = result.ratio, result.latency
        half = f"{(ratio.ci95[1] - ratio.ci95[0]) / 2 / ratio.value:.1%}" if ratio else ""
        rows.append(
            [
                result.subject.slug,
                result.subject.kind,
                result.contract.runtime + _share(result),
                f"{ratio.value:.3f}" if ratio else "1",
                half,
                *(f"{value:.3g}" for value in (latency.p50, latency.p90, latency.p99)),
                "VALID" if result.verdict.valid else "INVALID",
            ]
        )
    return table(rows, right=(3, 4, 5, 6, 7))


def _share(result: Result) -> str:
    """Where some nodes run elsewhere: how many do not."""
    if result.placement is None or len(result.placement.nodes) < 2:
        return ""
    counts = sorted(result.placement.nodes.items(), key=lambda item: -item[1])
    return f" ({', '.join(f'{count} nodes on {name}' for name, count in counts)})"


def _machine_line(file: BenchFile) -> str:
    it = file.telemetry
    loads = [("other processes", it.other_load), ("steal", it.steal), ("waiting", it.pressure_cpu)]
    known = [f"{name} {value:.0%}" for name, value in loads if value is not None]
    return f"milliseconds are this machine's, now ({', '.join(known)})"


def _references(file: BenchFile) -> str:
    return ", ".join(dict.fromkeys(f"{it.runtime}: {it.name}" for it in file.references))


def _absent_lines(file: BenchFile) -> list[str]:
    """A line for each runtime and need, however many variants it is about."""
    needs: dict[tuple[str, str], int] = {}
    for it in file.not_measured:
        needs[it.runtime, it.needs] = needs.get((it.runtime, it.needs), 0) + 1
    return [f"not measured: {runtime} ({count}): needs {what}" for (runtime, what), count in needs.items()]

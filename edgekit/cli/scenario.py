"""`edgekit bench --scenario`: which options belong to which, what they mean, and how results are shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edgekit.cli import parse
from edgekit.cli.output import table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.bench.playing_worker import Pace, Part
    from edgekit.bench.record import BenchFile, Result, Scenario

# Every option that not all scenarios have, by the name of its parameter, and those that have it.
LOADGEN = ("single-stream", "multi-stream", "offline")
BELONGS: dict[str, tuple[str, ...]] = {
    "rate": ("paced",),
    "deadline": ("paced",),
    "window": ("soak",),
    "duration": ("paced", "soak", *LOADGEN),
    "logs": LOADGEN,
    **dict.fromkeys(("min_time", "max_time", "target", "seed", "memory", "priority"), ("rounds",)),
    **dict.fromkeys(("baseline", "fail_if", "across"), ("rounds",)),
}
DURATION_S = 60.0
WINDOW_S = 10.0
LOADGEN_DURATION_S = 10.0  # its own default
LONGEST_S = 7 * 86_400.0
HIGHEST_RATE = 100_000.0


@dataclass(frozen=True)
class Options:
    """As they were given; None is the default."""

    rate: float | None
    duration: float | None
    deadline: str | None
    window: float | None
    logs: Path | None


def chosen(word: str, given: Collection[str]) -> Scenario:
    """The scenario; `given` are the parameters on the command line. Raises UsageError for those that it has not."""
    from edgekit.bench.record import Scenario

    scenario: Scenario = parse.choice("--scenario", word, get_args(Scenario))
    for name, owners in BELONGS.items():
        if name in given and scenario not in owners:
            option, wanted = f"--{name.replace('_', '-')}", f"--scenario {' or '.join(owners)}"
            raise UsageError(f"not an option of {scenario}", where=option, wanted=wanted)
    return scenario


def part(scenario: Scenario, options: Options, out: Path) -> Part | None:
    """What to play; None for rounds. LoadGen's logs go beside the bench file by default."""
    from edgekit.bench.playing_worker import Endurance, LoadGenRun

    if scenario == "rounds":
        return None
    if scenario == "paced":
        return _pace(options)
    if scenario == "soak":
        seconds = _above("--duration", options.duration, DURATION_S, LONGEST_S)
        return Endurance(seconds, _above("--window", options.window, min(WINDOW_S, seconds), seconds))
    seconds = _above("--duration", options.duration, LOADGEN_DURATION_S, LONGEST_S)
    return LoadGenRun(scenario, seconds, options.logs or out.with_name(f"{out.stem}.logs"))


def _pace(options: Options) -> Pace:
    """By default a frame must be done before the next comes."""
    from edgekit.bench.playing_worker import Pace
    from edgekit.picking import milliseconds

    rate = _rate(options.rate)
    seconds = _above("--duration", options.duration, DURATION_S, LONGEST_S)
    if seconds * rate < 1 - 1e-9:
        got, wanted = f"{seconds:g} s at {rate:g} a second", f"at least {1 / rate:g} s"
        raise UsageError("no frame is due in this time", where="--rate, --duration", got=got, wanted=wanted)
    given = options.deadline
    return Pace(rate, seconds, 1 / rate if given is None else milliseconds("--deadline", given) / 1e3)


def _above(option: str, given: float | None, default: float, most: float) -> float:
    value = default if given is None else given
    if not 0 < value <= most:  # also where it is no number
        raise UsageError("out of range", where=option, got=f"{value:g}", wanted=f"seconds above 0, up to {most:g}")
    return value


def _rate(given: float | None) -> float:
    rate = 30.0 if given is None else given
    if not 0 < rate <= HIGHEST_RATE:
        wanted = f"frames a second, above 0, up to {HIGHEST_RATE:g}"
        raise UsageError("not a pace", where="--rate", got=f"{rate:g}", wanted=wanted)
    return rate


# --- results


def text(file: BenchFile) -> str:
    """The results as a table, with what the scenario is judged by."""
    from edgekit.report.played import SHOWN, figures

    told = [figures(result) for result in file.results]
    columns = [it.head for it in SHOWN if any(it.head in figures for figures in told)]
    rows = [["variant", "artifact", "runtime", "p50 ms", "p90", "p99", *columns, "verdict"]]
    rows += [
        _row(result, [shown.get(head, "-") for head in columns])
        for result, shown in zip(file.results, told, strict=True)
    ]
    return table(rows, right=range(3, len(rows[0]) - 1))


def _row(result: Result, figures: Sequence[str]) -> list[str]:
    latency = result.latency
    return [
        result.subject.slug,
        result.subject.kind,
        result.contract.runtime,
        *(f"{value:.3g}" for value in (latency.p50, latency.p90, latency.p99)),
        *figures,
        "VALID" if result.verdict.valid else "INVALID",
    ]


def setting(file: BenchFile) -> str:
    """What was played, in a line."""
    from edgekit.report.played import terms

    contract = file.results[0].contract
    return f"{contract.scenario}: {terms(contract)}"


def logs(file: BenchFile) -> list[str]:
    """Where LoadGen's own logs are, beside the bench file or elsewhere."""
    return [f"{result.logs}: LoadGen's logs" for result in file.results if result.logs]

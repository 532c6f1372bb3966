"""MLPerf's scenarios, driven by MLCommons' own LoadGen: it decides when a query comes, and judges what came of it.

SingleStream: the next query comes when the last is done; the figure is the 90th percentile of their latency.
MultiStream: the same with several samples in a query (8); the 99th percentile. Offline: all samples are there at once;
samples per second. LoadGen's own log files are kept. No result of this is an MLPerf submission: that has rules beyond
the scenario, of the network, its accuracy, and the length of a run.

Source: https://github.com/mlcommons/inference/tree/master/loadgen
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

from edgekit.bench.runtimes import Runner
from edgekit.errors import InputUnusable, MachineLacks, UsageError

LoadGenScenario = Literal["single-stream", "multi-stream", "offline"]
NAMES: dict[LoadGenScenario, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
}
INSTALL = "pip install 'edgekit-trt[loadgen]'"
SUMMARY = "mlperf_log_summary.txt"
PROBES = 10  # runs that tell LoadGen what to expect
HEADROOM = 1.3  # offline, LoadGen makes its samples beforehand: if it made too few, the run would be too short
AFTER_A_FAILURE_S = 0.001  # a query, until LoadGen has had its minimal time
NS = 1e-9


@dataclass(frozen=True)
class Terms:
    """How long a run lasts at the least, by default what LoadGen's own defaults are; and the samples of a multi-stream
    query. Shorter runs are judged by LoadGen as it finds them, and by early stopping need some hundred queries.
    """

    min_duration_s: float = 10.0
    min_queries: int = 100
    samples_per_query: int = 8


@dataclass(frozen=True)
class Summary:
    """What LoadGen says of a run. `valid` is its own verdict, and `reasons` are its own words where it is not.

    `figure` is what the scenario is judged by: seconds, or samples per second offline. `percentiles` are of a query's
    latency in seconds, by LoadGen's names ("90.00"); offline there is one query. `parameters` are as it lists them.
    """

    scenario: LoadGenScenario
    valid: bool
    figure: float
    percentiles: dict[str, float]
    mean: float
    shortest: float
    longest: float
    parameters: dict[str, str]
    warnings: int
    errors: int
    reasons: tuple[str, ...] = ()


def missing() -> str | None:
    """What to install where LoadGen is not here."""
    return None if find_spec("mlperf_loadgen") else f"the Python package mlperf_loadgen: {INSTALL}"


def run(runner: Runner, scenario: LoadGenScenario, folder: Path, terms: Terms = Terms(), *, rows: int = 1) -> Summary:
    """LoadGen's verdict on a runner that has its inputs, with LoadGen's logs in `folder`.

    `rows` are the samples that one run of it takes, its batch. Raises MachineLacks without LoadGen, UsageError for a
    folder that has logs already, InputUnusable where LoadGen leaves no summary, and whatever the runner raises.
    """
    if missing() is not None:
        raise MachineLacks("MLCommons' LoadGen is not installed", hint=INSTALL)
    if (folder / SUMMARY).exists():
        raise UsageError("there are LoadGen's logs of another run", where=str(folder), hint="name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    seconds = median(runner.sample(PROBES))
    _drive(_System(runner, rows), scenario, folder, terms, seconds)
    return parse_summary(_read(folder / SUMMARY), str(folder / SUMMARY))


class _System:
    """The system under test: runs what is asked for. An exception must not cross LoadGen, which is not Python."""

    def __init__(self, runner: Runner, rows: int) -> None:
        self.runner, self.rows = runner, rows
        self.failure: BaseException | None = None

    def issue(self, queries: Sequence[Any]) -> None:
        """Called by LoadGen from a thread of its own; each batch is reported when it is done.

        After a failure nothing is run any more, and LoadGen is let to its end.
        """
        for first in range(0, len(queries), self.rows):
            if self.failure is not None:
                time.sleep(AFTER_A_FAILURE_S)
                _report(queries[first:])
                return
            self._run()
            _report(queries[first : first + self.rows])

    def _run(self) -> None:
        try:
            self.runner.sample(1)
        except BaseException as error:  # raised again by `_drive`
            self.failure = error

    def flush(self) -> None:
        """Called by LoadGen when no more queries come for now."""


def _report(done: Sequence[Any]) -> None:
    loadgen = _loadgen()
    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(it.id, 0, 0) for it in done])


def _loadgen() -> Any:
    """LoadGen's own module: compiled, and without types."""
    return importlib.import_module("mlperf_loadgen")


def _drive(system: _System, scenario: LoadGenScenario, folder: Path, terms: Terms, seconds: float) -> None:
    loadgen = _loadgen()
    under_test = loadgen.ConstructSUT(system.issue, system.flush)
    samples = loadgen.ConstructQSL(1, 1, _ignore, _ignore)  # one sample: the input that is in place
    try:
        loadgen.StartTestWithLogSettings(
            under_test,
            samples,
            _settings(scenario, terms, seconds, system.rows),
            _logs(folder),
            str(folder / "no-audit.config"),  # or one in the current folder would change the settings
        )
    finally:
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(under_test)
    if system.failure is not None:
        raise system.failure


def _ignore(_samples: list[int]) -> None:
    """The samples are in place already."""


def _settings(scenario: LoadGenScenario, terms: Terms, seconds: float, rows: int) -> Any:
    loadgen = _loadgen()
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, NAMES[scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(terms.min_duration_s * 1000)
    settings.min_query_count = terms.min_queries
    runs = -(-terms.samples_per_query // rows)
    settings.multi_stream_samples_per_query = terms.samples_per_query
    settings.single_stream_expected_latency_ns = max(1, round(seconds / NS))
    settings.multi_stream_expected_latency_ns = max(1, round(seconds * runs / NS))
    settings.offline_expected_qps = HEADROOM * rows / seconds
    return settings


def _logs(folder: Path) -> Any:
    loadgen = _loadgen()
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    logs = loadgen.LogSettings()
    logs.log_output = output
    logs.enable_trace = False
    return logs


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise InputUnusable("LoadGen left no summary", where=str(path), got=error.strerror or str(error)) from error


def parse_summary(text: str, where: str) -> Summary:
    """The summary that LoadGen 5 and 6 write. Raises InputUnusable for anything else."""
    values = dict(re.findall(r"^ *(\S.*?) *: *(\S.*?) *$", text, re.MULTILINE))
    try:
        scenario = next(ours for ours, theirs in NAMES.items() if theirs == values["Scenario"])
        verdict = {"VALID": True, "INVALID": False}[values["Result is"]]
        return Summary(
            scenario=scenario,
            valid=verdict,
            figure=_figure(scenario, values),
            percentiles={
                name.split()[0]: float(value) * NS
                for name, value in values.items()
                if name.endswith(" percentile latency (ns)") and "th percentile" not in name
            },
            mean=float(values["Mean latency (ns)"]) * NS,
            shortest=float(values["Min latency (ns)"]) * NS,
            longest=float(values["Max latency (ns)"]) * NS,
            parameters=_parameters(text),
            warnings=_count(text, "warning"),
            errors=_count(text, "error"),
            reasons=() if verdict else _reasons(text),
        )
    except (KeyError, StopIteration, ValueError) as error:
        raise InputUnusable(
            "this is not LoadGen's summary", where=where, got=str(error) or "another scenario"
        ) from error


def _figure(scenario: LoadGenScenario, values: dict[str, str]) -> float:
    if scenario == "offline":
        return float(values["Samples per second"])
    (latency,) = (value for name, value in values.items() if name.endswith("th percentile latency (ns)"))
    return float(latency) * NS


def _parameters(text: str) -> dict[str, str]:
    section = text.partition("Test Parameters Used")[2]
    return dict(re.findall(r"^(\w+(?: \(\w+\))?) *: *(\S+)$", section, re.MULTILINE))


def _count(text: str, what: str) -> int:
    """How many warnings or errors the last lines speak of."""
    found = re.search(rf"^(\d+|No) {what}s? encountered", text, re.MULTILINE | re.IGNORECASE)
    if found is None:
        raise ValueError(f"nothing is said of {what}s")
    return 0 if found[1].lower() == "no" else int(found[1])


def _reasons(text: str) -> tuple[str, ...]:
    """What was not satisfied, and what LoadGen advises."""
    unmet = [
        line.split(":")[0].strip() + ": no" for line in text.splitlines() if re.search(r"satisfied *: *NO\b", line)
    ]
    return (*unmet, *re.findall(r"^ \* (.+?) *$", text, re.MULTILINE))

"""LoadGen drives a real session, in each of its scenarios; its logs are kept and its summary is read as it is.

The runs last a fifth of a second, where LoadGen's default is ten: long enough to see that all goes together, and no
measurement. Whether LoadGen calls such a short run valid depends on the machine, so only the reading of it is tested.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench_graphs import FEEDS, candidate, convolutions
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench import loadgen
from edgekit.bench.loadgen import LoadGenScenario, Summary, Terms, parse_summary, run
from edgekit.bench.runtimes import Runner, Settings
from edgekit.bench.runtimes.onnxruntime_cpu import RUNTIME
from edgekit.errors import InputUnusable, MachineLacks, UsageError

SUMMARIES = Path(__file__).parent / "loadgen_summaries"
SHORT = Terms(min_duration_s=0.2, min_queries=20, samples_per_query=4)
LOGS = {"mlperf_log_summary.txt", "mlperf_log_detail.txt"}


class Counting:
    """A runner that counts its runs, and fails at the one with the number `fails`."""

    def __init__(self, runner: Runner, fails: int | None = None) -> None:
        self.runner, self.fails, self.runs = runner, fails, 0

    def sample(self, count: int) -> Sequence[float]:
        self.runs += count
        if self.fails is not None and self.runs >= self.fails:
            raise InputUnusable("the runtime gave up", where="run", got=str(self.runs))
        return self.runner.sample(count)

    def __getattr__(self, name: str) -> object:
        return getattr(self.runner, name)


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    opened = RUNTIME.open(candidate(tmp_path, convolutions()), Settings(threads=1))
    opened.feed(FEEDS)
    return opened


def drive(runner: object, scenario: LoadGenScenario, folder: Path, rows: int = 1) -> Summary:
    return run(runner, scenario, folder, SHORT, rows=rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream"])
def test_streams_of_a_real_session(scenario: LoadGenScenario, runner: Runner, tmp_path: Path) -> None:
    counting = Counting(runner)
    found = drive(counting, scenario, tmp_path / "logs")
    samples = 4 if scenario == "multi-stream" else 1
    assert found.scenario == scenario
    assert counting.runs >= loadgen.PROBES + 20 * samples
    assert found.parameters["samples_per_query"] == str(samples)
    assert found.parameters["min_duration (ms)"] == "200"
    assert 0 < found.shortest <= found.mean <= found.longest
    assert found.shortest <= found.percentiles["50.00"] <= found.percentiles["99.00"] <= found.longest
    assert found.figure == found.percentiles["90.00" if scenario == "single-stream" else "99.00"]
    assert found.valid == (not found.reasons)
    assert found.errors == 0
    assert {path.name for path in (tmp_path / "logs").iterdir()} >= LOGS


def test_all_samples_at_once(runner: Runner, tmp_path: Path) -> None:
    counting = Counting(runner)
    found = drive(counting, "offline", tmp_path / "logs")
    assert counting.runs - loadgen.PROBES == int(found.parameters["samples_per_query"])
    assert found.figure == pytest.approx(int(found.parameters["samples_per_query"]) / found.longest, rel=0.2)


def test_a_batch_is_one_run_for_several_samples(tmp_path: Path, runner: Runner) -> None:
    counting = Counting(runner)
    found = drive(counting, "multi-stream", tmp_path / "logs", rows=4)
    assert found.parameters["samples_per_query"] == "4"
    detail = (tmp_path / "logs" / "mlperf_log_detail.txt").read_text()
    (queries,) = re.findall(r'"result_query_count", "value": (\d+)', detail)
    assert counting.runs == loadgen.PROBES + int(queries)


@pytest.mark.parametrize("scenario", loadgen.NAMES)
def test_a_runner_that_fails_in_the_middle_fails_the_run(
    scenario: LoadGenScenario, runner: Runner, tmp_path: Path
) -> None:
    """An exception that reached LoadGen's own code would end the process."""
    counting = Counting(runner, fails=30)
    with pytest.raises(InputUnusable, match="gave up"):
        drive(counting, scenario, tmp_path / "logs")
    assert counting.runs == 30, "nothing is run after it"


def test_logs_of_another_run_are_not_written_over(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / loadgen.SUMMARY).write_text("kept")
    with pytest.raises(UsageError, match="another run"):
        drive(runner, "single-stream", tmp_path / "logs")
    assert (tmp_path / "logs" / loadgen.SUMMARY).read_text() == "kept"


def test_a_configuration_that_lies_about_changes_nothing(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoadGen would take `audit.config` from the current folder."""
    (tmp_path / "audit.config").write_text("*.SingleStream.min_query_count = 77\n*.*.min_duration = 1\n")
    monkeypatch.chdir(tmp_path)
    found = drive(runner, "single-stream", tmp_path / "logs")
    assert found.parameters["min_query_count"] == "20"


def test_without_loadgen_it_says_how_to_get_it(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "find_spec", lambda _name: None)
    assert "pip install" in (loadgen.missing() or "")
    with pytest.raises(MachineLacks) as caught:
        drive(runner, "single-stream", tmp_path / "logs")
    assert caught.value.hint == loadgen.INSTALL


def test_it_is_here() -> None:
    assert importlib.util.find_spec("mlperf_loadgen"), "pip install mlcommons-loadgen: these tests run it"
    assert loadgen.missing() is None


def read(name: str) -> Summary:
    return parse_summary((SUMMARIES / f"{name}.txt").read_text(), name)


def test_a_valid_summary_is_read() -> None:
    found = read("SingleStream")
    assert (found.scenario, found.valid, found.reasons) == ("single-stream", True, ())
    assert found.figure == pytest.approx(31963e-9)
    assert found.percentiles["99.90"] == pytest.approx(6719733e-9)
    assert set(found.percentiles) == {"50.00", "90.00", "95.00", "97.00", "99.00", "99.90"}
    assert (found.shortest, found.longest) == (pytest.approx(25850e-9), pytest.approx(10409804e-9))
    assert (found.warnings, found.errors) == (1, 0)
    assert found.parameters["target_qps"] == "10000"


def test_what_is_not_valid_has_loadgen_s_own_reasons() -> None:
    found = read("MultiStream")
    assert (found.scenario, found.valid) == ("multi-stream", False)
    assert found.reasons == (
        "Early stopping satisfied: no",
        "Only processed 458 queries.",
        "Need to process at least 662 queries for early stopping.",
    )
    assert (found.warnings, found.errors) == (0, 0)


def test_offline_is_samples_per_second() -> None:
    found = read("Offline")
    assert (found.scenario, found.valid, found.figure) == ("offline", False, 31972.2)
    assert "Min duration satisfied: no" in found.reasons


@pytest.mark.parametrize(
    "gone",
    [
        "Scenario",
        "Result is",
        "90.0th percentile",
        "Mean latency",
        "Min latency",
        "Max latency",
        "1 warning",
        "No errors",
    ],
)
def test_a_line_that_is_not_there_is_missed(gone: str) -> None:
    lines = (SUMMARIES / "SingleStream.txt").read_text().splitlines()
    left = [line for line in lines if not line.strip().startswith(gone)]
    assert len(left) == len(lines) - 1
    with pytest.raises(InputUnusable, match="not LoadGen's summary"):
        parse_summary("\n".join(left), "summary.txt")


@pytest.mark.parametrize(("found", "put"), [("31963", "fast"), ("VALID", "PERHAPS"), (": SingleStream", ": Server")])
def test_what_cannot_be_understood_is_refused(found: str, put: str) -> None:
    with pytest.raises(InputUnusable, match="not LoadGen's summary"):
        parse_summary((SUMMARIES / "SingleStream.txt").read_text().replace(found, put), "summary.txt")


@given(st.text())
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InputUnusable):
        parse_summary(text, "summary.txt")

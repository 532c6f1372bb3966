"""Scenarios played with small graphs under ONNX Runtime: real processes, real clocks, and no word about how fast.

Runs last a fraction of a second, so whether a result is VALID is the machine's business; that every reason against one
is seen is tested with planted ones.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_artifacts import CONTRACT, bench_file, export, result
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench import comparing, loadgen, playing, record, scenarios, verdict
from edgekit.bench.finding import Found, Selection, find
from edgekit.bench.journal import path_beside
from edgekit.bench.playing import Step
from edgekit.bench.playing_worker import Endurance, LoadGenRun, Pace, Part, tail_share
from edgekit.bench.record import ParityCheck, Result, Telemetry
from edgekit.bench.running import Finished, Request
from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from edgekit.bench.scenarios import Soak, Window
from edgekit.bench.verdict import Played, judge_played
from edgekit.errors import InputUnusable, MachineLacks, UsageError

PACED = Pace(rate=50.0, seconds=0.4, deadline=0.02)
SOAK = Endurance(seconds=0.3, window=0.1)


def request(found: tuple[Found, ...], out: Path, named: tuple[str, ...] = ("onnxruntime-cpu",)) -> Request:
    return Request(found, out, named, Settings(threads=1))


def play(wanted: Request, part: Part) -> Finished:
    return playing.run(wanted, part, lambda _step: None)


def graphs_of(folder: Path) -> tuple[Found, ...]:
    found = find([folder], Selection(), folder)
    return tuple(it for it in found if it.candidate.kind != "module")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    export(folder, "small", 1)
    export(folder, "large", 4)
    return folder


@pytest.fixture(scope="module")
def graphs(grid: Path) -> tuple[Found, ...]:
    return graphs_of(grid)


def only(finished: Finished) -> Result:
    assert finished.errors == ()
    (result,) = finished.file.results
    return result


@pytest.fixture(scope="module")
def paced(grid: Path, graphs: tuple[Found, ...]) -> tuple[Finished, list[Step]]:
    heard: list[Step] = []
    return playing.run(request(graphs, grid / "bench.paced.json"), PACED, heard.append), heard


class TestResults:
    def test_every_artifact_is_played(self, paced):
        names = {it.name for it in paced[0].file.results}
        assert names == {"small/onnx-fp32/onnxruntime-cpu", "large/onnx-fp32/onnxruntime-cpu"}

    def test_the_contract_is_complete(self, paced):
        for it in paced[0].file.results:
            contract = it.contract
            assert contract.terms == {"rate": 50.0, "deadline_s": 0.02, "duration_s": 0.4}
            assert (contract.scenario, contract.clock, contract.threads, contract.batch) == ("paced", "host", 1, 1)
            assert contract.versions
            assert it.ratio is None

    def test_every_frame_is_a_sample_of_one_group(self, paced):
        for it in paced[0].file.results:
            (frames,) = it.samples
            assert len(frames) == it.figures["frames"] == 20
            assert it.figures["missed"] == sum(seconds > 0.02 for seconds in frames)
            assert it.latency.ci95[0] <= it.latency.p50 <= it.latency.p90 <= it.latency.p99
            assert 0 < it.throughput_per_s <= 50.0 * (1 + 1e-9)

    def test_parity_was_checked_before_and_after(self, paced):
        for it in paced[0].file.results:
            assert [(check.when, check.passed) for check in it.parity] == [("before", True), ("after", True)]

    def test_twenty_frames_are_too_few_to_rely_on(self, paced):
        for it in paced[0].file.results:
            assert any(reason.startswith("too few samples: 20 runs") for reason in it.verdict.reasons)

    def test_it_is_on_the_disk_as_it_was_returned(self, paced, grid):
        assert record.read(grid / "bench.paced.json") == paced[0].file
        assert not path_beside(grid / "bench.paced.json").exists()

    def test_progress_and_time_left_are_told(self, paced):
        heard = paced[1]
        assert list(dict.fromkeys(step.stage for step in heard)) == ["loading", "playing", "checking"]
        assert 0 < heard[0].left_s <= 2 * PACED.seconds
        assert [step.done for step in heard] == sorted(step.done for step in heard)
        assert all(0 <= step.done <= 1 and step.left_s >= 0 for step in heard)

    def test_a_soak_has_its_windows(self, graphs, tmp_path):
        result = only(play(request(graphs[:1], tmp_path / "b.json"), SOAK))
        assert len(result.samples) == result.figures["windows"] == 3
        assert result.contract.terms == {"duration_s": 0.3, "window_s": 0.1}
        assert result.throughput_per_s == pytest.approx(1e3 / result.latency.mean)
        if "tail_share" in result.figures:
            assert {"tail_s", "worst_window", "tail_drift"} <= set(result.figures)
            assert result.figures["worst_window"] >= 1

    @pytest.mark.parametrize(
        ("scenario", "figure"), [("single-stream", "p90_s"), ("multi-stream", "p99_s"), ("offline", "samples_per_s")]
    )
    def test_loadgen_plays_and_its_logs_are_named(self, graphs, tmp_path, scenario, figure):
        out = tmp_path / "b.json"
        result = only(play(request(graphs[:1], out), LoadGenRun(scenario, 0.2, tmp_path / "logs")))
        assert result.logs is not None
        summary = loadgen.parse_summary((out.parent / result.logs / loadgen.SUMMARY).read_text(), "")
        assert result.contract.scenario == summary.scenario == scenario
        assert result.figures[figure] == pytest.approx(summary.figure)
        said = any(reason.startswith("LoadGen says INVALID") for reason in result.verdict.reasons)
        assert said == (not summary.valid)
        (runs,) = result.samples
        assert all(seconds > 0 for seconds in runs)
        assert result.contract.terms["min_duration_s"] == 0.2

    def test_each_run_of_loadgen_gets_a_fresh_folder(self, graphs, tmp_path):
        part = LoadGenRun("single-stream", 0.1, tmp_path / "logs")
        folders = [only(play(request(graphs[:1], tmp_path / "b.json"), part)).logs for _ in range(2)]
        place = f"logs/{graphs[0].subject.slug}/onnx-fp32-onnxruntime-cpu"
        assert folders == [f"{place}/run-1", f"{place}/run-2"]

    def test_wrong_outputs_are_seen(self, tmp_path):
        export(tmp_path, "net", wrong=True)
        result = only(play(request(graphs_of(tmp_path), tmp_path / "b.json"), PACED))
        assert verdict.parity_lost(result.parity)
        assert result.verdict.reasons[0].startswith("parity lost")


class TestRefusals:
    def test_a_runtime_that_starts_a_program_for_each_sample_is_refused_by_name(self, graphs, tmp_path):
        with pytest.raises(UsageError, match="trtexec cannot play a scenario"):
            play(request(graphs, tmp_path / "b.json", ("onnxruntime-cpu", "trtexec")), PACED)

    def test_and_is_among_what_is_not_measured_where_nobody_named_it(self, graphs, tmp_path, monkeypatch):
        monkeypatch.setattr(playing.runtimes, "names", lambda: ["onnxruntime-cpu", "trtexec"])
        done = play(request(graphs[:1], tmp_path / "b.json", ()), PACED)
        assert {it.runtime: it.needs for it in done.file.not_measured} == {"trtexec": playing.NEEDS_TO_STAY}
        assert len(done.file.results) == 1

    def test_without_loadgen_it_says_how_to_get_it(self, graphs, tmp_path, monkeypatch):
        monkeypatch.setattr(loadgen, "find_spec", lambda _name: None)
        with pytest.raises(MachineLacks, match="pip install"):
            play(request(graphs, tmp_path / "b.json"), LoadGenRun("offline", 0.2, tmp_path / "logs"))
        assert list(tmp_path.iterdir()) == []

    def test_logs_into_a_file_are_refused(self, graphs, tmp_path):
        (tmp_path / "logs").write_text("mine")
        with pytest.raises(UsageError, match="need a folder"):
            play(request(graphs, tmp_path / "b.json"), LoadGenRun("offline", 0.2, tmp_path / "logs"))
        assert (tmp_path / "logs").read_text() == "mine"

    def test_more_images_than_one_are_refused(self, graphs, tmp_path):
        given = replace(request(graphs, tmp_path / "b.json"), images=(Path("a.png"), Path("b.png")))
        with pytest.raises(UsageError, match="one image"):
            play(given, PACED)

    def test_a_runtime_that_cannot_run_here_is_told(self, graphs, tmp_path, monkeypatch):
        monkeypatch.setattr(OnnxRuntimeCpu, "missing", lambda self: "a bigger machine")
        done = play(request(graphs, tmp_path / "b.json"), PACED)
        assert [type(error) for error in done.errors] == [MachineLacks]
        assert {it.needs for it in done.file.not_measured} == {"a bigger machine"}
        assert list(tmp_path.iterdir()) == []  # no file without figures in the place of an earlier one


class TestStopped:
    def stopped(self, wanted: Request, part: Part, after: int) -> None:
        """As Ctrl-C would: when so many are finished."""
        seen: list[str] = []

        def listen(step: Step) -> None:
            seen.append(step.name)
            if len(set(seen)) > after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            playing.run(wanted, part, listen)

    def test_what_is_finished_is_kept_and_not_played_again(self, graphs, tmp_path):
        wanted = request(graphs, tmp_path / "b.json")
        self.stopped(wanted, PACED, 1)
        kept = json.loads(path_beside(wanted.out).read_text().splitlines()[1])
        heard: list[str] = []
        done = playing.run(wanted, PACED, lambda step: heard.append(step.name))
        first, second = done.file.results
        assert list(first.samples[0]) == kept["result"]["samples"][0]
        assert set(heard) == {second.name}

    def test_a_line_that_was_cut_off_is_played_again(self, graphs, tmp_path):
        wanted = request(graphs, tmp_path / "b.json")
        self.stopped(wanted, PACED, 1)
        beside = path_beside(wanted.out)
        beside.write_bytes(beside.read_bytes()[:-20])
        assert len(play(wanted, PACED).file.results) == 2

    def test_other_terms_begin_afresh(self, graphs, tmp_path):
        wanted = request(graphs, tmp_path / "b.json")
        self.stopped(wanted, PACED, 1)
        done = play(wanted, replace(PACED, rate=25.0))
        assert {it.contract.terms["rate"] for it in done.file.results} == {25.0}

    def test_two_at_once_are_refused(self, graphs, tmp_path):
        wanted = request(graphs[:1], tmp_path / "b.json")

        def again(_step: Step) -> None:
            with pytest.raises(UsageError, match="another edgekit"):
                play(wanted, PACED)

        playing.run(wanted, PACED, again)

    def test_a_candidate_that_cannot_be_loaded_takes_no_other_with_it(self, tmp_path):
        export(tmp_path, "good")
        export(tmp_path, "gone")
        found = graphs_of(tmp_path)
        (tmp_path / "gone" / "model.onnx").write_bytes(b"no graph")
        done = play(request(found, tmp_path / "b.json"), PACED)
        assert [it.subject.slug for it in done.file.results] == ["good"]
        assert [it.slug for it in done.file.not_measured] == ["gone"]
        assert isinstance(done.errors[0], InputUnusable)


QUIET = Telemetry(1.0, 0, other_load=0.0)
RIGHT = (ParityCheck("before", True, 1e-7, 1e-5), ParityCheck("after", True, 1e-7, 1e-5))


class TestVerdict:
    def test_a_sound_one_is_valid(self):
        for played in (
            Played(1000, missed=(10, 1000), keeps_up=True),
            Played(1000, tail_told=True, drift=0.1),
            Played(1000),
        ):
            assert judge_played(played, QUIET, RIGHT).valid

    @pytest.mark.parametrize(
        ("played", "words"),
        [
            (Played(29), "too few samples"),
            (Played(1000, missed=(11, 1000), keeps_up=True), "missed deadlines: 11 of 1000"),
            (Played(1000, missed=(0, 1000), keeps_up=False), "does not keep up"),
            (Played(1000, tail_told=False), "do not tell how the tail goes"),
            (Played(1000, tail_told=True, drift=0.2), "the tail drifts: +20%"),
            (Played(1000, loadgen=("Min duration satisfied: no", "Run longer.")), "Min duration satisfied: no, Run lo"),
            (Played(1000, loadgen=()), "gives no reason"),
        ],
    )
    def test_each_reason_is_given(self, played, words):
        found = judge_played(played, QUIET, RIGHT)
        assert not found.valid
        assert len(found.reasons) == 1
        assert words in found.reasons[0]

    def test_what_speaks_against_rounds_speaks_against_it(self):
        assert "another load" in judge_played(Played(99), replace(QUIET, other_load=0.5), RIGHT).reasons[0]
        wrong = (RIGHT[0], ParityCheck("after", False, 0.3, 1e-5))
        assert "parity lost" in judge_played(Played(99), QUIET, wrong).reasons[0]


class TestTails:
    @pytest.mark.parametrize(("runs", "share"), [(1000, 0.99), (999, 0.95), (200, 0.95), (100, 0.90), (99, None)])
    def test_the_tail_is_the_highest_that_every_window_can_tell(self, runs, share):
        windows = (Window(0.0, (1.0,) * 5000), Window(1.0, (1.0,) * runs))
        assert tail_share(Soak(1.0, windows)) == share

    @given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=500))
    def test_blocks_are_the_runs_in_their_order(self, runs):
        blocks = scenarios.in_blocks(runs)
        assert [seconds for block in blocks for seconds in block] == runs
        sizes = [len(block) for block in blocks]
        assert len(blocks) == min(scenarios.BLOCKS, len(runs))
        assert max(sizes) - min(sizes) <= 1


def test_rounds_and_scenarios_have_files_of_their_own() -> None:
    names = [record.file_of(it) for it in ("rounds", "paced", "soak", "offline")]
    assert names == ["bench.json", "bench.paced.json", "bench.soak.json", "bench.offline.json"]


def test_reading_what_has_no_figures_yet(grid, graphs, tmp_path) -> None:
    """A bench file of before there were scenarios."""
    done = play(request(graphs[:1], tmp_path / "b.json"), PACED)
    data = json.loads(record.encode(done.file))
    for it in data["results"]:
        del it["figures"], it["logs"], it["contract"]["terms"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    (read,) = record.read(tmp_path / "old.json").results
    assert (read.figures, read.logs, read.contract.terms) == ({}, None, {})


class TestComparing:
    def one_row(self, seconds: float, seed: int) -> record.BenchFile:
        """As a paced run leaves it: all in one row, neighbours alike."""
        generator = np.random.default_rng(seed)
        slow = np.repeat(generator.normal(0, 0.05, 40), 10)
        runs = seconds * np.exp(slow + generator.normal(0, 0.02, 400))
        contract = replace(CONTRACT, scenario="paced")
        return replace(bench_file(result("net", [runs.tolist()], contract=contract)), references=())

    def changes(self, seconds: float) -> list[str]:
        pairs = [(self.one_row(2e-3, seed), self.one_row(seconds, seed + 100)) for seed in range(10)]
        return [comparing.compare(*pair).shared[0].change for pair in pairs]

    def test_what_varies_within_one_row_is_no_difference(self):
        assert self.changes(2e-3).count("the same") >= 9

    def test_a_true_difference_is_found(self):
        assert self.changes(2.4e-3).count("slower") >= 9

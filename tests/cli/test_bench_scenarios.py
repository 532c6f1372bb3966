"""`edgekit bench --scenario` as people type it, with their mistakes: real runs of small graphs, which last a moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_artifacts import export

from edgekit.bench import loadgen, record
from edgekit.bench.journal import path_beside

ONE = ("--runtime", "onnxruntime-cpu", "--threads", "1", "--alpha", "1")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    export(folder, "small-a0.50-r16", 1, alpha=0.5)
    export(folder, "large-a1.00-r16", 4)
    return folder


class TestResults:
    @pytest.mark.parametrize(
        ("scenario", "options", "words", "figure"),
        [
            (
                "paced",
                ("--rate", "100", "--deadline", "5ms", "--duration", "0.3"),
                "rate 100, deadline_s 0.005",
                "missed",
            ),
            ("soak", ("--duration", "0.3", "--window", "0.1"), "duration_s 0.3, window_s 0.1", "windows"),
            ("single-stream", ("--duration", "0.2"), "LoadGen p90 ms", "p90_s"),
            ("multi-stream", ("--duration", "0.2"), "LoadGen p99 ms", "p99_s"),
            ("offline", ("--duration", "0.2"), "LoadGen samples/s", "samples_per_s"),
        ],
    )
    def test_each_leaves_a_table_and_a_file_of_its_own(self, edgekit, grid, scenario, options, words, figure):
        ran = edgekit("bench", grid, *ONE, "--scenario", scenario, *options)
        assert ran.code in (0, 1)  # other work on the machine, and short runs, make INVALID measurements
        assert words in ran.out
        assert "large-a1.00-r16" in ran.out
        assert "s left" in ran.err
        (result,) = record.read(grid / f"bench.{scenario}.json").results
        assert result.contract.scenario == scenario
        assert figure in result.figures
        assert not (grid / "bench.json").exists()
        if result.logs is not None:
            assert f"{result.logs}: LoadGen's logs" in ran.out
            assert (grid / result.logs / loadgen.SUMMARY).exists()

    def test_json_is_that_of_rounds_with_the_scenarios_figures(self, edgekit, grid, tmp_path):
        out = tmp_path / "b.json"
        ran = edgekit("bench", grid, *ONE, "--scenario", "paced", "--duration", "0.3", "--out", out, "--json")
        (result,) = ran.json["results"]
        assert result["contract"]["scenario"] == "paced"
        assert result["contract"]["terms"]["rate"] == 30
        assert result["contract"]["terms"]["deadline_s"] == pytest.approx(1 / 30)
        assert result["figures"]["frames"] == result["samples"] == 9
        assert (result["ratio"], result["logs"], result["rounds"]) == (None, None, 1)
        assert result["verdict"] == "INVALID"  # nine frames say nothing
        assert ran.code == 1
        assert "INVALID: large-a1.00-r16/onnx-fp32/onnxruntime-cpu" in ran.err

    def test_logs_go_where_they_are_asked_for_and_old_ones_stay(self, edgekit, grid, tmp_path):
        given = ("--scenario", "single-stream", "--duration", "0.1", "--logs", tmp_path / "logs")
        out = ("--out", tmp_path / "b.json", "--json")
        logs = [edgekit("bench", grid, *ONE, *given, *out).json["results"][0]["logs"] for _ in range(2)]
        assert [Path(it).name for it in logs] == ["run-1", "run-2"]
        assert all((tmp_path / it / loadgen.SUMMARY).exists() for it in logs)

    def test_two_scenarios_are_not_compared(self, edgekit, grid, tmp_path):
        for scenario, options in (("paced", ()), ("soak", ("--window", "0.1"))):
            given = ("--scenario", scenario, "--duration", "0.2", *options)
            edgekit("bench", grid, *ONE, *given, "--out", tmp_path / f"{scenario}.json")
        ran = edgekit("compare", tmp_path / "paced.json", tmp_path / "soak.json")
        assert ran.code == 2
        assert "scenario: paced and soak" in ran.err

    def test_two_paces_are_not_compared(self, edgekit, grid, tmp_path):
        for rate in (20, 50):
            given = ("--scenario", "paced", "--duration", "0.2", "--rate", rate)
            edgekit("bench", grid, *ONE, *given, "--out", tmp_path / f"{rate}.json")
        assert edgekit("compare", tmp_path / "20.json", tmp_path / "20.json").code == 0
        ran = edgekit("compare", tmp_path / "20.json", tmp_path / "50.json")
        assert ran.code == 2
        assert "terms" in ran.err

    def test_the_report_shows_what_was_played(self, edgekit, grid, tmp_path):
        edgekit("bench", grid, *ONE, "--scenario", "paced", "--duration", "0.3")
        ran = edgekit("report", grid)
        assert ran.code == 0
        assert "## Scenarios" in ran.out
        assert "frames 9" in ran.out


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--scenario", "pased"], "did you mean paced"),
            (["--scenario", "paced", "--rate", "0"], "not a pace"),
            (["--scenario", "paced", "--rate", "nan"], "not a pace"),
            (["--scenario", "paced", "--deadline", "33"], "the unit is missing"),
            (["--scenario", "paced", "--deadline", "0ms"], "--deadline"),
            (["--scenario", "paced", "--duration", "0.01"], "no frame is due"),
            (["--scenario", "soak", "--duration", "-1"], "--duration"),
            (["--scenario", "soak", "--duration", "2", "--window", "3"], "--window"),
            (["--scenario", "offline", "--duration", "inf"], "--duration"),
            (["--scenario", "soak", "--runtime", "trtexec"], "trtexec cannot play a scenario"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, edgekit, grid, tmp_path, arguments, words):
        ran = edgekit("bench", grid, "--out", tmp_path / "b.json", *arguments)
        assert ran.code == 2
        assert words in ran.err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("scenario", "option", "value", "belongs"),
        [
            ("soak", "--rate", "30", "--scenario paced"),
            ("single-stream", "--deadline", "5ms", "--scenario paced"),
            ("paced", "--window", "1", "--scenario soak"),
            ("paced", "--logs", "there", "--scenario single-stream"),
            ("rounds", "--duration", "3", "--scenario paced"),
            ("soak", "--max-time", "3", "--scenario rounds"),
            ("soak", "--max-time", "30", "--scenario rounds"),  # the default, but it was said
            ("paced", "--baseline", "old.json", "--scenario rounds"),
            ("offline", "--no-memory", None, "--scenario rounds"),
        ],
    )
    def test_options_of_another_scenario_are_refused(self, edgekit, grid, scenario, option, value, belongs):
        ran = edgekit("bench", grid, "--scenario", scenario, option, *([value] if value else []))
        assert ran.code == 2
        assert f"not an option of {scenario}" in ran.err
        assert option.replace("--no-", "--") in ran.err
        assert belongs in ran.err

    def test_a_source_is_not_exported_for_a_mistake(self, edgekit, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert edgekit("bench", "mobilenet_v2", "--scenario", "paced", "--rate", "0").code == 2
        assert list(tmp_path.iterdir()) == []

    def test_a_file_where_logs_should_go_stays(self, edgekit, grid, tmp_path):
        (tmp_path / "logs").write_text("mine")
        ran = edgekit("bench", grid, *ONE, "--scenario", "offline", "--logs", tmp_path / "logs")
        assert ran.code == 2
        assert (tmp_path / "logs").read_text() == "mine"

    def test_without_loadgen_it_is_exit_code_3_with_the_command(self, edgekit, grid, monkeypatch):
        monkeypatch.setattr(loadgen, "find_spec", lambda _name: None)
        ran = edgekit("bench", grid, *ONE, "--scenario", "offline")
        assert ran.code == 3
        assert loadgen.INSTALL in ran.err


class TestStopped:
    """While the second of two is played; the first is finished."""

    def arguments(self, grid: Path, out: Path) -> list[str]:
        given = ("--runtime", "onnxruntime-cpu", "--threads", "1", "--scenario", "paced", "--duration", "2")
        return ["bench", str(grid), *given, "--out", str(out)]

    def stop(self, grid: Path, out: Path, how: signal.Signals) -> tuple[int, str]:
        """The exit code, and what was on stderr."""
        argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *self.arguments(grid, out)]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
            while self.kept(out) < 1:
                assert running.poll() is None, running.communicate()
                time.sleep(0.02)
            os.kill(running.pid, how)
            err = running.communicate(timeout=60)[1]
        return running.returncode, err

    def kept(self, out: Path) -> int:
        beside = path_beside(out)
        return max(0, beside.read_bytes().count(b"\n") - 1) if beside.exists() else 0

    def test_after_kill_9_what_is_finished_is_not_played_again(self, edgekit, grid, tmp_path):
        out = tmp_path / "b.json"
        assert self.stop(grid, out, signal.SIGKILL)[0] == -signal.SIGKILL
        kept = json.loads(path_beside(out).read_text().splitlines()[1])["result"]
        ran = edgekit(*self.arguments(grid, out))
        file = record.read(out)
        assert len(file.results) == 2
        assert [list(it.samples[0]) for it in file.results if it.subject.slug == kept["subject"]["slug"]] == [
            kept["samples"][0]
        ]
        assert f"{kept['subject']['slug']}/onnx-fp32/onnxruntime-cpu: playing" not in ran.err
        assert self.kept(out) == 0

    def test_ctrl_c_is_exit_code_130_and_says_that_it_goes_on(self, grid, tmp_path):
        code, err = self.stop(grid, tmp_path / "b.json", signal.SIGINT)
        assert code == 130
        assert "the same command goes on from there" in err
        assert self.kept(tmp_path / "b.json") == 1

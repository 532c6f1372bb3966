"""`edgekit bench` as people type it: real measurements of small graphs, whose figures are nobody's business here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bench_artifacts import export
from command_line import Ran

from edgekit.bench import record
from edgekit.bench.journal import path_beside
from edgekit.bench.runtimes.onnxruntime_cpu import OnnxRuntimeCpu

QUICK = ("--runtime", "onnxruntime-cpu", "--threads", "1", "--min-time", "0", "--max-time", "0.2", "--no-memory")


def process(*arguments: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", "from edgekit.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    export(folder, "small-a0.50-r16", 1, alpha=0.5, half=True)
    export(folder, "large-a1.00-r16", 6)
    return folder


class TestResults:
    def test_its_json_is_the_contracts(self, edgekit, grid):
        ran = edgekit("bench", grid, *QUICK, "--json")
        data = ran.json
        assert ran.code in (0, 1)  # a machine with other work on it makes INVALID measurements
        assert {"environment", "results", "not_measured", "advice", "out"} <= set(data)
        assert {"cpu", "cores", "telemetry"} <= set(data["environment"])
        assert len(data["results"]) == 3
        for result in data["results"]:
            assert {"model", "alpha", "resolution", "batch"} <= set(result["variant"])
            assert set(result["artifact"]) >= {"kind", "sha256"}
            assert result["runtime"] == "onnxruntime-cpu"
            assert {"clock", "transfers", "batch", "threads", "warmup_s"} <= set(result["contract"])
            assert set(result["latency_ms"]) == {"p50", "p90", "p95", "p99", "mean", "ci95"}
            assert result["samples"] >= result["rounds"] > 0
            assert (result["verdict"] == "VALID") == (result["reasons"] == [])

    def test_raw_samples_go_to_the_folder_that_was_measured(self, edgekit, grid):
        data = edgekit("bench", grid, *QUICK, "--json").json
        assert data["out"] == str(grid / "bench.json")
        file = record.read(grid / "bench.json")
        counts = [sum(map(len, result.samples)) for result in file.results]
        assert counts == [result["samples"] for result in data["results"]]
        assert file.command.startswith("edgekit")  # with the arguments of whatever process this is

    def test_text_has_a_line_for_each_and_says_what_milliseconds_are(self, edgekit, grid, tmp_path):
        ran = edgekit("bench", grid, *QUICK, "--out", tmp_path / "b.json")
        assert [line.split()[0] for line in ran.out.splitlines()[1:4]].count("small-a0.50-r16") == 2
        assert "milliseconds are this machine's, now" in ran.out
        assert str(tmp_path / "b.json") in ran.out

    def test_progress_and_time_left_go_to_stderr(self, edgekit, grid, tmp_path):
        ran = edgekit("bench", grid, *QUICK, "--out", tmp_path / "b.json")
        assert "onnxruntime-cpu: measuring" in ran.err
        assert "s left" in ran.err
        quiet = edgekit("bench", grid, *QUICK, "--quiet", "--out", tmp_path / "b.json")
        assert "measuring" not in quiet.err

    @pytest.mark.parametrize(
        ("filters", "kept"),
        [
            (["--alpha", "0.5"], {"small-a0.50-r16/onnx-fp32", "small-a0.50-r16/onnx-fp16"}),
            (["--precision", "fp32", "--alpha", "0.5,1"], {"small-a0.50-r16/onnx-fp32", "large-a1.00-r16/onnx-fp32"}),
            (["--precision", "fp16", "--res", "16"], {"small-a0.50-r16/onnx-fp16"}),
        ],
    )
    def test_filters(self, edgekit, grid, tmp_path, filters, kept):
        data = edgekit("bench", grid, *QUICK, *filters, "--out", tmp_path / "b.json", "--json").json
        assert {result["name"].rpartition("/")[0] for result in data["results"]} == kept

    def test_images_are_measured_through_the_preprocessing_contract(self, edgekit, grid, tmp_path):
        from PIL import Image

        for name in ("a.png", "b.png"):
            Image.new("RGB", (40, 30), "orange").save(tmp_path / name)
        given = ("--images", tmp_path, "--alpha", "1", "--out", tmp_path / "b.json", "--json")
        (result,) = edgekit("bench", grid, *QUICK, *given).json["results"]
        assert result["contract"]["inputs"] == "images"

    def test_html_is_written_as_well(self, edgekit, grid, tmp_path):
        edgekit("bench", grid, *QUICK, "--out", tmp_path / "b.json", "--html", tmp_path / "page.html")
        assert "small-a0.50-r16" in (tmp_path / "page.html").read_text()


def test_a_source_is_exported_first(tmp_path: Path) -> None:
    options = ("--alpha", "0.35", "--res", "96", "--precision", "fp32", "--artifacts", tmp_path / "made")
    with process("bench", "mobilenet_v2", *options, *QUICK, "--json") as ran:
        out, err = ran.communicate(timeout=240)
    assert ran.returncode in (0, 1), err
    (result,) = json.loads(out)["results"]
    assert result["name"] == "mobilenet_v2-a0.35-r96/onnx-fp32/onnxruntime-cpu"
    assert all(check["passed"] for check in result["parity"])
    assert (tmp_path / "made/mobilenet_v2-a0.35-r96/bench.json").exists()


class TestFailures:
    def test_wrong_outputs_are_exit_code_1(self, edgekit, tmp_path):
        export(tmp_path, "net", wrong=True)
        ran = edgekit("bench", tmp_path, *QUICK, "--json")
        assert ran.code == 1
        (result,) = ran.json["results"]
        assert result["verdict"] == "INVALID"
        assert "net/onnx-fp32/onnxruntime-cpu does not compute what was exported" in ran.err

    def test_a_runtime_asked_for_that_cannot_run_is_exit_code_3(self, edgekit, grid, monkeypatch, tmp_path):
        monkeypatch.setattr(OnnxRuntimeCpu, "missing", lambda self: "a bigger machine")
        ran = edgekit("bench", grid, *QUICK, "--json", "--out", tmp_path / "b.json")
        assert ran.code == 3
        assert {(it["runtime"], it["needs"]) for it in ran.json["not_measured"]} == {
            ("onnxruntime-cpu", "a bigger machine")
        }
        assert "onnxruntime-cpu cannot run here" in ran.err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--runtime", "onnxruntime-cpi"], "onnxruntime-cpu"),
            (["--target", "much"], "not a percentage"),
            (["--max-time", "0"], "not a time to measure in"),
            (["--min-time", "9", "--max-time", "3"], "not a time to measure in"),
            (["--threads", "0"], "--threads"),
            (["--precision", "fp8"], "fp16"),
            (["--alpha", "0.1"], "fits what was asked for"),
            (["--fail-if", "slower:5%"], "--baseline"),
            (["--fail-if", "faster:5%", "--baseline", "x.json"], "slower:PERCENT%"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, edgekit, grid, arguments, words):
        ran = edgekit("bench", grid, *arguments)
        assert ran.code == 2
        assert words in ran.err

    def test_a_changed_artifact_is_refused(self, edgekit, tmp_path):
        folder = export(tmp_path, "net")
        (folder / "model.onnx").write_bytes(b"something else")
        assert edgekit("bench", tmp_path, *QUICK).code == 4


class TestBaseline:
    @pytest.fixture
    def baseline(self, edgekit, grid, tmp_path) -> Path:
        edgekit("bench", grid, *QUICK, "--alpha", "1", "--out", tmp_path / "old.json")
        return tmp_path / "old.json"

    def gate(self, edgekit, grid, baseline: Path, *more: object) -> Ran:
        given = ("--alpha", "1", "--out", baseline.with_name("new.json"), "--json")
        return edgekit("bench", grid, *QUICK, *given, "--baseline", baseline, *more)

    def faster(self, baseline: Path, times: float) -> None:
        """As if everything had once taken a fraction of the time, the reference aside."""
        file = record.read(baseline)
        results = tuple(
            replace(it, samples=tuple(tuple(seconds / times for seconds in runs) for runs in it.samples))
            for it in file.results
        )
        record.write(replace(file, results=results), baseline)

    def test_a_regression_is_exit_code_1_and_named(self, edgekit, grid, baseline):
        self.faster(baseline, 20.0)
        ran = self.gate(edgekit, grid, baseline, "--fail-if", "slower:5%")
        assert ran.code == 1
        assert "large-a1.00-r16/onnx-fp32/onnxruntime-cpu has become slower" in ran.err
        assert ran.json["comparison"]["shared"][0]["change"] == "slower"

    def test_what_did_not_change_passes_however_noisy_the_machine(self, edgekit, grid, baseline):
        assert self.gate(edgekit, grid, baseline, "--fail-if", "slower:300%").code == 0

    def test_another_contract_is_refused(self, edgekit, grid, baseline):
        file = record.read(baseline)
        results = tuple(replace(it, contract=replace(it.contract, threads=64)) for it in file.results)
        record.write(replace(file, results=results), baseline)
        ran = self.gate(edgekit, grid, baseline)
        assert ran.code == 2
        assert "threads: 64 and 1" in ran.err


class TestStopped:
    def arguments(self, grid: Path, out: Path, seconds: float) -> tuple[object, ...]:
        return ("bench", grid, *QUICK, "--max-time", seconds, "--target", "0.0001", "--out", out, "--json")

    def stop(self, grid: Path, out: Path, how: signal.Signals) -> tuple[int, int]:
        """Stop a run after some rounds: its exit code, and the whole rounds that are on the disk."""
        with process(*self.arguments(grid, out, 120)) as running:
            while self.kept(out) < 5:
                assert running.poll() is None, running.communicate()
                time.sleep(0.02)
            os.kill(running.pid, how)
            running.communicate(timeout=60)
        return running.returncode, self.kept(out)

    def kept(self, out: Path) -> int:
        journal = path_beside(out)
        return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0

    def test_after_kill_9_every_finished_round_counts(self, edgekit, grid, tmp_path):
        code, kept = self.stop(grid, tmp_path / "b.json", signal.SIGKILL)
        assert code == -signal.SIGKILL
        edgekit(*self.arguments(grid, tmp_path / "b.json", 0.2))
        launches = record.read(tmp_path / "b.json").references[0].launches
        assert launches.count(0) == kept
        assert max(launches) >= 1
        assert self.kept(tmp_path / "b.json") == 0

    def test_ctrl_c_is_exit_code_130_and_loses_nothing(self, grid, tmp_path):
        code, kept = self.stop(grid, tmp_path / "b.json", signal.SIGINT)
        assert code == 130
        assert kept >= 5

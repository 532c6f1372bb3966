"""Whole benchmarks of small graphs under ONNX Runtime: real processes, real clocks, and no word about how fast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench_artifacts import export

from edgekit.bench import protocol, record, reference, running, runtimes
from edgekit.bench.finding import Found, Selection, find
from edgekit.bench.journal import path_beside
from edgekit.bench.protocol import Limits, Progress
from edgekit.bench.record import BenchFile
from edgekit.bench.running import Finished, Request
from edgekit.bench.runtimes import Settings
from edgekit.errors import GateFailed, MachineLacks

QUICK = Limits(target=1e-6, min_s=0.0, max_s=0.2, launches=2, memory=False)
# Reached at once, so that every launch makes as many rounds as it must, however slow the machine.
EASY = Limits(target=5.0, min_s=0.0, max_s=60.0, launches=2, memory=False)
ONE = Settings(threads=1)


def request(found: tuple[Found, ...], out: Path, limits: Limits = QUICK, **options: object) -> Request:
    return Request(found, out, ("onnxruntime-cpu",), ONE, limits, **options)


def run(wanted: Request) -> Finished:
    return running.run(wanted, lambda _progress: None)


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    export(folder, "small", 1, half=True)
    export(folder, "large", 6)
    export(folder, "broken", 1, wrong=True)
    return folder


@pytest.fixture(scope="module")
def graphs(grid: Path) -> tuple[Found, ...]:
    found = find([grid / "small", grid / "large"], Selection(), grid)
    return tuple(it for it in found if it.candidate.kind != "module")


@pytest.fixture(scope="module")
def measured(grid: Path, graphs: tuple[Found, ...]) -> tuple[Finished, list[Progress]]:
    heard: list[Progress] = []
    limits = replace(EASY, memory=True)
    return running.run(request(graphs, grid / "bench.json", limits), heard.append), heard


class TestAWholeBenchmark:
    def test_every_artifact_has_a_result(self, measured):
        file = measured[0].file
        assert {it.name for it in file.results} == {
            "small/onnx-fp32/onnxruntime-cpu",
            "small/onnx-fp16/onnxruntime-cpu",
            "large/onnx-fp32/onnxruntime-cpu",
        }
        assert measured[0].errors == ()

    def test_raw_samples_of_every_round_are_kept(self, measured):
        file = measured[0].file
        (own,) = file.references
        assert (own.name, own.runtime) == (reference.NAME, "onnxruntime-cpu")
        assert set(own.launches) == {0, 1}
        for result in file.results:
            assert len(result.samples) == len(own.samples) == len(own.launches) == file.telemetry.rounds
            assert all(seconds > 0 for runs in result.samples for seconds in runs)

    def test_the_contract_is_what_was(self, measured):
        by_kind = {it.subject.kind: it.contract for it in measured[0].file.results}
        contract = by_kind["onnx-fp16"]
        assert (contract.clock, contract.transfers, contract.batch) == ("host", "none", 1)
        assert (contract.threads, contract.spin, contract.precision) == (1, False, "fp16")
        assert (contract.warmup, contract.inputs) == (10, "synthetic")
        assert contract.versions

    def test_more_work_takes_longer(self, measured):
        ratios = {it.name: it.ratio for it in measured[0].file.results}
        small, large = (ratios[f"{name}/onnx-fp32/onnxruntime-cpu"] for name in ("small", "large"))
        assert small.value < large.value
        assert small.ci95[0] <= small.value <= small.ci95[1]

    def test_figures_are_in_order(self, measured):
        for it in measured[0].file.results:
            latency = it.latency
            assert latency.p50 <= latency.p90 <= latency.p95 <= latency.p99
            assert latency.ci95[0] <= latency.p50 <= latency.ci95[1]
            assert it.throughput_per_s == pytest.approx(1e3 / latency.mean)

    def test_parity_was_checked_before_and_after(self, measured):
        for it in measured[0].file.results:
            assert [check.when for check in it.parity] == ["before", "after"]
            assert all(check.passed for check in it.parity)

    def test_memory_is_that_of_a_process_of_its_own(self, measured):
        for it in measured[0].file.results:
            assert it.memory.artifact == it.subject.bytes
            assert 0 < it.memory.rss_base < it.memory.rss_peak

    def test_the_machine_is_described(self, measured):
        file = measured[0].file
        assert file.machine["cpu"]
        assert file.telemetry.other_load is not None
        assert file.telemetry.priority in ("realtime", "normal")

    def test_it_is_on_the_disk_as_it_was_returned(self, measured, grid):
        assert record.read(grid / "bench.json") == measured[0].file
        assert not path_beside(grid / "bench.json").exists()

    def test_progress_and_time_left_are_told(self, measured):
        stages = [it.stage for it in measured[1]]
        assert list(dict.fromkeys(stages)) == ["loading", "measuring", "checking", "weighing"]
        left = [it.left_s for it in measured[1] if it.stage == "measuring"]
        assert all(seconds is not None and 0 <= seconds <= EASY.max_s for seconds in left)
        assert left[-1] < left[0]


class TestWhatGoesWrong:
    def test_a_graph_that_computes_something_else_is_invalid(self, grid):
        found = find([grid / "broken"], Selection(), grid)
        (result,) = run(request(found, grid / "broken.json")).file.results
        assert not result.verdict.valid
        assert result.verdict.reasons[0].startswith("parity lost, seen before measuring: map is off by")

    def test_a_graph_that_does_not_load_is_named_and_the_rest_is_measured(self, graphs, tmp_path):
        (tmp_path / "bad.onnx").write_bytes(b"no graph")
        bad = replace(graphs[0], candidate=replace(graphs[0].candidate, path=tmp_path / "bad.onnx"))
        done = run(request((bad, graphs[2]), tmp_path / "bench.json"))
        assert [it.subject.slug for it in done.file.results] == ["small"] or len(done.file.results) == 1
        (missing,) = done.file.not_measured
        assert missing.runtime == "onnxruntime-cpu"
        assert "cannot load the graph" in missing.needs
        assert len(done.errors) == 1

    def test_a_runtime_that_dies_while_it_loads_takes_only_that_one_with_it(self, graphs, tmp_path, monkeypatch):
        worker = tmp_path / "dying_worker.py"
        worker.write_text(
            "import os\n"
            "from edgekit.bench import worker\n"
            "def serve(request):\n"
            "    if isinstance(request, worker.Load) and request.candidate.directory.name == 'large':\n"
            "        os._exit(9)\n"
            "    return worker.serve(request)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(protocol, "WORKER", "dying_worker:serve")
        done = run(request(graphs, tmp_path / "bench.json"))
        assert {it.subject.slug for it in done.file.results} == {"small"}
        assert [it.slug for it in done.file.not_measured] == ["large"]
        assert "died" in done.file.not_measured[0].needs

    def test_a_runtime_that_is_not_here_is_listed_with_what_it_needs(self, graphs, tmp_path, monkeypatch):
        absent = SimpleNamespace(name="onnxruntime-cpu", kinds=("onnx-fp32",), missing=lambda: "a GPU")
        monkeypatch.setattr(runtimes, "runtime", lambda _name: absent)
        done = run(request(graphs, tmp_path / "bench.json"))
        assert {(it.slug, it.runtime, it.needs) for it in done.file.not_measured} == {
            ("small", "onnxruntime-cpu", "a GPU"),
            ("large", "onnxruntime-cpu", "a GPU"),
        }
        assert [type(error) for error in done.errors] == [MachineLacks]
        unnamed = run(replace(request(graphs, tmp_path / "bench.json"), named=()))
        assert unnamed.errors == ()

    def test_where_nothing_could_be_measured_an_earlier_benchmark_stays(self, graphs, tmp_path, monkeypatch):
        (tmp_path / "bench.json").write_text("an earlier one")
        absent = SimpleNamespace(name="onnxruntime-cpu", kinds=("onnx-fp32",), missing=lambda: "a GPU")
        monkeypatch.setattr(runtimes, "runtime", lambda _name: absent)
        assert run(request(graphs, tmp_path / "bench.json")).file.results == ()
        assert [path.name for path in tmp_path.glob("bench*")] == ["bench.json"]
        assert (tmp_path / "bench.json").read_text() == "an earlier one"

    def test_a_runtime_asked_for_that_takes_none_of_it_is_an_error(self, graphs, tmp_path):
        done = run(replace(request(graphs, tmp_path / "bench.json"), named=("torch",)))
        assert done.file.results == ()
        assert "nothing here that torch could run" in str(done.errors[0])
        assert {(it.slug, it.kind, it.runtime) for it in done.file.not_measured} == {
            ("small", "module", "torch"),
            ("large", "module", "torch"),
        }


class TestGoingOn:
    """A run that is stopped in mid-course leaves its rounds; the same request goes on behind them."""

    class Stopped(Exception):
        pass

    def interrupt(self, wanted: Request, after: int) -> None:
        def stop(progress: Progress) -> None:
            if progress.stage == "measuring" and progress.rounds >= after:
                raise self.Stopped

        with pytest.raises(self.Stopped):
            running.run(wanted, stop)

    def finish(self, wanted: Request) -> tuple[BenchFile, int]:
        """The file, and how many rounds there were before the first new one."""
        seen: list[int] = []
        done = running.run(wanted, lambda it: seen.append(it.rounds))
        return done.file, seen[0]

    def test_every_finished_round_is_kept(self, graphs, tmp_path):
        wanted = request(graphs, tmp_path / "bench.json", EASY)
        self.interrupt(wanted, 7)
        file, before = self.finish(wanted)
        assert before == 7
        assert file.telemetry.rounds > 7
        launches = file.references[0].launches
        assert launches[:7] == (0,) * 7
        assert launches[7] == 1

    @pytest.mark.parametrize("change", ["artifact", "contract", "seed", "machine"])
    def test_anything_else_starts_afresh(self, graphs, tmp_path, monkeypatch, change):
        wanted = request(graphs, tmp_path / "bench.json", EASY)
        self.interrupt(wanted, 3)
        if change == "artifact":
            subject = replace(graphs[0].subject, sha256="0" * 64)
            wanted = replace(wanted, found=(replace(graphs[0], subject=subject), *graphs[1:]))
        elif change == "contract":
            wanted = replace(wanted, settings=Settings(threads=1, spin=False))
        elif change == "seed":
            wanted = replace(wanted, seed=1)
        else:
            monkeypatch.setattr(running.environment, "stamp", lambda: {"cpu": "another"})
        assert self.finish(wanted)[1] == 0

    def test_more_time_is_no_reason_to(self, graphs, tmp_path):
        wanted = request(graphs, tmp_path / "bench.json", EASY)
        self.interrupt(wanted, 3)
        assert self.finish(replace(wanted, limits=replace(EASY, max_s=90.0)))[1] == 3


class TestOrder:
    def test_rounds_visit_everything_in_ever_new_order(self, graphs, tmp_path):
        orders: list[tuple[int, ...]] = []

        class Watched(protocol.Isolated):
            def submit(self, request: object) -> None:
                if isinstance(request, protocol.Round):
                    orders.append(request.order)
                super().submit(request)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "Isolated", Watched)
            run(request(graphs, tmp_path / "bench.json", EASY))
        assert len(orders) >= 2 * protocol.LEAST_ROUNDS
        # Once each, and the reference, whose number each launch draws anew, twice: that is the root of three.
        assert {tuple(sorted(set(order))) for order in orders} == {(0, 1, 2, 3)}
        assert {len(order) for order in orders} == {5}
        assert len(set(orders)) > 8
        assert orders[:10] != orders[10:20]
        firsts = [order[0] for order in orders]
        assert all(firsts.count(number) < len(firsts) * 0.7 for number in range(4))


class TestStopping:
    def test_it_stops_at_the_target(self, graphs, tmp_path):
        file = run(request(graphs, tmp_path / "bench.json", EASY)).file
        assert file.telemetry.rounds == 2 * protocol.LEAST_ROUNDS

    def test_it_stops_at_the_time_limit(self, graphs, tmp_path):
        file = run(request(graphs, tmp_path / "bench.json")).file
        last = json.loads((tmp_path / "bench.json").read_bytes())["telemetry"]["seconds"]
        assert last >= QUICK.max_s
        assert file.telemetry.seconds == last


def test_a_course_without_samples_says_so(graphs):
    course = protocol.Course(runtimes.runtime("onnxruntime-cpu"))
    missing, error = running._failure(course, graphs[0])
    assert isinstance(error, GateFailed)
    assert "no samples" in missing.needs

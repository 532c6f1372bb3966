"""Inside the measuring process: nothing but the runs is in a visit's time, and nothing is left raised afterwards."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from bench_artifacts import SIDE, export
from PIL import Image

from edgekit.bench import worker
from edgekit.bench.record import ParityCheck, Placement, Stages
from edgekit.bench.runtimes import Candidate, Settings
from edgekit.bench.runtimes._trtexec_times import Run
from edgekit.bench.worker import Check, Load, Loaded, Round
from edgekit.errors import InputUnusable
from edgekit.parity.metrics import AnyArray, Feeds

CANDIDATE = Candidate(Path(), "onnx-fp32", Path("model.onnx"), "")


class Diary:
    """A runner that writes down what is asked of it; its runs take less time from one ten to the next."""

    placement: Placement | None = None
    transfers = "none"
    cuda_graph = None
    threads: int | None = 1
    spin: bool | None = False

    def __init__(self, speeds: Sequence[float] = (1.0,)) -> None:
        self.asked: list[object] = []
        self.collects: list[bool] = []
        self.policies: list[int] = []
        self.speeds = list(speeds)

    def feed(self, feeds: Feeds) -> None:
        self.asked.append(("feed", float(feeds["input"].flat[0])))

    def sample(self, count: int) -> Sequence[float]:
        self.asked.append(count)
        self.collects.append(gc.isenabled())
        self.policies.append(os.sched_getscheduler(0))
        speed = self.speeds.pop(0) if len(self.speeds) > 1 else self.speeds[0]
        return [speed + number / 1000 for number in range(count)]

    def outputs(self) -> Mapping[str, AnyArray]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker, "state", worker._State())
    yield
    gc.unfreeze()


def hold(runner: Diary, *values: float) -> Diary:
    feeds = [{"input": np.full((1, 1), value)} for value in values or (0.0,)]
    worker.state.held.append(worker._Held(Load("made", CANDIDATE, Settings(), "fp32"), runner, feeds))
    return runner


class TestRounds:
    def test_the_first_runs_of_a_visit_are_not_counted(self):
        one, other = hold(Diary()), hold(Diary())
        first, second = worker.serve(Round((1, 0), (30, 3)))
        assert other.asked == [33]
        assert one.asked == [4]
        assert first == tuple(1.0 + number / 1000 for number in range(3, 33))
        assert second == tuple(1.0 + number / 1000 for number in range(1, 4))

    def test_no_garbage_is_collected_meanwhile(self):
        runner = hold(Diary())
        worker.serve(Round((0,), (3,)))
        assert runner.collects == [False]
        assert gc.isenabled()

    def test_not_even_after_a_failure(self):
        class Fails(Diary):
            def sample(self, count: int) -> Sequence[float]:
                raise InputUnusable("no")

        hold(Fails())
        with pytest.raises(InputUnusable):
            worker.serve(Round((0,), (3,)))
        assert gc.isenabled()
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

    def test_several_inputs_take_turns_outside_the_time(self):
        runner = hold(Diary(), 1.0, 2.0)
        for _ in range(3):
            worker.serve(Round((0,), (1,)))
        assert [it for it in runner.asked if isinstance(it, tuple)] == [("feed", 1.0), ("feed", 2.0), ("feed", 1.0)]

    def test_one_input_is_never_fed_again(self):
        runner = hold(Diary())
        worker.serve(Round((0,), (1,)))
        assert ("feed", 0.0) not in runner.asked


class TestPriority:
    def test_it_is_raised_for_a_round_only_and_only_where_that_is_allowed(self):
        worker.serve(worker.Hurry())
        runner = hold(Diary())
        worker.serve(Round((0,), (1,)))
        wanted = os.SCHED_RR if worker.state.hurries else os.SCHED_OTHER
        assert runner.policies == [wanted]
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

    def test_where_it_is_not_nothing_is_changed(self, monkeypatch):
        def refused(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "sched_setscheduler", refused)
        worker.serve(worker.Hurry())
        assert not worker.state.hurries
        runner = hold(Diary())
        worker.serve(Round((0,), (1,)))
        assert runner.policies == [os.SCHED_OTHER]

    def test_more_threads_than_processors_are_not_raised(self, tmp_path):
        """They would wait for each other in turns of a tenth of a second."""
        worker.state.hurries = True
        folder = export(tmp_path, "net")
        candidate = Candidate(folder, "onnx-fp32", folder / "model.onnx", "")
        many = Settings(threads=len(os.sched_getaffinity(0)) + 1, spin=False)
        assert worker.serve(Load("onnxruntime-cpu", candidate, many, "fp32")).priority == "normal"
        assert not worker.state.hurries

    def test_without_being_asked_nothing_is_raised(self):
        runner = hold(Diary())
        worker.serve(Round((0,), (1,)))
        assert runner.policies == [os.SCHED_OTHER]


class TestWarmUp:
    def test_goes_on_until_it_is_no_faster(self):
        runner = Diary((4.0, 3.0, 2.0, 2.0, 1.0))
        assert worker._warm_up(runner).seconds == pytest.approx(2.0, rel=0.01)
        assert runner.asked == [worker.WARMUP] * 4

    def test_has_an_end(self, monkeypatch):
        monkeypatch.setattr(worker, "WARMUP_LIMIT_S", 0.0)
        assert worker._warm_up(Diary((4.0, 3.0, 2.0))).seconds == pytest.approx(4.0, rel=0.01)


class TestPace:
    @pytest.mark.parametrize(
        ("seconds", "besides", "runs"),
        [(0.001, 0.0, 5), (0.01, 0.0, 1), (1e-6, 0.0, worker.MOST_RUNS), (0.001, 0.1, 100)],
    )
    def test_a_visit_is_long_beside_what_it_costs_to_begin_it(self, seconds, besides, runs):
        assert worker._Pace(seconds, besides).runs() == runs


class TestStages:
    def test_what_trtexec_told_is_handed_on_in_milliseconds(self):
        runner = hold(Diary())
        runner.runs = tuple(Run(0.0, it * 1e-3, 2e-3, 3e-3, 4e-3, 9e-3) for it in (1, 5, 100))
        assert worker.serve(worker.Split(0)) == Stages(pytest.approx(5.0), 2.0, 3.0, 4.0)

    def test_other_runtimes_tell_nothing(self):
        hold(Diary())
        assert worker.serve(worker.Split(0)) is None


class TestLoading:
    def load(self, folder: Path, rows: int = 1, images: tuple[Path, ...] = ()) -> Load:
        candidate = Candidate(folder, "onnx-fp32", folder / "model.onnx", "")
        return Load("onnxruntime-cpu", candidate, Settings(threads=1), "fp32", rows, images)

    def test_a_candidate_is_checked_warmed_and_counted(self, tmp_path):
        loaded = worker.serve(self.load(export(tmp_path, "net")))
        assert isinstance(loaded, Loaded)
        assert (loaded.number, loaded.threads, loaded.transfers) == (0, 1, "none")
        assert loaded.parity.passed
        assert loaded.parity.when == "before"
        assert 1 <= loaded.runs <= worker.MOST_RUNS
        again = worker.serve(Check(0))
        assert isinstance(again, ParityCheck)
        assert (again.passed, again.when) == (True, "after")

    def test_what_is_measured_after_a_check_is_what_was_before(self, tmp_path):
        """The check feeds other inputs; they are put back."""
        worker.serve(self.load(export(tmp_path, "net")))
        held = worker.state.held[0]
        before = held.runner.outputs()["map"]
        worker.serve(Check(0))
        assert np.array_equal(held.runner.outputs()["map"], before)

    def test_images_are_fed_in_every_row(self, tmp_path):
        Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
        folder = export(tmp_path, "net")
        (feed,) = worker._feeds(self.load(folder, 1, (tmp_path / "white.png",)))
        assert feed["input"].shape == (1, 3, SIDE, SIDE)
        assert np.allclose(feed["input"], 1.0)

    def test_an_open_batch_is_filled(self, tmp_path):
        (feed,) = worker._feeds(self.load(export(tmp_path, "net", batch=None), 4))
        assert feed["input"].shape == (4, 3, SIDE, SIDE)
        assert np.array_equal(feed["input"][0], feed["input"][3])
        (fixed,) = worker._feeds(self.load(export(tmp_path, "one"), 4))
        assert fixed["input"].shape == (1, 3, SIDE, SIDE)


def test_a_request_that_nobody_knows_is_refused():
    with pytest.raises(TypeError, match="unknown request"):
        worker.serve("what?")

"""ONNX Runtime on the CPU as something to be measured: bound tensors, fixed threads, and where the nodes went."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bench_graphs import FEED, FEEDS, candidate, convolutions
from onnx import TensorProto, helper
from subjects import half

from edgekit.bench.record import Placement
from edgekit.bench.runtimes import Runner, Settings, _onnxruntime
from edgekit.bench.runtimes.onnxruntime_cpu import RUNTIME
from edgekit.errors import GateFailed, InputUnusable, MachineLacks, UsageError

ONE = Settings(threads=1, strict=True)
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def opened(folder: Path, settings: Settings = ONE) -> Runner:
    runner = RUNTIME.open(candidate(folder, convolutions()), settings)
    runner.feed(FEEDS)
    return runner


def plain(folder: Path, feed: np.ndarray = FEED) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=[CPU])
    return session.run(None, {"input": feed})[0]


def test_it_runs_here_and_says_what_it_is() -> None:
    assert RUNTIME.missing() is None
    assert onnxruntime.__version__ in RUNTIME.versions().values()


def test_outputs_are_those_of_a_plain_session(tmp_path: Path) -> None:
    found = opened(tmp_path).outputs()
    assert list(found) == ["features"]
    np.testing.assert_array_equal(found["features"], plain(tmp_path))


def test_every_run_is_timed(tmp_path: Path) -> None:
    samples = opened(tmp_path).sample(7)
    assert len(samples) == 7
    assert all(seconds > 0 for seconds in samples)


def test_samples_leave_the_outputs_right(tmp_path: Path) -> None:
    runner = opened(tmp_path)
    before = runner.outputs()["features"]
    runner.sample(3)
    np.testing.assert_array_equal(runner.outputs()["features"], before)


def test_a_run_makes_no_new_outputs(tmp_path: Path) -> None:
    runner = opened(tmp_path)
    assert isinstance(runner, _onnxruntime.OrtRunner)
    addresses = [[value.data_ptr() for value in runner._binding().get_outputs()] for _ in range(2) if runner.sample(2)]
    assert addresses[0] == addresses[1]


def test_inputs_are_copied_and_can_be_replaced(tmp_path: Path) -> None:
    runner, own = opened(tmp_path), FEED.copy()
    runner.feed({"input": own})
    own[:] = 0
    np.testing.assert_array_equal(runner.outputs()["features"], plain(tmp_path))
    runner.feed({"input": FEED * 2})
    np.testing.assert_array_equal(runner.outputs()["features"], plain(tmp_path, FEED * 2))


def test_an_open_batch_takes_what_it_is_fed(tmp_path: Path) -> None:
    runner = RUNTIME.open(candidate(tmp_path, convolutions(batch="batch")), ONE)
    for rows in (1, 3):
        runner.feed({"input": np.repeat(FEED, rows, axis=0)})
        assert runner.outputs()["features"].shape == (rows, 8, 16, 16)


def test_half_precision_comes_back_as_float32(tmp_path: Path) -> None:
    runner = RUNTIME.open(candidate(tmp_path, half(convolutions()), "onnx-fp16"), ONE)
    runner.feed(FEEDS)
    assert runner.outputs()["features"].dtype == np.float32


def test_float16_outputs_are_widened(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["half"], to=TensorProto.FLOAT16)],
        "cast",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("half", TensorProto.FLOAT16, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    runner = RUNTIME.open(candidate(tmp_path, model), ONE)
    runner.feed({"input": np.array([[1.0, 2.0, 1 / 3]], np.float32)})
    assert runner.outputs()["half"].dtype == np.float32
    assert runner.outputs()["half"][0, 2] == np.float32(np.float16(1 / 3))


def test_all_nodes_are_on_the_cpu_and_it_says_so(tmp_path: Path) -> None:
    runner = opened(tmp_path)
    assert runner.placement == Placement({CPU: 4})
    assert runner.placement.share(CPU) == 1.0
    assert (runner.transfers, runner.cuda_graph) == ("none", None)


def make_older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take from ONNX Runtime the method that tells where nodes went, from whichever class has it."""
    for owner in onnxruntime.InferenceSession.__mro__:
        if "get_provider_graph_assignment_info" in vars(owner):
            monkeypatch.delattr(owner, "get_provider_graph_assignment_info")
    assert not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")


def test_an_older_onnxruntime_is_profiled_for_its_placement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_older(monkeypatch)
    found = opened(tmp_path).placement
    assert found is not None
    assert found.share(CPU) == 1.0
    assert 2 <= found.nodes[CPU] <= 4, "two convolutions, with or without their activations"
    batch = RUNTIME.open(candidate(tmp_path, convolutions(batch="batch")), ONE).placement
    assert batch is not None
    assert batch.share(CPU) == 1.0


def test_what_cannot_be_profiled_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_older(monkeypatch)
    monkeypatch.setattr(_onnxruntime, "_zeros", lambda _value: np.zeros((1, 1), np.float32))
    assert opened(tmp_path).placement is None


def test_an_onnxruntime_that_cannot_share_threads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime, "set_global_thread_pool_sizes")
    monkeypatch.setattr(_onnxruntime, "_pool", _onnxruntime._SharedPool())
    with pytest.raises(MachineLacks, match="cannot share their threads"):
        _onnxruntime.prepare_threads(Settings(threads=2))
    assert _onnxruntime.prepare_threads(Settings(threads=2, spin=False)).shared is False
    assert _onnxruntime.prepare_threads(Settings(threads=1)).count == 1


def test_one_thread_waits_for_nobody(tmp_path: Path) -> None:
    runner = opened(tmp_path, Settings(threads=1, spin=True))
    assert (runner.threads, runner.spin) == (1, False)


@pytest.mark.parametrize("feeds", [{}, {"image": FEED}, {**FEEDS, "more": FEED}])
def test_other_names_are_refused(tmp_path: Path, feeds: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputUnusable, match="not the network's inputs") as caught:
        opened(tmp_path).feed(feeds)
    assert caught.value.wanted == "input"


def test_a_wrong_shape_is_refused_and_what_was_fed_stays(tmp_path: Path) -> None:
    runner = opened(tmp_path)
    with pytest.raises(InputUnusable, match="cannot run"):
        runner.feed({"input": FEED[:, :3]})
    np.testing.assert_array_equal(runner.outputs()["features"], plain(tmp_path))


def test_no_run_before_the_inputs(tmp_path: Path) -> None:
    runner = RUNTIME.open(candidate(tmp_path, convolutions()), ONE)
    with pytest.raises(UsageError, match="nothing was fed"):
        runner.sample(1)


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x00" * 64])
def test_a_broken_file_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputUnusable) as caught:
        RUNTIME.open(candidate(tmp_path, data), ONE)
    assert caught.value.where == str(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "settings", [Settings(compiled=True), Settings(cuda_graph=True), Settings(transfers="included")]
)
def test_settings_that_the_cpu_has_not_are_refused(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(UsageError):
        opened(tmp_path, settings)


@pytest.mark.parametrize(
    ("nodes", "active", "strict", "passes"),
    [
        ({CUDA: 4}, [CUDA, CPU], True, True),
        ({CUDA: 3, CPU: 1}, [CUDA, CPU], True, False),
        ({CUDA: 3, CPU: 1}, [CUDA, CPU], False, True),
        ({CPU: 4}, [CUDA, CPU], False, False),
        ({CPU: 4}, [CPU], False, False),
        (None, [CUDA, CPU], False, True),
        (None, [CUDA, CPU], True, False),
        (None, [CPU], False, False),
        (None, [CUDA], True, True),
    ],
)
def test_nodes_that_run_elsewhere_are_never_silent(
    nodes: dict[str, int] | None, active: list[str], strict: bool, passes: bool
) -> None:
    found = None if nodes is None else Placement(nodes)
    if passes:
        _onnxruntime.check_placement(CUDA, found, active, "graph", strict=strict)
        return
    with pytest.raises(GateFailed, match="does not run where"):
        _onnxruntime.check_placement(CUDA, found, active, "graph", strict=strict)


POOL = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bench_graphs import FEEDS, candidate, convolutions
from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes.onnxruntime_cpu import RUNTIME
from edgekit.errors import UsageError
graph = candidate(Path(sys.argv[1]), convolutions())
spin = sys.argv[3] == "spin"

def threads(): return len(os.listdir("/proc/self/task"))

def refused(settings):
    try:
        RUNTIME.open(graph, settings)
    except UsageError as error:
        return str(error)

alone = RUNTIME.open(graph, Settings(threads=1))
base = threads()
runners = [RUNTIME.open(graph, Settings(threads=2, spin=spin)) for _ in range(3)]
more = threads() - base
for runner in runners:
    runner.feed(FEEDS)
    runner.sample(5)
start = time.process_time()
time.sleep(0.1)
idle = time.process_time() - start
others = [refused(Settings(threads=3)), refused(Settings(threads=2, spin=not spin)), refused(Settings(threads=1))]
print(json.dumps([more, idle, runners[0].spin, runners[0].threads, others]))
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list]:
    """What POOL finds out with threads that "spin" or "sleep"."""
    return functools.cache(lambda spin: find_out(tmp_path_factory.mktemp("pool"), spin))


def find_out(folder: Path, spin: str) -> list:
    """In a process of its own, as a process has one shared pool for all its life."""
    arguments = [str(folder), str(Path(__file__).parents[2]), spin]
    ran = subprocess.run(
        [sys.executable, "-c", POOL, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_threads_that_spin_are_shared_by_all_sessions(pool: Callable[[str], list]) -> None:
    more, idle, spin, threads, (three, quiet, one) = pool("spin")
    assert more == 1, "one more thread for two, however many sessions"
    assert idle > 2 * pool("sleep")[1], "they use the processor while nothing runs"
    assert (spin, threads) == (True, 2)
    assert "3 threads" in three
    assert "do not spin" in quiet
    assert "1 threads that do not spin" in one


def test_threads_that_sleep_are_each_session_s_own(pool: Callable[[str], list]) -> None:
    more, _, spin, threads, (three, *_) = pool("sleep")
    assert more == 3, "one more thread for every session"
    assert (spin, threads) == (False, 2)
    assert three is None, "a session's own pool is of any size"

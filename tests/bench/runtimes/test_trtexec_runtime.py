"""How trtexec is called and how its end is read. The program itself is a stand-in: a script that prints and writes what
it is told to, and keeps its arguments. Nothing here says anything about TensorRT.
"""

from __future__ import annotations

import gc
import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench.runtimes import Candidate, Settings, trtexec
from edgekit.bench.runtimes._trtexec import TrtexecRunner, parse_outputs
from edgekit.bench.runtimes._trtexec_program import Choice, Program, ask_version, choose, decode_version
from edgekit.bench.runtimes._trtexec_times import KEYS
from edgekit.errors import GateFailed, InputUnusable, MachineLacks, UsageError
from edgekit.isolation import IsolationFailed

FLAGS: dict[str, list[str]] = json.loads((Path(__file__).parents[2] / "reference" / "trtexec_flags.json").read_text())
FEEDS = {"input": np.arange(6, dtype=np.float32).reshape(1, 6)}
PLAN = b"ftrt" + bytes(12) + (64).to_bytes(8, "little") + bytes([10, 3, 0, 0]) + bytes(36)

STAND_IN = """#!{python}
# A stand-in for trtexec, for tests of how a subprocess is handled.
import json, os, signal, sys, time
here = os.path.dirname(os.path.abspath(__file__))
plan = json.load(open(os.path.join(here, "plan.json")))
given = dict(option[2:].partition("=")[::2] for option in sys.argv[1:])
print("&&&& RUNNING TensorRT.trtexec [TensorRT v" + plan["version"] + "] # trtexec")
if "help" in given:
    sys.exit(0)
with open(os.path.join(here, "calls.jsonl"), "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
print(plan["log"])
if plan["do"] == "hang":
    if os.fork() == 0:  # a child that holds stdout open
        time.sleep(600)
    time.sleep(600)
if plan["do"] == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if plan["do"] == "silent":
    sys.exit(0)
if plan["do"] == "fail":
    print("[E] Error[1]: the engine was built for another device")
    print("&&&& FAILED TensorRT.trtexec")
    sys.exit(plan["code"])
if "exportTimes" in given and plan["times"] is not None:
    runs = max(10, int(given["iterations"])) if plan["times"] == "runs" else 0
    values = (0.0,) * 4 + (300.0, 301.0) + (0.0,) * 2 + (0.25, 1.0, 0.25, 1.5)
    line = dict(zip({keys}, values))
    open(given["exportTimes"], "w").write(json.dumps([line] * runs) if runs else plan["times"])
if "exportOutput" in given:
    files = [part.partition(":")[2] for part in given["loadInputs"].split(",")]
    import array
    values = array.array("f", open(files[0], "rb").read()).tolist()
    open(given["exportOutput"], "w").write(json.dumps([{{"name": "logits", "dimensions": "1x6", "values": values}}]))
print("&&&& PASSED TensorRT.trtexec [TensorRT v" + plan["version"] + "] # trtexec")
"""


class StandIn:
    """The script in a folder of its own; `plan` says what it is to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "trtexec"
        self.path.write_text(STAND_IN.format(python=sys.executable, keys=KEYS))
        self.path.chmod(stat.S_IRWXU)
        self.engine = folder / "model.engine"
        self.engine.write_bytes(PLAN)
        self.plan()

    def plan(
        self, do: str = "run", version: str = "100300", log: str = "", times: str | None = "runs", code: int = 1
    ) -> None:
        plan = {"do": do, "version": version, "log": log, "times": times, "code": code}
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]

    def runner(self, settings: Settings = Settings(), limit_s: float = 60.0) -> TrtexecRunner:  # noqa: B008  # frozen
        return TrtexecRunner(ask_version(self.path), self.engine, choose(settings), limit_s)

    def fed(self, settings: Settings = Settings(), limit_s: float = 60.0) -> TrtexecRunner:  # noqa: B008  # frozen
        runner = self.runner(settings, limit_s)
        runner.feed(FEEDS)
        return runner


@pytest.fixture
def program(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


def versions_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("version", FLAGS)
@pytest.mark.parametrize("transfers", ["included", "excluded"])
@pytest.mark.parametrize("spin", [True, False])
@pytest.mark.parametrize("graph", [True, False])
def test_no_version_is_given_an_option_that_it_lacks(version: str, transfers: str, spin: bool, graph: bool) -> None:
    choice = Choice(transfers, spin, graph)  # type: ignore[arg-type]
    options = {option.removeprefix("--") for option in choice.options(versions_of(version))}
    assert options <= set(FLAGS[version])


@pytest.mark.parametrize("version", FLAGS)
def test_every_version_ends_up_in_the_same_state(version: str) -> None:
    """Where the default is the state that is wanted, nothing need be said; from 11 on it is the other one."""
    has = set(FLAGS[version])
    on_by_default = {"CudaGraph": "noCudaGraph" in has, "SpinWait": "noSpinWait" in has}
    for state in (True, False):
        options = Choice("included", spin=state, cuda_graph=state).options(versions_of(version))
        for name, default in on_by_default.items():
            said = {f"--use{name}": True, f"--no{name}": False}
            found = [value for option, value in said.items() if option in options]
            assert (found[-1] if found else default) == state, (version, name)
    included = "--includeDataTransfers" in Choice("included", False, False).options(versions_of(version))
    assert included == ("includeDataTransfers" in has)
    assert "--noDataTransfers" in Choice("excluded", False, False).options(versions_of(version))


OTHERS = ("loadEngine", "loadInputs", "shapes", "duration", "iterations", "warmUp", "exportTimes", "exportOutput")


def test_everything_else_that_is_passed_exists_everywhere(program: StandIn) -> None:
    assert all(set(OTHERS) <= set(flags) for flags in FLAGS.values())
    program.fed().sample(3)
    passed = {option.removeprefix("--").partition("=")[0] for call in program.calls() for option in call}
    assert passed == set(OTHERS)


@pytest.mark.parametrize(
    ("number", "version"),
    [
        (8201, (8, 2, 1)),
        (8503, (8, 5, 3)),
        (8601, (8, 6, 1)),
        (100300, (10, 3, 0)),
        (101600, (10, 16, 0)),
        (110100, (11, 1, 0)),
    ],
)
def test_the_version_is_read_from_the_first_line(number: int, version: tuple[int, ...], program: StandIn) -> None:
    assert decode_version(number) == version
    program.plan(version=str(number))
    assert ask_version(program.path) == Program(program.path, version)


def test_runs_are_counted_and_in_seconds(program: StandIn) -> None:
    runner = program.fed()
    assert runner.sample(12) == [pytest.approx(1.5e-3)] * 12
    assert runner.sample(3) == [pytest.approx(1.5e-3)] * 3, "it makes ten at the least; no more than asked are counted"
    assert "--iterations=3" in program.calls()[-1]
    assert (runner.transfers, runner.cuda_graph, runner.spin) == ("included", False, False)


def test_without_transfers_it_is_the_computing(program: StandIn) -> None:
    runner = program.fed(Settings(transfers="excluded"))
    assert runner.sample(1) == [pytest.approx(1.0e-3)]
    assert "--noDataTransfers" in program.calls()[-1]


def test_inputs_go_in_and_outputs_come_back_by_name(program: StandIn) -> None:
    runner = program.fed(Settings(transfers="excluded"))
    found = runner.outputs()
    np.testing.assert_array_equal(found["logits"], FEEDS["input"])
    assert "--noDataTransfers" not in program.calls()[-1], "what is not copied back cannot be compared"
    assert "--shapes=input:1x6" in program.calls()[-1]


def test_11_is_told_what_it_would_do_otherwise(program: StandIn) -> None:
    program.plan(version="110000")
    program.fed().sample(1)
    assert {"--includeDataTransfers", "--noSpinWait", "--noCudaGraph"} <= set(program.calls()[-1])


@pytest.mark.parametrize("code", [1, 0, 3])
def test_a_failure_is_told_in_its_words(code: int, program: StandIn) -> None:
    program.plan("fail", code=code)
    with pytest.raises(InputUnusable, match="cannot run the engine") as caught:
        program.fed()
    assert "another device" in (caught.value.got or "")


def test_an_end_without_a_word_is_no_success(program: StandIn) -> None:
    program.plan("silent")
    with pytest.raises(InputUnusable, match="cannot run the engine"):
        program.fed()


def test_a_crash_has_a_name(program: StandIn) -> None:
    program.plan("crash")
    with pytest.raises(IsolationFailed, match="SIGSEGV"):
        program.fed()


def test_a_hang_is_ended_with_what_it_had_started(program: StandIn) -> None:
    runner = program.fed()
    program.plan("hang", log="loading")
    hung = program.runner(limit_s=0.5)
    hung._shapes, hung._files = runner._shapes, runner._files
    start = time.monotonic()
    with pytest.raises(IsolationFailed, match="took longer than") as caught:
        hung.sample(1)
    assert time.monotonic() - start < 30, "its child would have kept us waiting for ten minutes"
    assert "loading" in (caught.value.got or "")
    time.sleep(0.1)
    assert not _alive(str(program.path)), "nothing of it is left"


def _alive(words: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if words in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("times", ["", "garbage", "[]", "[{}]", '[{"h2dMs": NaN}]', "null"])
def test_nonsense_in_its_file_is_refused(times: str, program: StandIn) -> None:
    runner = program.fed()
    program.plan(times=times)
    with pytest.raises(InputUnusable):
        runner.sample(2)


def test_no_file_is_no_measurement(program: StandIn) -> None:
    """Also where an earlier one has left its own."""
    runner = program.fed()
    runner.sample(2)
    program.plan(times=None)
    with pytest.raises(InputUnusable, match="left no such file"):
        runner.sample(2)


@pytest.mark.parametrize(
    ("log", "settings"),
    [
        ("[I] Data transfers: Disabled", Settings()),
        ("[I] Data transfers: Enabled", Settings(transfers="excluded")),
        ("[I] Spin-wait: Enabled", Settings()),
        ("[I] CUDA Graph: Enabled", Settings()),
        ("[I] CUDA Graph: Disabled", Settings(cuda_graph=True)),
        ("[W] operations that are not permitted under CUDA graph capture mode", Settings(cuda_graph=True)),
    ],
)
def test_what_it_says_of_itself_must_agree(log: str, settings: Settings, program: StandIn) -> None:
    runner = program.fed(settings)
    program.plan(log=log)
    with pytest.raises(GateFailed, match="otherwise than it was told"):
        runner.sample(1)


def test_what_it_says_as_it_was_told_is_fine(program: StandIn) -> None:
    program.plan(log="[I] Spin-wait: Disabled\n[I] CUDA Graph: Disabled")
    assert len(program.fed(Settings(transfers="excluded")).sample(1)) == 1


def test_a_name_that_an_option_cannot_hold_is_refused(program: StandIn) -> None:
    with pytest.raises(InputUnusable, match="such a name"):
        program.runner().feed({"a:b,c": FEEDS["input"]})


def test_no_run_before_the_inputs(program: StandIn) -> None:
    with pytest.raises(UsageError, match="nothing was fed"):
        program.runner().sample(1)


def test_its_files_go_with_it(program: StandIn) -> None:
    runner = program.fed()
    folder = runner._folder
    assert list(folder.iterdir())
    runner.close()
    assert not folder.exists()
    forgotten = program.fed()._folder
    gc.collect()
    assert not forgotten.exists()


@pytest.mark.parametrize("settings", [Settings(transfers="none"), Settings(compiled=True)])
def test_settings_that_it_has_not_are_refused(settings: Settings) -> None:
    with pytest.raises(UsageError):
        choose(settings)


def test_another_program_of_that_name_is_found_out(tmp_path: Path) -> None:
    other = tmp_path / "trtexec"
    other.write_text("#!/bin/sh\necho usage: trtexec\n")
    other.chmod(stat.S_IRWXU)
    with pytest.raises(MachineLacks, match="does not say its version"):
        ask_version(other)
    other.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(MachineLacks, match="cannot be started"):
        ask_version(other)


def test_it_is_looked_for_on_the_path_and_where_jetpack_has_it(
    program: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(program.folder))
    assert trtexec.find_program() == program.path
    assert trtexec.RUNTIME.versions() == {"tensorrt": "10.3.0"}
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(trtexec, "PROGRAM", str(program.path))
    assert trtexec.find_program() == program.path
    monkeypatch.setattr(trtexec, "PROGRAM", str(tmp_path / "nothing"))
    assert trtexec.find_program() is None
    assert "comes with TensorRT" in (trtexec.RUNTIME.missing() or "")
    with pytest.raises(MachineLacks):
        trtexec.RUNTIME.open(Candidate(tmp_path, "engine", program.engine, ""), Settings())


def test_an_engine_of_another_kind_is_refused(program: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.folder))
    runner = trtexec.RUNTIME.open(Candidate(program.folder, "engine", program.engine, ""), Settings())
    runner.feed(FEEDS)
    rtx = b"vtrt" + PLAN[4:16] + len(PLAN).to_bytes(8, "little") + PLAN[24:28] + b"vtrt" + PLAN[32:]
    for data in (rtx, b"onnx", b""):
        program.engine.write_bytes(data)
        with pytest.raises(InputUnusable):
            trtexec.RUNTIME.open(Candidate(program.folder, "engine", program.engine, ""), Settings())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[1]",
        '[{"name": "a"}]',
        '[{"name": "a", "dimensions": "1x3", "values": [1, 2]}]',
        '[{"name": "a", "dimensions": "1xq", "values": [1]}]',
        '[{"name": "a", "dimensions": "1", "values": ["x"]}]',
    ],
)
def test_outputs_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputUnusable):
        parse_outputs(text, "outputs.json")

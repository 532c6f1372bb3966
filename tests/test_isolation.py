"""A crash, a hang or a flood in the isolated child is an error with a name in the caller, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.errors import GateFailed, MachineLacks
from edgekit.isolation import Isolated, IsolationFailed, Turns

TARGETS = """
import ctypes, os, signal, sys, time

from edgekit.errors import GateFailed

def echo(request):
    return request

def obey(request):
    verb, *rest = request
    if verb == "say":
        os.write(1, rest[0].encode())  # as a native library prints: past Python's own stdout
        return "said"
    if verb == "say and die":
        os.write(2, rest[0].encode())
        os.kill(os.getpid(), rest[1])
    if verb == "flood":
        line = b"so much to say " * 1000 + b"\\n"
        for _ in range(1000):
            os.write(1, line)
        time.sleep(1.0)
        return os.fstat(1).st_size
    if verb == "exit":
        os._exit(rest[0])
    if verb == "gate":
        raise GateFailed("too far apart", got="2", wanted="1", hint="look again")
    if verb == "bug":
        raise KeyError("no such tensor")
    if verb == "unpicklable":
        return lambda: None
    if verb == "sleep":
        time.sleep(rest[0])
    if verb == "hold the interpreter":  # native code that never gives the lock back
        ctypes.PyDLL(None).sleep(rest[0])
    if verb == "pid":
        return os.getpid()
    if verb == "descriptors":
        return sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name))
"""

TIMED = """
import time
began = time.monotonic()
time.sleep(0.3)
ended = time.monotonic()
def when(request): return began, ended
"""


@pytest.fixture(autouse=True)
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "isolation_targets.py").write_text(TARGETS)
    (tmp_path / "broken_target.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "slow_target.py").write_text("import time\ntime.sleep(1.5)\ndef echo(request): return request\n")
    (tmp_path / "timed_target.py").write_text(TIMED)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def child() -> Iterator[Isolated]:
    with Isolated("isolation_targets:obey", what="the obedient one") as isolated:
        yield isolated


def gone(pid: int, within: float = 2.0) -> bool:
    """Whether the process ends (or is a zombie that nobody waits for) in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_replies_are_what_the_target_returns() -> None:
    with Isolated("isolation_targets:echo", what="echo") as echo:
        for request in ("text", b"", None, (1, [2.5, {"k": b"v"}])):
            assert echo.call(request, 10) == request


def test_a_large_request_is_handed_over_while_the_child_still_imports() -> None:
    blob = os.urandom(1 << 20) * 20
    with Isolated("slow_target:echo", what="slow") as slow:
        start = time.perf_counter()
        slow.submit(blob)
        assert time.perf_counter() - start < 1.0, "submit waited for the child"
        assert slow.result(10) == blob


def test_starts_on_first_use_and_tells_when_it_is_ready() -> None:
    slow = Isolated("slow_target:echo", what="slow")
    assert slow.pid is None
    start = time.perf_counter()
    slow.wait_ready(10)
    assert time.perf_counter() - start >= 1.5
    assert slow.call(1, 10) == 1
    slow.close()


def test_typed_errors_come_back_as_themselves(child: Isolated) -> None:
    with pytest.raises(GateFailed) as caught:
        child.call(("gate",), 10)
    assert (caught.value.what, caught.value.got, caught.value.hint) == ("too far apart", "2", "look again")
    assert child.call(("say", "hello"), 10) == "said"


def test_an_unforeseen_error_names_itself_and_its_place_without_a_traceback(child: Isolated) -> None:
    pid = child.call(("pid",), 10)
    with pytest.raises(IsolationFailed, match=r"the obedient one failed: KeyError: 'no such tensor'") as caught:
        child.call(("bug",), 10)
    assert caught.value.where is not None
    assert caught.value.where.startswith("isolation_targets.py:")
    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 4
    assert child.call(("pid",), 10) == pid, "an exception is no reason for a new process"


def test_a_reply_that_cannot_be_pickled_is_an_error(child: Isolated) -> None:
    with pytest.raises(IsolationFailed, match=r"the obedient one failed: .*pickle"):
        child.call(("unpicklable",), 10)
    assert child.call(("say", "still here"), 10) == "said"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, r"SIGSEGV \(a crash in native code\)"),
        (signal.SIGABRT, "SIGABRT"),
        (signal.SIGKILL, r"SIGKILL \(killed from outside; out of memory\?\)"),
    ],
)
def test_a_death_is_named_with_its_last_words_and_the_next_call_restarts(
    child: Isolated, number: signal.Signals, words: str
) -> None:
    with pytest.raises(IsolationFailed, match=f"the obedient one died: {words}") as caught:
        child.call(("say and die", "line one\nassertion failed: x > 0\n", number), 10)
    assert "assertion failed: x > 0" in (caught.value.got or "")
    assert child.pid is None
    assert child.call(("say", "again"), 10) == "said"


def test_an_exit_is_named(child: Isolated) -> None:
    with pytest.raises(IsolationFailed, match="died: exit code 7"):
        child.call(("exit", 7), 10)


def test_a_death_while_idle_blames_no_request(child: Isolated) -> None:
    first = child.call(("pid",), 10)
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert child.call(("pid",), 10) != first


@pytest.mark.parametrize("verb", ["sleep", "hold the interpreter"])
def test_overrunning_the_time_limit_stops_the_child(child: Isolated, verb: str) -> None:
    pid = child.call(("pid",), 10)
    assert isinstance(pid, int)
    start = time.perf_counter()
    with pytest.raises(IsolationFailed, match=r"took longer than 0\.3 s and was stopped"):
        child.call((verb, 60), 0.3)
    assert time.perf_counter() - start < 3.0
    assert gone(pid)
    assert child.call(("say", "again"), 10) == "said"


def test_what_native_code_prints_reaches_neither_the_reply_nor_the_terminal(
    child: Isolated, capfd: pytest.CaptureFixture[str]
) -> None:
    assert child.call(("say", "noise " * 50_000), 10) == "said"
    assert capfd.readouterr() == ("", "")


def test_a_flood_of_output_is_bounded(child: Isolated) -> None:
    written = child.call(("flood",), 30)
    assert isinstance(written, int)
    assert written <= 4 << 20, "the child's log grows without end"


def test_a_missing_package_is_what_the_machine_lacks() -> None:
    with (
        Isolated("broken_target:serve", what="broken") as broken,
        pytest.raises(MachineLacks, match="a_package_that_is_not_there"),
    ):
        broken.call(1, 10)


def test_ctrl_c_is_for_the_caller_to_decide(child: Isolated) -> None:
    pid = child.call(("pid",), 10)
    assert isinstance(pid, int)
    assert os.getpgid(pid) != os.getpgrp()
    child.submit(("sleep", 0.3))
    os.kill(pid, signal.SIGINT)
    assert child.result(10) is None
    assert child.call(("pid",), 10) == pid


def test_close_ends_a_busy_child_within_a_second() -> None:
    child = Isolated("isolation_targets:obey", what="busy")
    pid = child.call(("pid",), 10)
    assert isinstance(pid, int)
    child.submit(("hold the interpreter", 60))
    time.sleep(0.1)
    start = time.perf_counter()
    child.close()
    assert time.perf_counter() - start < 1.0
    assert gone(pid, within=0.1)


def test_one_request_at_a_time(child: Isolated) -> None:
    with pytest.raises(RuntimeError, match="nothing was submitted"):
        child.result(1)
    child.submit(("sleep", 0.1))
    with pytest.raises(RuntimeError, match="still busy"):
        child.submit(("pid",))
    child.result(10)


@pytest.mark.parametrize("verb", ["pid", "gate", "bug", "exit"])
def test_what_was_submitted_can_be_dropped(child: Isolated, verb: str) -> None:
    """Whatever becomes of it."""
    child.drop(1)  # nothing yet
    child.submit((verb, 3))
    child.drop(10)
    with pytest.raises(RuntimeError, match="nothing was submitted"):
        child.result(1)
    assert child.call(("pid",), 10) == child.pid


def test_nothing_leaks_over_many_deaths() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    child = Isolated("isolation_targets:obey", what="mortal")
    for _ in range(5):
        with pytest.raises(IsolationFailed):
            child.call(("exit", 1), 10)
    child.close()
    assert descriptors() == before


def test_a_child_holds_nothing_of_its_siblings(child: Isolated) -> None:
    child.wait_ready(10)
    with Isolated("isolation_targets:obey", what="sibling") as sibling:
        held = sibling.call(("descriptors",), 10)
    assert isinstance(held, list)
    assert len(held) == 5, held  # 0, 1, 2, the channel and the mailbox


def test_a_module_in_the_current_folder_stands_in_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(folder)
    with Isolated("json:dumps", what="json") as json:
        assert json.call([1], 10) == "[1]"


def run_script(text: str, *, wait: bool = True) -> subprocess.Popen[str]:
    """A caller in a process of its own, with this one's search path."""
    script = f"import sys; sys.path[:] = {sys.path!r}\n{text}"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    if wait:
        process.wait(30)
    return process


@pytest.mark.parametrize("verb", ["sleep", "hold the interpreter"])
def test_the_child_dies_with_a_caller_that_is_killed(verb: str) -> None:
    caller = run_script(
        f"""
import time
from edgekit.isolation import Isolated
child = Isolated("isolation_targets:obey", what="orphan")
print(child.call(("pid",), 10), flush=True)
child.submit(({verb!r}, 60))
time.sleep(60)
""",
        wait=False,
    )
    assert caller.stdout is not None
    with caller.stdout:
        pid = int(caller.stdout.readline())
        time.sleep(0.1)
        caller.kill()
        caller.wait()
    assert gone(pid)


def test_the_child_outlives_the_thread_that_started_it() -> None:
    caller = run_script("""
import threading
from edgekit.isolation import Isolated
child = Isolated("isolation_targets:obey", what="child")
thread = threading.Thread(target=child.start)
thread.start(); thread.join()
print(child.call(("say", "here"), 10))
child.close()
""")
    assert caller.communicate()[0] == "said\n"


def test_a_started_child_is_handed_to_the_one_forked_worker_that_uses_it_first() -> None:
    caller = run_script("""
import os, time
from edgekit.isolation import Isolated
shared = Isolated("isolation_targets:obey", what="shared")
shared.wait_ready(10)
started = shared.pid

def fork(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

def first():
    print("first uses the started one:", shared.call(("pid",), 10) == started, flush=True)
    time.sleep(0.5)
    print("first still has it:", shared.call(("pid",), 10) == started, flush=True)
    shared.close()

def second():
    time.sleep(0.2)
    print("second has its own:", shared.call(("pid",), 10) != started, flush=True)
    shared.close()

def third():
    shared.close()  # never used it, so only lets go of it

workers = [fork(first), fork(second), fork(third)]
shared.release()
for pid in workers:
    os.waitpid(pid, 0)
""")
    assert sorted((caller.communicate()[0]).splitlines()) == [
        "first still has it: True",
        "first uses the started one: True",
        "second has its own: True",
    ]


def test_nobody_inherits_a_child_from_a_worker_that_died_in_mid_request() -> None:
    caller = run_script("""
import os, signal, time
from edgekit.isolation import Isolated
shared = Isolated("isolation_targets:obey", what="shared")
shared.start()
if os.fork() == 0:
    shared.submit(("sleep", 0.3))  # its reply will come, and is for nobody
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
if os.fork() == 0:
    print(shared.call(("say", ""), 10), shared.call(("pid",), 10) == shared.pid, flush=True)
    shared.close()
    os._exit(0)
os.wait()
shared.close()
""")
    assert caller.communicate()[0] == "said True\n"


def test_a_handed_over_child_dies_with_its_worker() -> None:
    caller = run_script("""
import os, signal
from edgekit.isolation import Isolated
shared = Isolated("isolation_targets:obey", what="shared")
shared.start()
print(shared.pid, flush=True)
pid = os.fork()
if pid == 0:
    shared.submit(("hold the interpreter", 60))
    os.kill(os.getpid(), signal.SIGKILL)
shared.release()
os.waitpid(pid, 0)
""")
    assert gone(int(caller.communicate()[0]))


def test_the_death_of_a_handed_over_child_is_an_error_too() -> None:
    caller = run_script("""
import os, signal
from edgekit.isolation import Isolated, IsolationFailed, Turns
shared = Isolated("isolation_targets:obey", what="shared")
shared.start()
pid = os.fork()
if pid == 0:
    try:
        shared.call(("say and die", "last words", signal.SIGSEGV), 10)
    except IsolationFailed as error:
        print("shared died" in str(error), "last words" in str(error), shared.call(("say", ""), 10), flush=True)
    shared.close()
    os._exit(0)
shared.release()
os.waitpid(pid, 0)
""")
    assert caller.communicate()[0] == "True True said\n"


def imports(children: list[Isolated]) -> list[tuple[float, float]]:
    """When each began to import its target, and when it had."""
    times: list[tuple[float, float]] = []
    for child in children:
        began, ended = child.call(None, timeout=20)  # type: ignore[misc]  # timed_target's answer
        times.append((began, ended))
        child.close()
    return times


@pytest.mark.parametrize("at_once", [1, 2])
def test_children_import_in_their_turn(at_once: int) -> None:
    children = [Isolated("timed_target:when", what=f"number {number}") for number in range(4)]
    with Turns(at_once) as turns:
        for child in children:
            child.start(turns)
    times = imports(children)
    for number in range(at_once, 4):
        assert times[number][0] >= times[number - at_once][1]


def test_without_turns_children_import_side_by_side() -> None:
    """Otherwise the test above proves nothing."""
    children = [Isolated("timed_target:when", what=f"number {number}") for number in range(2)]
    for child in children:
        child.start()
    (_, first_ended), (second_began, _) = imports(children)
    assert second_began < first_ended


def test_a_child_that_dies_in_its_turn_keeps_nobody_waiting(child: Isolated) -> None:
    with Turns(1) as turns:
        slow = Isolated("slow_target:echo", what="the slow one")
        slow.start(turns)
        child.start(turns)
    assert slow.pid is not None
    os.kill(slow.pid, signal.SIGKILL)
    assert child.call(("pid",), timeout=20) == child.pid
    slow.close()


def test_turns_leave_no_descriptor_open() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    children = [Isolated("isolation_targets:echo", what=f"number {number}") for number in range(3)]
    with Turns(2) as turns:
        for child in children:
            child.start(turns)
    for child in children:
        assert child.call("hello", timeout=20) == "hello"
        child.close()
    assert set(Path("/proc/self/fd").iterdir()) == before

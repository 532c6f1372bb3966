"""One mechanism for crash isolation: native code runs on a user's graph in a process that may die alone.

`Isolated("package.module:function", what="the simplifier")` is a fresh interpreter that imports its target at once, so
its heavy imports run while the caller imports its own, and then answers one request after another:

    with Isolated("edgekit.graph.simplify:serve_request", what="the simplifier") as simplifier:
        simplifier.submit(request)             # returns at once, even while the child is still importing
        reply = simplifier.result(timeout=60)  # or raises; the caller lives on in any case

Requests and replies are pickled. That is sound here and only here: both ends are our own code, and the bytes travel
through a file descriptor which no other process can open. They lie in a memory file that both sides share, and a socket
only rings "so many bytes are there": a pipe holds 64 KiB, so a caller with a 14 MB graph would stand still until the
child has finished importing. The child's stdout is not part of it, because native libraries print there.

A new interpreter rather than a fork: the child needs none of the caller's torch, and CUDA does not survive a fork.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import importlib
import mmap
import os
import pickle
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgekit.errors import EdgekitError, InputUnusable, MachineLacks

RING_BYTES = 8  # one unsigned number: the size of what lies in the mailbox, 0 for "imported and ready"
MAX_LOG_BYTES = 4 << 20  # a native library may print without end; only the last lines are ever shown
LOG_CHECK_S = 0.25
EXIT_GRACE_S = 1.0  # between hanging up and being gone: unmapping gigabytes takes a moment
TAIL_LINES = 8
TAIL_LINE_CHARS = 300

# What ended a process, in words; the signal's name stands next to them.
MEANINGS = {
    signal.SIGSEGV: "a crash in native code",
    signal.SIGBUS: "a crash in native code",
    signal.SIGABRT: "native code gave up",
    signal.SIGFPE: "an arithmetic fault in native code",
    signal.SIGILL: "an instruction that this CPU does not have",
    signal.SIGKILL: "killed from outside; out of memory?",
    signal.SIGTERM: "terminated from outside",
}

Handler = Callable[[object], object]


class IsolationFailed(InputUnusable):
    """The isolated process died, overran its time limit, or failed in a way that it has no words for. Exit code 4."""


@dataclass(frozen=True)
class _Child:
    """A running child, as seen by the process that started it or by one forked from that."""

    process: subprocess.Popen[bytes]
    starter: int  # pid of the process that can wait for it
    channel: socket.socket
    mailbox: int
    token: int  # a pipe with one byte in it: whoever reads that byte has the child
    log: int


class Turns:
    """Children that are started with it import their targets one after another, `at_once` at a time.

    The caller is importing, too; where they share its cores, it comes last. A child's turn is over when it has imported
    its target, or died. To be closed when all are started.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self._readers: list[int] = []  # of one pipe a child: it ends when its child's turn does

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers:
            os.close(reader)
        self._readers = []

    def take(self) -> tuple[int | None, int]:
        """What the next child has to read to its end before it imports, and what it closes after that."""
        reader, writer = os.pipe()
        self._readers.append(reader)
        return self._readers.pop(0) if len(self._readers) > self.at_once else None, writer


class Isolated:
    """A child process that serves `target` ("package.module:function"); started on first use, restarted after a death.

    `what` names it in messages. `environment` is added to the child's. One request is in flight at a time.

    The child ends when every process that holds it has ended, also by kill -9 and also in the middle of a request.
    One that was started before a fork serves one process only, whichever submits first; any other gets a child of its
    own. A parent that started it for a forked worker calls `release()` after the fork.
    """

    def __init__(self, target: str, *, what: str, environment: Mapping[str, str] | None = None) -> None:
        self.target = target
        self.what = what
        self.environment = dict(environment or {})
        self._child: _Child | None = None
        self._ready = False
        # Process ids instead of flags: after a fork, the copy of this object in the new process has neither.
        self._claimed_by: int | None = None
        self._in_flight_for: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.process.pid if self._child else None

    def start(self, turns: Turns | None = None) -> None:
        """Start the child unless it runs; returns in milliseconds, the child imports its target meanwhile.

        With `turns`, it waits for its turn first.
        """
        if self._child is None:
            self._child = _spawn(self.target, self.environment, turns)
            self._ready = False

    def wait_ready(self, timeout: float) -> None:
        """Wait until the target is imported. Raises IsolationFailed on death or after `timeout` seconds."""
        self.start()
        if not self._ready:
            self._wait_for_ring(time.monotonic() + timeout, timeout)
            self._ready = True

    def submit(self, request: object) -> None:
        """Hand over a picklable request without waiting for the child."""
        if self._in_flight_for == os.getpid():
            raise RuntimeError(f"{self.what} is still busy with a request: call result() first")
        child = self._usable_child()
        try:
            size = _put(child.mailbox, request)
        except OSError as error:
            raise MachineLacks(
                f"no room to hand {self.what} its request", got=str(error), wanted="free memory"
            ) from error
        # A child that dies at this moment is found by result(), which can say how it died.
        with contextlib.suppress(ConnectionError):
            child.channel.sendall(size.to_bytes(RING_BYTES, "little"))
        self._in_flight_for = os.getpid()

    def result(self, timeout: float) -> object:
        """The reply to what was submitted, within `timeout` seconds from now.

        An EdgekitError raised in the child is raised here as itself. IsolationFailed says that the child died, took
        too long (it is killed then), or raised something unforeseen; the next request gets a new child where needed.
        """
        if self._child is None or self._in_flight_for != os.getpid():
            raise RuntimeError(f"nothing was submitted to {self.what}")
        deadline = time.monotonic() + timeout
        while (size := self._wait_for_ring(deadline, timeout)) == 0:
            self._ready = True
        self._in_flight_for = None
        return self._open_reply(self._child, _get(self._child.mailbox, size))

    def drop(self, timeout: float) -> None:
        """Forget what is in flight, if anything is: its reply, or that there is none, is of no interest any more."""
        if self._child is not None and self._in_flight_for == os.getpid():
            with contextlib.suppress(EdgekitError):
                self.result(timeout)

    def call(self, request: object, timeout: float) -> object:
        """`submit` and `result` in one."""
        self.submit(request)
        return self.result(timeout)

    def release(self) -> None:
        """Let go without ending the child: a process forked after `start` has it from now on."""
        if self._child is not None:
            _close_handles(self._child)
            self._child = self._claimed_by = self._in_flight_for = None

    def close(self) -> None:
        """End the child at once; it keeps nothing that would need a farewell. Usable again afterwards.

        In a forked process that never used the child, this only lets go of it.
        """
        if self._child is not None and os.getpid() in (self._child.starter, self._claimed_by):
            _end(self._child, grace=0)
        self.release()

    def _usable_child(self) -> _Child:
        """The child, claimed for this process; a new one where it is taken, or died idle (no request is to blame)."""
        if self._child is not None and _has_hung_up(self._child.channel):
            self.close()
        self.start()
        assert self._child is not None
        if self._claimed_by != os.getpid() and not _claim(self._child):
            self.release()
            self.start()
            assert _claim(self._child)
        self._claimed_by = os.getpid()
        return self._child

    def _wait_for_ring(self, deadline: float, timeout: float) -> int:
        assert self._child is not None
        while True:
            ring = _listen(self._child.channel, deadline)
            if ring is not None:
                break
            if time.monotonic() >= deadline:
                raise self._failure(f"{self.what} took longer than {timeout:g} s and was stopped")
            _trim(self._child.log)
        if len(ring) < RING_BYTES:
            raise self._failure(None)
        return int.from_bytes(ring, "little")

    def _failure(self, headline: str | None) -> IsolationFailed:
        """End the child and say why; without a headline it has ended by itself."""
        assert self._child is not None
        last_words = _tail(self._child.log)
        how = _end(self._child, grace=0 if headline else EXIT_GRACE_S)
        self.release()
        return IsolationFailed(headline or f"{self.what} died: {how}", where=self.target, got=last_words)

    def _open_reply(self, child: _Child, reply: object) -> object:
        match reply:
            case ("ok", value):
                return value
            case ("error", EdgekitError() as error):
                raise error
            case ("unforeseen", str(summary), str(raised_in)):
                raise IsolationFailed(f"{self.what} failed: {summary}", where=raised_in, got=_tail(child.log))
        raise self._failure(f"{self.what} answered with something that is no reply")


def _spawn(target: str, environment: Mapping[str, str], turns: Turns | None) -> _Child:
    ours, theirs = socket.socketpair()
    mailbox = os.memfd_create("edgekit-mailbox", os.MFD_CLOEXEC)
    log = os.memfd_create("edgekit-log", os.MFD_CLOEXEC)
    _set_flag(log, os.O_APPEND)  # so that trimming it starts it afresh instead of leaving a hole
    wait, loaded = turns.take() if turns is not None else (None, None)
    turn = [descriptor for descriptor in (wait, loaded) if descriptor is not None]
    names = ["-" if descriptor is None else str(descriptor) for descriptor in (wait, loaded)]
    try:
        with theirs:
            process = subprocess.Popen(
                # -P: no module of the current folder may stand in for one of ours
                [sys.executable, "-P", "-m", "edgekit.isolation", target, str(theirs.fileno()), str(mailbox), *names],
                stdin=subprocess.PIPE,  # never written to: the lifeline
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), mailbox, *turn),
                # The caller's own search path in its own order, as where edgekit is run from a checkout.
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
                process_group=0,  # Ctrl-C goes to the terminal's group; the caller decides what it means
            )
    finally:
        for descriptor in turn:
            os.close(descriptor)
    return _Child(process, os.getpid(), ours, mailbox, _new_token(), log)


def _claim(child: _Child) -> bool:
    """Take the child for this process for good; False when another has it, or had it and died in mid-request."""
    return bool(os.read(child.token, 1))


def _new_token() -> int:
    token, writer = os.pipe()
    os.write(writer, b"1")
    os.close(writer)  # so that the second to ask reads the end instead of waiting
    return token


def _listen(channel: socket.socket, deadline: float) -> bytes | None:
    """The next ring; short when the other side is gone; None when it is time to look at the clock and the log."""
    channel.settimeout(min(LOG_CHECK_S, max(1e-3, deadline - time.monotonic())))
    try:
        return channel.recv(RING_BYTES, socket.MSG_WAITALL)
    except TimeoutError:
        return None
    except ConnectionError:
        return b""


def _has_hung_up(channel: socket.socket) -> bool:
    channel.setblocking(False)
    try:
        return channel.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        channel.setblocking(True)


def _end(child: _Child, grace: float) -> str:
    """Kill the child unless it ends by itself within `grace` seconds; what ended it, as far as can be known here."""
    if child.starter != os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.process.pid, signal.SIGKILL)
        return "its exit code is known only to the process that started it"
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.process.wait(grace)
    child.process.kill()
    return _describe_exit(child.process.wait())


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    number = signal.Signals(-code)
    return f"{number.name} ({MEANINGS.get(number, 'a signal')})"


def _close_handles(child: _Child) -> None:
    assert child.process.stdin is not None
    child.process.stdin.close()
    child.channel.close()
    for descriptor in (child.log, child.mailbox, child.token):
        os.close(descriptor)
    if child.process.returncode is None:
        # Released, or another process's child: there is nothing to wait for here, and Popen must not complain.
        child.process.returncode = 0


def _put(mailbox: int, message: object) -> int:
    """Pickle `message` into the shared file and return its size in bytes; nothing large is copied on the way."""
    os.ftruncate(mailbox, 0)
    with open(mailbox, "wb", closefd=False) as file:
        file.seek(0)  # both sides share one file position
        pickle.dump(message, file, protocol=5)
        return file.tell()


def _get(mailbox: int, size: int) -> object:
    with mmap.mmap(mailbox, size, access=mmap.ACCESS_READ) as view:
        message: object = pickle.loads(view)  # noqa: S301  (written by our own other half, see the module's docstring)
    os.ftruncate(mailbox, 0)  # gives the memory back
    return message


def _set_flag(descriptor: int, flag: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | flag)


def _trim(log: int) -> None:
    if os.fstat(log).st_size > MAX_LOG_BYTES:
        os.ftruncate(log, 0)


def _tail(log: int) -> str | None:
    """The last lines that the child printed, or None."""
    size = os.fstat(log).st_size
    text = os.pread(log, 64 << 10, max(0, size - (64 << 10))).decode(errors="replace")
    # The interpreter's own dump of a crash goes on with stacks and module lists; its first line says it all.
    head, fatal, rest = text.partition("Fatal Python error:")
    lines = (head + fatal + rest.partition("\n")[0]).strip().splitlines()
    return "\n".join(line[:TAIL_LINE_CHARS] for line in lines[-TAIL_LINES:]) or None


# From here on: the child's side.


def main(target: str, channel_number: str, mailbox_number: str, wait: str, loaded: str) -> None:
    """Serve `target` until the caller hangs up; `wait` and `loaded` are what `Turns.take` gave, "-" for nothing."""
    mailbox = int(mailbox_number)
    with socket.socket(fileno=int(channel_number)) as channel:
        channel.set_inheritable(False)
        os.set_inheritable(mailbox, False)
        _guard(lifeline=0)
        if wait != "-":
            os.read(int(wait), 1)
            os.close(int(wait))
        handle = _load(target)
        if loaded != "-":
            os.close(int(loaded))
        size = 0
        while _ring(channel, size) and (request_size := _next_request(channel)):
            size = _answer(handle, mailbox, request_size)


def _guard(lifeline: int) -> None:
    """Arrange for the right deaths: with the caller's, not by Ctrl-C, and without leaving a core file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    # The kernel itself kills this process when the last writer of the lifeline is gone. A thread that reads it would
    # wait for native code to give back the interpreter lock; PR_SET_PDEATHSIG would kill this process as soon as the
    # *thread* that started it ends, and would not notice the death of a forked worker that has taken it over.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    _set_flag(lifeline, os.O_ASYNC)
    watch = select.poll()
    watch.register(lifeline, 0)
    if watch.poll(0):  # gone before we asked to be told
        os._exit(0)


def _load(target: str) -> Handler:
    """The target function; where it cannot be imported, a function that says so to every request."""
    module, _, function = target.partition(":")
    gc.disable()  # importing makes a million objects and next to no garbage: a third faster
    try:
        handler: Handler = getattr(importlib.import_module(module), function)
    except ImportError as error:
        lacks = MachineLacks(f"cannot import what {module} needs", got=str(error), hint="edgekit doctor names it")
        handler = _raiser(lacks)
    except Exception as error:  # any other fault of an import is told to the caller in the same way
        handler = _raiser(error)
    finally:
        gc.enable()
        gc.freeze()
    return handler


def _raiser(error: Exception) -> Handler:
    def fail(_request: object) -> object:
        raise error

    return fail


def _next_request(channel: socket.socket) -> int:
    """The size of the next request, 0 when the caller has hung up."""
    return int.from_bytes(channel.recv(RING_BYTES, socket.MSG_WAITALL), "little")


def _ring(channel: socket.socket, size: int) -> bool:
    try:
        channel.sendall(size.to_bytes(RING_BYTES, "little"))
    except ConnectionError:
        return False
    return True


def _answer(handle: Handler, mailbox: int, size: int) -> int:
    try:
        return _put(mailbox, ("ok", handle(_get(mailbox, size))))
    except EdgekitError as error:
        return _put(mailbox, ("error", error))
    except Exception as error:  # told to the caller, who names the process that failed
        return _put(mailbox, ("unforeseen", f"{type(error).__name__}: {error}", _where_raised(error)))


def _where_raised(error: Exception) -> str:
    """The innermost calls: enough for a bug report, and not a traceback in a user's face."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return ", called by ".join(f"{frame.filename.split('/')[-1]}:{frame.lineno} {frame.name}" for frame in frames[::-1])


if __name__ == "__main__":
    # This file runs as `__main__` here; the imported one is what both sides pickle by name.
    from edgekit.isolation import main as serve

    serve(*sys.argv[1:])

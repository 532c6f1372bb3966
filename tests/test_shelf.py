"""One process at a time has the turn, whatever becomes of it, and finds what others have left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

import pytest

from edgekit.shelf import SIZE_BYTES, Shelf

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def shelf() -> Iterator[Shelf[object]]:
    made: Shelf[object] = Shelf()
    yield made
    made.close()


def elsewhere(task: Callable[[Connection], None]) -> tuple[ForkProcess, Connection]:
    """A process that does this, and what it says."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=task, args=(theirs,))
    process.start()
    theirs.close()
    return process, ours


def test_one_process_finds_what_another_has_left(shelf: Shelf[object]) -> None:
    assert shelf.get() is None
    process, _ = elsewhere(lambda _: shelf.put(("a mould", b"x" * 100_000)))
    process.join()
    assert shelf.get() == ("a mould", b"x" * 100_000)
    shelf.put("another")
    assert shelf.get() == "another"


def test_the_turn_is_one_processs_until_it_ends_it(shelf: Shelf[object]) -> None:
    assert shelf.try_turn()
    assert shelf.try_turn()  # it has it already

    def ask(pipe: Connection) -> None:
        pipe.send(shelf.try_turn())
        shelf.wait_turn()
        pipe.send(shelf.get())

    process, pipe = elsewhere(ask)
    assert pipe.recv() is False
    assert not pipe.poll(0.2)
    shelf.put("made meanwhile")
    shelf.end_turn()
    assert pipe.recv() == "made meanwhile"
    process.join()


def test_a_dead_process_has_no_turn(shelf: Shelf[object]) -> None:
    def hold(pipe: Connection) -> None:
        shelf.wait_turn()
        pipe.send("mine")
        signal.pause()

    process, pipe = elsewhere(hold)
    assert pipe.recv() == "mine"
    assert not shelf.try_turn()
    process.kill()
    process.join()
    assert shelf.try_turn()


def test_what_cannot_be_pickled_is_not_left(shelf: Shelf[object]) -> None:
    shelf.put("before")
    shelf.put(lambda: None)
    assert shelf.get() == "before"


def test_half_a_thing_is_none(shelf: Shelf[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it writes over what was there."""
    shelf.put("before")
    write = os.pwrite

    def die(file: int, data: bytes, place: int) -> int:
        if place == SIZE_BYTES:
            write(file, data[: len(data) // 2], place)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data, place)

    monkeypatch.setattr(os, "pwrite", die)
    process, _ = elsewhere(lambda _: shelf.put("x" * 1000))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert shelf.get() is None

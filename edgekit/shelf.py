"""What one worker process makes for all of them: the first one makes it, the others wait for it or find it there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
from typing import Generic, TypeVar

Thing = TypeVar("Thing")
SIZE_BYTES = 8


class Shelf(Generic[Thing]):
    """A place for one thing, made before the workers are forked. Only who has the turn may look or put.

    A process that dies gives its turn back, and leaves nothing there rather than half a thing. Things are pickled: both
    ends are our own code, and no other process can open the file.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("edgekit-shelf", os.MFD_CLOEXEC)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)

    def try_turn(self) -> bool:
        """Take the turn unless another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def wait_turn(self) -> None:
        """Take the turn when it is free."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def end_turn(self) -> None:
        """Give the turn to the others."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def get(self) -> Thing | None:
        """What lies there."""
        size = int.from_bytes(os.pread(self._file, SIZE_BYTES, 0), "little")
        if not size:
            return None
        thing: Thing = pickle.loads(os.pread(self._file, size, SIZE_BYTES))  # noqa: S301  # see above
        return thing

    def put(self, thing: Thing | None) -> None:
        """Leave something there, unless there is nothing, or it cannot be pickled, or there is no room for it."""
        with contextlib.suppress(pickle.PicklingError, TypeError, AttributeError, OSError):
            data = b"" if thing is None else pickle.dumps(thing, protocol=5)
            os.pwrite(self._file, bytes(SIZE_BYTES), 0)
            os.pwrite(self._file, data, SIZE_BYTES)
            os.pwrite(self._file, len(data).to_bytes(SIZE_BYTES, "little"), 0)

"""Code that is not edgekit's, run so that what goes wrong in it has a name and a line.

This is no sandbox: a factory is the user's own program and can do whatever the user can.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import EdgekitError, InputUnusable, MachineLacks

STDOUT, STDERR = 1, 2
LONGEST_MESSAGE = 400


@contextlib.contextmanager
def guarded(what: str, where: str, root: Path | None = None, hint: str | None = None) -> Iterator[None]:
    """Whatever the code inside raises becomes an InputUnusable that says `what` failed `where`, and in which line.

    `root` is the folder of the user's own files: the last of their lines on the way to the error is named. What the
    code prints goes to stderr. A package that is not installed is MachineLacks; sys.exit is an error like any other.
    """
    try:
        with stdout_to_stderr():
            yield
    except EdgekitError:
        raise
    except ModuleNotFoundError as error:
        needs = f"pip install the package that has {error.name}" if error.name else None
        raise MachineLacks(what, where=where, got=told(error, root), hint=needs) from error
    except SystemExit as error:
        got = f"sys.exit({error.code!r}) at {_place(error, root)}"
        raise InputUnusable(what, where=where, got=got, hint=hint) from error
    except Exception as error:  # it is anybody's code, and may raise anything
        raise InputUnusable(what, where=where, got=told(error, root), hint=hint) from error


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """While this lasts, what Python, native code and child processes write to stdout goes to stderr."""
    _flush()
    try:
        kept = os.dup(STDOUT)
    except OSError:  # somebody has closed it
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            os.dup2(STDERR, STDOUT)
            yield
    finally:
        _flush()  # whoever has kept Python's own stdout wrote to its buffer
        os.dup2(kept, STDOUT)
        os.close(kept)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """While this lasts, modules are looked for in `folder` first, as Python does for the folder of a program.

    Modules of another source's folder that have the names of files in this one are forgotten before.
    """
    entry = str(folder)
    _forget_strangers(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the code may have put its own order there
            sys.path.remove(entry)


def told(error: BaseException, root: Path | None = None) -> str:
    """An exception in one line: its class, the first line of its message, and where it was raised."""
    lines = str(error).strip().splitlines()
    message = f": {lines[0][:LONGEST_MESSAGE]}" if lines else ""
    return f"{type(error).__name__}{message} (at {_place(error, root)})"


def _flush() -> None:
    if sys.stdout:  # None where a process was started without one
        sys.stdout.flush()


def _place(error: BaseException, root: Path | None) -> str:
    """The line of the user's own files that led to the error, and the one that raised it where that is another."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if root is not None and Path(frame.filename).is_relative_to(root)]
    last = frames[-1]
    if not own or own[-1] is last:
        return f"{last.filename}:{last.lineno}"
    return f"{own[-1].filename}:{own[-1].lineno}, in {Path(last.filename).name}:{last.lineno}"


def _forget_strangers(folder: Path) -> None:
    """A helper module loaded from the folder of an earlier source would be taken for this one's of the same name."""
    known = {Path(entry).resolve() for entry in sys.path}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        top = name.partition(".")[0]
        if file is None or not _has(folder, top) or Path(file).is_relative_to(folder):
            continue
        if not any(parent in known for parent in Path(file).resolve().parents):
            del sys.modules[name]


def _has(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()

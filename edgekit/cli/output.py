"""What every command does with its results and its failures: text or JSON, and the exit code."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, NoReturn

import typer

from edgekit.errors import EdgekitError
from edgekit.schema import JSON

SCHEMA = 1
INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More notes on stderr.")]


class Output:
    """Results go to stdout, everything else to stderr."""

    def __init__(self, command: str, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.command, self.as_json, self.quiet, self.verbose = command, as_json, quiet, verbose
        self.code = 0

    def result(self, data: dict[str, JSON], text: str, ok: bool = True) -> None:
        """The one result of the command: `data` with --json, `text` without."""
        if self.as_json:
            typer.echo(json.dumps({"schema": SCHEMA, "command": self.command, "ok": ok, **data}, allow_nan=False))
        elif text:
            typer.echo(text)

    def note(self, text: str) -> None:
        """A line for the person watching."""
        if not self.quiet:
            typer.echo(text, err=True)

    def detail(self, text: str) -> None:
        """A line for --verbose."""
        if self.verbose:
            typer.echo(text, err=True)

    def failure(self, error: EdgekitError) -> None:
        """An error as text on stderr; errors are shown with --quiet, too."""
        typer.echo(describe(self.command, error), err=True)


def describe(command: str, error: EdgekitError) -> str:
    """The error in the form in which every command shows it."""
    lines = [f"edgekit {command}: {error.what}"]
    for label, text in error.details():
        first, *rest = text.splitlines() or [""]
        lines += [f"  {label}: {first}", *(f"  {' ' * len(label)}  {line}" for line in rest)]
    return "\n".join(lines)


def error_json(error: EdgekitError) -> dict[str, JSON]:
    """The error as it stands in JSON results."""
    return {
        "what": error.what,
        "where": error.where,
        "found": error.got,
        "wanted": error.wanted,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


@contextlib.contextmanager
def reporting(command: str, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> Iterator[Output]:
    """The frame around every command: turns its error, or Ctrl-C, into text and an exit code, once."""
    output = Output(command, as_json, quiet, verbose)
    try:
        yield output
    except EdgekitError as error:
        output.failure(error)
        output.result({"error": error_json(error)}, "", ok=False)
        output.code = error.exit_code
    except KeyboardInterrupt:
        output.note("interrupted; what is finished is kept, the same command goes on from there")
        leave(INTERRUPTED)
    if output.code:
        raise typer.Exit(output.code)


def leave(code: int) -> NoReturn:
    """End the process without tearing libraries down: PyTorch's own takes 0.4 s and 130 MB."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # a closed pipe, a full disk: the result did not get out
        code = code or 1
    os._exit(code)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows (the first is the heading) as aligned columns; the columns numbered in `right` are set to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in rows)


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def millions(count: int) -> str:
    """A count in millions, with enough digits to tell variants apart."""
    return f"{count / 1e6:.2f} M" if count < 100e6 else f"{count / 1e6:.0f} M"

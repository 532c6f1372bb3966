"""The command line: parse, call one function, render. The only place that prints, and the only one that exits."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable
from typing import NoReturn

import typer

from edgekit.cli.output import INTERRUPTED, SCHEMA, leave
from edgekit.errors import MachineLacks

# In the order of --help. The module of the command that was asked for is imported, and no other: all of them, and what
# typer makes of their options, are half of the time before PyTorch's import begins.
COMMANDS = {
    "export": "edgekit.cli.export:export",
    "bench": "edgekit.cli.bench:bench",
    "compare": "edgekit.cli.compare:compare",
    "eval": "edgekit.cli.eval:evaluate",
    "train": "edgekit.cli.train:train",
    "experiment": "edgekit.cli.experiment:experiment",
    "report": "edgekit.cli.report:report",
    "pick": "edgekit.cli.pick:pick",
    "parity": "edgekit.cli.gates:parity",
    "build": "edgekit.cli.gates:build",
    "lint": "edgekit.cli.info:lint",
    "inspect": "edgekit.cli.info:inspect",
    "models": "edgekit.cli.info:models",
    "profiles": "edgekit.cli.info:profiles",
    "doctor": "edgekit.cli.info:doctor",
    "style": "edgekit.cli.style:app",
}


def application(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands."""
    app = typer.Typer(
        name="edgekit",
        help="Carry a CNN from PyTorch to ONNX and TensorRT at every width and resolution, and prove every step.",
        no_args_is_help=True,
        add_completion=False,
        # Plain help: Rich's takes longer to import than everything else that --help needs.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _root(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from edgekit import __version__

        typer.echo(f"edgekit {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """The entry point of the `edgekit` command."""
    leave(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code. What the parser refuses follows the same rules as the rest."""
    name = next(iter(arguments), "")
    try:
        app = application([name] if name in COMMANDS else COMMANDS)
        code = app(arguments, prog_name="edgekit", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the result has seen enough
        return 1
    except OSError as error:  # a full disk behind stdout, above all; what commands read and write is typed by them
        typer.echo(f"edgekit: {error}", err=True)
        return MachineLacks.exit_code
    except Exception as error:
        # Typer carries its own copy of click in some versions and imports it in others: known by its shape.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        return _refused(error, arguments)
    return code if isinstance(code, int) else 0


def _refused(error: Exception, arguments: list[str]) -> int:
    message = str(error.format_message())  # type: ignore[attr-defined]
    code = int(error.exit_code)  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if not message:  # no arguments at all: the help has been asked for
        typer.echo(context.get_help() if context else "", err=True)
        return code
    path = context.command_path if context else "edgekit"
    typer.echo(f"{path}: {message}\n  do: {path} --help", err=True)
    if "--json" in arguments:
        command = path.removeprefix("edgekit").strip()
        body = {"schema": SCHEMA, "command": command, "ok": False, "error": {"what": message, "exit_code": code}}
        typer.echo(json.dumps(body))
    return code

"""The command line: parse, call one function, render. The only place that prints, and the only one that exits."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

import typer

from edgekit.cli.bench import bench as bench_command
from edgekit.cli.compare import compare as compare_command
from edgekit.cli.eval import evaluate
from edgekit.cli.experiment import experiment
from edgekit.cli.export import export as export_command
from edgekit.cli.gates import build, parity
from edgekit.cli.info import doctor, inspect, lint, models, profiles
from edgekit.cli.output import INTERRUPTED, SCHEMA, leave
from edgekit.cli.pick import pick
from edgekit.cli.report import report
from edgekit.cli.style import app as style_app
from edgekit.cli.train import train
from edgekit.errors import MachineLacks

app = typer.Typer(
    name="edgekit",
    help="Carry a CNN from PyTorch to ONNX and TensorRT at every width and resolution, and prove every step.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: Rich's takes longer to import than everything else that --help needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("export")(export_command)
app.command("bench")(bench_command)
app.command("compare")(compare_command)
app.command("eval")(evaluate)
for command in (train, experiment, report, pick, parity, build, lint, inspect, models, profiles, doctor):
    app.command(command.__name__)(command)
app.add_typer(style_app, name="style")


@app.callback(invoke_without_command=True)
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
    try:
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

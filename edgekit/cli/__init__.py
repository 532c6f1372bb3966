"""The command line: parse, call one function, render. The only place that prints, and the only one that exits."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from typing import NoReturn

import typer

from edgekit.cli.output import INTERRUPTED, SCHEMA, leave
from edgekit.errors import MachineLacks


@dataclass(frozen=True)
class Command:
    """Where a command is, as "module:attribute", and what it does: the beginning of its own help."""

    place: str
    summary: str


# In the order of --help. Only the command that was asked for is imported, and none for the list of them: all, with what
# typer makes of their options, take as long as everything else that happens before PyTorch's import begins.
COMMANDS = {
    "export": Command(
        "edgekit.cli.export:export",
        "Carry networks from PyTorch to ONNX and TensorRT engines, and prove every step.",
    ),
    "bench": Command(
        "edgekit.cli.bench:bench",
        "Measure latencies in rounds of random order, as ratios to a fixed reference with 95 % intervals.",
    ),
    "compare": Command(
        "edgekit.cli.compare:compare",
        "How B's latencies differ from A's, where both measured the same. A change is named where it is beyond doubt.",
    ),
    "eval": Command(
        "edgekit.cli.eval:evaluate",
        "Measure accuracy: top-1 with its 95 % interval, top-5, loss, and agreement with the fp32 graph.",
    ),
    "train": Command(
        "edgekit.cli.train:train",
        "Train a network; a run that was stopped or killed goes on with the same command, to the same result.",
    ),
    "experiment": Command(
        "edgekit.cli.experiment:experiment",
        "Train networks at every width and resolution, each from the same weights with an optimiser of its own.",
    ),
    "report": Command(
        "edgekit.cli.report:report",
        "Draw what was exported and measured: grid, charts, parity, receipts, provenance, and what was not measured.",
    ),
    "pick": Command(
        "edgekit.cli.pick:pick",
        "Print the best variant inside a budget, and why each other lost.",
    ),
    "parity": Command(
        "edgekit.cli.gates:parity",
        "Climb the parity ladder again, with the files as they are on disk. Exit code 1 when a rung fails.",
    ),
    "build": Command(
        "edgekit.cli.gates:build",
        "Build engines from an exported variant on this machine, and write them into its folder and manifest.",
    ),
    "lint": Command(
        "edgekit.cli.info:lint",
        "What a target will not take of an ONNX file, and what should not be left in it, before going there.",
    ),
    "inspect": Command(
        "edgekit.cli.info:inspect",
        "What an exported variant, an ONNX file, a TensorRT plan or golden.npz holds.",
    ),
    "models": Command(
        "edgekit.cli.info:models",
        "The reference networks: their options, and their parameters and MACs at a width and resolution.",
    ),
    "profiles": Command(
        "edgekit.cli.info:profiles",
        "The export profiles: what each target takes.",
    ),
    "doctor": Command(
        "edgekit.cli.info:doctor",
        "What this machine is and can do, tried out; what is missing, and how to get it.",
    ),
    "style": Command(
        "edgekit.cli.style:app",
        "Style transfer: optimise one picture, train a network for a style, apply it to pictures of any size.",
    ),
}


def application(name: str | None = None) -> typer.Typer:
    """The command line with one command; without, what lists them all and runs none."""
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
    if name is None:
        for listed, command in COMMANDS.items():
            app.command(listed, help=command.summary)(_listed)
        return app
    module, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name)
    else:
        app.command(name)(found)
    return app


def _listed() -> None:
    raise AssertionError("a command of the list was run")


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
    if arguments[:1] == ["--"]:
        arguments = arguments[1:]
    name = next(iter(arguments), "")
    try:
        app = application(name if name in COMMANDS else None)
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

"""`edgekit eval`: how often each artifact is right, on labelled images."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit import manifest
from edgekit.accuracy import Accuracy, Score, Split
from edgekit.cli import parse
from edgekit.cli.output import Json, Output, Quiet, Verbose, error_json, reporting, table
from edgekit.errors import EdgekitError, GateFailed, UsageError
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from edgekit.evaluating import Progress as Step
    from edgekit.evaluating import Request, Subject
    from edgekit.preprocessing import Preprocessing

SPLITS: tuple[Split, ...] = ("val", "train", "all")
HEAD = ("artifact", "top-1", "95 % interval", "top-5", "loss", "as fp32")
PLAIN_LINE_S = 5.0

Opened = tuple[Path, Callable[[], "Subject"]]


def evaluate(
    target: Annotated[Path, typer.Argument(metavar="DIR|FILE", help="Exported variants, or an ONNX file.")],
    data: Annotated[
        str, typer.Option(help="Labelled images: a folder, digits, fashion-mnist, fashion-mnist:DIR, cifar10:DIR.")
    ],
    split: Annotated[str, typer.Option(help="Which of them: val, train, all.")] = "val",
    val_share: Annotated[
        float | None, typer.Option(help="Share set aside where the data have no validation part; default: as trained.")
    ] = None,
    data_seed: Annotated[int | None, typer.Option(help="Seed of that division; default: as trained.")] = None,
    contract: Annotated[
        str | None, typer.Option(help="Preprocessing, where no manifest says: imagenet, inception, cifar, pixels.")
    ] = None,
    res: Annotated[int | None, typer.Option(help="Side of the images, for a file that takes any.")] = None,
    min_accuracy: Annotated[
        str | None, typer.Option(help="Exit code 1 where an artifact's top-1 is below, in per cent: 97%.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure accuracy: top-1 with its 95 % interval, top-5, loss, and agreement with the fp32 graph.

    Every ONNX graph of a variant runs on the CPU, on images prepared as the manifest says; engines need a GPU. What is
    found goes to accuracy.json beside the manifest, too, where edgekit report and edgekit pick see it.
    """
    with reporting("eval", as_json, quiet, verbose) as output:
        from edgekit import picking

        least = picking.percent("--min-accuracy", min_accuracy) if min_accuracy is not None else None
        request = _request(data, split, val_share, data_seed)
        preprocessing = _contract(contract)
        found = _subjects(target, preprocessing, res)
        results = [_one(where, subject, request, least, output) for where, subject in found]
        text = "\n\n".join(one.text for one in results if one.text)
        output.result({"variants": [one.data for one in results]}, text, ok=output.code == 0)


# --- what was asked for


def _request(data: str, split: str, val_share: float | None, seed: int | None) -> Request:
    from edgekit.training.sources import parse_data

    source = parse_data(data)
    chosen = parse.choice("--split", split, SPLITS)
    if val_share is not None and not 0 < val_share < 1:
        raise UsageError("not a share", where="--val-share", got=f"{val_share:g}", wanted="between 0 and 1")
    from edgekit.evaluating import Request

    return Request(source, chosen, val_share, seed)


def _contract(name: str | None) -> Preprocessing | None:
    from edgekit.preprocessing import CONTRACTS

    return CONTRACTS[parse.choice("--contract", name, tuple(CONTRACTS))] if name is not None else None


def _subjects(target: Path, contract: Preprocessing | None, res: int | None) -> Iterator[Opened]:
    """What there is to evaluate and where it lies, each opened when its turn comes."""
    from edgekit import evaluating
    from edgekit.bench import finding

    if target.is_file() and target.name != manifest.NAME:
        yield target, lambda: evaluating.of_file(target, contract, res)
        return
    if res is not None:
        raise UsageError("variants have their resolution", where="--res", got=str(res), hint="leave it out")
    for folder in finding.manifests(target):
        yield folder, functools.partial(evaluating.of_variant, folder, contract)


# --- what came of it


@dataclass(frozen=True)
class _Result:
    """One variant's part of the result."""

    data: dict[str, JSON]
    text: str


def _one(
    where: Path, open_subject: Callable[[], Subject], request: Request, least: float | None, output: Output
) -> _Result:
    """Evaluate one variant; one that fails does not stop the others."""
    from edgekit import accuracy, evaluating

    found: Accuracy | None = None
    error: EdgekitError | None = None
    try:
        with _display(output, where.name) as listen:
            found = evaluating.evaluate(open_subject(), request, listen)
        if where.is_dir():
            output.detail(f"written to {accuracy.write(where, found)}")
        error = _gate(found, least, str(where))
    except EdgekitError as caught:
        error = caught
    if error is not None:
        output.failure(error)
        output.code = max(output.code, error.exit_code)
    return _Result(_data(str(where), found, error), _text(str(where), found, output.verbose) if found else "")


def _gate(found: Accuracy, least: float | None, where: str) -> GateFailed | None:
    """Outputs that are no numbers fail always; an accuracy does where one was asked for."""
    for one in found.scores:
        if one.not_finite:
            got = f"{one.not_finite} of {one.images} images"
            return GateFailed(f"{one.kind} gives outputs that are not finite", where=where, got=got)
    below = [one for one in found.scores if least is not None and one.top1 * 100 < least]
    if not below:
        return None
    got = ", ".join(f"{one.kind} {_percent(one.top1)}" for one in below)
    return GateFailed("the accuracy is too low", where=where, got=got, wanted=f"at least {least:g} %")


def _data(where: str, found: Accuracy | None, error: EdgekitError | None) -> dict[str, JSON]:
    body: dict[str, JSON] = {"dir": where}
    if found is not None:
        body |= {
            "data": to_json(found.data),
            "preprocessing": to_json(found.preprocessing),
            "scores": to_json(found.scores),
            "not_measured": to_json(found.not_measured),
        }
    return {**body, "error": error_json(error) if error else None}


def _text(where: str, found: Accuracy, verbose: bool) -> str:
    data = found.data
    lines = [f"{where}: {data.images} images of {data.text}, {data.split}"]
    lines.append(table([list(HEAD), *(_row(one) for one in found.scores)], right=range(1, len(HEAD))))
    lines += [f"{it.kind} {it.profile}: not measured here, needs {it.needs}" for it in found.not_measured]
    if verbose:
        lines.append(_by_class(found))
    return "\n".join(lines)


def _row(one: Score) -> list[str]:
    low, high = one.ci95
    return [
        one.kind,
        _percent(one.top1),
        f"{low * 100:.2f} to {high * 100:.2f}",
        "-" if one.top5 is None else _percent(one.top5),
        "-" if one.loss is None else f"{one.loss:.4f}",
        "-" if one.agreement is None else _percent(one.agreement),
    ]


def _by_class(found: Accuracy) -> str:
    rows = [["class", "images", *(one.kind for one in found.scores)]]
    for number, name in enumerate(found.data.classes):
        own = [one.classes[number] for one in found.scores]
        shares = [_percent(it.right / it.images) if it.images else "-" for it in own]
        rows.append([name, str(own[0].images), *shares])
    return table(rows, right=range(1, len(rows[0])))


def _percent(share: float) -> str:
    return f"{share * 100:.2f} %"


# --- progress


@contextlib.contextmanager
def _display(output: Output, name: str) -> Iterator[Callable[[Step], None]]:
    """Progress on stderr: a live bar in a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty() or output.quiet:
        yield _lines(output, name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as live:
        bar = live.add_task(name, total=None)
        yield lambda step: live.update(bar, completed=step.done, total=step.total)


def _lines(output: Output, name: str) -> Callable[[Step], None]:
    last = time.monotonic()

    def hear(step: Step) -> None:
        nonlocal last
        if time.monotonic() - last > PLAIN_LINE_S:
            output.note(f"{name}: {step.done} of {step.total} images")
            last = time.monotonic()

    return hear

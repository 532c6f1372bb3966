"""`edgekit report`: what was exported and measured, as a page, as Markdown and as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, Output, Quiet, Verbose, reporting, size
from edgekit.errors import UsageError
from edgekit.schema import JSON

if TYPE_CHECKING:
    from edgekit.report.gather import Gathered


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A variant's folder, or a grid's.")],
    html: Annotated[
        Path | None, typer.Option(help="One page for a browser; it needs nothing else, and no network.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Tables in GitHub's Markdown.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A line for each measurement, columns as timm names them.")] = None,
    bench: Annotated[Path | None, typer.Option(help="The benchmark; default: bench.json in the folder.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw what was exported and measured: grid, charts, parity, receipts, provenance, and what was not measured.

    Without a benchmark, latency is said to be not measured. Without an output, Markdown goes to stdout. A report of
    failures is a report: the exit code is about writing it.
    """
    with reporting("report", as_json, quiet, verbose) as output:
        from edgekit import report as reports
        from edgekit.report.gather import gather

        outputs = _outputs(html, markdown, csv)
        gathered = gather(folder, bench)
        for lost in gathered.unreadable:
            output.note(f"{lost.slug} is left out: {lost.reason}")
        texts = {"html": reports.html, "markdown": reports.markdown, "csv": reports.csv}
        for kind, path in outputs.items():
            reports.write(path, texts[kind](gathered))
        _tell(output, gathered, outputs, "" if outputs or as_json else reports.markdown(gathered).rstrip())


def _outputs(html: Path | None, markdown: Path | None, csv: Path | None) -> dict[str, Path]:
    """The files that were asked for. Raises UsageError where two of them are one."""
    named = {"html": html, "markdown": markdown, "csv": csv}
    outputs = {kind: path for kind, path in named.items() if path is not None}
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise UsageError("two reports would go to the same file", where=", ".join(f"--{kind}" for kind in outputs))
    return outputs


def _tell(output: Output, gathered: Gathered, outputs: dict[str, Path], text: str) -> None:
    valid = sum(point.valid for point in gathered.points)
    data: dict[str, JSON] = {
        **{kind: str(path) for kind, path in outputs.items()},
        "variants": len(gathered.exported),
        "unreadable": [lost.slug for lost in gathered.unreadable],
        "measured": gathered.bench is not None,
        "results": len(gathered.points),
        "valid": valid,
        "invalid": len(gathered.points) - valid,
        "not_measured": len(gathered.bench.not_measured) if gathered.bench else 0,
    }
    lines = [f"{path}  {size(path.stat().st_size)}" for path in outputs.values()]
    output.result(data, text or "\n".join(lines))

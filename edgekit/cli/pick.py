"""`edgekit pick`: the best variant inside a budget, and why each other lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.output import Json, Output, Quiet, Verbose, error_json, millions, reporting, size, table
from edgekit.errors import GateFailed
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from edgekit.picking import Budget, Candidate, Pick


def pick(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `edgekit bench` has measured.")],
    max_latency: Annotated[str, typer.Option(help="With its unit: 800us, 5ms, 0.01s.")],
    percentile: Annotated[
        str, typer.Option(help="Of the latency: 50 is the median, 99 is what one run in a hundred exceeds.")
    ] = "50",
    max_size: Annotated[str | None, typer.Option(help="Of the file, with its unit: 900kB, 10MB, 10MiB.")] = None,
    min_accuracy: Annotated[
        str | None, typer.Option(help="Top-1 in per cent, measured or else published: 70%.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Only measurements with this runtime.")] = None,
    bench: Annotated[Path | None, typer.Option(help="The benchmark; default: bench.json in the folder.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Print the best variant inside a budget, and why each other lost.

    The upper end of the latency's 95 % interval has to fit. The best is the most accurate by edgekit eval, if it was
    run on the same images for all that fit; else accuracy is taken as published, where it is for all that fit, or else
    more MACs win. Then the faster wins, then the smaller, then the name that comes first. Exit code 1 when nothing
    fits.
    """
    with reporting("pick", as_json, quiet, verbose) as output:
        from edgekit import picking

        budget = picking.Budget(
            picking.milliseconds("--max-latency", max_latency),
            picking.share("--percentile", percentile),
            picking.size("--max-size", max_size) if max_size is not None else None,
            picking.percent("--min-accuracy", min_accuracy) if min_accuracy is not None else None,
            runtime,
        )
        _tell(picking.pick(folder, budget, bench), budget, folder, output)


def _tell(found: Pick, budget: Budget, folder: Path, output: Output) -> None:
    error = None if found.best else _nothing(found, folder)
    data: dict[str, JSON] = {
        "best": to_json(found.best),
        "others": to_json(found.others),
        "ranked_by": found.by,
        "budget": to_json(budget),
        "notes": list(found.notes),
        **({"error": error_json(error)} if error else {}),
    }
    if error:
        output.failure(error)
        output.code = error.exit_code
    output.result(data, _text(found, budget), ok=error is None)
    for note in found.notes:
        output.note(f"note: {note}")


def _nothing(found: Pick, folder: Path) -> GateFailed:
    nearest = found.others[0]
    again = "no measurement is VALID: edgekit bench, on a machine that does nothing else"
    return GateFailed(
        "nothing fits the budget",
        where=str(folder),
        got=f"nearest: {nearest.slug}, {nearest.series}: {'; '.join(nearest.lost)}",
        hint="a larger budget, or a smaller variant: edgekit export" if nearest.valid else again,
    )


def _text(found: Pick, budget: Budget) -> str:
    every = [it for it in (found.best, *found.others) if it]
    measured = any(it.measured for it in every)
    accuracy = ["measured top-1"] if measured else []
    head = ["", "variant", "runtime", f"p{budget.percentile:g}, ms", "size", "MACs", *accuracy, "published top-1"]
    rows = [[*head, "why not"]]
    rows += [_row(it, "best" if it is found.best else "", measured) for it in every]
    return table(rows, right=range(3, len(head)))


def _row(it: Candidate, mark: str, measured: bool) -> list[str]:
    from edgekit.report.digits import significant

    upper = "-" if it.upper_ms is None else f"≤ {significant(it.upper_ms)}"
    accuracy = [f"{it.measured.top1:.2f} %" if it.measured else "-"] if measured else []
    top1 = "-" if it.top1 is None else f"{it.top1:.1f} %"
    macs = "-" if it.macs is None else millions(it.macs)
    return [mark, it.slug, it.series, upper, size(it.bytes), macs, *accuracy, top1, "; ".join(it.lost)]

"""`edgekit compare`: two bench files, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import parse
from edgekit.cli.output import Json, Quiet, Verbose, reporting, table
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from edgekit.bench.comparing import Comparison


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="The older bench file.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="The newer one.")],
    across: Annotated[
        list[str] | None, typer.Option(help="Fields that may differ all the same, for example versions.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """How B's latencies differ from A's, where both measured the same. A change is named where it is beyond doubt.

    Refuses unlike machines and contracts, and says which field differs (exit code 2).
    """
    with reporting("compare", as_json, quiet, verbose) as output:
        from edgekit.bench import comparing, record

        found = comparing.compare(record.read(first), record.read(second), parse.words(across or []))
        output.result(comparison_json(found), comparison_table(found))


def comparison_json(found: Comparison) -> dict[str, JSON]:
    """The comparison as it stands in JSON results."""
    data = to_json(found)
    assert isinstance(data, dict)
    return data


def comparison_table(found: Comparison) -> str:
    """A line for each name: B as a multiple of A, the 95 % interval, and what that means."""
    rows = [["", "B / A", "95 %", "99 %", "", "by"]]
    for it in found.shared:
        edges = [f"{low:.3f} .. {high:.3f}" for low, high in (it.ci95, it.sure)]
        rows.append([it.name, f"{it.ratio:.3f}", *edges, it.change, it.basis])
    only = [("A", found.only_first), ("B", found.only_second)]
    return "\n".join(
        [table(rows, right=(1,)), *(f"only in {name}: {', '.join(names)}" for name, names in only if names)]
    )

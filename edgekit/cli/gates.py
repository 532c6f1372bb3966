"""`edgekit parity` and `edgekit build`: what can be done again with an exported variant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import parse
from edgekit.cli.output import Json, Output, Quiet, Verbose, error_json, reporting
from edgekit.cli.render import engine_line, indented, parity_table
from edgekit.errors import EdgekitError, GateFailed, InputUnusable
from edgekit.schema import JSON, to_json

if TYPE_CHECKING:
    from edgekit.profile import ExportProfile


Target = Annotated[Path, typer.Argument(metavar="DIR|MANIFEST", help="A variant's folder or manifest, or a grid's.")]


def parity(
    target: Target,
    bisect: Annotated[bool, typer.Option("--bisect", help="Name the first node that differs.")] = False,
    weights: Annotated[str | None, typer.Option(help="Where the checkpoint is now, if it has moved.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Climb the parity ladder again, with the files as they are on disk. Exit code 1 when a rung fails."""
    with reporting("parity", as_json, quiet, verbose) as output:
        _each(target, output, lambda path: _parity(path, bisect, weights))


def build(
    target: Target,
    profile: Annotated[list[str], typer.Option(help="Export profiles whose engines to build (edgekit profiles).")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build engines from an exported variant on this machine, and write them into its folder and manifest."""
    with reporting("build", as_json, quiet, verbose) as output:
        from edgekit import profile as profiles

        chosen = [profiles.load(name) for name in parse.words(profile)]
        _each(target, output, lambda path: _build(path, chosen))


Result = tuple[dict[str, JSON], str, EdgekitError | None]


def _each(target: Path, output: Output, act: Callable[[Path], Result]) -> None:
    """Do it for every variant of the target; one that fails does not stop the others."""
    variants: list[JSON] = []
    texts: list[str] = []
    for path in _manifests(target):
        try:
            data, text, error = act(path)
        except EdgekitError as failure:
            data, text, error = {}, "", failure
        if error is not None:
            output.failure(error)
            output.code = max(output.code, error.exit_code)
        variants.append({"dir": str(path.parent), **data, "error": error_json(error) if error else None})
        texts.append(f"{path.parent}\n{text}" if text else "")
    output.result({"variants": variants}, "\n".join(text for text in texts if text), ok=output.code == 0)


def _manifests(target: Path) -> list[Path]:
    """The manifest files that the target means: itself, its own, or those of the folders in it."""
    from edgekit.manifest import NAME

    if target.is_file() or (target / NAME).is_file():
        return [target / NAME if target.is_dir() else target]
    found = sorted(target.glob(f"*/{NAME}")) if target.is_dir() else []
    found = [path for path in found if not path.parent.name.startswith(".")]
    if not found:
        raise InputUnusable(
            "no exported variant there", where=str(target), wanted=f"a folder with a {NAME}", hint="edgekit export"
        )
    return found


def _parity(path: Path, bisect: bool, weights: str | None) -> Result:
    from edgekit import manifest, recheck, sources

    if bisect:
        return _bisect(path, weights)
    found, folder = manifest.read_verified(path)
    given = sources.parse_weights(weights, model=found.variant.model) if weights else None
    report = recheck.climb_again(found, folder, given)
    failure = report.first_failure()
    error = GateFailed(f"parity failed at rung {failure}", where=str(folder)) if failure else None
    return {"parity": to_json(report)}, indented(parity_table(report)), error


def _bisect(path: Path, weights: str | None) -> Result:
    """Files that are not those of the manifest are what one wants to look into here, so that is no obstacle."""
    from edgekit import manifest, recheck, sources

    found, folder = manifest.read(path), path.parent
    given = sources.parse_weights(weights, model=found.variant.model) if weights else None
    difference = recheck.bisect(found, folder, given)
    if difference is None:
        return {"difference": None}, "  every node agrees with a fresh export", None
    figure = "not finite or missing" if difference.error is None else f"{difference.error:.2g}"
    error = GateFailed(
        f"the first node that differs is {difference.node} ({difference.op_type})",
        where=str(folder / "model.onnx"),
        got=f"its output {difference.tensor} is off by {figure}",
        wanted=f"at most {difference.tolerance:.2g}",
    )
    return {"difference": to_json(difference)}, "", error


def _build(path: Path, profiles: list[ExportProfile]) -> Result:
    from edgekit import building

    records = building.build(path, profiles)
    failed = [record for record in records if record.status == "failed"]
    error = GateFailed(f"the engine for profile {failed[0].profile} failed", got=failed[0].reason) if failed else None
    return {"engines": to_json(records)}, "\n".join(indented(engine_line(record)) for record in records), error

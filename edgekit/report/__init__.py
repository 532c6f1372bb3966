"""What was exported and measured, as a page, as Markdown and as CSV. Offline: nothing is loaded by what is written."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.manifest import disk_errors
from edgekit.report.gather import Gathered, gather


def write_html(folder: Path, bench: Path | None, out: Path) -> None:
    """Draw a variant's folder, or a grid's, and its benchmark as one HTML page.

    `bench` None takes the folder's own bench.json, and where there is none says that latency was not measured. Raises
    InputUnusable for what cannot be read, UsageError or MachineLacks where the disk refuses.
    """
    write(out, html(gather(folder, bench)))


def html(gathered: Gathered) -> str:
    """The page as text."""
    from edgekit.report.page import page
    from edgekit.report.rendering import render

    return render(page(gathered))


def markdown(gathered: Gathered) -> str:
    """The page's tables as GitHub's Markdown."""
    from edgekit.report.files import to_markdown
    from edgekit.report.page import page

    return to_markdown(page(gathered))


def csv(gathered: Gathered) -> str:
    """A line for each measurement, with timm's column names where they mean the same."""
    from edgekit.report.files import to_csv

    return to_csv(gathered)


def write(path: Path, text: str) -> None:
    """Write it whole or not at all. Raises UsageError or MachineLacks where the disk refuses."""
    partial = path.parent / f".{path.name}.partial-{os.getpid()}"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

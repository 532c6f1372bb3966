"""Tables as values: what the page, Markdown and CSV show is the same, and is decided once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """One cell. `sort` is what sorting compares where the text is not it; `note` stands below, in small print.

    `mark` is how the cell is set off: a verdict, or a hash.
    """

    text: str
    sort: float | None = None
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """One row. `series` numbers the runtime and precision that it belongs to; `target` is where its heading leads."""

    cells: tuple[Value, ...]
    series: int | None = None
    target: str = ""


@dataclass(frozen=True)
class Table:
    """Headings with what they mean, and rows; `numeric` columns are set to the right."""

    caption: str
    heads: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    numeric: frozenset[int] = frozenset()

    def without_empty(self) -> Table:
        """The same without the columns that say nothing in any row; the first always stays."""
        keep = [
            n for n in range(len(self.heads)) if n == 0 or any(row.cells[n].text not in ("", "–") for row in self.rows)
        ]
        rows = tuple(Row(tuple(row.cells[n] for n in keep), row.series, row.target) for row in self.rows)
        numeric = frozenset(new for new, old in enumerate(keep) if old in self.numeric)
        return Table(self.caption, tuple(self.heads[n] for n in keep), rows, numeric)


def number(text: str, sort: float | None, note: str = "") -> Value:
    """A figure; one that is missing is a dash, and sorts last."""
    return Value(text if sort is not None else "–", sort, note if sort is not None else "")


def pairs(found: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those (name, text) that have a text."""
    return tuple((name, text) for name, text in found if text)

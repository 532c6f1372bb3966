"""The geometry of scatter plots: values to places on a canvas, ticks, Pareto fronts. The template draws it as SVG.

Lengths are in the canvas's own units, from its top left corner. It is drawn as small as a phone shows it, so that its
text stays readable there; a wide screen shows two beside each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.report.digits import significant

WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
LOGARITHMIC_FROM = 4.0  # the least ratio of the ends at which a logarithmic axis says more
LETTER = 5.6  # the width of a letter in labels of 10 units
LABEL_HEIGHT = 12
MARKER = 6


@dataclass(frozen=True)
class Datum:
    """One thing to draw. `series` numbers its colour and shape; `text` is what hovering and screen readers tell.

    `low` and `high` are the interval of `y` (or of `x`, where the chart's `whiskers` lie along it). Only data of one
    `group` are compared: their latencies mean the same.
    """

    x: float
    y: float
    series: int
    text: str
    label: str
    target: str
    valid: bool = True
    low: float | None = None
    high: float | None = None
    group: int = 0


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """From values to places; `start` and `end` are where `low` and `high` lie."""

    title: str
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def place(self, value: float) -> float:
        """Where a value lies; what is beyond the axis lies at its end."""
        low, high, value = (math.log(it) if self.logarithmic else it for it in (self.low, self.high, value))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Round values along the axis."""
        values = _logarithmic_ticks(self.low, self.high) if self.logarithmic else linear_ticks(self.low, self.high)
        return tuple(Tick(self.place(value), _tick_text(value)) for value in values)


@dataclass(frozen=True)
class Mark:
    """A datum in its place; `label` is empty where there is no room for it."""

    x: float
    y: float
    datum: Datum
    whisker: tuple[float, float] | None
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """A scatter plot. `fronts` are polylines, one for each group, empty where the chart has no best corner."""

    name: str
    title: str
    about: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    fronts: tuple[tuple[int, str], ...]
    whiskers: str


def scatter(
    name: str, title: str, about: str, x: str, y: str, data: Sequence[Datum], *, best: bool = False, whiskers: str = "y"
) -> Chart | None:
    """A chart of the data, or None where there are none. `best`: small `x` with large `y` is better, so draw fronts."""
    if not data:
        return None
    spans = [bound for it in data for bound in (it.low, it.high) if bound is not None]
    along_x, along_y = (spans, []) if whiskers == "x" else ([], spans)
    across = axis(x, [*(it.x for it in data), *along_x], LEFT, WIDTH - RIGHT)
    up = axis(y, [*(it.y for it in data), *along_y], HEIGHT - BOTTOM, TOP)
    marks = [_mark(it, across, up, whiskers) for it in data]
    fronts = _fronts(data) if best else {}
    winners = {id(it) for front in fronts.values() for it in front}
    lines = tuple(
        (group, stairs([(across.place(it.x), up.place(it.y)) for it in it_all])) for group, it_all in fronts.items()
    )
    return Chart(name, title, about, across, up, tuple(_labelled(marks, winners)), lines, whiskers)


def _mark(datum: Datum, x: Axis, y: Axis, whiskers: str) -> Mark:
    along = x if whiskers == "x" else y
    span = None if datum.low is None or datum.high is None else (along.place(datum.low), along.place(datum.high))
    return Mark(x.place(datum.x), y.place(datum.y), datum, span)


def axis(title: str, values: Sequence[float], start: float, end: float) -> Axis:
    """An axis with some room around the values; logarithmic where they span more than a few times themselves."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= LOGARITHMIC_FROM:
        room = (high / low) ** 0.06
        return Axis(title, low / room, high * room, start, end, logarithmic=True)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    least = 0.0 if low >= 0 else -math.inf
    return Axis(title, max(least, low - room), high + room, start, end, logarithmic=False)


def linear_ticks(low: float, high: float) -> list[float]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """The roundest values of which there are enough; the finest ones where there never are."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    ticks: list[float] = []
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [factor * power for power in powers for factor in factors if low <= factor * power <= high]
        if len(ticks) >= 4:
            break
    return ticks


def _tick_text(value: float) -> str:
    text = significant(value, 4)
    return text.rstrip("0").rstrip(".") if "." in text else text


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the points that no other beats: with a y as large at a smaller x, or a larger y at no larger x.

    Of equal points the first counts. In ascending order of x.
    """
    best, front = -math.inf, []
    for number in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[number][1] > best:
            best = points[number][1]
            front.append(number)
    return front


def _fronts(data: Sequence[Datum]) -> dict[int, list[Datum]]:
    fronts = {}
    for group in dict.fromkeys(it.group for it in data):
        members = [it for it in data if it.group == group and it.valid]
        fronts[group] = [members[number] for number in pareto([(it.x, it.y) for it in members])]
    return fronts


def stairs(places: Iterable[tuple[float, float]]) -> str:
    """The points of a polyline that goes right, then up: between two points the worse one is what one can have."""
    points: list[tuple[float, float]] = []
    for x, y in places:
        points += [(x, points[-1][1])] if points else []
        points.append((x, y))
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _labelled(marks: Sequence[Mark], winners: set[int]) -> list[Mark]:
    """Labels for the marks on a front, as far as they cover neither a mark nor each other."""
    taken = [(m.x - MARKER / 2, m.y - MARKER / 2, m.x + MARKER / 2, m.y + MARKER / 2) for m in marks]
    done = []
    for mark in marks:
        box = (
            mark.x - MARKER - LETTER * len(mark.datum.label),
            mark.y - MARKER - LABEL_HEIGHT,
            mark.x - MARKER + 2,
            mark.y - 4,
        )
        fits = box[0] > LEFT and box[1] > 0 and not any(_overlap(box, other) for other in taken)
        if id(mark.datum) in winners and fits:
            taken.append(box)
            done.append(Mark(mark.x, mark.y, mark.datum, mark.whisker, mark.datum.label))
        else:
            done.append(mark)
    return done


Box = tuple[float, float, float, float]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

"""The charts of an experiment: networks overlaid, widths as lines, and intervals over seeds as whiskers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.report import digits
from edgekit.report.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Datum, Mark, axis, pareto, stairs
from edgekit.training.experiment.exporting import Timed
from edgekit.training.experiment.statistics import Estimate
from edgekit.training.experiment.table import Group, shown
from edgekit.variant import format_alpha

ROOM = 34  # at the right, for the width that stands at the end of a line
LABEL_HEIGHT = 11
LABEL_WIDTH = 34
ROOM_AROUND = 0.06


@dataclass(frozen=True)
class Line:
    """The marks of one network and width, joined; `label` is empty where there is no room for it."""

    series: int
    points: str
    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Plot:
    """One chart. `front` is a polyline through what no other beats, empty where the chart has no best corner."""

    name: str
    title: str
    about: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    front: str


@dataclass(frozen=True)
class Point:
    """What a chart is made of: a place, the interval of `y`, the line it belongs to, and what it has to say."""

    x: float
    y: float
    low: float | None
    high: float | None
    series: int
    line: str
    text: str


def charts(groups: Sequence[Group], timed: Sequence[Timed], series: Sequence[str]) -> tuple[Plot, ...]:
    """All that can be drawn of the groups and latencies; `series` numbers the networks."""
    macs, side = "multiply-accumulates, millions", "resolution, pixels"
    made = [
        _of(groups, series, "accuracy-macs", "Validation accuracy against computation", macs, _macs, "val_accuracy"),
        *_against_latency(groups, timed, series),
        _of(
            groups,
            series,
            "accuracy-params",
            "Validation accuracy against size",
            "parameters, millions",
            _params,
            "val_accuracy",
        ),
        _of(groups, series, "accuracy-res", "Validation accuracy by resolution", side, _side, "val_accuracy"),
        _of(groups, series, "train-accuracy-res", "Train accuracy by resolution", side, _side, "train_accuracy"),
        _of(groups, series, "loss-macs", "Validation loss against computation", macs, _macs, "val_loss"),
        _of(groups, series, "train-loss-macs", "Train loss against computation", macs, _macs, "train_loss"),
        _counts(groups, series, "macs", "Computation by resolution", side, macs, _side, _macs),
        _sizes(groups, series),
    ]
    return tuple(plot for plot in made if plot is not None)


def _macs(group: Group) -> float:
    return group.macs / 1e6


def _params(group: Group) -> float:
    return group.params / 1e6


def _side(group: Group) -> float:
    return float(group.resolution)


Get = Callable[[Group], float]


def _of(
    groups: Sequence[Group], series: Sequence[str], name: str, title: str, x: str, get: Get, figure: str
) -> Plot | None:
    """A trained figure against something that the group has."""
    points = [_trained(group, series, get(group), figure) for group in groups]
    share = "accuracy" in figure
    word = figure.replace("_", " ").replace("val ", "validation ")
    best = name in ("accuracy-macs", "accuracy-params")
    about = (
        "Dashed: what no other beats, up and to the left."
        if best
        else "A line joins one network's resolutions at one width."
    )
    return plot(name, title, about, x, f"{word}, %" if share else word, points, best=best, share=share)


def _trained(group: Group, series: Sequence[str], x: float, figure: str, more: str = "") -> Point:
    """The point of one figure of a group, at `x`; intervals of accuracies end where accuracies do."""
    value: Estimate = getattr(group, figure)
    share = "accuracy" in figure
    scale, most = (100.0, 1.0) if share else (1.0, None)
    low, high = (None if end is None else max(0.0, end) for end in (value.low, value.high))
    high = high if high is None or most is None else min(most, high)
    return Point(
        x,
        value.mean * scale,
        None if low is None else low * scale,
        None if high is None else high * scale,
        series.index(group.model),
        _line_of(group),
        _text(group, f"{figure.replace('_', ' ').replace('val ', 'validation ')} {shown(value, share)}{more}"),
    )


def _line_of(group: Group) -> str:
    return "" if group.alpha is None else format_alpha(group.alpha)


def _text(group: Group, figure: str) -> str:
    count = group.val_loss.count
    size = f"{digits.millions(group.params)} parameters, {digits.millions(group.macs)} multiply-accumulates"
    return f"{group.name}\n{figure}\n{size}\n{count} seed{'s' if count > 1 else ''}"


def _against_latency(groups: Sequence[Group], timed: Sequence[Timed], series: Sequence[str]) -> list[Plot | None]:
    """A chart for each runtime and kind of file: only those latencies mean the same."""
    known = {(it.model, it.alpha, it.resolution): it for it in groups}
    plots: list[Plot | None] = []
    for number, name in enumerate(dict.fromkeys(it.series for it in timed if it.valid)):
        found = [(known.get((it.model, it.alpha, it.resolution)), it) for it in timed if it.series == name and it.valid]
        points = [
            _trained(
                group, series, it.p50_ms, "val_accuracy", f"\n{digits.figure(it.p50_ms, it.low_ms, it.high_ms)} ms"
            )
            for group, it in found
            if group is not None
        ]
        title, about = (
            f"Validation accuracy against latency: {name}",
            "Median of one image on the machine that measured.",
        )
        plots.append(
            plot(
                f"latency-{number}",
                title,
                about,
                "latency, ms",
                "validation accuracy, %",
                points,
                best=True,
                share=True,
            )
        )
    return plots


def _counts(
    groups: Sequence[Group], series: Sequence[str], name: str, title: str, x: str, y: str, across: Get, up: Get
) -> Plot | None:
    """Two figures that are known without training."""
    points = [
        Point(across(it), up(it), None, None, series.index(it.model), _line_of(it), _text(it, "")) for it in groups
    ]
    return plot(name, title, "Known exactly, without training.", x, y, points)


def _sizes(groups: Sequence[Group], series: Sequence[str]) -> Plot | None:
    """Parameters by width: one point for each network and width, as they do not hang on the resolution."""
    ones = list({(it.model, it.alpha): it for it in groups if it.alpha is not None}.values())
    points = [
        Point(it.alpha, _params(it), None, None, series.index(it.model), "", _text(it, ""))
        for it in ones
        if it.alpha is not None
    ]
    about = "Known exactly, without training."
    return plot("params", "Size by width", about, "alpha, the width multiplier", "parameters, millions", points)


def plot(
    name: str,
    title: str,
    about: str,
    x: str,
    y: str,
    points: Sequence[Point],
    *,
    best: bool = False,
    share: bool = False,
) -> Plot | None:
    """A chart of the points, or None where there are none. A `share` has an even scale and ends at 0 and 100."""
    if not points:
        return None
    across = axis(x, [it.x for it in points], LEFT, WIDTH - ROOM)
    values = [value for it in points for value in (it.y, it.low, it.high) if value is not None]
    up = _even(y, values) if share else axis(y, values, HEIGHT - BOTTOM, TOP)
    marks = [_mark(it, across, up) for it in points]
    front = pareto([(it.x, it.y) for it in points]) if best else []
    return Plot(
        name,
        title,
        about,
        across,
        up,
        tuple(marks),
        tuple(_lines(points, marks)),
        stairs([(marks[number].x, marks[number].y) for number in front]),
    )


def _even(title: str, values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    room = (high - low) * ROOM_AROUND or 1.0
    return Axis(title, max(0.0, low - room), min(100.0, high + room), HEIGHT - BOTTOM, TOP, logarithmic=False)


def _mark(point: Point, x: Axis, y: Axis) -> Mark:
    span = None if point.low is None or point.high is None else (y.place(point.low), y.place(point.high))
    datum = Datum(point.x, point.y, point.series, point.text, "", "", low=point.low, high=point.high)
    return Mark(x.place(point.x), y.place(point.y), datum, span)


def _lines(points: Sequence[Point], marks: Sequence[Mark]) -> list[Line]:
    """The marks of each network and width, joined from left to right, with the width at the end where there is room."""
    members: dict[tuple[int, str], list[Mark]] = {}
    for point, mark in zip(points, marks, strict=True):
        members.setdefault((point.series, point.line), []).append(mark)
    taken: list[tuple[float, float]] = []
    lines = []
    for (series, name), found in members.items():
        found.sort(key=lambda mark: mark.x)
        end = found[-1]
        others = [(mark.x, mark.y) for mark in marks if mark is not end]
        free = _is_free(end, taken) and not any(_covers(end, place) for place in others)
        if name and free:
            taken.append((end.x, end.y))
        places = " ".join(f"{mark.x:g},{mark.y:g}" for mark in found)
        lines.append(Line(series, places, f"α {name}" if name and free else "", end.x, end.y))
    return lines


def _is_free(end: Mark, taken: Sequence[tuple[float, float]]) -> bool:
    """Whether the label of a line that ends there would lie on no other's."""
    return all(abs(end.y - y) >= LABEL_HEIGHT or abs(end.x - x) >= LABEL_WIDTH for x, y in taken)


def _covers(end: Mark, place: tuple[float, float]) -> bool:
    """Whether the label of a line that ends there would lie on a mark at `place`."""
    return 0 < place[0] - end.x < LABEL_WIDTH and abs(place[1] - end.y) < LABEL_HEIGHT

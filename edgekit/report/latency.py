"""What was measured, as charts, grids and a table; and what the networks themselves are, measured or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.bench.record import Contract, ParityCheck, Result
from edgekit.manifest import VariantRecord
from edgekit.report import digits
from edgekit.report.charts import Chart, Datum, pareto, scatter
from edgekit.report.gather import Exported, Gathered, Measured, Point, on_same_images
from edgekit.report.heat import Cell, Heat, Placed, heat
from edgekit.report.published import Published
from edgekit.report.tables import Row, Table, Value, number
from edgekit.variant import format_alpha

MEDIAN = "median latency, ms"
TOP1 = "ImageNet top-1, %, published"


def figure(result: Result) -> str:
    """The median latency with the digits that its interval carries, without its unit."""
    return digits.figure(result.latency.p50, *result.latency.ci95)


def at(result: Result, milliseconds: float) -> str:
    """Another latency of the same result with as many digits."""
    return f"{milliseconds:.{digits.decimals(*result.latency.ci95)}f}"


def target(exported: Exported | None) -> str:
    """Where the page tells more about a variant; a folder's name may hold what no address can."""
    safe = re.sub(r"[^\w.-]", lambda found: f"_{ord(found[0]):x}_", exported.slug) if exported else ""
    return safe and f"variant-{safe}"


def top1(found: Published | None) -> Value:
    """An accuracy that nobody measured here, with who published it."""
    return number(f"{found.top1:.1f} %", found.top1, found.by) if found else number("", None)


def measured_top1(found: Measured | None) -> Value:
    """An accuracy that `edgekit eval` measured, with its interval and on what."""
    if found is None:
        return number("", None)
    note = f"95 % {found.low:.2f} to {found.high:.2f}, {found.on}"
    return number(f"{found.top1:.2f} %", found.top1, note)


def short(variant: VariantRecord) -> str:
    """A variant in a label of a chart."""
    words = [format_alpha(variant.alpha) if variant.alpha is not None else "", str(variant.resolution or "")]
    return " · ".join(word for word in words if word) or variant.model


MEASURED_HEAD = ("Measured top-1", "on labelled images, by edgekit eval; engines as the graph of their precision")
TOP1_HEAD = ("Published top-1", "ImageNet, as published for other weights than these; not measured here")

# --- Table -----------------------------------------------------------------------------------------------------------

HEADS = (
    ("Variant", "the exported network, width and resolution"),
    ("Median, ms", "of all rounds, with its 95 % interval"),
    ("Verdict", "whether the measurement can be relied on, and why not"),
    ("Runtime", "what ran it, in which precision"),
    ("Ratio", "to the reference, measured in the same rounds, with its 95 % interval"),
    ("p90, ms", "nine runs in ten were faster"),
    ("p99, ms", "99 runs in a hundred were faster"),
    ("Inferences/s", "images in a second: the batch, over the mean latency"),
    MEASURED_HEAD,
    TOP1_HEAD,
    ("MACs", "multiply-accumulates of one image"),
    ("Parameters", "numbers that were learnt"),
    ("Size", "of the file that was measured"),
    ("Peak memory", "of the runtime's process with this alone, less what it held before"),
    ("Runs", "timed, over all rounds"),
    ("Outputs", "the runtime's against those stored at export, before and after: error and tolerance"),
    ("Nodes", "taken by each execution provider"),
    ("Stages, ms", "medians of enqueueing by the host, transfer in, compute, transfer out"),
    ("Power, W", "mean of the whole board or package meanwhile"),
    ("Loading, s", "and seconds of warming up"),
)
NUMERIC = (1, *range(4, 15), 18, 19)


def results(gathered: Gathered) -> Table:
    """Every measurement, the fastest first."""
    numbers = {name: number for number, name in enumerate(gathered.series)}
    points = sorted(gathered.points, key=lambda point: point.result.latency.p50)
    rows = tuple(Row(tuple(_cells(point)), numbers[point.series], target(point.exported)) for point in points)
    return Table("Every measurement", HEADS, rows, frozenset(NUMERIC)).without_empty()


def _cells(point: Point) -> Iterator[Value]:
    result, subject = point.result, point.result.subject
    yield Value(subject.slug)
    yield number(figure(result), result.latency.p50, digits.interval(*result.latency.ci95))
    yield Value("VALID", mark="good") if point.valid else Value("INVALID", note="; ".join(point.reasons), mark="bad")
    yield Value(point.series)
    yield _ratio(result)
    yield number(at(result, result.latency.p90), result.latency.p90)
    yield number(at(result, result.latency.p99), result.latency.p99)
    yield number(digits.significant(result.throughput_per_s), result.throughput_per_s)
    yield measured_top1(point.measured)
    yield top1(point.published)
    yield number(digits.millions(subject.macs or 0), subject.macs)
    yield number(digits.millions(subject.params), subject.params)
    yield number(digits.size(subject.bytes), subject.bytes)
    yield _memory(result)
    runs = sum(map(len, result.samples))
    yield number(str(runs), runs, f"{len(result.samples)} rounds")
    yield _outputs(result.parity)
    yield Value(_placement(result))
    yield Value(_stages(result))
    yield number(digits.significant(result.power_w or 0.0), result.power_w)
    warm = f"{result.warmup_s:.1f} s warm-up" if result.warmup_s is not None else ""
    yield number(digits.significant(result.load_s or 0.0), result.load_s, warm)


def _ratio(result: Result) -> Value:
    if result.ratio is None:
        return number("", None)
    text = f"{digits.figure(result.ratio.value, *result.ratio.ci95)} ×"
    return number(text, result.ratio.value, digits.interval(*result.ratio.ci95))


def _outputs(checks: Sequence[ParityCheck]) -> Value:
    """Whether the runtime still computed what was exported, with the larger error of before and after."""
    if not checks:
        return Value("–")
    failed = [check for check in checks if not check.passed]
    if failed:
        return Value(
            "WRONG", note="; ".join(f"{it.when}: {it.reason or 'no reason given'}" for it in failed), mark="bad"
        )
    worst = max(checks, key=lambda check: check.error or 0.0)
    figures = f"{digits.scientific(worst.error)} of {digits.scientific(worst.tolerance)}"
    return Value("agree", note=f"{' and '.join(it.when for it in checks)}: {figures}", mark="good")


def _stages(result: Result) -> str:
    found = result.stages
    if found is None:
        return "–"
    parts = {"enqueue": found.enqueue, "in": found.h2d, "compute": found.compute, "out": found.d2h}
    return ", ".join(f"{name} {digits.significant(value)}" for name, value in parts.items())


def _placement(result: Result) -> str:
    if result.placement is None:
        return "–"
    total = sum(result.placement.nodes.values())
    return ", ".join(f"{name}: {count} of {total}" for name, count in result.placement.nodes.items())


def _memory(result: Result) -> Value:
    memory = result.memory
    if memory is None or memory.rss_peak is None:
        return number("", None)
    own = memory.rss_peak - (memory.rss_base or 0)
    return number(digits.size(own), own, f"{digits.size(memory.rss_peak)} in all")


# --- Pareto front ----------------------------------------------------------------------------------------------------


def comparable(contract: Contract) -> tuple[str, ...]:
    """What two latencies must have in common to stand in one front: what their times hold, and for how many images."""
    return contract.clock, contract.transfers, str(contract.batch), contract.scenario


def groups(gathered: Gathered) -> dict[tuple[str, ...], int]:
    """The kinds of latency that were measured, numbered."""
    kinds = dict.fromkeys(comparable(point.result.contract) for point in gathered.points)
    return {kind: number for number, kind in enumerate(kinds)}


@dataclass(frozen=True)
class Worth:
    """What stands for how good a variant is: accuracy measured for all, or else published for any, or else MACs."""

    by: Literal["measured", "published", "macs"]
    words: str

    def of(self, point: Point) -> float | None:
        """The larger the better; None where it is not known."""
        if self.by == "macs":
            return point.result.subject.macs
        found = point.measured if self.by == "measured" else point.published
        return found.top1 if found else None


def worth(gathered: Gathered) -> Worth:
    """Which of them stands for accuracy in this report, and what is left out for it."""
    if on := on_same_images(gathered.points):
        return Worth("measured", f"top-1 measured on {on}")
    missing = sum(point.published is None for point in gathered.points)
    if missing == len(gathered.points):
        return Worth("macs", "multiply-accumulates, as no accuracy is known")
    left_out = f", which is not known of {missing} of {len(gathered.points)} measurements" if missing else ""
    return Worth("published", f"ImageNet top-1 as published{left_out}")


def front(gathered: Gathered) -> Table | None:
    """The variants that no other beats in both latency and worth: valid measurements of one kind against each other."""
    numbers = {name: number for number, name in enumerate(gathered.series)}
    rows = [
        Row(tuple(_front_cells(point)), numbers[point.series], target(point.exported))
        for kind in groups(gathered)
        for point in _winners([p for p in gathered.points if comparable(p.result.contract) == kind], worth(gathered))
    ]
    caption = f"Pareto front: no other is both faster and better, by {worth(gathered).words}"
    heads = (HEADS[0], HEADS[1], HEADS[3], HEADS[8], HEADS[9], HEADS[10], HEADS[12])  # as _front_cells has them
    return Table(caption, heads, tuple(rows), frozenset({1, 3, 4, 5, 6})).without_empty() if rows else None


def _winners(points: Sequence[Point], by: Worth) -> list[Point]:
    known = [(point, value) for point in points if point.valid and (value := by.of(point)) is not None]
    return [known[number][0] for number in pareto([(p.result.latency.p50, value) for p, value in known])]


def _front_cells(point: Point) -> Iterator[Value]:
    subject = point.result.subject
    yield Value(subject.slug)
    yield number(figure(point.result), point.result.latency.p50, digits.interval(*point.result.latency.ci95))
    yield Value(point.series)
    yield measured_top1(point.measured)
    yield top1(point.published)
    yield number(digits.millions(subject.macs or 0), subject.macs)
    yield number(digits.size(subject.bytes), subject.bytes)


# --- Charts ----------------------------------------------------------------------------------------------------------


def charts(gathered: Gathered) -> tuple[Chart, ...]:
    """Latency against accuracy, MACs and size; without a benchmark, what the networks are."""
    found = _latency_charts(gathered) if gathered.points else _network_charts(gathered)
    return tuple(chart for chart in found if chart is not None)


def _latency_charts(gathered: Gathered) -> Iterator[Chart | None]:
    yield _accuracy_chart(gathered)
    counted = [(point, point.result.subject.macs) for point in gathered.points]
    yield scatter(
        "macs",
        "Latency against computation",
        "Points that lie above others of the same shape take long for what they compute.",
        "multiply-accumulates, millions",
        MEDIAN,
        [_datum(gathered, point, macs / 1e6, p50(point)) for point, macs in counted if macs],
    )
    yield scatter(
        "size",
        "Latency against size",
        "Down and to the left is smaller and faster. Size is that of the file that was measured.",
        "size, MB",
        MEDIAN,
        [_datum(gathered, point, point.result.subject.bytes / 1e6, p50(point)) for point in gathered.points],
    )


def _accuracy_chart(gathered: Gathered) -> Chart | None:
    """Measured accuracy where all points have it on the same images, else published."""
    on = on_same_images(gathered.points)
    values = [(point, point.measured if on else point.published) for point in gathered.points]
    known = [(point, found.top1) for point, found in values if found]
    missing = len(gathered.points) - len(known)
    whose = (
        f"Accuracy is top-1 as measured on {on}."
        if on
        else "Accuracy is ImageNet top-1 as published, for other weights than these; it was not measured here."
    )
    return scatter(
        "accuracy",
        "Latency against accuracy",
        f"Up and to the left is better. The line is the Pareto front of the valid points. {whose}"
        + (
            f" Left out, as nobody published theirs: {missing} of {len(gathered.points)} measurements."
            if missing
            else ""
        ),
        MEDIAN,
        "top-1, %, measured" if on else TOP1,
        [_datum(gathered, point, p50(point), top) for point, top in known],
        best=True,
        whiskers="x",
    )


def p50(point: Point) -> float:
    """The median latency in milliseconds."""
    return point.result.latency.p50


def _datum(gathered: Gathered, point: Point, x: float, y: float) -> Datum:
    result = point.result
    return Datum(
        x,
        y,
        gathered.series.index(point.series),
        "\n".join(_told(point)),
        short(result.subject.variant),
        target(point.exported),
        point.valid,
        *result.latency.ci95,
        groups(gathered)[comparable(result.contract)],
    )


def _told(point: Point) -> Iterator[str]:
    """The lines that a point of a chart shows."""
    result, subject = point.result, point.result.subject
    yield subject.slug
    yield point.series
    if not point.valid:
        yield f"INVALID: {'; '.join(point.reasons)}"
    yield f"{figure(result)} ms, 95 % {digits.interval(*result.latency.ci95)}"
    if result.ratio:
        yield f"{digits.figure(result.ratio.value, *result.ratio.ci95)} × {result.ratio.reference}"
    macs = f"{digits.millions(subject.macs)} MACs, " if subject.macs else ""
    yield f"{macs}{digits.size(subject.bytes)}"
    if point.measured:
        yield f"top-1 {point.measured.top1:.2f} %, measured on {point.measured.on}"
    if point.published:
        yield f"top-1 {point.published.top1:.1f} %, published by {point.published.by}"


def _network_charts(gathered: Gathered) -> Iterator[Chart | None]:
    variants = [(it, it.manifest.macs) for it in gathered.exported]
    yield scatter(
        "accuracy",
        "Accuracy against computation",
        "Up and to the left is better; the line is the Pareto front. Accuracy is ImageNet top-1 as published, for "
        "other weights than these; it was not measured here.",
        "multiply-accumulates, millions",
        TOP1,
        [_network(it, macs / 1e6, it.published.top1) for it, macs in variants if macs and it.published],
        best=True,
    )
    yield scatter(
        "size",
        "Size against computation",
        "The size is that of the fp32 graph.",
        "multiply-accumulates, millions",
        "size, MB",
        [_network(it, macs / 1e6, it.bytes / 1e6) for it, macs in variants if macs and it.bytes],
    )


def _network(exported: Exported, x: float, y: float) -> Datum:
    found, published = exported.manifest, exported.published
    lines = [exported.slug, f"{digits.millions(found.macs or 0)} MACs, {digits.millions(found.params)} parameters"]
    lines += [f"top-1 {published.top1:.1f} %, published by {published.by}"] if published else []
    passed = found.parity.passed
    lines += [] if passed else [f"parity failed at {found.parity.first_failure()}"]
    return Datum(x, y, 0, "\n".join(lines), short(found.variant), target(exported), passed)


# --- Grids -----------------------------------------------------------------------------------------------------------


def heats(gathered: Gathered) -> tuple[Heat, ...]:
    """For every network: latency by runtime and precision on one scale of colours, then MACs and published accuracy."""
    measured = [(point.result.subject.variant, point) for point in gathered.points]
    exported = [(it.manifest.variant, it) for it in gathered.exported]
    families = dict.fromkeys(family(variant) for variant, _ in [*measured, *exported])
    return tuple(
        grid
        for name in families
        for grid in (
            *_latency_heats(gathered, name, [point for variant, point in measured if family(variant) == name]),
            *_network_heats(name, [it for variant, it in exported if family(variant) == name]),
        )
    )


def family(variant: VariantRecord) -> str:
    """All that variants of one grid have in common."""
    batch = "open batch" if variant.batch is None else f"batch {variant.batch}" if variant.batch != 1 else ""
    classes = f"{variant.num_classes} classes" if variant.num_classes not in (None, 1000) else ""
    options = [f"{key}={value}" for key, value in variant.options.items()]
    return ", ".join(word for word in (variant.model, *options, batch, classes) if word)


def _latency_heats(gathered: Gathered, name: str, points: Sequence[Point]) -> Iterator[Heat]:
    for kind in groups(gathered):
        alike = [point for point in points if comparable(point.result.contract) == kind]
        scale = [point.result.latency.p50 for point in alike if point.valid]
        for index, series in enumerate(gathered.series):
            members = [point for point in alike if point.series == series]
            placed = [(point.result.subject.variant, _latency_cell(point)) for point in members]
            if placed:
                yield heat(
                    f"{name}: {series}", _note(members), placed, scale, lambda v: f"{digits.significant(v)} ms", index
                )


def _note(points: Sequence[Point]) -> str:
    references = dict.fromkeys(point.result.ratio.reference for point in points if point.result.ratio)
    ratio = f"; below it the ratio to {' and '.join(references)}" if references else ""
    return f"Median milliseconds on this machine at that time{ratio}."


def _latency_cell(point: Point) -> Cell:
    result = point.result
    ratio = f"{digits.figure(result.ratio.value, *result.ratio.ci95)} ×" if result.ratio else ""
    return Cell(
        result.latency.p50 if point.valid else None,
        figure(result),
        ratio if point.valid else "INVALID",
        "\n".join(_told(point)),
        target(point.exported),
    )


def _network_heats(name: str, exported: Sequence[Exported]) -> Iterator[Heat]:
    counted = [
        (it.manifest.variant, _cell(it, it.manifest.macs, digits.millions)) for it in exported if it.manifest.macs
    ]
    if counted:
        yield _heat(f"{name}: computation", "Multiply-accumulates of one image.", counted, digits.millions)
    known = [(it, it.published) for it in exported]
    shown = [(it.manifest.variant, _cell(it, p.top1, lambda v: f"{v:.1f}")) for it, p in known if p]
    by = ", ".join(dict.fromkeys(p.by for _, p in known if p))
    if shown:
        note = f"ImageNet top-1 in per cent, published by {by} for their own weights; not measured here."
        yield _heat(f"{name}: published accuracy", note, shown, lambda v: f"{v:.1f} %")


def _cell(exported: Exported, value: float, show: Callable[[float], str]) -> Cell:
    text = show(value)
    return Cell(value, text, "", f"{exported.slug}: {text}", target(exported))


def _heat(title: str, note: str, placed: Sequence[Placed], show: Callable[[float], str]) -> Heat:
    return heat(title, note, placed, [cell.value for _, cell in placed if cell.value], show, None)

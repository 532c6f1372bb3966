"""The same results for other tools: CSV with timm's column names, and Markdown with GitHub's tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

from edgekit.report.gather import Exported, Gathered, Point
from edgekit.report.page import Page
from edgekit.report.tables import Table, Value

# As timm's benchmark.py writes them where they mean the same: times are means in milliseconds, counts are millions (M)
# and billions (G), of one image.
TIMM = (
    "model",
    "infer_samples_per_sec",
    "infer_step_time",
    "infer_batch_size",
    "infer_img_size",
    "infer_gmacs",
    "param_count",
)
OWN = (
    "variant",
    "alpha",
    "runtime",
    "precision",
    "scenario",
    "artifact",
    "bytes",
    "p50_ms",
    "p50_ci95_low_ms",
    "p50_ci95_high_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "ratio",
    "ratio_ci95_low",
    "ratio_ci95_high",
    "ratio_to",
    "verdict",
    "reasons",
    "top1_measured",
    "top1_measured_on",
    "top1_published",
    "top1_published_by",
    "parity",
    "sha256",
)

Field = str | float | int | None


def to_csv(gathered: Gathered) -> str:
    """One line for each measurement; where there is none, one for each variant, with its latency left empty."""
    lines = [_measured(point) for point in gathered.points] or [_exported(it) for it in gathered.exported]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*TIMM, *OWN])
    writer.writerows([_safe(line.get(name)) for name in (*TIMM, *OWN)] for line in lines)
    return out.getvalue()


def _safe(value: Field) -> Field:
    """Figures with six digits. A spreadsheet runs what begins like a formula; a tab in front makes it text."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return f"\t{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value


def _measured(point: Point) -> dict[str, Field]:
    result, subject = point.result, point.result.subject
    latency, ratio = result.latency, result.ratio
    return {
        "model": subject.variant.model,
        "infer_samples_per_sec": round(result.throughput_per_s, 2),
        "infer_step_time": latency.mean,
        "infer_batch_size": result.contract.batch,
        "infer_img_size": subject.variant.resolution,
        "infer_gmacs": subject.macs / 1e9 if subject.macs is not None else None,
        "param_count": subject.params / 1e6,
        "variant": subject.slug,
        "alpha": subject.variant.alpha,
        "runtime": result.contract.runtime,
        "precision": result.contract.precision,
        "scenario": result.contract.scenario,
        "artifact": subject.kind,
        "bytes": subject.bytes,
        "p50_ms": latency.p50,
        "p50_ci95_low_ms": latency.ci95[0],
        "p50_ci95_high_ms": latency.ci95[1],
        "p90_ms": latency.p90,
        "p95_ms": latency.p95,
        "p99_ms": latency.p99,
        "ratio": ratio.value if ratio else None,
        "ratio_ci95_low": ratio.ci95[0] if ratio else None,
        "ratio_ci95_high": ratio.ci95[1] if ratio else None,
        "ratio_to": ratio.reference if ratio else None,
        "verdict": "VALID" if point.valid else "INVALID",
        "reasons": "; ".join(point.reasons),
        "top1_measured": point.measured.top1 if point.measured else None,
        "top1_measured_on": point.measured.on if point.measured else None,
        "top1_published": point.published.top1 if point.published else None,
        "top1_published_by": point.published.by if point.published else None,
        "parity": _parity(point.exported) if point.exported else None,
        "sha256": subject.sha256,
    }


def _exported(exported: Exported) -> dict[str, Field]:
    found = exported.manifest
    graph = found.artifact("onnx-fp32")
    measured = exported.measured("onnx-fp32", "fp32")
    return {
        "model": found.variant.model,
        "infer_img_size": found.variant.resolution,
        "infer_gmacs": found.macs / 1e9 if found.macs is not None else None,
        "param_count": found.params / 1e6,
        "variant": exported.slug,
        "alpha": found.variant.alpha,
        "artifact": graph.kind if graph else None,
        "bytes": graph.bytes if graph else None,
        "verdict": "not measured",
        "top1_measured": measured.top1 if measured else None,
        "top1_measured_on": measured.on if measured else None,
        "top1_published": exported.published.top1 if exported.published else None,
        "top1_published_by": exported.published.by if exported.published else None,
        "parity": _parity(exported),
        "sha256": graph.sha256 if graph else None,
    }


def _parity(exported: Exported) -> str:
    failure = exported.manifest.parity.first_failure()
    return f"failed at {failure}" if failure else "passed"


# --- Markdown --------------------------------------------------------------------------------------------------------


def to_markdown(page: Page) -> str:
    """The tables of the page, without its charts and details."""
    return "\n".join(_blocks(page)).rstrip() + "\n"


def _blocks(page: Page) -> Iterator[str]:
    yield f"# {escaped(page.name)}\n"
    yield f"{_measured_where(page)}.\n"
    yield from _list("Look at this first", page.warnings)
    yield from _list("Advice, from what was measured", page.advice)
    tables = (page.front, page.results, page.played, page.networks, page.contracts, page.not_measured)
    for found in tables:
        if found and found.rows:
            yield f"## {escaped(found.caption)}\n"
            yield _table(found)
    for by, source in page.published:
        yield f"Top-1 as published by {escaped(by)}, {source}; not measured here.\n"


def _measured_where(page: Page) -> str:
    if not page.measured:
        return "Latency was not measured" + (" in rounds" if page.played else "")
    return f"Measured {escaped(page.created)}" + (f" on {escaped(page.place)}" if page.place else "")


def _list(title: str, items: tuple[str, ...]) -> Iterator[str]:
    if items:
        yield f"## {title}\n"
        yield "\n".join(f"- {escaped(text)}" for text in items) + "\n"


def _table(found: Table) -> str:
    heads = [escaped(text) for text, _ in found.heads]
    rules = ["--:" if number in found.numeric else "---" for number in range(len(heads))]
    rows = [[_cell(value) for value in row.cells] for row in found.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, rules, *rows]) + "\n"


def _cell(value: Value) -> str:
    text = f"{value.text} ({value.note})" if value.note else value.text
    return escaped(text)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no link, one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", " ".join(text.split()))

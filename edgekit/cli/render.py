"""Manifests and reports as text. They come as values; nothing heavy is imported to show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.cli.output import millions, size, table

if TYPE_CHECKING:
    from edgekit.manifest import Engine, Manifest
    from edgekit.parity.report import BatchCheck, ParityReport, Rung


def details(directory: Path, found: Manifest | None) -> str:
    """One variant in full: files, ladder, engines, notes."""
    if found is None:
        return ""
    macs = "unknown" if found.macs is None else millions(found.macs)
    head = f"{directory}  {millions(found.params)} params, {macs} MACs"
    files = [[a.path, size(a.bytes), f"{a.nodes} nodes" if a.nodes else ""] for a in found.artifacts]
    files += [[e.path, size(e.bytes or 0), " ".join(e.targets)] for e in found.engines if e.path]
    blocks = [head, indented(table(files, right=(1,))), indented(parity_table(found.parity))]
    blocks += [indented(engine_line(engine)) for engine in found.engines]
    blocks += [indented(f"note: {note}") for note in (*found.notes, *found.parity.notes)]
    return "\n".join(blocks)


def indented(text: str) -> str:
    """Every line set in by two."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def parity_word(report: ParityReport) -> str:
    """`passed (full)`, or the rung that failed."""
    failure = report.first_failure()
    return f"FAILED at {failure}" if failure else f"passed ({report.mode})"


def engine_words(found: Manifest) -> str:
    """A word or two for every engine of the variant."""
    return ", ".join(f"{engine.profile}: {engine.status}" for engine in found.engines) or "none asked for"


def engine_line(engine: Engine) -> str:
    """What became of one profile's engine."""
    if engine.receipt is None:
        return f"engine {engine.profile}: {engine.status}" + (f"; {engine.reason}" if engine.reason else "")
    found = ", ".join(f"{count} in {precision}" for precision, count in engine.receipt.found.items())
    return f"engine {engine.profile}: {engine.status}; {engine.receipt.requested} asked for, layers found: {found}"


def parity_table(report: ParityReport) -> str:
    """The ladder as a table, every comparison with its figure and its tolerance; then the other gates."""
    images = any(rung.ssim is not None for rung in report.rungs)
    rows = [
        ["rung", "against", "", "error", "tolerance", "at", "max abs", *(["PSNR", "SSIM"] if images else ["top-1"])]
    ]
    for rung in report.rungs:
        rows.append(
            [
                rung.name,
                rung.against,
                "ok" if rung.passed else "FAILED",
                _figure(rung.error),
                _figure(rung.tolerance),
                rung.tensor or "",
                _figure(rung.max_abs),
                *(_image_figures(rung) if images else [_share(rung.top1_agreement)]),
            ]
        )
    reasons = [f"{rung.name} against {rung.against}: {rung.reason}" for rung in report.rungs if rung.reason]
    return "\n".join([table(rows, right=(3, 4, 6, 7, 8)), *reasons, *_gates(report)])


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _image_figures(rung: Rung) -> list[str]:
    same = "same" if rung.ssim == 1.0 else "-"
    return [
        f"{rung.psnr_db:.0f} dB" if rung.psnr_db is not None else same,
        "" if rung.ssim is None else f"{rung.ssim:.4f}",
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _gates(report: ParityReport) -> list[str]:
    live = report.liveness
    word = "alive" if live.passed else "DEAD"
    lines = [f"liveness: {word}, outputs vary by {live.spread:.2g}, wanted above {live.wanted:.2g}"]
    lines += [f"batch of {check.name}: {_batch(check)}" for check in report.batch]
    if report.saturation:
        clips = report.saturation
        lines.append(f"clipping: {clips.exercised} of {clips.clips} clipped activations driven to their limit")
    return lines


def _batch(check: BatchCheck) -> str:
    if check.passed is None:
        return f"not applicable, {check.reason}"
    word = "consistent" if check.passed else "INCONSISTENT"
    return f"{word}, {_figure(check.error)} of {_figure(check.tolerance)}"

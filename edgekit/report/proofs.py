"""What was proven, built and recorded: parity, receipts, files and where everything came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from edgekit.manifest import Engine, Manifest
from edgekit.parity.report import BatchCheck, ParityReport, Rung
from edgekit.preprocessing import Preprocessing
from edgekit.report import digits
from edgekit.report.gather import Exported, Gathered, word
from edgekit.report.latency import MEASURED_HEAD, TOP1_HEAD, measured_top1, target, top1
from edgekit.report.tables import Row, Table, Value, number, pairs

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Details:
    """All about one variant, in the order in which it is told."""

    target: str
    slug: str
    passed: bool
    summary: str
    problems: tuple[str, ...]
    facts: Facts
    rungs: Table
    gates: Facts
    files: Table
    engines: Table | None
    notes: tuple[str, ...]


def networks(gathered: Gathered) -> Table:
    """Every exported variant, and whether it came through its gates."""
    heads = (
        ("Variant", "the exported network, width and resolution"),
        ("Parity", "whether every rung of the ladder stayed inside its tolerance"),
        ("Tightest rung", "the comparison that used up most of its tolerance"),
        ("Of tolerance", "how much of it that was"),
        ("Engines", "what became of each profile's engine"),
        ("Files", "held against the manifest's hashes when this page was made"),
        ("MACs", "multiply-accumulates of one image"),
        ("Parameters", "numbers that were learnt"),
        ("fp32 graph", "its size"),
        MEASURED_HEAD,
        TOP1_HEAD,
    )
    rows = tuple(Row(tuple(_network(it)), target=target(it)) for it in gathered.exported)
    return Table("Every exported variant", heads, rows, frozenset({3, 6, 7, 8, 9, 10})).without_empty()


def _network(exported: Exported) -> Iterator[Value]:
    found = exported.manifest
    tightest = max(found.parity.rungs, key=lambda rung: _used(rung) or 0.0, default=None)
    used = _used(tightest) if tightest else None
    yield Value(exported.slug)
    yield _passed(found.parity)
    yield Value(_pair(tightest) if tightest and used is not None else "–")
    yield number(digits.percent(used or 0.0, 0), used)
    yield Value(", ".join(f"{it.profile}: {it.status}" for it in found.engines) or "–")
    yield Value("as recorded", mark="good") if not exported.problems else Value("CHANGED", mark="bad")
    yield number(digits.millions(found.macs or 0), found.macs)
    yield number(digits.millions(found.params), found.params)
    yield number(digits.size(exported.bytes or 0), exported.bytes)
    yield measured_top1(exported.measured("onnx-fp32", "fp32"))
    yield top1(exported.published)


def _passed(report: ParityReport) -> Value:
    failure = report.first_failure()
    if failure:
        return Value("FAILED", note=f"at {failure}", mark="bad")
    return Value("passed", note=report.mode, mark="good")


def _used(rung: Rung) -> float | None:
    return rung.error / rung.tolerance if rung.error is not None and rung.tolerance else None


def _pair(rung: Rung) -> str:
    return f"{rung.name} against {rung.against}"


def details(gathered: Gathered) -> tuple[Details, ...]:
    """Every variant in full."""
    return tuple(_details(it) for it in gathered.exported)


def _details(exported: Exported) -> Details:
    found = exported.manifest
    engines = ", ".join(f"{it.profile} {it.status}" for it in found.engines)
    parity = (
        f"parity passed ({found.parity.mode})"
        if found.parity.passed
        else f"parity FAILED at {found.parity.first_failure()}"
    )
    return Details(
        target(exported),
        exported.slug,
        found.passed and not exported.problems,
        "; ".join([parity, *([f"engines: {engines}"] if engines else [])]),
        exported.problems,
        facts(found),
        rungs(found.parity),
        tuple(_gates(found.parity)),
        _files(found),
        _engines(found.engines),
        (*found.notes, *found.parity.notes),
    )


# --- Parity ----------------------------------------------------------------------------------------------------------


def rungs(report: ParityReport) -> Table:
    """The ladder, every comparison with its figure and its tolerance."""
    heads = (
        ("Rung", "what was compared"),
        ("Against", "with what"),
        ("Result", ""),
        ("Error", "relative root-mean-square distance of the tensor that used most of its tolerance"),
        ("Tolerance", "derived from the noise of the arithmetic itself"),
        ("Used", "the error as a share of the tolerance"),
        ("At", "that tensor"),
        ("Tensors", "how many were compared"),
        ("Max abs", "largest absolute difference of the outputs"),
        ("Max rel", "largest relative difference of the outputs"),
        ("1 − cosine", "of the outputs; 0 is the same direction"),
        ("SNR, dB", "signal to noise of the outputs"),
        ("Top-1 agrees", "share of inputs with the same winner"),
        ("PSNR, dB", "of image outputs"),
        ("SSIM", "of image outputs"),
    )
    rows = tuple(Row(tuple(_rung(rung))) for rung in report.rungs)
    return Table("Parity ladder", heads, rows, frozenset({3, 4, 5, *range(7, 15)})).without_empty()


def _rung(rung: Rung) -> Iterator[Value]:
    used, apart = _used(rung), None if rung.cosine is None else max(0.0, 1.0 - rung.cosine)
    yield Value(rung.name)
    yield Value(rung.against)
    yield Value("ok", mark="good") if rung.passed else Value("FAILED", note=rung.reason or "", mark="bad")
    yield number(digits.scientific(rung.error), rung.error)
    yield number(digits.scientific(rung.tolerance), rung.tolerance)
    yield number(digits.percent(used or 0.0, 0), used)
    yield Value(rung.tensor or "–")
    yield number(str(rung.tensors), rung.tensors)
    yield number(digits.scientific(rung.max_abs), rung.max_abs)
    yield number(digits.scientific(rung.max_rel), rung.max_rel)
    yield number(digits.scientific(apart), apart)
    yield number(_decibels(rung.snr_db), rung.snr_db)
    yield number(digits.percent(rung.top1_agreement or 0.0), rung.top1_agreement)
    yield number(_decibels(rung.psnr_db), rung.psnr_db)
    yield number(f"{rung.ssim or 0.0:.4f}", rung.ssim)


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _gates(report: ParityReport) -> Iterator[tuple[str, str]]:
    live = report.liveness
    word_ = "alive" if live.passed else "DEAD"
    yield (
        "Liveness",
        f"{word_}: outputs vary by {digits.significant(live.spread)}, wanted above {digits.significant(live.wanted)}",
    )
    for check in report.batch:
        yield f"Batch of {check.name}", _batch(check)
    if report.saturation:
        yield (
            "Clipping",
            f"{report.saturation.exercised} of {report.saturation.clips} clipped activations driven to their limit",
        )
    yield "Inputs", ", ".join(report.inputs)


def _batch(check: BatchCheck) -> str:
    if check.passed is None:
        return f"not applicable: {check.reason}"
    verdict = "consistent" if check.passed else "INCONSISTENT"
    return f"{verdict}: {digits.scientific(check.error)}, tolerance {digits.scientific(check.tolerance)}"


# --- Provenance ------------------------------------------------------------------------------------------------------


def facts(found: Manifest) -> Facts:
    """Where a variant came from."""
    weights = found.weights
    return pairs(
        [
            ("Source", found.source),
            ("Options", ", ".join(f"{key}={value}" for key, value in found.variant.options.items())),
            ("Classes", str(found.variant.num_classes or "")),
            ("Batch", "open" if found.variant.batch is None else str(found.variant.batch)),
            (
                "Weights",
                f"{weights.kind}: {weights.identity}" if weights.kind not in weights.identity else weights.identity,
            ),
            ("SHA-256 of the weights", weights.sha256),
            ("Exporter", f"torch.onnx ({found.exporter}), opset {found.opset}"),
            ("Preprocessing", _preprocessing(found.preprocessing)),
            ("Exported", f"{found.created} by edgekit {found.edgekit}, in {found.seconds:.1f} s"),
            ("Key of all that it depends on", found.key),
        ]
    )


def _preprocessing(contract: Preprocessing | None) -> str:
    if contract is None:
        return "not known"
    return "; ".join(f"{slot.name} {_plain(getattr(contract, slot.name))}" for slot in fields(Preprocessing))


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else word(value)


def _files(found: Manifest) -> Table:
    heads = (("File", ""), ("Size", ""), ("Nodes", ""), ("Made by", ""), ("SHA-256", ""))
    rows = [
        Row(
            (
                Value(it.path),
                _size(it.bytes),
                number(str(it.nodes), it.nodes),
                Value(it.made_by),
                Value(it.sha256, mark="hash"),
            )
        )
        for it in found.artifacts
    ]
    rows += [
        Row(
            (
                Value(it.path),
                _size(it.bytes),
                number("", None),
                Value(_builder(it)),
                Value(it.sha256 or "–", mark="hash"),
            )
        )
        for it in found.engines
        if it.path
    ]
    return Table("Files", heads, tuple(rows), frozenset({1, 2}))


def _size(count: int | None) -> Value:
    return number(digits.size(count or 0), count)


def _builder(engine: Engine) -> str:
    return " ".join(it for it in (engine.flavour, engine.builder) if it)


def _engines(engines: Sequence[Engine]) -> Table | None:
    heads = (
        ("Profile", ""),
        ("Status", ""),
        ("Builder", ""),
        ("Targets", ""),
        ("Asked for", "the precision"),
        ("Found", "compute layers of each precision in the network that was built"),
        ("Receipt", "whether what was asked is what was built"),
    )
    rows = tuple(Row(tuple(_engine(engine))) for engine in engines)
    return Table("Engines and their receipts", heads, rows) if rows else None


def _engine(engine: Engine) -> Iterator[Value]:
    receipt = engine.receipt
    yield Value(engine.profile)
    yield Value(engine.status, note=engine.reason or "", mark={"built": "good", "failed": "bad"}.get(engine.status, ""))
    yield Value(_builder(engine))
    yield Value(" ".join(engine.targets))
    yield Value(receipt.requested if receipt else "–")
    yield Value(", ".join(f"{count} {kind}" for kind, count in receipt.found.items()) if receipt else "–")
    if receipt is None:
        yield Value("none")
    else:
        yield Value(
            "passed" if receipt.passed else "FAILED",
            note=receipt.reason or "",
            mark="good" if receipt.passed else "bad",
        )


def profiles(gathered: Gathered) -> Table | None:
    """Every profile that took part, with its hash; a name may stand for two where it was changed in between."""
    found = {(it.name, it.sha256): it for exported in gathered.exported for it in exported.manifest.profiles}
    heads = (("Profile", ""), ("For", ""), ("Targets", ""), ("SHA-256", ""))
    rows = tuple(
        Row(
            (
                Value(it.name),
                Value(it.resolved.description),
                Value(" ".join(it.resolved.targets)),
                Value(it.sha256, mark="hash"),
            )
        )
        for it in found.values()
    )
    return Table("Export profiles", heads, rows) if rows else None


def makers(gathered: Gathered) -> tuple[tuple[str, Facts], ...]:
    """(variants, tools and machine) for every different set of them: a grid mostly has one."""
    sets: dict[Facts, list[str]] = {}
    for it in gathered.exported:
        made = (*it.manifest.tools.items(), *it.manifest.machine.items())
        sets.setdefault(made, []).append(it.slug)
    everything = len(sets) == 1
    return tuple(("all variants" if everything else ", ".join(slugs), made) for made, slugs in sets.items())

"""Sentences about what was measured, and nothing else: each rests on intervals that do not meet. Nothing heavy is
imported but numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from edgekit.bench.comparing import Rounds
from edgekit.bench.record import BenchFile, Result
from edgekit.bench.statistics import Interval

NO_GAIN = 0.02  # faster by less than this is no reason to take a lower precision
SLOWER = 0.02
LOWER = ("fp16", "bf16", "int8")


def advise(file: BenchFile) -> tuple[str, ...]:
    """What the figures suggest, most useful first. Only results whose outputs were right take part."""
    sound = [result for result in file.results if all(check.passed for check in result.parity)]
    by_runtime: dict[str, list[Result]] = defaultdict(list)
    for result in sound:
        by_runtime[result.contract.runtime].append(result)
    return tuple(
        sentence
        for runtime, results in by_runtime.items()
        for part in (_precisions, _sizes, _stages)
        for sentence in part(runtime, results, Rounds(file, runtime))
    ) + tuple(_threads(by_runtime, file.machine))


def _precisions(runtime: str, results: Sequence[Result], rounds: Rounds) -> Iterator[str]:
    """Lower precisions that bring nothing."""
    for precision in LOWER:
        ratios = {name: _ratio(rounds, low, full) for name, low, full in _pairs(results, precision)}
        vain = {name: ratio for name, ratio in ratios.items() if ratio.low > 1 - NO_GAIN}
        if vain:
            worst = max(vain.values(), key=lambda ratio: ratio.value)
            yield (
                f"{runtime}: {precision} is no faster than fp32 for {_some(vain, len(ratios))}; "
                f"it takes up to {worst.value:.2f} times as long ({_range(worst)})"
            )


def _ratio(rounds: Rounds, one: Result, other: Result) -> Interval:
    return rounds.ratio(one, other).interval(0).exp()


def _pairs(results: Sequence[Result], precision: str) -> Iterator[tuple[str, Result, Result]]:
    """(slug, the result in that precision, the one in fp32) of one variant and kind of artifact."""
    full = {(r.subject.slug, _family(r)): r for r in results if r.contract.precision == "fp32"}
    for result in results:
        key = (result.subject.slug, _family(result))
        if result.contract.precision == precision and key in full:
            yield result.subject.slug, result, full[key]


def _family(result: Result) -> str:
    return "onnx" if result.subject.kind.startswith("onnx") else result.subject.kind.partition("-")[0]


def _some(slugs: Collection[str], total: int) -> str:
    if len(slugs) == total:
        return "any variant here" if total > 1 else next(iter(slugs))
    return ", ".join(slugs) if len(slugs) <= 3 else f"{len(slugs)} of {total} variants"


def _range(ratio: Interval) -> str:
    return f"95 % interval {ratio.low:.2f} to {ratio.high:.2f}"


def _sizes(runtime: str, results: Sequence[Result], rounds: Rounds) -> Iterator[str]:
    """Variants with less to compute that take longer, the worst for each."""
    for small in results:
        slower = [
            (_ratio(rounds, small, large), large)
            for large in results
            if _comparable(small, large) and small.latency.p50 > large.latency.p50
        ]
        sure = [(ratio, large) for ratio, large in slower if ratio.low > 1 + SLOWER]
        if sure:
            ratio, large = max(sure, key=lambda pair: pair[0].value)
            yield (
                f"{runtime}: {small.subject.slug} ({small.contract.precision}) has less to compute than "
                f"{large.subject.slug} and takes {ratio.value:.2f} times as long ({_range(ratio)})"
            )


def _comparable(small: Result, large: Result) -> bool:
    """Whether `small` is the smaller of two of one family and precision: it ought to be faster."""
    return (
        small.subject.macs is not None
        and large.subject.macs is not None
        and small.subject.macs < large.subject.macs
        and small.contract.precision == large.contract.precision
        and small.subject.kind == large.subject.kind
        and small.contract.batch == large.contract.batch
    )


def _stages(runtime: str, results: Sequence[Result], _rounds: Rounds) -> Iterator[str]:
    """What the time goes to where it is not computing."""
    told = [(result.subject.slug, result.stages) for result in results if result.stages is not None]
    enqueued = [slug for slug, it in told if it.enqueue > it.compute]
    copied = [slug for slug, it in told if it.h2d + it.d2h > it.compute]
    if enqueued:
        yield (
            f"{runtime}: the host takes longer to enqueue than the device to compute, "
            f"for {_some(enqueued, len(told))}: a CUDA graph or larger batches would help, a faster device would not"
        )
    if copied:
        yield (
            f"{runtime}: copying to the device and back takes longer than computing, for {_some(copied, len(told))}: "
            "smaller inputs and outputs would help, or leaving them on the device"
        )


def _threads(by_runtime: Mapping[str, Sequence[Result]], machine: Mapping[str, str]) -> Iterator[str]:
    """More threads than there are cores for them."""
    cores = machine.get("cores", "")
    for runtime, results in by_runtime.items():
        most = max((result.contract.threads or 0 for result in results), default=0)
        if cores.isdigit() and most > int(cores):
            yield f"{runtime}: {most} threads on {cores} cores wait for each other's turns; try --threads {cores}"

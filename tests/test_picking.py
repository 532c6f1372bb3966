"""What `pick` decides: budgets, ranks, reasons, units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import report_grids as grids
from hypothesis import given
from hypothesis import strategies as st

from edgekit import accuracy, manifest, picking
from edgekit.bench import record
from edgekit.errors import InputUnusable, UsageError
from edgekit.picking import Budget, Candidate, choose, pick
from edgekit.variant import Variant

LARGE, SMALL = Variant("mobilenet_v2", 1.0, 128), Variant("mobilenet_v2", 0.5, 96)
FLOATS = st.floats(0.1, 100)


def bench(folder: Path, *results: record.Result) -> Path:
    record.write(grids.bench_file(results), folder / "bench.json")
    return folder


def two(folder: Path, large: float = 4.0, small: float = 1.0, **more: object) -> Path:
    """A large and a small variant with their medians in milliseconds."""
    named = [(LARGE, large), (SMALL, small)]
    return bench(folder, *(grids.result(v.slug, grids.export(folder, v), milliseconds=ms, **more) for v, ms in named))  # type: ignore[arg-type]


def reasons(found: picking.Pick) -> dict[str, str]:
    return {it.slug: "; ".join(it.lost) for it in found.others}


def test_the_most_accurate_that_fits_wins_and_says_whose_accuracy_it_was(tmp_path: Path) -> None:
    found = pick(two(tmp_path), Budget(5.0))
    assert found.best is not None
    assert found.best.slug == LARGE.slug
    assert found.by == "published-top1"
    assert reasons(found) == {SMALL.slug: "less accurate: 51.2 % against 65.3 %, as published"}
    assert "published by tensorflow/models" in " ".join(found.notes)
    assert "accuracy was not measured" in " ".join(found.notes)


def test_what_is_over_the_budget_says_by_how_much(tmp_path: Path) -> None:
    found = pick(two(tmp_path), Budget(2.0))
    assert found.best is not None
    assert found.best.slug == SMALL.slug
    assert reasons(found) == {LARGE.slug: "over the latency by 2.02 ms (101 %)"}


def test_the_upper_end_of_the_interval_has_to_fit(tmp_path: Path) -> None:
    two(tmp_path)  # the large one's interval ends at 4.02
    best = [pick(tmp_path, Budget(limit)).best for limit in (4.01, 4.02)]
    assert [it.slug for it in best if it] == [SMALL.slug, LARGE.slug]


def test_a_percentile_is_that_of_all_runs_with_its_own_interval(tmp_path: Path) -> None:
    two(tmp_path, spread=0.2)
    found = pick(tmp_path, Budget(100.0, 99.0))
    assert found.best is not None
    assert found.best.latency_ms == pytest.approx(4.0 * 1.2, rel=1e-3)
    assert found.best.upper_ms is not None
    assert found.best.upper_ms >= found.best.latency_ms
    assert "p99 at the upper end" in " ".join(found.notes)


def test_rounds_of_different_lengths_and_launches_are_taken_as_they_are(tmp_path: Path) -> None:
    made = grids.export(tmp_path, SMALL)
    one = grids.result(SMALL.slug, made, spread=0.2)
    samples = tuple(runs[: 1 + number % 4] for number, runs in enumerate(one.samples))
    file = grids.bench_file([replace(one, samples=samples)])
    reference = replace(file.references[0], launches=tuple(number // 20 for number in range(60)))
    record.write(replace(file, references=(reference,)), tmp_path / "bench.json")
    best = pick(tmp_path, Budget(100.0, 90.0)).best
    assert best is not None
    assert best.latency_ms is not None
    assert best.upper_ms is not None
    assert 5.0 < best.latency_ms <= best.upper_ms <= 6.0


def test_too_few_runs_tell_no_percentile(tmp_path: Path) -> None:
    two(tmp_path, rounds=5)  # 20 runs
    found = pick(tmp_path, Budget(100.0, 99.0))
    assert found.best is None
    assert reasons(found)[LARGE.slug] == "20 runs do not tell p99, which takes 100: edgekit bench --min-time"
    assert pick(tmp_path, Budget(100.0, 95.0)).best is not None


def test_an_invalid_measurement_is_never_picked(tmp_path: Path) -> None:
    large = grids.result(LARGE.slug, grids.export(tmp_path, LARGE), milliseconds=1.0, reasons=["throttled", "drift"])
    small = grids.result(SMALL.slug, grids.export(tmp_path, SMALL), milliseconds=1.0)
    found = pick(bench(tmp_path, large, small), Budget(5.0))
    assert found.best is not None
    assert found.best.slug == SMALL.slug
    assert reasons(found)[LARGE.slug] == "INVALID measurement: throttled; drift"


def test_the_nearest_of_what_does_not_fit_is_a_measurement_to_rely_on(tmp_path: Path) -> None:
    large = grids.result(LARGE.slug, grids.export(tmp_path, LARGE), milliseconds=1.0, reasons=["throttled"])
    small = grids.result(SMALL.slug, grids.export(tmp_path, SMALL), milliseconds=9.0)
    found = pick(bench(tmp_path, large, small), Budget(5.0))
    assert [(it.slug, it.valid) for it in found.others] == [(SMALL.slug, True), (LARGE.slug, False)]


def test_every_reason_is_told(tmp_path: Path) -> None:
    found = pick(two(tmp_path), Budget(0.5, size=1e6, accuracy=60.0))
    assert found.best is None
    assert [it.slug for it in found.others] == [LARGE.slug, SMALL.slug]  # two reasons before three
    assert reasons(found)[SMALL.slug].count(";") == 2
    assert "over the size by 3.95 MB: 4.95 MB" in reasons(found)[SMALL.slug]
    assert "below the accuracy by 8.8 points: 51.2 %, as published by tensorflow/models" in reasons(found)[SMALL.slug]


def test_a_least_accuracy_leaves_out_what_nobody_knows(tmp_path: Path) -> None:
    odd = Variant("mobilenet_v2", 0.6, 96)
    bench(tmp_path, grids.result(odd.slug, grids.export(tmp_path, odd)))
    assert pick(tmp_path, Budget(50.0)).best is not None
    assert "not known" in reasons(pick(tmp_path, Budget(50.0, accuracy=10.0)))[odd.slug]


def test_where_one_has_no_published_accuracy_macs_rank_all(tmp_path: Path) -> None:
    odd = Variant("mobilenet_v2", 1.2, 128)
    made = [(it, grids.export(tmp_path, it)) for it in (SMALL, odd)]
    found = pick(bench(tmp_path, *(grids.result(it.slug, m) for it, m in made)), Budget(50.0))
    assert found.best is not None
    assert (found.best.slug, found.by) == (odd.slug, "macs")
    assert "multiply-accumulates" in " ".join(found.notes)
    assert reasons(found)[SMALL.slug].startswith("smaller: ")


def test_of_equal_accuracy_the_faster_wins(tmp_path: Path) -> None:
    made = grids.export(tmp_path, SMALL)
    results = [
        grids.result(SMALL.slug, made, kind=kind, milliseconds=ms)
        for kind, ms in (("onnx-fp16", 2.0), ("onnx-fp32", 1.0))
    ]
    found = pick(bench(tmp_path, *results), Budget(5.0))
    assert found.best is not None
    assert found.best.precision == "fp32"
    assert found.others[0].lost == ("as accurate, but slower by 1.00 ms",)


def test_only_the_runtime_that_was_asked_for_counts(tmp_path: Path) -> None:
    made = grids.export(tmp_path, SMALL)
    results = [grids.result(SMALL.slug, made, runtime=name) for name in ("torch", "onnxruntime-cpu")]
    bench(tmp_path, *results)
    found = pick(tmp_path, Budget(50.0, runtime="torch"))
    assert found.best is not None
    assert found.best.runtime == "torch"
    assert found.others == ()
    with pytest.raises(UsageError) as caught:
        pick(tmp_path, Budget(50.0, runtime="torhc"))
    assert "torch" in (caught.value.hint or "")


def test_latencies_of_different_kinds_are_told(tmp_path: Path) -> None:
    made = grids.export(tmp_path, SMALL)
    one = grids.result(SMALL.slug, made)
    other = replace(one, contract=replace(one.contract, runtime="trtexec", clock="device", transfers="included"))
    assert "not all latencies mean the same" in " ".join(pick(bench(tmp_path, one, other), Budget(50.0)).notes)


def test_without_a_benchmark_there_is_nothing_to_pick(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL)
    with pytest.raises(InputUnusable) as caught:
        pick(tmp_path, Budget(5.0))
    assert "edgekit bench" in (caught.value.hint or "")


# --- Rank, for any candidates

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        slug=st.sampled_from(["a", "b", "c"]),
        series=st.sampled_from(["x", "y"]),
        runtime=st.just("r"),
        precision=st.just("fp32"),
        kind=st.just("onnx-fp32"),
        batch=st.just(1),
        latency_ms=FLOATS,
        upper_ms=FLOATS,
        bytes=st.integers(1, 3),
        macs=st.one_of(st.none(), st.integers(1, 3)),
        top1=st.one_of(st.none(), st.sampled_from([50.0, 60.0])),
        top1_by=st.just("somebody"),
        valid=st.just(True),
        fits=st.booleans(),
        lost=st.just(()),
    ),
    max_size=6,
    unique_by=lambda it: (it.slug, it.series),  # no benchmark has two results of one name
)


@given(CANDIDATES, st.randoms(use_true_random=False))
def test_the_order_of_the_benchmark_does_not_matter(candidates: list[Candidate], random: object) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(candidates, Budget(50.0)).best == choose(shuffled, Budget(50.0)).best


@given(CANDIDATES)
def test_only_what_fits_is_picked_and_all_that_lost_to_it_say_why(candidates: list[Candidate]) -> None:
    found = choose(candidates, Budget(50.0))
    assert (found.best is not None) == any(it.fits for it in candidates)
    assert len(found.others) == len(candidates) - (found.best is not None)
    assert all(it.lost for it in found.others if it.fits)
    if found.best and found.by == "published-top1":
        assert all(it.top1 <= found.best.top1 for it in found.others if it.fits)  # type: ignore[operator]


# --- Units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5ms", 5),
        ("5 ms", 5),
        ("800us", 0.8),
        ("800µs", 0.8),
        ("800μs", 0.8),
        ("0.01s", 10),
        (".5ms", 0.5),
        ("1e-3 S", 1),
    ],
)
def test_times(text: str, value: float) -> None:
    assert picking.milliseconds("--max-latency", text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10MB", 10e6),
        ("10 mb", 10e6),
        ("900kB", 900e3),
        ("1KiB", 1024),
        ("10MiB", 10 * 2**20),
        ("1GB", 1e9),
        ("12B", 12),
    ],
)
def test_sizes(text: str, value: float) -> None:
    assert picking.size("--max-size", text) == value


@pytest.mark.parametrize("text", ["5", "5 parsec", "ms", "", "-5ms", "0ms", "5ms 3", "1e999s", "nan ms", "5m", "5MB"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        picking.milliseconds("--max-latency", text)
    assert caught.value.where == "--max-latency"
    assert caught.value.got == text


@pytest.mark.parametrize("text", ["10", "10Mb/s", "ten MB", "5ms", "10MiBB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        picking.size("--max-size", text)


@pytest.mark.parametrize("text", ["70", "0.7", "101%", "0%", "%", "70pt"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        picking.percent("--min-accuracy", text)


@pytest.mark.parametrize(("text", "value"), [("99", 99), ("p99.9", 99.9), ("P50", 50)])
def test_percentiles(text: str, value: float) -> None:
    assert picking.share("--percentile", text) == value


@pytest.mark.parametrize("text", ["0", "100", "-1", "p", "99%", "nan"])
def test_percentiles_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        picking.share("--percentile", text)


@pytest.mark.parametrize(("percentile", "runs"), [(50.0, 2), (90.0, 10), (99.0, 100), (99.9, 1000), (1.0, 100)])
def test_how_many_runs_a_percentile_takes(percentile: float, runs: int) -> None:
    assert picking.runs_for(percentile) == runs


def test_the_units_are_told_where_one_is_wrong() -> None:
    with pytest.raises(UsageError) as caught:
        picking.milliseconds("--max-latency", "5msec")
    assert "ms" in (caught.value.hint or "")


# --- accuracy that was measured


def test_accuracy_on_the_same_images_ranks_before_what_was_published(tmp_path: Path) -> None:
    two(tmp_path)
    grids.scored(tmp_path, LARGE, 80.0)
    grids.scored(tmp_path, SMALL, 91.0)
    found = pick(tmp_path, Budget(5.0))
    assert found.best is not None
    assert found.best.slug == SMALL.slug
    assert found.by == "measured-top1"
    assert found.best.measured is not None
    assert found.best.measured.low < 91 < found.best.measured.high
    assert reasons(found) == {LARGE.slug: "less accurate: 80.00 % against 91.00 %, as measured"}
    notes = " ".join(found.notes)
    assert "edgekit eval measured it: 1000 images of photos, val" in notes
    assert "not measured" not in notes


@pytest.mark.parametrize("fault", ["other images", "one without", "exported again", "damaged"])
def test_accuracies_that_cannot_be_compared_rank_nothing(tmp_path: Path, fault: str) -> None:
    two(tmp_path)
    grids.scored(tmp_path, LARGE, 80.0)
    if fault != "one without":
        grids.scored(tmp_path, SMALL, 91.0, digest=("e" if fault == "other images" else "d") * 64)
    path = tmp_path / SMALL.slug / accuracy.FILE
    if fault == "exported again":
        path.write_text(path.read_text().replace(manifest.read(tmp_path / SMALL.slug).artifacts[0].sha256, "0" * 64))
    if fault == "damaged":
        path.write_text("{")
    found = pick(tmp_path, Budget(5.0))
    assert found.by == "published-top1"
    assert found.best is not None
    assert found.best.slug == LARGE.slug


def test_the_least_accuracy_is_held_against_what_was_measured(tmp_path: Path) -> None:
    two(tmp_path)
    grids.scored(tmp_path, LARGE, 80.0)
    found = pick(tmp_path, Budget(5.0, accuracy=85.0))
    assert reasons(found)[LARGE.slug] == "below the accuracy by 5.00 points: 80.00 % of 1000 images of photos, val"
    assert "51.2 %, as published" in reasons(found)[SMALL.slug]


def test_an_engine_has_the_accuracy_of_the_graph_of_its_precision(tmp_path: Path) -> None:
    made = grids.export(tmp_path, LARGE)
    one = grids.result(LARGE.slug, made, kind="onnx-fp16")
    engine = replace(one.subject, kind="engine", sha256=made.engines[0].sha256 or "")
    contract = replace(one.contract, runtime="tensorrt-rtx", precision="fp16")
    bench(tmp_path, replace(one, subject=engine, contract=contract))
    grids.scored(tmp_path, LARGE, 80.0, kinds=1)
    assert pick(tmp_path, Budget(50.0)).by == "published-top1"  # of the fp32 graph only
    grids.scored(tmp_path, LARGE, 80.0)
    best = pick(tmp_path, Budget(50.0)).best
    assert best is not None
    assert best.measured is not None
    assert best.measured.by == "onnx-fp16"

"""What the page, the Markdown and the CSV say; how it looks and behaves is test_browser.py's."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_grids as grids

from edgekit import report
from edgekit.bench import record
from edgekit.errors import UsageError
from edgekit.report.files import OWN, TIMM, escaped
from edgekit.report.gather import gather
from edgekit.variant import Variant

SMALL = Variant("mobilenet_v2", 0.5, 96)
NASTY = '<script>window.pwned = 1</script><img src=x onerror="window.pwned=1">&"\''


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    grids.grid(folder)
    return folder


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._raw = tag if tag in ("style", "script") else self._raw

    def handle_endtag(self, tag: str) -> None:
        self._raw = "" if tag == self._raw else self._raw

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def elements(folder: Path) -> Elements:
    return Elements(report.html(gather(folder)))


def test_a_grid_of_twenty_is_a_light_page(made: Path, tmp_path: Path) -> None:
    report.write_html(made, None, tmp_path / "deep" / "report.html")
    assert (tmp_path / "deep" / "report.html").stat().st_size < 1_000_000
    assert [it.name for it in (tmp_path / "deep").iterdir()] == ["report.html"]


def test_nothing_is_loaded_from_anywhere(made: Path) -> None:
    for tag, attributes in elements(made).found:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attributes.get(name) or ""
            assert value in ("", "data:,") or value.startswith("#"), (tag, value)
    style = report.html(gather(made)).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_link_inside_the_page_leads_somewhere(made: Path) -> None:
    found = elements(made).found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(attributes.get("href") or "#")[1:] for tag, attributes in found if tag == "a"}
    assert targets - {""} <= set(ids)


def test_it_says_what_was_found(made: Path) -> None:
    text = elements(made).text
    assert "38 of 40 measurements are valid" in text
    assert "INVALID the clock changed" in text
    assert "2 of 40 measurements are INVALID: the clock changed (2)." in text
    assert "fp16 is no faster than fp32 on onnxruntime-cpu" in text
    assert "an NVIDIA GPU" in text  # what was not measured, and what it needs
    assert "published by tensorflow/models for their own weights; not measured here" in text
    assert "53 fp16" in text  # a receipt
    assert grids.sha256(b"weights") in text


def test_outputs_that_went_wrong_under_a_runtime_are_told(tmp_path: Path) -> None:
    made = grids.export(tmp_path, SMALL)
    lost = record.ParityCheck("after", False, 0.5, 1e-4, "logits is off by 0.5")
    one = grids.result(SMALL.slug, made, reasons=["parity lost"])
    one = replace(one, parity=(one.parity[0], lost), placement=record.Placement({"CPUExecutionProvider": 100}))
    one = replace(one, stages=record.Stages(0.1, 0.2, 3.0, 0.4))
    record.write(grids.bench_file([one]), tmp_path / "bench.json")
    text = elements(tmp_path).text
    assert "enqueue 0.100, in 0.200, compute 3.00, out 0.400" in text
    assert "WRONG after: logits is off by 0.5" in text
    assert "CPUExecutionProvider: 100 of 100" in text
    record.write(grids.bench_file([grids.result(SMALL.slug, made)]), tmp_path / "bench.json")
    assert "agree before and after: 1.0e-06 of 1.0e-04" in elements(tmp_path).text


def test_every_rung_has_its_figure_and_its_tolerance(made: Path) -> None:
    text = elements(made).text
    assert text.count("simplified pytorch-fp64 ok 1.0e-05 4.0e-05 25 %") == 20


def test_without_a_benchmark_it_says_so_and_draws_what_is_known(tmp_path: Path) -> None:
    for size in (128, 96):
        grids.export(tmp_path, Variant("mobilenet_v2", 0.5, size))
    found = elements(tmp_path)
    assert "Latency was not measured." in found.text
    assert "median latency" not in found.text
    assert sum("mark" in (attributes.get("class") or "").split() for _, attributes in found.found) == 4


def test_a_benchmark_whose_every_variant_is_gone_can_still_be_drawn(tmp_path: Path) -> None:
    record.write(grids.bench_file([grids.result(SMALL.slug, grids.manifest(SMALL))]), tmp_path / "bench.json")
    assert "There is no exported variant in this folder" in elements(tmp_path).text


def test_the_front_is_by_published_accuracy_where_there_is_any(tmp_path: Path) -> None:
    odd = Variant("mobilenet_v2", 0.6, 96)
    results = [grids.result(it.slug, grids.export(tmp_path, it)) for it in (SMALL, odd)]
    record.write(grids.bench_file(results), tmp_path / "bench.json")
    assert "by ImageNet top-1 as published, which is not known of 1 of 2 measurements" in elements(tmp_path).text
    record.write(grids.bench_file(results[1:]), tmp_path / "bench.json")
    assert "better, by multiply-accumulates, as no accuracy is known" in elements(tmp_path).text


def test_accuracy_that_was_measured_is_shown_and_decides_the_front(tmp_path: Path) -> None:
    grids.grid(tmp_path, alphas=(1.0, 0.5), sizes=(160,))
    large, small = Variant("mobilenet_v2", 1.0, 160), Variant("mobilenet_v2", 0.5, 160)
    grids.scored(tmp_path, large, 80.0)
    assert "by ImageNet top-1 as published" in elements(tmp_path).text
    assert "figures here are published ones" in elements(tmp_path).text
    grids.scored(tmp_path, small, 91.0)
    text = elements(tmp_path).text
    assert "no other is both faster and better, by top-1 measured on 1000 images of photos, val" in text
    assert "Accuracy is top-1 as measured on 1000 images of photos, val." in text
    assert "figures here are published ones" not in text
    assert "80.00 %" in text
    assert {(row["variant"], row["top1_measured"]) for row in rows(tmp_path)} == {
        (large.slug, "80.0"),
        (small.slug, "91.0"),
    }
    (tmp_path / small.slug / "accuracy.json").write_text("{")
    assert "accuracy.json: cannot read the accuracy file" in elements(tmp_path).text


def test_failures_stand_at_the_top(tmp_path: Path) -> None:
    grids.export(tmp_path, SMALL, error=1.0)
    (tmp_path / SMALL.slug / "model.onnx").write_bytes(b"other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{}")
    top = elements(tmp_path).text.partition("The grid")[0]
    assert "parity failed at simplified" in top
    assert "model.onnx: changed" in top
    assert "broken cannot be read and is left out" in top
    assert "1 failed" in top


def nasty(folder: Path) -> None:
    """A grid whose every free text wants to be more than text."""
    variant = replace(SMALL, options=(("key", NASTY.replace("/", "")),))
    made = grids.export(folder, variant, note=NASTY, name="<b>name<script>x=1")
    one = grids.result("<b>name<script>x=1", made, reasons=[NASTY])
    one = replace(one, contract=replace(one.contract, runtime=NASTY, versions={NASTY: NASTY}))
    file = grids.bench_file([one], advice=[NASTY], command=NASTY)
    file = replace(file, machine={"cpu": NASTY}, not_measured=(record.NotMeasured(NASTY, NASTY, NASTY, NASTY),))
    record.write(file, folder / "bench.json")


def test_what_comes_from_files_stays_text(tmp_path: Path) -> None:
    nasty(tmp_path)
    found = elements(tmp_path)
    assert sum(tag == "script" for tag, _ in found.found) == 1
    assert not any(tag in ("img", "b", "iframe") and "src" in attributes for tag, attributes in found.found)
    assert not any(name.startswith("on") for _, attributes in found.found for name in attributes)
    assert NASTY in " ".join(found.words)


def test_only_its_own_script_may_run(made: Path) -> None:
    policy = next(
        a["content"] or "" for t, a in elements(made).found if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)
    assert "unsafe" not in policy


def test_the_same_folder_gives_the_same_page(made: Path) -> None:
    assert report.html(gather(made)) == report.html(gather(made))


def test_a_page_that_cannot_be_written_leaves_nothing(made: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        report.write_html(made, None, tmp_path / "report.html")
    assert [it.name for it in tmp_path.iterdir()] == ["report.html"]


# --- CSV and Markdown


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report.csv(gather(folder)))))


def test_csv_has_timm_s_columns_in_timm_s_units(made: Path) -> None:
    found = rows(made)
    assert len(found) == 40
    assert list(found[0]) == [*TIMM, *OWN]
    row = next(it for it in found if it["variant"] == "mobilenet_v2-a1.00-r224" and it["precision"] == "fp32")
    made_from = grids.manifest(Variant("mobilenet_v2", 1.0, 224))
    latency = grids.milliseconds(made_from, "onnx-fp32")
    assert row["model"] == "mobilenet_v2"
    assert float(row["infer_step_time"]) == pytest.approx(latency)
    assert float(row["infer_samples_per_sec"]) == pytest.approx(1e3 / latency, rel=1e-3)
    assert (row["infer_batch_size"], row["infer_img_size"]) == ("1", "224")
    assert float(row["infer_gmacs"]) == pytest.approx(0.3)
    assert float(row["param_count"]) == pytest.approx(3.5)
    assert (row["top1_published"], row["top1_published_by"]) == ("71.8", "tensorflow/models")


def test_csv_tells_invalid_measurements_and_missing_ones(made: Path, tmp_path: Path) -> None:
    assert sum(it["verdict"] == "INVALID" for it in rows(made)) == 2
    grids.export(tmp_path, SMALL)
    (row,) = rows(tmp_path)
    assert (row["verdict"], row["infer_step_time"], row["parity"]) == ("not measured", "", "passed")


def test_csv_cells_are_no_formulas(tmp_path: Path) -> None:
    made = grids.export(tmp_path, SMALL)
    one = grids.result(SMALL.slug, made, reasons=["=1+1"])
    record.write(grids.bench_file([one]), tmp_path / "bench.json")
    (row,) = rows(tmp_path)
    assert row["reasons"] == "\t=1+1"


def test_markdown_tables_are_whole(made: Path) -> None:
    text = report.markdown(gather(made))
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 4
    for block in blocks:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(bars) == 1
    assert "published by tensorflow/models" in text


def test_markdown_keeps_text_text(tmp_path: Path) -> None:
    nasty(tmp_path)
    assert not re.search(r"(?<!\\)<", report.markdown(gather(tmp_path)))
    assert escaped("a|b\n![x](y)") == r"a\|b \!\[x\](y)"

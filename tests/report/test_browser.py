"""The page in a real browser: it loads nothing, complains of nothing, shows its points, sorts, and can be read."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
import report_grids as grids
from chromium import Page
from test_page import nasty

from edgekit import report
from edgekit.variant import Variant

PROGRAM = chromium.find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed: apt-get install chromium")

# Every element with words of its own that can be seen, and how far its colour is from what is behind it (WCAG 2).
CONTRASTS = """
(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let it = element; it; it = it.parentElement) {
      const colour = parse(getComputedStyle(it).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const it of document.querySelectorAll("body *")) {
    const words = [...it.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    if (!words || it.matches("script, style, title, .skip") || !it.checkVisibility()) continue;
    const style = getComputedStyle(it);
    const [a, b] = [light(parse(it instanceof SVGElement ? style.fill : style.color)), light(behind(it))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), words.slice(0, 40)]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with chromium.browser(PROGRAM, tmp_path_factory.mktemp("profile")) as found:
        found.size(1280)
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    grids.grid(folder)
    report.write_html(folder, None, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(autouse=True)
def _fresh(page: Page) -> None:
    page.size(1280)
    page.prefer("light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_loads_nothing_complains_of_nothing_and_fits(page: Page, made: Path, scheme: str, width: int) -> None:
    page.prefer(scheme)
    page.size(width)
    page.open(made)
    assert page.complaints() == []
    assert page.requests() == [made.resolve().as_uri()]
    assert page.run("document.documentElement.scrollWidth") == width


def test_a_complaint_and_a_request_would_be_seen(page: Page, tmp_path: Path) -> None:
    """Otherwise the test above proves nothing."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        address = f"http://127.0.0.1:{server.server_port}/none.png"
        (tmp_path / "bad.html").write_text(f"<img src='{address}'><script>console.error('no'); missing()</script>")
        threading.Thread(target=server.handle_request, daemon=True).start()
        page.open(tmp_path / "bad.html")
    assert address in page.requests()
    assert len(page.complaints()) >= 2


def test_the_policy_of_the_page_stops_what_is_not_its_own(page: Page, made: Path, tmp_path: Path) -> None:
    bad = made.read_text().replace(
        "</main>", "<script>window.pwned = 1</script><img src='http://127.0.0.1:9/x'></main>"
    )
    (tmp_path / "bad.html").write_text(bad)
    page.open(tmp_path / "bad.html")
    assert page.run("window.pwned === undefined")
    assert len(page.complaints()) >= 2


def test_the_points_are_there(page: Page, made: Path) -> None:
    page.open(made)
    counts = page.run("all('svg[data-chart]').map((it) => [it.dataset.chart, all('.mark', it).length])")
    assert counts == [["accuracy", 40], ["macs", 40], ["size", 40]]
    assert page.run("all('.mark.invalid').length") == 6
    outside = """all('svg[data-chart]').flatMap((chart) => {
      const frame = chart.getBoundingClientRect();
      return all('.shape', chart).filter((it) => {
        const box = it.getBoundingClientRect();
        return !(box.width > 4 && box.left >= frame.left && box.right <= frame.right + 1 && box.top >= frame.top);
      });
    }).length"""
    assert page.run(outside) == 0


def test_the_front_that_the_browser_draws_is_the_one_that_was_written(page: Page, made: Path) -> None:
    page.open(made)
    front = "document.querySelector('[data-front]').getAttribute('points')"
    written = page.run(front)
    page.run("document.querySelector('[data-toggle]').dispatchEvent(new Event('change'))")
    assert page.run(front) == written
    page.run("document.querySelector('[data-toggle=\"0\"]').click()")
    assert page.run(front) != written
    assert page.run("all('.mark:not([hidden])').length") == 60
    assert page.run("all('#results tr[data-series=\"0\"]:not([hidden])').length") == 0
    page.run("document.querySelector('[data-toggle=\"0\"]').click()")
    assert page.run(front) == written


COLUMN = "all('table.wide tbody tr').map((row) => row.cells[{}].textContent.trim())"


def test_a_table_sorts_by_its_figures_up_and_down(page: Page, made: Path) -> None:
    page.open(made)
    head = "document.querySelector('table.wide thead').rows[0].cells[{}]"
    button = head + ".querySelector('button')"
    names = page.run("[...document.querySelector('table.wide thead').rows[0].cells].map((it) => it.textContent)")
    size = names.index("Size")
    page.run(button.format(size) + ".click()")
    values = page.run(f"all('table.wide tbody tr').map((row) => Number(row.cells[{size}].dataset.sort))")
    assert values == sorted(values)
    assert page.run(head.format(size) + ".getAttribute('aria-sort')") == "ascending"
    page.run(button.format(size) + ".focus()")
    page.press("Enter")
    values = page.run(f"all('table.wide tbody tr').map((row) => Number(row.cells[{size}].dataset.sort))")
    assert values == sorted(values, reverse=True)
    page.run(button.format(0) + ".click()")
    assert page.run(head.format(size) + ".hasAttribute('aria-sort')") is False
    words = page.run(COLUMN.format(0))
    assert words == sorted(words, key=lambda word: [int(it) if it.isdigit() else it for it in re.split(r"(\d+)", word)])
    assert len(words) == 40


def test_what_is_missing_sorts_last_either_way(page: Page, tmp_path: Path) -> None:
    for variant in (
        Variant("mobilenet_v2", 0.5, 96),
        Variant("mobilenet_v2", 0.6, 96),
        Variant("mobilenet_v2", 1.0, 96),
    ):
        grids.export(tmp_path, variant)
    report.write_html(tmp_path, None, tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    table = "document.querySelector('#parity table')"
    column = page.run(f"[...{table}.tHead.rows[0].cells].findIndex((it) => it.textContent === 'Published top-1')")
    last = []
    for _ in range(2):
        page.run(f"{table}.tHead.rows[0].cells[{column}].querySelector('button').click()")
        last.append(page.run(f"{table}.tBodies[0].rows[2].cells[{column}].textContent"))
    assert last == ["–", "–"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_what_is_behind_it(page: Page, made: Path, scheme: str) -> None:
    page.prefer(scheme)
    page.open(made)
    page.run("document.getElementById('open-all').click()")
    found = page.run(CONTRASTS)
    assert len(found) > 1000
    assert [(round(ratio, 2), words) for ratio, words in found if ratio < 4.5] == []


def test_the_two_themes_differ_and_the_button_chooses(page: Page, made: Path) -> None:
    page.open(made)
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.run(background)
    seen = []
    for _ in range(3):
        page.run("document.getElementById('theme').click()")
        seen.append((page.run("document.getElementById('theme').textContent"), page.run(background)))
    assert [words for words, _ in seen] == ["Theme: light", "Theme: dark", "Theme: as the system"]
    assert seen[0][1] == seen[2][1] == light
    assert seen[1][1] != light


def test_a_chart_can_be_walked_with_the_keyboard(page: Page, made: Path) -> None:
    page.open(made)
    chart = "document.querySelector('svg[data-chart=macs]')"
    assert page.run(f"all('.mark[tabindex=\"0\"]', {chart}).length") == 1  # one stop for the tab key
    page.run(f"{chart}.querySelector('.mark[tabindex=\"0\"]').focus()")
    first = page.run("document.getElementById('tip').textContent")
    assert page.run("document.getElementById('tip').hidden") is False
    page.press("ArrowRight")
    page.press("ArrowRight")
    second = page.run("document.getElementById('tip').textContent")
    assert first != second
    assert "mobilenet_v2-a" in second.splitlines()[0]
    assert " ms, 95 % " in second
    page.press("Enter")
    page.until("document.querySelector('details[open]')")
    (opened,) = page.run("all('details[open]').map((it) => it.id)")
    assert opened.removeprefix("variant-") == second.splitlines()[0]
    assert page.run("document.activeElement.parentElement.id") == opened
    assert page.run("document.getElementById('tip').hidden") is True  # it belongs to the mark


def test_a_folder_may_be_called_what_it_likes(page: Page, tmp_path: Path) -> None:
    grids.export(tmp_path, Variant("mobilenet_v2", 0.5, 96), name="50%zz of #1 ü")
    report.write_html(tmp_path, None, tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    page.run("document.querySelector('#parity tbody a').click()")
    page.until("document.querySelector('details[open]')")
    assert page.complaints() == []


def test_hovering_shows_the_variant(page: Page, made: Path) -> None:
    page.open(made)
    page.run("document.querySelector('svg[data-chart=size]').scrollIntoView({block: 'center', behavior: 'instant'})")
    place = """(({x, y, width, height}) => [x + width / 2, y + height / 2])(
      all('svg[data-chart=size] .mark').at(-1).querySelector('.shape').getBoundingClientRect())"""
    x, y = page.run(place)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.until("document.getElementById('tip').textContent.startsWith('mobilenet_v2-a')")
    box = page.run("(({left, right}) => [left, right])(document.getElementById('tip').getBoundingClientRect())")
    assert 0 <= box[0] < box[1] <= 1280


def test_a_screen_reader_finds_names_for_everything(page: Page, made: Path) -> None:
    page.open(made)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"image", "button", "checkbox", "link", "heading", "table", "region", "figure"}
    named = {"image", "button", "checkbox", "link", "heading", "table", "region"}
    found = [(it["role"]["value"], it.get("name", {}).get("value", "")) for it in nodes if not it["ignored"]]
    assert {role for role, _ in found} >= roles - {"figure"}
    assert [role for role, name in found if role in named and not name] == []
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("all('h1').length") == 1


def test_printing_opens_everything_and_closes_it_again(page: Page, made: Path, tmp_path: Path) -> None:
    page.open(made)
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("all('details:not([open])').length") == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("all('details[open]').length") == 0
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_what_comes_from_files_does_not_run(page: Page, tmp_path: Path) -> None:
    nasty(tmp_path)
    report.write_html(tmp_path, None, tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    assert page.run("window.pwned === undefined")
    assert page.complaints() == []
    assert page.requests() == [(tmp_path / "report.html").resolve().as_uri()]


def test_a_page_without_a_benchmark_works_too(page: Page, tmp_path: Path) -> None:
    grids.export(tmp_path, Variant("mobilenet_v2", 0.5, 96))
    report.write_html(tmp_path, None, tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    assert page.complaints() == []
    assert page.run("all('.mark').length") == 2

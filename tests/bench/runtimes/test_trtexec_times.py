"""trtexec's times: all shapes that it has had are read, and whatever is none of them is refused.

The files are written by hand to the documented format, see trtexec_times/README.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench.runtimes._trtexec_times import KEYS, parse_times
from edgekit.errors import InputUnusable

FILES = Path(__file__).parent / "trtexec_times"


def read(name: str, warmup_ms: float = 200.0) -> list[Any]:
    return list(parse_times((FILES / name).read_text(), name, warmup_ms))


def records() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FILES / "10.x.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "latency", "compute"),
    [
        ("8.2.json", [2.5625, 2.6875, 2.8125], [2.25, 2.375, 2.5]),
        ("10.x.json", [1.78125, 1.90625, 2.03125, 2.15625], [1.5, 1.625, 1.75, 1.875]),
        ("11.x.json", [1.0, 1.0625, 1.125], [1.0, 1.0625, 1.125]),
    ],
)
def test_every_shape_is_read_without_its_warm_up(name: str, latency: list[float], compute: list[float]) -> None:
    runs = read(name)
    assert [run.latency for run in runs] == pytest.approx([ms / 1e3 for ms in latency], rel=1e-4)
    assert [run.compute for run in runs] == pytest.approx([ms / 1e3 for ms in compute])
    assert all(run.enqueue == pytest.approx(0.125e-3) for run in runs)


def test_the_warm_up_of_8_2_is_in_its_file() -> None:
    assert len(read("8.2.json", warmup_ms=0.0)) == 5


def test_nothing_but_warm_up_is_refused() -> None:
    with pytest.raises(InputUnusable, match="nothing but warm-up"):
        read("8.2.json", warmup_ms=5000.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('[{"h2dMs": 1.0', "not JSON"),
        ("{}", "not a list"),
        ("[]", "not a list"),
        ("null", "not a list"),
        ("3", "not a list"),
        ("[1, 2]", "not an object"),
        ("[{}]", "without all its keys"),
        ("[NaN]", "not JSON"),
    ],
)
def test_what_is_no_list_of_runs_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputUnusable, match=says) as caught:
        parse_times(text, "times.json")
    assert caught.value.wanted == "what --exportTimes writes"


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    broken = records()
    del broken[2][key]
    with pytest.raises(InputUnusable, match="without all its keys") as caught:
        parse_times(json.dumps(broken), "times.json")
    assert key in (caught.value.got or "")
    assert "run 2" in (caught.value.where or "")


@pytest.mark.parametrize("value", [-1.0, "1.5", None, True, [], {}, 10**400])
@pytest.mark.parametrize("key", KEYS)
def test_what_is_no_duration_is_refused(key: str, value: object) -> None:
    broken = records()
    broken[1][key] = value
    with pytest.raises(InputUnusable):
        parse_times(json.dumps(broken), "times.json")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(word: str) -> None:
    text = json.dumps(records()).replace('"computeMs": 1.5', f'"computeMs": {word}')
    assert word in text
    with pytest.raises(InputUnusable):
        parse_times(text, "times.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("computeMs", 0.0), ("latencyMs", 9.0), ("latencyMs", 0.1), ("endComputeMs", 1.0), ("h2dMs", 5.0)],
)
def test_figures_that_contradict_each_other_are_refused(key: str, value: float) -> None:
    broken = records()
    broken[0][key] = value
    with pytest.raises(InputUnusable, match="impossible"):
        parse_times(json.dumps(broken), "times.json")


def test_keys_that_are_not_known_are_no_fault() -> None:
    more = [{**record, "somethingNewMs": -1} for record in records()]
    assert len(parse_times(json.dumps(more), "times.json")) == 4


milliseconds = st.floats(min_value=0.0, max_value=1e4, allow_subnormal=False)


@given(st.lists(st.tuples(milliseconds, milliseconds, st.floats(0.001, 1e4), milliseconds), min_size=1, max_size=5))
def test_what_trtexec_would_print_is_read_to_its_own_digits(stages: list[tuple[float, float, float, float]]) -> None:
    lines = []
    for start, h2d, compute, d2h in stages:
        ends = (start, start + h2d, start + h2d + compute, start + h2d + compute + d2h)
        values = (
            start,
            start,
            start,
            ends[1],
            ends[1],
            ends[2],
            ends[2],
            ends[3],
            h2d,
            compute,
            d2h,
            h2d + compute + d2h,
        )
        lines.append("{" + ", ".join(f'"{key}": {value:.6g}' for key, value in zip(KEYS, values, strict=True)) + "}")
    runs = parse_times("[" + ",".join(lines) + "]", "times.json")
    assert len(runs) == len(stages)
    for run, (_, h2d, compute, d2h) in zip(runs, stages, strict=True):
        assert math.isclose(run.latency, (h2d + compute + d2h) / 1e3, rel_tol=1e-4)
        assert math.isclose(run.compute, compute / 1e3, rel_tol=1e-4)


@given(
    st.text()
    | st.recursive(
        st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(json.dumps)
)
def test_nonsense_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputUnusable):
        parse_times(text, "times.json")

"""Rounds on the disk: all that were finished are found again, and none that belong to something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.bench.journal import RoundLine, forget, opened, path_beside
from edgekit.bench.telemetry import Reading
from edgekit.errors import UsageError


def line(number: int) -> RoundLine:
    return RoundLine("onnxruntime-cpu", 0, {"a/onnx-fp32": (number + 0.5, 0.25)}, Reading(1.0, steal_s=0.1))


def fill(out: Path, count: int, key: str = "k") -> None:
    with opened(out, key, RoundLine) as kept:
        for number in range(count):
            kept.add(line(number))


def lines(out: Path, key: str = "k") -> list[RoundLine]:
    with opened(out, key, RoundLine) as kept:
        return list(kept.lines)


def test_the_same_key_finds_every_round(tmp_path):
    fill(tmp_path / "b.json", 3)
    assert lines(tmp_path / "b.json") == [line(0), line(1), line(2)]


def test_it_goes_on_behind_them(tmp_path):
    fill(tmp_path / "b.json", 2)
    with opened(tmp_path / "b.json", "k", RoundLine) as kept:
        kept.add(line(2))
    assert len(lines(tmp_path / "b.json")) == 3


def test_another_key_starts_afresh(tmp_path):
    fill(tmp_path / "b.json", 3)
    assert lines(tmp_path / "b.json", "other") == []
    assert lines(tmp_path / "b.json") == []  # and the old rounds are gone for good


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.integers(0, 1200))
def test_a_file_that_was_cut_off_anywhere_keeps_its_whole_rounds(tmp_path, cut):
    out = tmp_path / "b.json"
    forget(out)
    fill(out, 4)
    file = path_beside(out)
    data = file.read_bytes()
    file.write_bytes(data[: min(cut, len(data))])
    whole = max(0, data[: min(cut, len(data))].count(b"\n") - 1)
    assert lines(out) == [line(number) for number in range(whole)]
    with opened(out, "k", RoundLine) as kept:
        kept.add(line(9))
    assert lines(out) == [*(line(number) for number in range(whole)), line(9)]


@pytest.mark.parametrize("garbage", [b"\xff\xfe\n", b"[]\n", b'{"runtime": 1}\n', b"[" * 5000 + b"\n"])
def test_garbage_ends_what_is_trusted(tmp_path, garbage):
    out = tmp_path / "b.json"
    fill(out, 1)
    with path_beside(out).open("ab") as file:
        file.write(garbage)
    assert lines(out) == [line(0)]


def test_two_at_once_are_refused(tmp_path):
    with opened(tmp_path / "b.json", "k", RoundLine), pytest.raises(UsageError, match="measuring into this file"):
        fill(tmp_path / "b.json", 1)


def test_forgotten_is_gone(tmp_path):
    fill(tmp_path / "b.json", 1)
    forget(tmp_path / "b.json")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as caught, opened(tmp_path / "file" / "b.json", "k", RoundLine):
        pass
    assert "file" in str(caught.value.where)

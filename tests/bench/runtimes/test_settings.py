"""What nobody chose gets a value that can be recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit.bench.runtimes import Settings
from edgekit.bench.runtimes._settings import refuse, refuse_transfers, usable_cores
from edgekit.errors import UsageError


def topology(root: Path, siblings: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("allowed", "siblings", "cores"),
    [
        ({0, 1, 2, 3}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, 2),
        ({0, 2}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, 1),
        ({0, 1}, {0: "0", 1: "1"}, 2),
        ({0, 1, 2}, {}, 3),
    ],
)
def test_threads_of_one_core_count_once(
    allowed: set[int], siblings: dict[int, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: allowed)
    assert usable_cores(topology(tmp_path, siblings)) == cores


def test_this_machine_has_cores() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_what_is_off_is_not_refused() -> None:
    refuse(Settings(cuda_graph=False), "cuda_graph", "compiled", "spin")
    refuse_transfers(Settings(transfers="none"))


def test_what_is_on_is_refused_by_name() -> None:
    with pytest.raises(UsageError) as caught:
        refuse(Settings(compiled=True), "cuda_graph", "compiled")
    assert caught.value.where == "compiled"
    with pytest.raises(UsageError):
        refuse_transfers(Settings(transfers="excluded"))

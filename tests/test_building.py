"""Engines are added to what the folder holds when its lock is had, not to what it held before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import building, manifest, pipeline, profile, sources
from edgekit.errors import InputUnusable, UsageError
from edgekit.plan import Plan
from edgekit.variant import Variant


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = Plan(
        sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path_factory.mktemp("built")
    )
    return pipeline.export_variant(Variant("mobilenet_v2", 0.1, 32), plan).directory


def test_what_another_edgekit_wrote_meanwhile_is_kept(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = manifest.locked

    @contextmanager
    def late(out: Path) -> Iterator[None]:
        """Somebody else is a moment faster."""
        staging = manifest.Staging(exported)
        staging.add_to(replace(manifest.read(exported), notes=("of somebody else",)))
        staging.discard()
        with lock(out):
            yield

    monkeypatch.setattr(manifest, "locked", late)
    building.build(exported, [profile.load("jetson-orin-jp62")])
    assert manifest.read(exported).notes == ("of somebody else",)


def test_while_another_edgekit_writes_nothing_is_built(exported: Path) -> None:
    with manifest.locked(exported.parent), pytest.raises(UsageError, match="another edgekit"):
        building.build(exported, [profile.load("cpu")])


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable):
        building.build(tmp_path / "nowhere" / "v2", [profile.load("cpu")])
    assert not (tmp_path / "nowhere").exists()

"""The folder of a training run as a source: what it says of itself, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgekit import sources
from edgekit.errors import InputUnusable, UsageError
from edgekit.manifest import sha256_file
from edgekit.models import _create
from edgekit.preprocessing import Preprocessing
from edgekit.sources import CheckpointWeights, Source
from edgekit.training import recipe, run_folder
from edgekit.training.run_folder import DataRecord, Run
from edgekit.variant import Variant

CONTRACT = Preprocessing(mean=(0.3, 0.3, 0.3), std=(0.37, 0.37, 0.37), crop=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with weights that nobody trained."""
    folder = tmp_path_factory.mktemp("runs") / "mobilenet_v2-a0.35-r32-tiny"
    folder.mkdir()
    module = _create.initial("mobilenet_v2", 0.35, 3, {}, 5)
    save_file(module.state_dict(), folder / run_folder.BEST)
    run = Run(
        created="2026-01-01",
        edgekit="0",
        model="mobilenet_v2",
        alpha=0.35,
        resolution=32,
        options={"rounding": "published"},
        head=("classifier",),
        num_classes=3,
        classes=("a", "b", "c"),
        preprocessing=CONTRACT,
        recipe=recipe.RECIPES["mobilenet"],
        data=DataRecord("tiny", "0", 0.1, 0, 9, 3),
        seed=0,
        weights="seed:5",
        params=1,
        asked={},
        tools={},
        machine={},
        status="done",
        files={run_folder.BEST: sha256_file(folder / run_folder.BEST)},
    )
    run_folder.write(folder, replace(run, options={}))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def variant(source: Source, **changes: object) -> Variant:
    return replace(Variant(source.slug, 0.35, 32), **changes)


def test_it_gives_the_runs_network_with_its_best_weights_and_its_own_preprocessing(folder):
    source = sources.parse_source(str(folder))
    assert (source.kind, source.slug) == ("run", "mobilenet_v2-tiny")
    weights = sources.parse_weights("none", source=source)
    assert weights == CheckpointWeights(folder / run_folder.BEST)
    loaded = sources.load(source, variant(source), weights)
    assert loaded.preprocessing == CONTRACT
    assert loaded.num_classes == 3
    expected = _create.initial("mobilenet_v2", 0.35, 3, {}, 5)
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded.module(image), expected(image))


def test_other_weights_of_the_run_can_be_named(folder):
    other = folder / run_folder.LAST
    save_file(_create.initial("mobilenet_v2", 0.35, 3, {}, 6).state_dict(), other)
    source = sources.parse_source(str(folder))
    assert sources.parse_weights(str(other), source=source) == CheckpointWeights(other)


@pytest.mark.parametrize(
    ("changes", "where"),
    [({"alpha": 0.5}, "--alpha"), ({"num_classes": 4}, "--num-classes"), ({"options": (("a", "b"),)}, "--option")],
)
def test_what_it_was_not_trained_as_is_refused(folder, changes, where):
    source = sources.parse_source(str(folder))
    with pytest.raises(UsageError, match="trained otherwise") as refused:
        sources.check(variant(source, **changes), sources.parse_weights("none", source=source), source)
    assert refused.value.where == where


def test_a_size_that_the_network_cannot_take_is_refused(folder):
    source = sources.parse_source(str(folder))
    with pytest.raises(UsageError, match="cannot take this resolution"):
        sources.check(variant(source, resolution=33), sources.parse_weights("none", source=source), source)


def test_changed_weights_and_a_run_without_any_are_refused(folder):
    source = sources.parse_source(str(folder))
    with (folder / run_folder.BEST).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputUnusable, match="not the weights that the run wrote"):
        sources.parse_weights("none", source=source)
    (folder / run_folder.BEST).unlink()
    with pytest.raises(InputUnusable, match="no such weights yet"):
        sources.parse_weights("none", source=source)


def test_its_identity_changes_with_its_preprocessing_and_not_with_its_place(folder, made):
    one, other = (sources.source_identity(sources.parse_source(str(place))) for place in (folder, made))
    assert one == other
    run = run_folder.read(folder)
    run_folder.write(folder, replace(run, preprocessing=replace(CONTRACT, crop=0.5)))
    assert sources.source_identity(sources.parse_source(str(folder))) != other

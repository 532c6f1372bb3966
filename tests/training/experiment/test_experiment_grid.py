"""What an experiment is asked for, its grid, and its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputUnusable, UsageError
from edgekit.sources import SeedWeights
from edgekit.training.experiment import folder
from edgekit.training.experiment.request import ALPHAS, NETWORKS, RESOLUTIONS, Cell, Experiment
from edgekit.training.recipe import RECIPES
from edgekit.training.sources import parse_data

SMALL = Experiment(NETWORKS, (0.5, 0.35), (32, 64), (0,), parse_data("digits"), RECIPES["mobilenet"])


# --- the grid


@given(
    st.lists(st.sampled_from([*NETWORKS, "densenet_bc"]), min_size=1),
    st.lists(st.sampled_from([1.0, 0.75, 0.5]), min_size=1),
    st.lists(st.sampled_from([32, 64, 96]), min_size=1),
    st.lists(st.integers(0, 5), min_size=1),
)
def test_the_cells_are_the_product_of_the_axes_each_once(
    networks: list[str], alphas: list[float], resolutions: list[int], seeds: list[int]
) -> None:
    asked = replace(
        SMALL, networks=tuple(networks), alphas=tuple(alphas), resolutions=tuple(resolutions), seeds=tuple(seeds)
    )
    widths = sum(1 if model == "densenet_bc" else len(set(alphas)) for model in set(networks))
    assert len(asked.cells) == len(set(asked.cells)) == widths * len(set(resolutions)) * len(set(seeds))
    assert len({cell.slug for cell in asked.cells}) == len(asked.cells)


def test_the_published_grid_has_60_cells() -> None:
    published = replace(SMALL, alphas=ALPHAS, resolutions=RESOLUTIONS)
    assert len(published.cells) == 60


def test_a_slug_says_which_cell_it_is() -> None:
    assert Cell("mobilenet_v2", 0.5, 160, 7).slug == "mobilenet_v2-a0.50-r160-s7"
    assert Cell("densenet_bc", None, 32, 0).slug == "densenet_bc-r32-s0"


def test_cells_differ_in_their_own_axes_alone() -> None:
    requests = [SMALL.train_request(cell, Path(cell.slug)) for cell in SMALL.cells]
    plain = {replace(it, model="", alpha=None, resolution=None, out=Path()) for it in requests}
    assert len(plain) == 1
    assert plain.pop().weights == SeedWeights(0)


def test_the_first_weights_follow_the_seed_and_not_the_size() -> None:
    asked = replace(SMALL, seeds=(3, 4))
    for cell in asked.cells:
        request = asked.train_request(cell, Path())
        assert (request.weights, request.seed) == (SeedWeights(cell.seed), cell.seed)


def test_a_relative_data_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    asked = replace(SMALL, data=parse_data("images"))
    request = asked.train_request(asked.cells[0], Path("out"))
    assert (request.data.path, request.out) == (tmp_path / "images", tmp_path / "out")
    assert request.data.text == "images"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"networks": ("mobilenet_v9",)}, "SOURCE"),
        ({"networks": ("se_mobilenet_style",)}, "NETWORK"),
        ({"networks": ()}, "the experiment"),
        ({"alphas": (0.0,)}, "--alpha"),
        ({"resolutions": (100,)}, "--res"),
        ({"seeds": (-1,)}, "--seeds"),
        ({"seeds": tuple(range(10_001))}, "the experiment"),
        ({"threads": 0}, "--threads"),
        ({"options": (("rounding", "upwards"),)}, "--option rounding"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(changes: dict[str, object], where: str) -> None:
    with pytest.raises(UsageError) as refused:
        replace(SMALL, **changes)
    assert refused.value.where == where


# --- the folder


def test_the_same_experiment_finds_its_folder_again(tmp_path: Path) -> None:
    with folder.opened(tmp_path, SMALL, force=False):
        pass
    before = (tmp_path / folder.NAME).read_bytes()
    with folder.opened(tmp_path, replace(SMALL, workers=3, checkpoint_every_s=1.0), force=False):
        pass
    assert (tmp_path / folder.NAME).read_bytes() == before
    assert folder.read(tmp_path).cells == tuple(cell.slug for cell in SMALL.cells)
    assert folder.threads_of(tmp_path) == 1


CHANGES = [
    {"networks": ("mobilenet_v2",)},
    {"alphas": (0.5,)},
    {"resolutions": (32, 64, 96)},
    {"seeds": (0, 1)},
    {"data": parse_data("fashion-mnist")},
    {"recipe": RECIPES["densenet-cifar"]},
    {"recipe": replace(RECIPES["mobilenet"], epochs=11)},
    {"options": (("rounding", "published"),)},
    {"threads": 2},
    {"val_share": 0.2},
    {"data_seed": 1},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_another_experiment_is_refused_and_the_difference_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    with folder.opened(tmp_path, SMALL, force=False):
        pass
    before = (tmp_path / folder.NAME).read_bytes()
    with (
        pytest.raises(UsageError, match="another experiment") as refused,
        folder.opened(tmp_path, replace(SMALL, **changes), force=False),
    ):
        pass
    assert refused.value.got != refused.value.wanted
    assert "--force" in str(refused.value.hint)
    assert (tmp_path / folder.NAME).read_bytes() == before


@pytest.mark.parametrize("changes", CHANGES)
def test_force_keeps_the_cells_that_are_the_same_and_no_others(tmp_path: Path, changes: dict[str, object]) -> None:
    with folder.opened(tmp_path, SMALL, force=False):
        kept = folder.run_of(tmp_path, SMALL.cells[0])
        kept.mkdir(parents=True)
    other = replace(SMALL, **changes)
    with folder.opened(tmp_path, other, force=True):
        assert kept.exists() == (set(changes) <= {"networks", "alphas", "resolutions", "seeds"})
    assert folder.read(tmp_path).asked == other.asked()


def test_two_processes_at_once_are_refused(tmp_path: Path) -> None:
    with folder.opened(tmp_path, SMALL, force=False), pytest.raises(UsageError, match="another edgekit"):  # noqa: SIM117
        with folder.opened(tmp_path, SMALL, force=False):
            pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": 1}',
        '{"schema": 2, "created": "", "edgekit": "", "asked": {}, "cells": []}',
        json.dumps({"asked": 3}),
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / folder.NAME).write_text(text)
    with pytest.raises(InputUnusable) as refused, folder.opened(tmp_path, SMALL, force=False):
        pass
    assert refused.value.where == str(tmp_path / folder.NAME)


def test_where_nothing_is_nothing_can_be_read(tmp_path: Path) -> None:
    assert folder.threads_of(tmp_path) is None
    with pytest.raises(InputUnusable, match="cannot read"):
        folder.read(tmp_path)

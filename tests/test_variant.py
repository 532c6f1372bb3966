"""A variant is a network at a width and a resolution within reason; its slug is its name on disk."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.variant import MAX_BATCH, MAX_RESOLUTION, Grid, Variant, format_alpha, unique

ALPHAS = st.floats(0, 16, exclude_min=True)
RESOLUTIONS = st.integers(1, MAX_RESOLUTION)
BATCHES = st.none() | st.integers(1, MAX_BATCH)
MODELS = st.sampled_from(["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"])
VARIANTS = st.builds(Variant, MODELS, st.none() | ALPHAS, RESOLUTIONS, BATCHES)


@pytest.mark.parametrize(
    ("variant", "slug"),
    [
        (Variant("mobilenet_v2", 0.5, 160), "mobilenet_v2-a0.50-r160"),
        (Variant("mobilenet_v2", 1, 224), "mobilenet_v2-a1.00-r224"),
        (Variant("mobilenet_v1", 0.125, 96), "mobilenet_v1-a0.125-r96"),
        (Variant("other", None, 32), "other-r32"),
        (Variant("mobilenet_v1", 1.0, 224, batch=8), "mobilenet_v1-a1.00-r224-b8"),
        (Variant("mobilenet_v1", 1.0, 224, batch=None), "mobilenet_v1-a1.00-r224-bdyn"),
        (
            Variant("mobilenet_v2", 0.5, 160, options=(("round", "divisible8"), ("x", "1"))),
            "mobilenet_v2-a0.50-r160-round-divisible8-x-1",
        ),
    ],
)
def test_the_slug_names_what_makes_the_variant(variant: Variant, slug: str) -> None:
    assert variant.slug == slug


@given(VARIANTS, VARIANTS)
def test_different_variants_never_share_a_slug(one: Variant, other: Variant) -> None:
    assert (one == other) == (one.slug == other.slug)


@given(VARIANTS)
def test_a_slug_is_a_plain_file_name(variant: Variant) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]+", variant.slug)


@given(ALPHAS)
def test_the_text_of_a_width_reads_back_as_that_width(alpha: float) -> None:
    assert float(format_alpha(alpha)) == alpha


@given(st.integers(1, 1600))
def test_hundredths_are_written_with_two_decimals(hundredths: int) -> None:
    assert re.fullmatch(r"\d+\.\d\d", format_alpha(hundredths / 100))


@pytest.mark.parametrize("alpha", [0.0, -0.0, -1.0, -1e-300, 16.001, 1e9, math.inf, -math.inf, math.nan])
def test_a_width_that_no_network_has_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError) as caught:
        Variant("mobilenet_v1", alpha, 224)
    assert caught.value.where == "--alpha"
    assert caught.value.got == str(alpha)
    assert "above 0" in (caught.value.wanted or "")


@given(st.integers())
def test_a_resolution_is_taken_exactly_within_its_limits(resolution: int) -> None:
    _taken_exactly(1 <= resolution <= MAX_RESOLUTION, "--res", lambda: Variant("m", 1.0, resolution))


@given(st.integers())
def test_a_batch_is_taken_exactly_within_its_limits(batch: int) -> None:
    _taken_exactly(1 <= batch <= MAX_BATCH, "--batch", lambda: Variant("m", 1.0, 224, batch))


@given(st.integers())
def test_a_number_of_classes_is_taken_exactly_within_its_limits(classes: int) -> None:
    _taken_exactly(1 <= classes <= 1_000_000, "--num-classes", lambda: Variant("m", 1.0, 224, num_classes=classes))


def _taken_exactly(fits: bool, option: str, make: object) -> None:
    assert callable(make)
    if fits:
        make()
        return
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.where == option


@pytest.mark.parametrize("value", [1, MAX_RESOLUTION])
def test_the_limits_themselves_are_taken(value: int) -> None:
    assert Variant("m", 16, value).resolution == value
    for outside in (0, MAX_RESOLUTION + 1):
        with pytest.raises(UsageError):
            replace(Variant("m", 16, value), resolution=outside)


@given(
    st.lists(MODELS, min_size=1, max_size=4),
    st.lists(st.sampled_from([1.0, 0.75, 0.5, 1, 0.35]), min_size=1, max_size=6),
    st.lists(st.sampled_from([224, 192, 160]), min_size=1, max_size=5),
    BATCHES,
)
def test_a_grid_is_every_combination_once_and_in_order(
    models: list[str], alphas: list[float], sizes: list[int], batch: int | None
) -> None:
    grid = Grid(tuple(models), tuple(alphas), tuple(sizes), batch, 10, (("k", "v"),))
    variants = list(grid)
    wanted = [(m, a, r) for m in unique(models) for a in unique(alphas) for r in unique(sizes)]
    assert [(v.model, v.alpha, v.resolution) for v in variants] == wanted
    assert len(grid) == len(variants) == len({v.slug for v in variants})
    assert {(v.batch, v.num_classes, v.options) for v in variants} == {(batch, 10, (("k", "v"),))}


def test_the_twenty_variants_of_the_main_grid() -> None:
    grid = Grid(("mobilenet_v2",), (1.0, 0.75, 0.5, 0.35), (224, 192, 160, 128, 96))
    assert len(grid) == 20
    assert next(iter(grid)).slug == "mobilenet_v2-a1.00-r224"


@given(st.lists(st.integers(0, 5)))
def test_unique_keeps_the_first_of_each(items: list[int]) -> None:
    found = unique(items)
    assert set(found) == set(items)
    assert [items.index(item) for item in found] == sorted({items.index(item) for item in items})


@given(VARIANTS, VARIANTS)
def test_variants_serve_as_keys(one: Variant, other: Variant) -> None:
    assume(one != other)
    assert {one: 1, other: 2, replace(one): 3} == {one: 3, other: 2}


def test_nothing_heavy_is_needed_to_name_a_variant() -> None:
    heavy = "torch", "torchvision", "onnx", "onnxruntime", "numpy", "tensorrt", "tensorrt_rtx", "polygraphy"
    code = f"import sys, edgekit.variant; sys.exit(' '.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

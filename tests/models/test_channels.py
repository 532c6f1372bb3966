"""Channel counts at a width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UsageError
from edgekit.models._channels import divisible_by_8, scale

alphas = st.floats(min_value=1e-3, max_value=16)
counts = st.integers(min_value=1, max_value=4096)


@given(st.floats(min_value=1e-6, max_value=1e5))
def test_divisible8_is_a_multiple_of_8_near_the_exact_width_and_never_far_below(width: float) -> None:
    rounded = divisible_by_8(width)
    assert rounded % 8 == 0
    assert rounded >= 8
    assert rounded >= 0.9 * width
    assert rounded <= max(8, width + 8)


@given(st.floats(min_value=1e-6, max_value=1e5), st.floats(min_value=1, max_value=2))
def test_a_wider_network_is_never_narrower_anywhere(width: float, more: float) -> None:
    # The 90 % rule lifts 83.9 .. 88.8 to 88 or 96 in steps: what must hold is that no step goes down by more than it.
    assert divisible_by_8(width * more) >= divisible_by_8(width) - 8


@given(counts, alphas)
def test_published_takes_the_whole_part_or_refuses(count: int, alpha: float) -> None:
    if int(count * alpha) >= 1:
        assert scale({"layer": count}, alpha, "published") == {"layer": int(count * alpha)}
    else:
        with pytest.raises(UsageError, match="leaves no channel in layer"):
            scale({"layer": count}, alpha, "published")


@given(counts)
def test_the_alpha_that_the_refusal_names_works(count: int) -> None:
    with pytest.raises(UsageError) as caught:
        scale({"layer": count}, 1e-6, "published")
    assert caught.value.wanted is not None
    named = float(caught.value.wanted.split("at least ")[1].split(" ")[0])
    assert scale({"layer": count}, named, "published")["layer"] >= 1


@given(st.dictionaries(st.text(min_size=1), counts, min_size=1), alphas)
def test_divisible8_keeps_a_channel_everywhere(channels: dict[str, int], alpha: float) -> None:
    scaled = scale(channels, alpha, "divisible8")
    assert list(scaled) == list(channels)
    assert min(scaled.values()) >= 8


def test_published_channels_at_035_are_those_of_the_course_notes() -> None:
    exact = {str(count): count for count in (32, 16, 24, 32, 64, 96, 160, 320, 1280)}
    assert list(scale(exact, 0.35, "published").values()) == [11, 5, 8, 22, 33, 56, 112, 448]

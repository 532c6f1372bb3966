"""Published accuracy is given to the very network that it was published for, and to no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import report_grids as grids

from edgekit.manifest import VariantRecord
from edgekit.models._channels import scale
from edgekit.models.mobilenet_v1 import STEM, TABLE
from edgekit.report import published
from edgekit.variant import Variant

V2 = VariantRecord("mobilenet_v2", 0.5, 160, 1, 1000, {})


def test_it_is_found_with_who_published_it() -> None:
    found = published.lookup(V2)
    assert found is not None
    assert (found.top1, found.by) == (61.0, "tensorflow/models")
    assert found.source.startswith("https://github.com/tensorflow/models/blob/")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "c_mobilenet_v2"},
        {"alpha": 0.6},
        {"alpha": None},
        {"resolution": 161},
        {"resolution": None},
        {"num_classes": 10},
        {"num_classes": None},
        {"options": {"rounding": "published"}},
        {"options": {"rounding": "divisible8", "something": "else"}},
    ],
)
def test_any_other_form_has_none(changes: dict[str, object]) -> None:
    assert published.lookup(replace(V2, **changes)) is None  # type: ignore[arg-type]


def test_the_batch_and_a_default_that_is_spelled_out_change_nothing() -> None:
    assert published.lookup(replace(V2, batch=4, options={"rounding": "divisible8"})) == published.lookup(V2)


@pytest.mark.parametrize("alpha", [row.alpha for row in published.tables()["mobilenet_v1"].rows])
def test_both_roundings_of_v1_are_the_published_network(alpha: float) -> None:
    """What ROUNDINGS rests on."""
    channels = {"stem": STEM, **{str(count): count for count, _, _ in TABLE}}
    assert scale(channels, alpha, "divisible8") == scale(channels, alpha, "published")


def test_the_roundings_of_v2_differ_so_only_one_is_the_published_network() -> None:
    assert scale({"block": 32}, 0.35, "divisible8") != scale({"block": 32}, 0.35, "published")


def test_a_network_from_elsewhere_of_that_name_has_none() -> None:
    made = grids.manifest(Variant("mobilenet_v2", 0.5, 160))
    assert published.of(made) is not None
    assert published.of(replace(made, source="mobilenet_v2.onnx")) is None


def test_wider_and_larger_is_never_less_accurate() -> None:
    """A slip of the pen in the table would show here."""
    for table in published.tables().values():
        for one in table.rows:
            for other in table.rows:
                if one.alpha >= other.alpha and one.resolution >= other.resolution:
                    assert one.top1 >= other.top1


def test_the_tables_are_as_long_as_published() -> None:
    assert {name: len(table.rows) for name, table in published.tables().items()} == {
        "mobilenet_v1": 12,
        "mobilenet_v2": 20,
    }
    assert Path(published.FILE).is_file()

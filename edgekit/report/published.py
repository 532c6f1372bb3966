"""ImageNet top-1 that others published for the MobileNets: what is known of a variant before anybody measured it.

The figures belong to the weights that their publishers trained. For an export with other weights they only say what a
network of this shape has reached, so they rank variants and are always shown with the name of who published them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit import schema
from edgekit.manifest import Manifest, VariantRecord

FILE = Path(__file__).with_name("published_accuracy.json")
CLASSES = 1000

# TensorFlow's MobileNet v1 scales channels by int(), v2 to multiples of 8. For v1 the two give the same counts at every
# published width, so that either rounding is the published network; for v2 only one of them is.
ROUNDINGS = {"mobilenet_v1": ("divisible8", "published"), "mobilenet_v2": ("divisible8",)}
DEFAULT_ROUNDING = "divisible8"


@dataclass(frozen=True)
class Row:
    """Top-1 in per cent of one width and resolution."""

    alpha: float
    resolution: int
    top1: float


@dataclass(frozen=True)
class Table:
    """One network's figures, who published them, and where."""

    by: str
    source: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Published:
    """ImageNet top-1 in per cent (single crop), published `by` somebody; never measured here."""

    top1: float
    by: str
    source: str


@cache
def tables() -> Mapping[str, Table]:
    """The published figures by network."""
    data = json.loads(FILE.read_text())
    return {name: schema.read(Table, table) for name, table in data.items()}


def of(manifest: Manifest) -> Published | None:
    """What was published for this very network, width, resolution and rounding; None for all others."""
    # A network from elsewhere may bear the same name.
    return lookup(manifest.variant) if manifest.source == manifest.variant.model else None


def lookup(variant: VariantRecord) -> Published | None:
    """The published figure of a reference network's variant, if there is one."""
    table = tables().get(variant.model)
    if table is None or variant.num_classes != CLASSES or not _as_published(variant):
        return None
    for row in table.rows:
        if (row.alpha, row.resolution) == (variant.alpha, variant.resolution):
            return Published(row.top1, table.by, table.source)
    return None


def _as_published(variant: VariantRecord) -> bool:
    options = {"rounding": DEFAULT_ROUNDING, **variant.options}
    return options.keys() == {"rounding"} and options["rounding"] in ROUNDINGS[variant.model]

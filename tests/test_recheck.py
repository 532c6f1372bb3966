"""Networks are made again from their manifests: as they were asked for, whatever was found out about them since."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit import manifest, pipeline, profile, recheck, sources
from edgekit.errors import UsageError
from edgekit.plan import Plan
from edgekit.variant import Variant

NET = """
import torch
from torch import nn

def fixed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

def open(num_classes=7):
    net = fixed()
    net[4] = nn.Linear(8, num_classes)
    return net
"""


@pytest.mark.parametrize(("factory", "asked", "found"), [("fixed", None, 5), ("open", None, 7), ("open", 3, 3)])
def test_a_factory_s_ladder_is_climbed_again(tmp_path: Path, factory: str, asked: int | None, found: int) -> None:
    (tmp_path / "net.py").write_text(NET)
    source = sources.parse_source(f"{tmp_path / 'net.py'}:{factory}")
    plan = Plan(
        sources.parse_weights("none", source=source), (profile.load("cpu"),), ("fp32",), out=tmp_path, sources=(source,)
    )
    outcome = pipeline.export_variant(Variant(source.slug, None, 32, num_classes=asked), plan)
    described = manifest.read(outcome.directory)
    assert described.variant.num_classes == found
    assert recheck.climb_again(described, outcome.directory).passed


def test_other_mistakes_are_not_forgiven(tmp_path: Path) -> None:
    plan = Plan(sources.SeedWeights(0), (profile.load("cpu"),), ("fp32",), parity="quick", out=tmp_path)
    outcome = pipeline.export_variant(Variant("mobilenet_v2", 0.1, 32), plan)

    def refuse(variant: Variant) -> None:
        raise UsageError("no", where="--alpha", got=str(variant.num_classes))

    with pytest.raises(UsageError, match="no") as caught:
        recheck.as_asked(manifest.read(outcome.directory), refuse)
    assert caught.value.got == "1000"

"""The reference networks: the figures of the reference tables, found by file name, and the shape that exports need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit import models
from edgekit.errors import UsageError
from edgekit.graph.from_torch import norm_pairs
from edgekit.models import _create
from edgekit.models._counting import count
from edgekit.models._options import Value, forms
from edgekit.preprocessing import CONTRACTS

REFERENCE = Path(__file__).parents[1] / "reference"
NETWORKS = ["c_mobilenet_v2", "mobilenet_v1", "mobilenet_v2"]
ROUNDINGS = {"published_rounding": "published", "divisible8": "divisible8"}


def reference_counts() -> list[tuple[str, str, float, int, int, int]]:
    """Every figure for these networks: (network, rounding, alpha, resolution, params, MACs), with 10 classes."""
    grid = json.loads((REFERENCE / "model_counts.json").read_text())["grid"]
    return [
        (name, ROUNDINGS[rounding], float(alpha), int(resolution), figures["params"], macs)
        for name in NETWORKS
        for rounding, by_classes in grid[name].items()
        for alpha, figures in by_classes["num_classes_10"].items()
        for resolution, macs in figures["macs"].items()
    ]


def test_the_reference_table_is_all_there() -> None:
    assert len(reference_counts()) == (1 + 2 + 1) * 4 * 5


@pytest.mark.parametrize(("name", "rounding", "alpha", "resolution", "params", "macs"), reference_counts())
def test_counts_are_those_of_the_reference_table(
    name: str, rounding: str, alpha: float, resolution: int, params: int, macs: int
) -> None:
    counts = count(_create.skeleton(name, alpha, 10, {"rounding": rounding}), resolution)
    assert (counts.params, counts.macs) == (params, macs)


OTHERS: dict[str, tuple[str, float | None, int | None, dict[str, Value], int]] = {
    # figure: network, alpha, classes, options, resolution
    "se_mobilenet_style tail=published alpha=1 @224": ("se_mobilenet_style", 1.0, None, {"tail": "published"}, 224),
    "se_mobilenet_style tail=published alpha=0.75 @224": ("se_mobilenet_style", 0.75, None, {"tail": "published"}, 224),
    "se_mobilenet_style tail=published alpha=0.5 @224": ("se_mobilenet_style", 0.5, None, {"tail": "published"}, 224),
    "inception_v3 published @299, 1000 classes": ("inception_v3", None, 1000, {}, 299),
    "inception_v4 published (64) @299": ("inception_v4", None, 1000, {"variant": "published"}, 299),
    "inception_v4 default (192) @299": ("inception_v4", None, 1000, {}, 299),
    "inception_resnet_v2 published @299": ("inception_resnet_v2", None, 1000, {}, 299),
    "densenet_bc 100/12/.5 @32, 10 classes": ("densenet_bc", None, 10, {}, 32),
    "densenet plain depth 40 growth 12 @32, 10 classes": (
        "densenet_bc",
        None,
        10,
        {"depth": 40, "growth": 12, "reduction": 1.0, "bottleneck": False},
        32,
    ),
    "resnet50_transfer @224, 2 classes": ("resnet50_transfer", None, 2, {}, 224),
}


def other_figures() -> dict[str, dict[str, int]]:
    figures: dict[str, dict[str, int]] = json.loads((REFERENCE / "model_counts.json").read_text())["others"]
    return figures


@pytest.mark.parametrize("figure", other_figures())
def test_counts_of_the_other_networks_are_those_of_the_reference_table(figure: str) -> None:
    name, alpha, classes, options, resolution = OTHERS[figure]
    counts = count(_create.skeleton(name, alpha, classes, options), resolution)
    backbone = sum(layer.params for layer in counts.layers if layer.name.startswith("features."))
    found = {
        "params": counts.params,
        "macs": counts.macs,
        "macs_eval": counts.macs,
        "params_aux": counts.training_only,
        "params_with_aux": counts.params + counts.training_only,
        "backbone": backbone,
        "head": counts.params - backbone,
    }
    wanted = other_figures()[figure]
    assert {key: found[key] for key in wanted} == wanted


def official_rows(name: str) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = json.loads((REFERENCE / "official_mobilenet.json").read_text())[name]["rows"]
    return rows


@pytest.mark.parametrize("row", official_rows("mobilenet_v2"), ids=str)
def test_mobilenet_v2_costs_what_its_authors_published(row: dict[str, float]) -> None:
    counts = count(_create.skeleton("mobilenet_v2", row["alpha"], 1000, {}), int(row["res"]))
    norms = sum(layer.params for layer in counts.layers if layer.kind == "BatchNorm2d")
    assert round((counts.params - norms) / 1e6, 2) == row["params_M"]
    assert counts.macs // 10**6 == row["macs_M"]


@pytest.mark.parametrize("row", official_rows("mobilenet_v1"), ids=str)
def test_mobilenet_v1_costs_what_its_authors_published(row: dict[str, float]) -> None:
    counts = count(_create.skeleton("mobilenet_v1", row["alpha"], 1000, {}), int(row["res"]))
    left_out = counts.layers[0].macs if row["alpha"] == 0.75 else 0  # those rows leave out the first convolution
    assert (counts.macs - left_out) / 1e6 == pytest.approx(row["macs_M"], abs=0.51)


def test_networks_are_found_by_file_name() -> None:
    assert models.names() == sorted(models.names())
    assert set(NETWORKS) | {name for name, *_ in OTHERS.values()} <= set(models.names())
    assert not [name for name in models.names() if name.startswith("_")]


def test_a_new_network_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_net.py").write_text(
        "from edgekit.models._info import ModelInfo\n"
        "INFO = ModelInfo('Tiny', 'a test', stride=2, default_resolution=8, has_alpha=False, num_classes=3)\n"
        "def build(num_classes: int = 3, *, wide: bool = False):\n"
        "    from edgekit.models._blocks import ConvNorm, chain, head\n"
        "    width = 16 if wide else 8\n"
        "    return chain(stem=ConvNorm(3, width, 3, stride=2), **head(width, num_classes))\n"
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    assert "tiny_net" in models.names()
    module = _create.seeded("tiny_net", None, 3, {"wide": True}, seed=0)
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    with pytest.raises(UsageError, match="no width multiplier"):
        _create.skeleton("tiny_net", 0.5, 3, {})


@pytest.mark.parametrize("wrong", ["mobilnet_v2", "MobileNet_V2", "_blocks", "", "../errors", "mobilenet_v2.py"])
def test_an_unknown_network_is_named_with_its_neighbours(wrong: str) -> None:
    with pytest.raises(UsageError) as caught:
        models.load(wrong)
    assert caught.value.exit_code == 2
    assert "mobilenet_v2" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("resolution", "nearest"),
    [
        (161, "160 or 192"),
        (7, "32"),
        (0, "32"),
        (-5, "32"),
        (31, "32"),
        (33, "32 or 64"),
        (10**9 + 1, "1000000000 or 1000000032"),
    ],
)
def test_a_resolution_that_does_not_fit_is_refused_with_the_nearest(resolution: int, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        models.check_resolution("mobilenet_v2", resolution)
    assert caught.value.hint == f"the nearest: {nearest}"
    assert caught.value.got == str(resolution)


@pytest.mark.parametrize("resolution", [32, 96, 160, 224, 8192])
def test_multiples_of_the_stride_are_taken(resolution: int) -> None:
    models.check_resolution("mobilenet_v1", resolution)


@pytest.mark.parametrize(
    ("name", "resolution", "wanted", "nearest"),
    [
        ("inception_v3", 74, "75 or more", "75"),
        ("inception_v4", 0, "75 or more", "75"),
        ("se_mobilenet_style", 16, "17 or more", "17"),
        ("densenet_bc", 30, "a multiple of 4", "28 or 32"),
        ("densenet_bc", 2, "a multiple of 4", "4"),
        ("resnet50_transfer", 230, "a multiple of 32", "224 or 256"),
    ],
)
def test_a_resolution_below_the_smallest_is_refused_with_what_works(
    name: str, resolution: int, wanted: str, nearest: str
) -> None:
    with pytest.raises(UsageError) as caught:
        models.check_resolution(name, resolution)
    assert (caught.value.wanted, caught.value.hint) == (wanted, f"the nearest: {nearest}")
    models.check_resolution(name, models.info(name).smallest)


def test_a_smallest_resolution_need_not_be_a_multiple(monkeypatch: pytest.MonkeyPatch) -> None:
    about = models.ModelInfo("Odd", "a test", stride=8, default_resolution=32, has_alpha=False, smallest=20)
    monkeypatch.setattr(models, "info", lambda name: about)
    with pytest.raises(UsageError) as caught:
        models.check_resolution("odd", 16)
    assert (caught.value.wanted, caught.value.hint) == ("a multiple of 8, 24 or more", "the nearest: 24")
    models.check_resolution("odd", 24)


@pytest.mark.parametrize("name", sorted({name for name, *_ in OTHERS.values()}))
def test_the_smallest_resolution_works_and_a_smaller_one_does_not(name: str) -> None:
    module, smallest = _create.skeleton(name, None, None, {}), models.info(name).smallest
    count(module, smallest)
    if smallest > models.info(name).stride:
        with pytest.raises((RuntimeError, ValueError)):
            count(module, smallest - 1)


def test_classes_of_a_network_without_any_are_refused() -> None:
    with pytest.raises(UsageError, match="has no classes") as caught:
        _create.skeleton("se_mobilenet_style", None, 10, {})
    assert caught.value.where == "--num-classes"
    with pytest.raises(UsageError, match="has no width multiplier"):
        _create.skeleton("inception_v3", 0.5, 10, {})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_have_the_shape_of_the_batch(name: str, batch: int) -> None:
    module = _create.seeded(name, 0.25, 7, {}, seed=1)
    assert module(torch.zeros(batch, 3, 64, 96)).shape == (batch, 7)


@pytest.mark.parametrize("name", models.names())
def test_info_agrees_with_build(name: str) -> None:
    import inspect

    parameters = inspect.signature(models.load(name).build).parameters
    info = models.info(name)
    assert info.has_alpha == ("alpha" in parameters)
    assert (info.num_classes is None) == (info.task == "image") == ("num_classes" not in parameters)
    if info.num_classes is not None:
        assert info.num_classes == parameters["num_classes"].default
    assert info.default_resolution % info.stride == 0
    assert info.default_resolution >= info.smallest
    assert info.preprocessing in CONTRACTS


def every_form() -> list[tuple[str, dict[str, Value]]]:
    return [(name, form) for name in models.names() for form in forms(name)]


@pytest.mark.parametrize(("name", "form"), every_form(), ids=str)
def test_every_batch_norm_directly_follows_its_convolution(name: str, form: dict[str, Value]) -> None:
    """The exporter folds by that. A densenet's layers begin with their norms: of those, no convolution is in front."""
    module = _create.skeleton(name, None, None, form)
    norms = {path for path, child in module.named_modules() if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d)}
    folded = set(norm_pairs(module).values())
    if name == "densenet_bc":
        assert folded == {path for path in norms if path.endswith(".reduce.norm")}
        assert len(folded) == (0 if form else 48)
    else:
        assert folded == norms


@pytest.mark.parametrize(("name", "form"), every_form(), ids=str)
def test_nothing_works_in_place(name: str, form: dict[str, Value]) -> None:
    """Every intermediate tensor is read when layers are compared: none may be overwritten."""
    children = _create.skeleton(name, None, None, form).modules()
    assert not [child for child in children if getattr(child, "inplace", False)]


def test_layers_have_names_that_say_where_they_are() -> None:
    names = set(dict(_create.skeleton("c_mobilenet_v2", 1.0, 10, {}).named_modules()))
    wanted = {"stem.conv", "blocks.1.expand.conv", "blocks.0.depthwise.norm", "blocks.16.project.conv"}
    assert wanted | {"blocks.1.shortcut.act", "tail.act", "pool", "classifier"} <= names


def test_the_relu6_on_the_shortcut_can_be_left_out() -> None:
    published = _create.skeleton("c_mobilenet_v2", 1.0, 10, {})
    plain = _create.skeleton("c_mobilenet_v2", 1.0, 10, {"shortcut_act": False})

    def clipped(module: nn.Module) -> list[str]:
        named = module.named_modules()
        return [name for name, child in named if "shortcut" in name and isinstance(child, nn.ReLU6)]

    # Ten of seventeen blocks keep size and width; the others need a convolution on their shortcut.
    assert (len(clipped(published)), len(clipped(plain))) == (7, 0)


def test_c_mobilenet_v2_ends_every_block_with_leaky_relu() -> None:
    module = _create.skeleton("c_mobilenet_v2", 1.0, 10, {})
    acts = [block.act for block in module.blocks]
    assert len(acts) == 17
    assert all(isinstance(act, nn.LeakyReLU) and act.negative_slope == 0.01 for act in acts)


@pytest.mark.parametrize(
    ("name", "layer", "smallest"), [("mobilenet_v1", "stem", 1 / 32), ("mobilenet_v2", "blocks.0", 1 / 16)]
)
def test_a_width_without_channels_is_refused_and_the_smallest_that_works_is_named(
    name: str, layer: str, smallest: float
) -> None:
    with pytest.raises(UsageError) as caught:
        _create.skeleton(name, smallest * 0.999, 10, {"rounding": "published"})
    assert layer in caught.value.what
    assert f"{smallest * 0.999:g}" in caught.value.what
    assert f"{smallest:g}" in (caught.value.wanted or "")
    _create.skeleton(name, smallest, 10, {"rounding": "published"})
    _create.skeleton(name, smallest * 0.999, 10, {"rounding": "divisible8"})


def test_building_on_the_meta_device_leaves_the_global_random_generator_alone() -> None:
    before = torch.random.get_rng_state()
    _create.seeded("mobilenet_v1", 0.25, 10, {}, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())

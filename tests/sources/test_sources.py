"""From the words on the command line to a network with weights."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekit import sources
from edgekit.checkpoints import digest
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.manifest import TensorSpec
from edgekit.models import _create
from edgekit.models._info import PretrainedWeights
from edgekit.preprocessing import IMAGENET
from edgekit.sources import (
    CheckpointWeights,
    LibraryWeights,
    OwnWeights,
    SeedWeights,
    Source,
    TorchvisionWeights,
    Weights,
)
from edgekit.variant import Variant


def variant(model: str = "mobilenet_v2", alpha: float | None = 0.25, **rest: object) -> Variant:
    return Variant(model, alpha, 96, **rest)  # type: ignore[arg-type]


def seeded(model: str = "mobilenet_v2", alpha: float = 0.25, classes: int = 10, **options: str) -> dict[str, Tensor]:
    return _create.seeded(model, alpha, classes, options, seed=1).state_dict()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return seeded()


@pytest.fixture
def checkpoint(tmp_path: Path, state: dict[str, Tensor]) -> CheckpointWeights:
    torch.save(state, tmp_path / "weights.pt")
    return CheckpointWeights(tmp_path / "weights.pt")


def in_torchvisions_names(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The same tensors under torchvision's names, which come in the same order."""
    from torchvision.models import mobilenet_v2

    with torch.device("meta"):
        names = mobilenet_v2(width_mult=alpha).state_dict()
    return dict(zip(names, state.values(), strict=True))


def test_a_reference_name_is_a_source() -> None:
    assert sources.parse_source("mobilenet_v1") == sources.Source("reference", "mobilenet_v1")
    with pytest.raises(UsageError, match="mobilenet_v1"):
        sources.parse_source("mobilenet_1")


def test_weights_are_none_default_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"x")
    assert sources.parse_weights("none", model="mobilenet_v2", seed=7) == SeedWeights(7)
    assert sources.parse_weights(str(path), model="mobilenet_v2") == CheckpointWeights(path)
    default = sources.parse_weights("default", model="mobilenet_v2")
    assert default.kind == "torchvision"


def test_default_is_refused_where_there_are_no_published_weights() -> None:
    with pytest.raises(UsageError, match="no weights for mobilenet_v1") as caught:
        sources.parse_weights("default", model="mobilenet_v1")
    assert "mobilenet_v2" in (caught.value.wanted or "")


def test_a_file_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(InputUnusable, match="did you mean default"):
        sources.parse_weights("defualt", model="mobilenet_v2")
    with pytest.raises(InputUnusable, match="no such weights file"):
        sources.parse_weights("~nobody/weights.pt", model="mobilenet_v2")
    with pytest.raises(InputUnusable, match="no such weights file"):
        sources.parse_weights("x" * 300, model="mobilenet_v2")


@pytest.mark.parametrize(
    ("text", "none", "default"),
    [
        ("torchvision:resnet18", SeedWeights(3), LibraryWeights("torchvision", "resnet18")),
        ("timm:resnet18", SeedWeights(3), LibraryWeights("timm", "resnet18")),
    ],
)
def test_a_librarys_network_has_random_and_published_weights(text: str, none: Weights, default: Weights) -> None:
    source = sources.parse_source(text)
    assert sources.parse_weights("none", source=source, seed=3) == none
    assert sources.parse_weights("default", source=source) == default
    assert sources.identity(default) == f"{text}:default"


def test_a_factory_brings_its_weights_and_takes_a_checkpoint(tmp_path: Path) -> None:
    source = Source("factory", "net.py:make")
    (tmp_path / "w.pt").write_bytes(b"x")
    assert sources.parse_weights("none", source=source, seed=3) == OwnWeights(3)
    assert sources.identity(OwnWeights(3)) != sources.identity(SeedWeights(3))
    assert sources.parse_weights(str(tmp_path / "w.pt"), source=source) == CheckpointWeights(tmp_path / "w.pt")
    with pytest.raises(UsageError, match="nobody publishes"):
        sources.parse_weights("default", source=source)


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "exported"])
def test_a_file_has_its_weights_in_it(kind: str, checkpoint: CheckpointWeights) -> None:
    source = Source(kind, "net")  # type: ignore[arg-type]
    assert sources.parse_weights("none", source=source) == OwnWeights(0)
    for text in (str(checkpoint.path), "default"):
        with pytest.raises(UsageError):
            sources.parse_weights(text, source=source)


def test_weights_of_another_source_are_refused() -> None:
    for weights in (OwnWeights(0), LibraryWeights("timm", "resnet18")):
        with pytest.raises(UsageError, match="of another source"):
            sources.check(variant(), weights)


def test_a_reference_network_loads_like_any_other_source() -> None:
    source = sources.parse_source("mobilenet_v1")
    found = sources.load(source, Variant("mobilenet_v1", None, 96, num_classes=10), SeedWeights(2))
    alone = sources.network(Variant("mobilenet_v1", 1.0, 96, num_classes=10), SeedWeights(2))
    assert digest(found.module.state_dict()) == digest(alone.state_dict())
    assert found.inputs == (TensorSpec("input", "float32", ("batch", 3, 96, 96)),)
    assert (found.outputs, found.task, found.alpha, found.resolution) == (("logits",), "classification", 1.0, 96)
    assert found.preprocessing == IMAGENET
    assert found.weights == "seed:2"


def test_without_a_resolution_the_networks_own_is_taken() -> None:
    unsized = Variant("mobilenet_v1", 0.25, None)
    assert unsized.slug == "mobilenet_v1-a0.25"
    sources.check(unsized, SeedWeights(0))
    found = sources.load(sources.parse_source("mobilenet_v1"), unsized, SeedWeights(0))
    assert found.inputs[0].shape == ("batch", 3, 224, 224)


def test_an_onnx_file_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    source = sources.parse_source(str(tmp_path / "net.onnx"))
    with pytest.raises(InputUnusable, match="no PyTorch module"):
        sources.load(source, Variant("net", None, 96), OwnWeights(0))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="seed"):
        sources.parse_weights("none", model="mobilenet_v2", seed=seed)


def test_the_identity_tells_weights_apart(checkpoint: CheckpointWeights, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(checkpoint.path.read_bytes())
    default = sources.parse_weights("default", model="mobilenet_v2")
    assert sources.identity(checkpoint) == sources.identity(CheckpointWeights(copy))
    assert sources.identity(checkpoint) == f"sha256:{hashlib.sha256(copy.read_bytes()).hexdigest()}"
    assert sources.identity(SeedWeights(3)) == "seed:3"
    assert sources.identity(default) == "torchvision:MobileNet_V2_Weights.IMAGENET1K_V2:mobilenet_v2-7ebf99e0.pth"
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert sources.identity(checkpoint) != sources.identity(CheckpointWeights(copy))
    with pytest.raises(InputUnusable):
        sources.identity(CheckpointWeights(tmp_path))


def ready(module: nn.Module) -> bool:
    flags = [child.training for child in module.modules()]
    return not any(flags) and not any(parameter.requires_grad for parameter in module.parameters())


def test_a_seed_gives_the_same_network_at_every_resolution() -> None:
    small = sources.network(Variant("mobilenet_v1", 0.25, 96, num_classes=10), SeedWeights(2))
    large = sources.network(Variant("mobilenet_v1", 0.25, 224, batch=None, num_classes=10), SeedWeights(2))
    assert digest(small.state_dict()) == digest(large.state_dict())
    assert ready(small)


def test_without_a_width_or_classes_the_networks_own_are_taken() -> None:
    module = sources.network(variant(alpha=None), SeedWeights(0))
    assert module.classifier.weight.shape == (1000, 1280)


def test_options_reach_the_network() -> None:
    module = sources.network(variant(alpha=0.35, options=(("rounding", "published"),)), SeedWeights(0))
    assert module.tail.conv.out_channels == 448


def test_a_checkpoint_brings_its_own_number_of_classes(checkpoint: CheckpointWeights, state: dict[str, Tensor]) -> None:
    module = sources.network(variant(), checkpoint)
    assert digest(module.state_dict()) == digest(state)
    assert ready(module)


@pytest.mark.parametrize("bare", [False, True])
def test_torchvisions_names_are_understood(tmp_path: Path, state: dict[str, Tensor], bare: bool) -> None:
    renamed = in_torchvisions_names(state, 0.25)
    path = tmp_path / "theirs.pth"
    torch.save(renamed if bare else {"model": renamed, "epoch": 1}, path)
    assert digest(sources.network(variant(), CheckpointWeights(path)).state_dict()) == digest(state)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (variant(alpha=0.5), "edgekit export mobilenet_v2 --alpha 0.25 --num-classes 10"),
        (variant(num_classes=12), "edgekit export mobilenet_v2 --alpha 0.25 --num-classes 10"),
        (variant("mobilenet_v1"), "edgekit export mobilenet_v2 --alpha 0.25 --num-classes 10"),
        (variant("c_mobilenet_v2", alpha=1.0), "edgekit export mobilenet_v2 --alpha 0.25 --num-classes 10"),
        (variant(options=(("rounding", "published"),)), "mobilenet_v2 --alpha 0.25 --num-classes 10"),
    ],
)
def test_weights_of_another_network_say_whose_they_are(
    checkpoint: CheckpointWeights, wanted: Variant, says: str
) -> None:
    with pytest.raises(InputUnusable, match="do not fit") as caught:
        sources.network(wanted, checkpoint)
    assert says in (caught.value.hint or "")
    assert caught.value.where == str(checkpoint.path)


def test_the_rounding_of_strange_weights_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(seeded(alpha=0.35, rounding="published"), path)
    with pytest.raises(InputUnusable) as caught:
        sources.network(variant(alpha=0.35), CheckpointWeights(path))
    assert "--alpha 0.35 --option rounding=published --num-classes 10" in (caught.value.hint or "")


def test_weights_of_nothing_known_get_no_guess(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"stem.conv.weight": torch.ones(3, 3)}, path)
    with pytest.raises(InputUnusable, match="missing") as caught:
        sources.network(variant(), CheckpointWeights(path))
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Variant("mobilenet_v2", 1.0, 161), "160 or 192"),
        (Variant("mobilenet_v2", 1.0, 96, options=(("rounding", "publised"),)), "published"),
        (Variant("mobilnet_v2", 1.0, 96), "mobilenet_v2"),
        (Variant("mobilenet_v2", 0.01, 96, options=(("rounding", "published"),)), "0.0625"),
    ],
)
def test_a_wrong_variant_is_refused(wanted: Variant, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        sources.network(wanted, SeedWeights(0))


@pytest.mark.parametrize("wanted", [variant(alpha=0.5), variant(alpha=1.0, num_classes=10)])
def test_published_weights_in_another_form_are_refused(wanted: Variant) -> None:
    with pytest.raises(UsageError, match="torchvision"):
        sources.network(wanted, sources.parse_weights("default", model="mobilenet_v2"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


def test_published_weights_are_read_from_torchs_own_folder(hub: Path) -> None:
    state = seeded(alpha=1.0, classes=1000)
    hub.mkdir(parents=True)
    torch.save(in_torchvisions_names(state, 1.0), hub / "unnamed")
    name = f"net-{hashlib.sha256((hub / 'unnamed').read_bytes()).hexdigest()[:8]}.pth"
    (hub / "unnamed").rename(hub / name)
    weights = TorchvisionWeights(PretrainedWeights("MobileNet_V2_Weights.IMAGENET1K_V2", name, 1.0, 1000))
    for alpha in (None, 1.0):
        assert digest(sources.network(variant(alpha=alpha), weights).state_dict()) == digest(state)


def test_another_file_under_the_published_name_is_refused(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / "mobilenet_v2-7ebf99e0.pth").write_bytes(b"something else")
    with pytest.raises(InputUnusable, match="not the one that torchvision publishes"):
        sources.network(variant(alpha=1.0), sources.parse_weights("default", model="mobilenet_v2"))


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("timed out"), RuntimeError("hash")])
def test_without_a_network_the_message_says_where_to_put_the_file(
    hub: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(MachineLacks) as caught:
        sources.network(variant(alpha=1.0), sources.parse_weights("default", model="mobilenet_v2"))
    assert caught.value.exit_code == 3
    assert caught.value.where == str(hub / "mobilenet_v2-7ebf99e0.pth")
    assert "https://" in (caught.value.hint or "")


def test_a_download_is_asked_for_with_the_hash_and_a_time_limit(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    asked: list[object] = []

    def download(url: str, path: str, prefix: str, progress: bool) -> None:
        asked.extend([url.rsplit("/", 1)[1], prefix, progress, socket.getdefaulttimeout()])
        Path(path).write_bytes(b"not the real file")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputUnusable, match="SHA-256"):
        sources.network(variant(alpha=1.0), sources.parse_weights("default", model="mobilenet_v2"))
    assert asked == ["mobilenet_v2-7ebf99e0.pth", "7ebf99e0", False, 20.0]
    assert socket.getdefaulttimeout() is None

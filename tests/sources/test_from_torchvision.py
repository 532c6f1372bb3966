"""`torchvision:NAME`."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.checkpoints import digest
from edgekit.errors import EdgekitError, InputUnusable, MachineLacks, UsageError
from edgekit.manifest import TensorSpec
from edgekit.models._calibrate import calibration_images
from edgekit.preprocessing import IMAGENET
from edgekit.sources import CheckpointWeights, LibraryWeights, Loaded, SeedWeights, Source, Weights, load, parse_weights
from edgekit.variant import Variant

pytestmark = pytest.mark.usefixtures("one_thread")


def get(name: str, weights: Weights | None = None, *, res: int | None = 64, **rest: Any) -> Loaded:
    source = Source("torchvision", name)
    rest = {"alpha": None, **rest}
    return load(source, Variant(source.text, resolution=res, **rest), weights or SeedWeights(0))


def spread(found: Loaded) -> float:
    with torch.no_grad():
        logits = found.module(calibration_images(9)[:4])
    return float((logits - logits.mean(0)).square().mean().sqrt() / logits.square().mean().sqrt())


def test_a_network_comes_ready_to_run() -> None:
    found = get("squeezenet1_1", res=96)
    assert found.inputs == (TensorSpec("input", "float32", ("batch", 3, 96, 96)),)
    assert (found.outputs, found.task, found.resolution, found.num_classes) == (("logits",), "classification", 96, 1000)
    assert found.module(torch.zeros(2, 3, 96, 96)).shape == (2, 1000)
    assert not any(layer.training or getattr(layer, "inplace", False) for layer in found.module.modules())
    assert not any(parameter.requires_grad for parameter in found.module.parameters())
    assert found.preprocessing == IMAGENET
    assert found.any_size


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5", "resnet18"])
def test_random_weights_are_alive_and_come_from_the_seed(name: str) -> None:
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    first, again, other = get(name), get(name, res=96), get(name, SeedWeights(1))
    assert digest(first.module.state_dict()) == digest(again.module.state_dict())
    assert digest(first.module.state_dict()) != digest(other.module.state_dict())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.random.get_state()[1].tolist() == generators[2]  # type: ignore[union-attr]
    assert spread(first) > 0.1


def test_without_a_resolution_it_is_that_of_the_published_weights() -> None:
    assert get("shufflenet_v2_x0_5", res=None).inputs[0].shape == ("batch", 3, 224, 224)
    assert get("inception_v3", res=None).resolution == 299


@pytest.fixture(scope="module")
def transformer() -> Loaded:
    """A vision transformer at the size of one patch, which is the least work."""
    return get("vit_b_32", res=32)


@torch.no_grad()
def test_a_head_that_begins_at_zero_is_alive(transformer: Loaded) -> None:
    logits = transformer.module(nn.functional.interpolate(calibration_images(3)[:4], 32))
    assert float((logits - logits.mean(0)).square().mean() / logits.square().mean()) > 0.01


class Operators(TorchDispatchMode):
    """The names of the operators that run while this lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(operator))
        return operator(*args, **(kwargs or {}))


@torch.no_grad()
def test_attention_is_not_fused_into_what_no_exporter_knows(transformer: Loaded) -> None:
    with Operators() as operators:
        transformer.module(torch.zeros(1, 3, 32, 32))
    assert "aten.layer_norm.default" in operators.names or "aten.native_layer_norm.default" in operators.names
    assert "aten._native_multi_head_attention.default" not in operators.names


def test_a_network_made_for_one_size_says_so(transformer: Loaded) -> None:
    assert not transformer.any_size
    assert transformer.inputs[0].shape == ("batch", 3, 32, 32)
    with pytest.raises(InputUnusable, match="indivisible") as caught:
        get("vit_b_32", res=40)
    assert "--res" in (caught.value.hint or "")


def test_the_width_is_torchvisions_own_where_it_has_one() -> None:
    for name, expected in (
        ("mobilenet_v2", torchvision.models.mobilenet_v2(width_mult=0.25)),
        ("mobilenet_v3_small", torchvision.models.mobilenet_v3_small(width_mult=0.25)),
        ("mnasnet1_0", torchvision.models.MNASNet(0.25)),
    ):
        found = get(name, alpha=0.25)
        shapes = {key: tensor.shape for key, tensor in expected.state_dict().items()}
        assert {key: tensor.shape for key, tensor in found.module.state_dict().items()} == shapes
        assert found.alpha == 0.25


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shufflenet_v2_x0_5", "shufflenet_v2_x0_5, shufflenet_v2_x1_0"),
        ("resnet18", "resnet152"),
        ("mnasnet0_5", "mnasnet1_0"),
        ("alexnet", "leave --alpha out"),
    ],
)
def test_a_network_without_a_width_says_what_there_is(name: str, says: str) -> None:
    with pytest.raises(UsageError, match="no width option") as caught:
        get(name, alpha=0.5)
    assert says in str(caught.value)
    assert "mobilenet_v2" in (caught.value.wanted or "")


def test_classes_and_options_reach_the_network() -> None:
    found = get("squeezenet1_1", num_classes=7, options=(("dropout", "0.25"),))
    assert found.num_classes == 7
    assert found.module.classifier[0].p == 0.25


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("squeezenet1_1", ("dropuot", "0.1"), "did you mean dropout"),
        ("mobilenet_v3_small", ("dropuot", "0.1"), "did you mean dropout"),
        ("squeezenet1_1", ("num_classes", "3"), "use --num-classes"),
        ("squeezenet1_1", ("weights", "DEFAULT"), "use --weights"),
        ("mobilenet_v2", ("width_mult", "0.5"), "use --alpha"),
        ("googlenet", ("aux_logits", "true"), "for training"),
        ("resnet18", ("layers", "3"), "sets layers itself"),
    ],
)
def test_a_wrong_option_is_refused(name: str, options: tuple[str, str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        get(name, options=(options,))
    assert says in str(caught.value)


def test_an_option_without_sense_is_refused_with_torchvisions_own_words() -> None:
    with pytest.raises(InputUnusable, match="cannot make this network") as caught:
        get("squeezenet1_1", options=(("dropout", "3"),))
    assert "ValueError" in (caught.value.got or "")


def test_options_that_no_signature_shows_are_known() -> None:
    full = get("mobilenet_v3_small").module
    less = get("mobilenet_v3_small", options=(("reduced_tail", "true"),)).module
    assert sum(p.numel() for p in less.parameters()) < sum(p.numel() for p in full.parameters())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_come_without_them(name: str) -> None:
    found = get(name, res=80)
    assert found.outputs == ("logits",)
    assert not [key for key in found.module.state_dict() if "aux" in key.lower()]
    assert torch.is_tensor(found.module(torch.zeros(1, 3, 80, 80)))
    assert spread(found) > 0.1


def test_a_network_that_names_its_outputs_keeps_their_names() -> None:
    found = get("lraspp_mobilenet_v3_large", num_classes=4)
    assert (found.outputs, found.task, found.preprocessing) == (("out",), "other", None)
    assert found.module(torch.zeros(2, 3, 64, 64)).shape == (2, 4, 64, 64)
    assert all(path.startswith("inner.") for pair in found.norm_pairs for path in pair)


def test_norms_are_found_where_only_forward_says_what_follows_what() -> None:
    found = get("resnet18")
    assert len(found.norm_pairs) == 20
    assert ("layer1.0.conv1", "layer1.0.bn1") in found.norm_pairs


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("resnet19", UsageError, "resnet18"),
        ("fasterrcnn_resnet50_fpn", InputUnusable, "list of images"),
        ("r3d_18", InputUnusable, "clips"),
        ("raft_small", InputUnusable, "pairs"),
        ("quantized_resnet18", InputUnusable, "without quantized_"),
    ],
)
def test_what_is_no_network_of_one_image_batch_is_refused(name: str, error: type[EdgekitError], says: str) -> None:
    with pytest.raises(error) as caught:
        get(name)
    assert says in str(caught.value)


def test_an_image_that_is_too_small_is_named_with_its_shape() -> None:
    with pytest.raises(InputUnusable, match=r"fails on its input \(input \[1, 3, 8, 8\]\)") as caught:
        get("squeezenet1_1", res=8)
    assert "RuntimeError" in (caught.value.got or "")


def small_state(classes: int = 1000) -> dict[str, Tensor]:
    return torchvision.models.shufflenet_v2_x0_5(num_classes=classes).state_dict()


def test_a_checkpoint_fills_the_network(tmp_path: Path) -> None:
    state = small_state()
    torch.save(state, tmp_path / "w.pth")
    found = get("shufflenet_v2_x0_5", CheckpointWeights(tmp_path / "w.pth"))
    assert digest(found.module.state_dict()) == digest(state)
    assert found.weights.startswith("sha256:")
    assert not any(parameter.requires_grad for parameter in found.module.parameters())


def test_a_checkpoint_of_other_classes_says_how_many(tmp_path: Path) -> None:
    torch.save(small_state(12), tmp_path / "w.pth")
    with pytest.raises(InputUnusable, match="do not fit") as caught:
        get("shufflenet_v2_x0_5", CheckpointWeights(tmp_path / "w.pth"))
    assert "--num-classes 12" in (caught.value.hint or "")
    assert get("shufflenet_v2_x0_5", CheckpointWeights(tmp_path / "w.pth"), num_classes=12).num_classes == 12


def test_a_checkpoint_of_another_network_is_refused_by_its_names(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "w.pth")
    with pytest.raises(InputUnusable, match="do not fit") as caught:
        get("squeezenet1_1", CheckpointWeights(tmp_path / "w.pth"))
    assert "missing" in (caught.value.got or "")
    assert caught.value.hint is None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def publish(monkeypatch: pytest.MonkeyPatch, hub: Path, name: str, state: dict[str, Tensor]) -> None:
    """Make `state` what torchvision publishes for its network `name`, in a file whose name has its hash."""
    torch.save(state, hub / "unnamed")
    file = f"net-{hashlib.sha256((hub / 'unnamed').read_bytes()).hexdigest()[:8]}.pth"
    (hub / "unnamed").rename(hub / file)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(weights.value, "url", f"https://localhost/{file}")


def test_published_weights_are_read_from_torchs_folder_and_pinned_by_name(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = small_state()
    publish(monkeypatch, hub, "shufflenet_v2_x0_5", state)
    found = get("shufflenet_v2_x0_5", LibraryWeights("torchvision", "shufflenet_v2_x0_5"))
    assert digest(found.module.state_dict()) == digest(state)
    assert found.weights == "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"


def test_published_weights_with_auxiliary_heads_fit_the_network_without(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torchvision.models.googlenet(init_weights=False).state_dict()
    publish(monkeypatch, hub, "googlenet", state)
    found = get("googlenet", LibraryWeights("torchvision", "googlenet"))
    assert found.module.transform_input is True, "as torchvision does with these weights"
    assert torch.equal(found.module.fc.weight, state["fc.weight"])


def test_published_weights_that_are_not_here_are_named_with_address_and_place(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(MachineLacks) as caught:
        get("squeezenet1_1", parse_weights("default", source=Source("torchvision", "squeezenet1_1")))
    assert caught.value.where == str(hub / "squeezenet1_1-b8a52dc0.pth")
    assert "https://download.pytorch.org" in (caught.value.hint or "")


def test_published_weights_are_for_the_full_width() -> None:
    with pytest.raises(UsageError, match="full width"):
        get("mobilenet_v2", LibraryWeights("torchvision", "mobilenet_v2"), alpha=0.5)


def test_inputs_are_torchvisions_own() -> None:
    source = Source("torchvision", "resnet18")
    with pytest.raises(UsageError, match="are known"):
        load(source, Variant(source.text, None, 64), SeedWeights(0), (TensorSpec("x", "float32", ("batch", 3)),))

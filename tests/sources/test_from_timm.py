"""`timm:NAME`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from edgekit.checkpoints import digest
from edgekit.errors import EdgekitError, InputUnusable, MachineLacks, UsageError
from edgekit.models._calibrate import calibration_images
from edgekit.preprocessing import Preprocessing
from edgekit.sources import (
    CheckpointWeights,
    LibraryWeights,
    Loaded,
    SeedWeights,
    Source,
    Weights,
    check,
    load,
    source_identity,
)
from edgekit.variant import Variant

pytestmark = pytest.mark.usefixtures("one_thread")

NET, TRANSFORMER = "test_efficientnet", "test_vit"  # made by timm's authors to be tested with


def get(name: str, weights: Weights | None = None, *, res: int | None = 64, **rest: Any) -> Loaded:
    source = Source("timm", name)
    rest = {"alpha": None, **rest}
    return load(source, Variant(source.text, resolution=res, **rest), weights or SeedWeights(0))


def spread(found: Loaded, images: Tensor) -> float:
    with torch.no_grad():
        logits = found.module(images)
    return float((logits - logits.mean(0)).square().mean().sqrt() / logits.square().mean().sqrt())


def count(found: Loaded) -> int:
    return sum(parameter.numel() for parameter in found.module.parameters())


def test_a_network_comes_ready_to_run_and_alive() -> None:
    found = get(NET)
    assert found.inputs[0].shape == ("batch", 3, 64, 64)
    assert (found.outputs, found.task, found.num_classes) == (("logits",), "classification", 1000)
    assert count(found) == sum(parameter.numel() for parameter in timm.create_model(NET).parameters())
    assert spread(found, calibration_images(9)[:4]) > 0.1
    assert digest(get(NET).module.state_dict()) == digest(found.module.state_dict())
    assert digest(get(NET, SeedWeights(1)).module.state_dict()) != digest(found.module.state_dict())


def test_the_preprocessing_is_timms_own() -> None:
    config = timm.get_pretrained_cfg(NET)
    assert get(NET).preprocessing == Preprocessing(
        mean=config.mean,
        std=config.std,
        crop=config.crop_pct,
        resize=f"{config.interpolation}, antialiased, shorter side",
    )


def test_a_network_made_for_one_size_is_made_for_this_one() -> None:
    found = get(TRANSFORMER, res=32)
    assert not found.any_size
    assert found.module(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
    assert spread(found, nn.functional.interpolate(calibration_images(9)[:4], 32)) > 0.1


def test_without_a_resolution_it_is_timms_own() -> None:
    assert get(TRANSFORMER, res=None).inputs[0].shape == ("batch", 3, 160, 160)


def test_a_norm_with_its_activation_becomes_two_layers_that_compute_the_same() -> None:
    found, theirs = get(NET), timm.create_model(NET).eval()
    theirs.load_state_dict({key.replace(".norm.", "."): value for key, value in found.module.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.module(x), theirs(x))
    norms = [name for name, layer in found.module.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm for _, norm in found.norm_pairs} == set(norms)


def test_the_width_is_found_where_timm_leaves_it_open() -> None:
    assert count(get(NET, alpha=0.5)) < count(get(NET)) == count(get(NET, alpha=1.0))
    assert count(get("rexnet_100", alpha=0.5)) < 2_000_000


@pytest.mark.parametrize(
    ("name", "says"), [("mobilenetv2_100", "mobilenetv2_035, mobilenetv2_050"), (TRANSFORMER, "test_vit, test_vit2")]
)
def test_a_network_without_a_width_says_what_there_is(name: str, says: str) -> None:
    with pytest.raises(UsageError, match="no width option") as caught:
        get(name, alpha=0.5)
    assert says in str(caught.value)


def test_classes_and_options_reach_the_network() -> None:
    found = get(NET, num_classes=5, options=(("in_chans", "1"),))
    assert found.num_classes == 5
    assert found.inputs[0].shape == ("batch", 1, 64, 64)
    assert found.preprocessing is None


def test_features_come_with_names() -> None:
    found = get(NET, options=(("features_only", "true"),))
    assert found.outputs == tuple(f"output_{i}" for i in range(5))
    assert found.task == "other"


@pytest.mark.parametrize(
    ("name", "rest", "says"),
    [
        ("resnett18", {}, "did you mean resnet18"),
        ("resnet18.nonsense", {}, "a1_in1k"),
        (NET, {"options": (("drop_rat", "0.1"),)}, "did you mean drop_rate"),
        (NET, {"options": (("pretrained", "true"),)}, "use --weights"),
        (NET, {"options": (("checkpoint_path", "x"),)}, "use --weights"),
        (NET, {"alpha": 0.5, "options": (("drop_rat", "0.1"),)}, "did you mean drop_rate"),
    ],
)
def test_a_wrong_name_or_option_is_refused(name: str, rest: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        get(name, **rest)
    assert says in str(caught.value)


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineLacks, match=r"edgekit-trt\[timm\]"):
        check(Variant("timm:resnet18", None, 64), SeedWeights(0), Source("timm", "resnet18"))


def test_another_timm_is_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_identity(Source("timm", NET))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.0")
    assert source_identity(Source("timm", NET)) != before


def test_a_checkpoint_fills_the_network(tmp_path: Path) -> None:
    state = timm.create_model(NET, num_classes=7).state_dict()
    torch.save(state, tmp_path / "w.pth")
    found = get(NET, CheckpointWeights(tmp_path / "w.pth"), num_classes=7)
    assert digest({key.replace(".norm.", "."): value for key, value in found.module.state_dict().items()}) == digest(
        state
    )
    with pytest.raises(InputUnusable, match="--num-classes 7"):
        get(NET, CheckpointWeights(tmp_path / "w.pth"))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no network."""

    def refuse(*args: object, **options: object) -> str:
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def publish(cache: Path, name: str, state: dict[str, Tensor], file: str) -> None:
    """Put `state` where the cache has the file of timm's default weights of the network `name`."""
    repository = str(timm.get_pretrained_cfg(name).hf_hub_id)
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    path = folder / "snapshots" / COMMIT / file
    if file.endswith(".safetensors"):
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_published_weights_are_read_from_the_cache_without_a_network(cache: Path, file: str) -> None:
    state = timm.create_model(NET).state_dict()
    publish(cache, NET, state, file)
    found = get(NET, LibraryWeights("timm", NET))
    assert digest({key.replace(".norm.", "."): value for key, value in found.module.state_dict().items()}) == digest(
        state
    )
    assert found.weights == f"timm/test_efficientnet.r160_in1k@{COMMIT}"
    assert "state_dict" not in found.module.pretrained_cfg


def test_published_weights_of_a_transformer_are_fitted_to_the_size(cache: Path) -> None:
    publish(cache, TRANSFORMER, timm.create_model(TRANSFORMER).state_dict(), "model.safetensors")
    found = get(TRANSFORMER, LibraryWeights("timm", TRANSFORMER), res=32)
    assert found.module(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


def test_published_weights_that_do_not_fit_are_refused(cache: Path) -> None:
    publish(cache, NET, timm.create_model(TRANSFORMER).state_dict(), "model.safetensors")
    with pytest.raises(EdgekitError) as caught:
        get(NET, LibraryWeights("timm", NET))
    assert caught.value.exit_code == 4


def test_published_weights_that_are_not_here_are_named_with_address_and_place(cache: Path) -> None:
    with pytest.raises(MachineLacks) as caught:
        get(NET, LibraryWeights("timm", NET))
    assert caught.value.where == str(cache / "models--timm--test_efficientnet.r160_in1k")
    assert "https://huggingface.co/timm/test_efficientnet.r160_in1k/resolve/main/model.safetensors" in (
        caught.value.hint or ""
    )
    assert "no route" in (caught.value.got or "")


def test_weights_that_stand_on_no_hub_are_looked_for_in_torchs_folder(cache: Path) -> None:
    with pytest.raises(MachineLacks) as caught:
        get("gcvit_xxtiny", LibraryWeights("timm", "gcvit_xxtiny"))
    assert caught.value.where == str(cache / "torch" / "hub" / "checkpoints" / "gcvit_xxtiny_224_nvidia-d1d86009.pth")


def test_a_network_without_published_weights_says_which_have_some(cache: Path) -> None:
    with pytest.raises(UsageError, match="publishes no weights") as caught:
        get("lcnet_035", LibraryWeights("timm", "lcnet_035"))
    assert "lcnet_" in (caught.value.hint or "")

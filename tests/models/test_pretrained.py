"""Published weights: for which form of a network there are any, where their files are looked for, and what fits."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from edgekit import models
from edgekit.checkpoints import digest
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.models import _create, _pretrained
from edgekit.models._info import PretrainedWeights
from edgekit.models._published import published
from edgekit.preprocessing import CONTRACTS

torchvision_models = pytest.importorskip("torchvision.models")

WITH_WEIGHTS = [name for name in models.names() if models.info(name).pretrained]
FORMS = {"inception_v3": {"variant": "torchvision"}, "inception_resnet_v2": {"variant": "released"}}


def weights_of(name: str) -> PretrainedWeights:
    found = models.info(name).pretrained
    assert found is not None
    return found


class TestWhatIsPublished:
    @pytest.mark.parametrize("name", WITH_WEIGHTS)
    def test_the_form_that_they_are_for_is_given_them(self, name: str) -> None:
        assert published(name, None, None, FORMS.get(name, {})) == weights_of(name)

    @pytest.mark.parametrize("name", [name for name in WITH_WEIGHTS if weights_of(name).library == "torchvision"])
    def test_torchvision_publishes_that_file(self, name: str) -> None:
        known = weights_of(name)
        weights = torchvision_models.get_weight(known.name)
        assert weights.url.rsplit("/", 1)[1] == known.file
        assert known.num_classes in (None, len(weights.meta["categories"]))

    @pytest.mark.parametrize("name", [name for name in WITH_WEIGHTS if weights_of(name).library == "timm"])
    def test_timm_publishes_them_there_for_that_preprocessing(self, name: str) -> None:
        known = weights_of(name)
        config = timm.get_pretrained_cfg(known.name)
        contract, side = CONTRACTS[models.info(name).preprocessing], models.info(name).default_resolution
        assert config.hf_hub_id in ("timm/", f"timm/{known.name}")
        assert config.num_classes == known.num_classes
        assert (config.input_size, config.crop_pct) == ((3, side, side), contract.crop)
        assert (config.mean, config.std) == (contract.mean, contract.std)

    @pytest.mark.parametrize(
        ("name", "alpha", "classes", "options", "says"),
        [
            ("mobilenet_v1", None, None, {}, "no weights for mobilenet_v1"),
            ("densenet_bc", None, None, {}, "no weights for densenet_bc"),
            ("mobilenet_v2", 0.5, None, {}, "alpha 1.00 only"),
            ("mobilenet_v2", 1.0, 10, {}, "1000 classes"),
            ("inception_v4", None, 10, {}, "timm's weights of inception_v4 are for 1000 classes"),
            ("inception_v3", None, None, {}, "for variant=torchvision only"),
            ("inception_v4", None, None, {"variant": "published"}, "for variant=released only"),
        ],
    )
    def test_another_form_is_refused_with_the_one_that_there_is(
        self, name: str, alpha: float | None, classes: int | None, options: dict[str, str], says: str
    ) -> None:
        with pytest.raises(UsageError, match=says) as caught:
            published(name, alpha, classes, options)
        assert caught.value.where == "--weights default"
        assert caught.value.hint

    def test_a_head_of_ones_own_has_any_number_of_classes(self) -> None:
        assert published("resnet50_transfer", None, 17, {"last_relu": True}).part == "features"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of downloaded weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put(state: Mapping[str, Tensor], folder: Path) -> str:
    """Save the state under a name that says its hash, as torchvision's files do; returns the name."""
    torch.save(dict(state), folder / "unnamed")
    name = f"net-{hashlib.sha256((folder / 'unnamed').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "unnamed").rename(folder / name)
    return name


def publish(monkeypatch: pytest.MonkeyPatch, name: str, file: str) -> None:
    """Let the network's published weights be this file."""
    about = replace(models.info(name), pretrained=replace(weights_of(name), file=file))
    monkeypatch.setattr(models.load(name), "INFO", about)


class TestTorchvisions:
    def test_inception_v3_takes_the_file_in_torchs_folder(self, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        theirs = torchvision_models.inception_v3(init_weights=False, transform_input=False).eval()
        publish(monkeypatch, "inception_v3", put(theirs.state_dict(), hub))
        module = _pretrained.network("inception_v3", None, None, {"variant": "torchvision"})
        images = torch.randn(1, 3, 75, 75)
        with torch.no_grad():
            assert torch.equal(module(images), theirs(images))
        assert not any(child.training for child in module.modules())
        with pytest.raises(UsageError, match="variant=torchvision"):
            _pretrained.network("inception_v3", None, None, {})

    def test_resnet50_transfer_takes_the_features_and_makes_a_head(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        theirs = torchvision_models.resnet50()
        publish(monkeypatch, "resnet50_transfer", put(theirs.state_dict(), hub))
        module = _pretrained.network("resnet50_transfer", None, 7, {}, seed=1)
        assert torch.equal(module.features.stem.conv.weight, theirs.conv1.weight)
        assert torch.equal(module.features.layer4[2].body.expand.norm.running_var, theirs.layer4[2].bn3.running_var)
        assert module(torch.randn(2, 3, 64, 64)).shape == (2, 7)

    def test_another_file_under_that_name_is_refused(self, hub: Path) -> None:
        known = weights_of("resnet50_transfer")
        (hub / known.file).write_bytes(b"something else")
        with pytest.raises(InputUnusable, match="not the one that torchvision publishes"):
            _pretrained.fetch(known)


COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hugging Face cache, empty, and no way to the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hf"


def put_in_cache(file: Path, cache: Path, weights: PretrainedWeights, blob: str | None = None) -> Path:
    """Lay the file into the cache as a download does: the content under its hash, and a link by its name."""
    repository = cache / f"models--timm--{weights.name}"
    content = repository / "blobs" / (blob or hashlib.sha256(file.read_bytes()).hexdigest())
    link = repository / "snapshots" / COMMIT / weights.file
    for folder in (content.parent, link.parent, repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    file.rename(content)
    link.symlink_to(Path("..") / ".." / "blobs" / content.name)
    (repository / "refs" / "main").write_text(COMMIT)
    return link


class TestTimms:
    def test_inception_v4_takes_the_file_in_the_cache(self, cache: Path, tmp_path: Path) -> None:
        torch.manual_seed(0)
        theirs = timm.create_model("inception_v4", pretrained=False).eval()
        safetensors.torch.save_file(theirs.state_dict(), tmp_path / "file")
        put_in_cache(tmp_path / "file", cache, weights_of("inception_v4"))
        module = _pretrained.network("inception_v4", None, None, {})
        images = torch.randn(1, 3, 75, 75)
        with torch.no_grad():
            assert torch.equal(module(images), theirs(images))

    def test_the_released_inception_resnet_v2_does(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        torch.manual_seed(0)
        theirs = timm.create_model("inception_resnet_v2", pretrained=False)
        safetensors.torch.save_file(theirs.state_dict(), tmp_path / "file")
        monkeypatch.setattr(_pretrained, "fetch", lambda weights: tmp_path / "file")
        module = _pretrained.network("inception_resnet_v2", None, None, {"variant": "released"})
        assert digest(module.state_dict()) == digest(_create.own_names("inception_resnet_v2", theirs.state_dict()))

    def test_another_content_than_the_caches_hash_is_refused(self, cache: Path, tmp_path: Path) -> None:
        known = weights_of("inception_v4")
        (tmp_path / "file").write_bytes(b"something else")
        link = put_in_cache(tmp_path / "file", cache, known, blob="ab" * 32)
        with pytest.raises(InputUnusable, match="not the one that timm publishes") as caught:
            _pretrained.fetch(known)
        assert caught.value.where == str(link)

    def test_a_file_that_is_there_is_found_without_asking_the_hub(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = weights_of("inception_v4")
        (tmp_path / "file").write_bytes(b"content")
        link = put_in_cache(tmp_path / "file", cache, known)
        monkeypatch.setattr(_pretrained, "_download_from_hub", None)
        assert _pretrained.fetch(known) == link

    def test_without_a_network_the_message_says_what_to_fetch_and_where_it_belongs(self, cache: Path) -> None:
        with pytest.raises(MachineLacks, match="cannot be downloaded") as caught:
            _pretrained.fetch(weights_of("inception_v4"))
        assert caught.value.exit_code == 3
        assert caught.value.where == str(cache)
        assert "timm/inception_v4.tf_in1k" in (caught.value.wanted or "")
        assert "hf download timm/inception_v4.tf_in1k model.safetensors" in (caught.value.hint or "")

    def test_without_the_hubs_package_the_message_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(MachineLacks) as caught:
            _pretrained.fetch(weights_of("inception_v4"))
        assert 'pip install "edgekit-trt[timm]"' in (caught.value.hint or "")

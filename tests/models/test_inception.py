"""The Inception family: its tables, its counts, and equality with the networks whose weights it takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from edgekit import models
from edgekit.errors import MachineLacks, UsageError
from edgekit.models import _create, inception_resnet_v2, inception_v3, inception_v4
from edgekit.models._blocks import Concat, ConvNorm, Residual
from edgekit.models._calibrate import calibrate
from edgekit.models._inception import block, convolutions, places, trunk

torchvision_models = pytest.importorskip("torchvision.models")
timm = pytest.importorskip("timm")

SIDE = 107  # the second smallest last map: 2 x 2


def images(side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def alive(module: nn.Module, seed: int = 0) -> nn.Module:
    """Foreign random weights with statistics under which the outputs differ from image to image."""
    module.requires_grad_(False)
    calibrate(module, seed)
    return module


def filled(name: str, state: Mapping[str, Tensor], **options: str) -> nn.Module:
    return _create.with_state(name, None, None, options, _create.own_names(name, state), "a test")


def assert_same(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    found, wanted = ours(x), theirs(x)
    assert not torch.allclose(wanted[0], wanted[1], rtol=0.1)
    assert torch.equal(found, wanted)


class TestTables:
    def test_a_chain_is_read_as_the_papers_write_it(self) -> None:
        module, outputs = block(16, "1x1 8, 1x7 8, 3x3 8 V, max 3x3/2, 3x3/2 4, 1x3 5 | 3x1 6")
        assert outputs == 11
        assert module(torch.zeros(1, 16, 21, 21)).shape == (1, 11, 4, 4)
        assert [name for name, _ in module.named_children()] == ["1x1", "1x7", "3x3", "max", "3x3_2", "split"]

    def test_convolutions_have_norm_and_relu_and_no_bias(self) -> None:
        module, _ = block(4, "7x1 8")
        pair = next(child for child in module.modules() if isinstance(child, ConvNorm))
        assert (pair.conv.kernel_size, pair.conv.padding, pair.conv.bias) == ((7, 1), (3, 0), None)
        assert pair.norm.eps == 1e-3
        assert isinstance(pair.act, nn.ReLU)

    def test_branches_are_joined_in_the_order_of_the_table(self) -> None:
        module, outputs = block(4, {"b": "1x1 2", "a": "max 3x3"})
        assert isinstance(module, Concat)
        assert outputs == 2 + 4
        x = torch.rand(1, 4, 5, 5)
        assert torch.equal(module.eval()(x)[:, 2:], nn.functional.max_pool2d(x, 3, 1, 1))

    @pytest.mark.parametrize("pad_counts", [True, False])
    def test_an_average_counts_the_border_where_it_is_told_to(self, pad_counts: bool) -> None:
        module, _ = block(1, "avg 3x3", pad_counts)
        corner = float(module(torch.ones(1, 1, 3, 3))[0, 0, 0, 0])
        assert corner == pytest.approx(4 / 9 if pad_counts else 1.0)

    @pytest.mark.parametrize("text", ["", "3x3 8,1x1 8", "3x3", "conv 3x3 8", "3x3/2 8 v", "1x1 8 |", "max 3x3/2 8"])
    def test_what_is_no_step_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a step"):
            places(text)

    def test_a_list_of_blocks_is_numbered(self) -> None:
        children, outputs = trunk((("first", "1x1 4"), ("many", [{"x": "1x1 8"}, {"x": "1x1 2"}])))
        assert outputs == 2
        assert [name for name, _ in children["many"].named_children()] == ["0", "1"]

    @pytest.mark.parametrize(
        "table",
        [
            inception_v3.published(),
            inception_v3.torchvision(),
            inception_v4.table("released"),
            inception_v4.table("published"),
        ],
    )
    def test_every_convolution_is_found_where_the_module_has_it(self, table: object) -> None:
        children, _ = trunk(table)  # type: ignore[arg-type]
        network = nn.Sequential(children)
        wanted = [name for name, child in network.named_modules() if isinstance(child, ConvNorm)]
        assert [one.path for one in convolutions(table)] == wanted  # type: ignore[arg-type]


class TestInceptionV3:
    def test_it_is_torchvisions_network_output_for_output(self) -> None:
        torch.manual_seed(0)
        theirs = torchvision_models.inception_v3(init_weights=False, num_classes=1000, transform_input=False)
        ours = filled("inception_v3", alive(theirs).state_dict(), variant="torchvision")
        assert_same(ours, theirs, images())
        # Its weights' own transform turns ImageNet's normalisation into this network's preprocessing.
        theirs.transform_input = True
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        imagenet = (pixels - mean[:, None, None]) / std[:, None, None]
        assert torch.allclose(ours((pixels - 0.5) / 0.5), theirs(imagenet), rtol=1e-3, atol=1e-4)

    def test_its_auxiliary_head_is_torchvisions_too(self) -> None:
        torch.manual_seed(1)
        theirs = torchvision_models.inception_v3(init_weights=False, transform_input=False)
        ours = filled("inception_v3", alive(theirs).state_dict(), variant="torchvision")
        inner = torch.rand(2, 768, 17, 17)
        assert torch.allclose(ours.auxiliary.eval()(inner), theirs.AuxLogits.eval()(inner), rtol=1e-4, atol=1e-5)

    def test_every_name_of_torchvisions_is_known(self) -> None:
        with torch.device("meta"):
            theirs = torchvision_models.inception_v3(init_weights=False).state_dict()
        ours = _create.skeleton("inception_v3", None, None, {"variant": "torchvision"}).state_dict()
        renamed = inception_v3.from_torchvision(theirs)
        assert {name: value.shape for name, value in renamed.items()} == {
            name: value.shape for name, value in ours.items()
        }
        assert inception_v3.from_torchvision({"stem.3x3.conv.weight": 1}) == {"stem.3x3.conv.weight": 1}

    @pytest.mark.parametrize("variant", ["published", "torchvision"])
    def test_the_auxiliary_head_answers_in_training_only(self, variant: str) -> None:
        module = inception_v3.build(7, variant=variant)  # type: ignore[arg-type]
        side = 75 if variant == "published" else 299  # torchvision's takes 5 x 5 pixels of a third of the map
        with torch.no_grad():
            logits, second = module(images(side))
            assert logits.shape == second.shape == (2, 7)
            answer = module.eval()(images(side))
        assert isinstance(answer, Tensor)
        assert answer.shape == (2, 7)

    def test_weights_without_an_auxiliary_head_do_for_inference(self) -> None:
        whole = _create.initial("inception_v3", None, 5, {}, seed=1)
        bare = {name: value for name, value in whole.state_dict().items() if not name.startswith("auxiliary.")}
        module = _create.with_state("inception_v3", None, 5, {}, bare, "a test")
        assert torch.equal(module(images(75)), whole(images(75)))
        assert not any(value.is_meta for value in module.state_dict().values())


class TestInceptionV4:
    def test_it_is_timms_network_output_for_output(self) -> None:
        torch.manual_seed(0)
        theirs = alive(timm.create_model("inception_v4", pretrained=False))
        assert_same(filled("inception_v4", theirs.state_dict()), theirs, images())

    def test_every_name_of_timms_is_known(self) -> None:
        with torch.device("meta"):
            theirs = timm.create_model("inception_v4", pretrained=False).state_dict()
        ours = _create.skeleton("inception_v4", None, None, {}).state_dict()
        renamed = inception_v4.from_timm(theirs)
        assert {name: value.shape for name, value in renamed.items()} == {
            name: value.shape for name, value in ours.items()
        }
        assert inception_v4.from_timm({"stem.3x3.conv.weight": 1}) == {"stem.3x3.conv.weight": 1}

    def test_the_published_form_counts_the_border_and_the_released_one_does_not(self) -> None:
        for variant, counts in (("published", True), ("released", False)):
            pools = _create.skeleton("inception_v4", None, 10, {"variant": variant}).modules()
            averages = [pool for pool in pools if isinstance(pool, nn.AvgPool2d)]
            assert len(averages) == 4 + 7 + 3
            assert {pool.count_include_pad for pool in averages} == {counts}


class TestInceptionResNetV2:
    def test_the_released_form_is_timms_network_output_for_output(self) -> None:
        torch.manual_seed(0)
        theirs = alive(timm.create_model("inception_resnet_v2", pretrained=False))
        assert_same(filled("inception_resnet_v2", theirs.state_dict(), variant="released"), theirs, images())

    def test_residuals_are_added_times_the_scale(self) -> None:
        blocks = [
            child
            for child in _create.skeleton("inception_resnet_v2", None, 10, {"scale": 0.17}).modules()
            if isinstance(child, Residual)
        ]
        assert [one.scale for one in blocks] == [0.17] * (5 + 10 + 5)
        assert all(one.body.project.bias is not None for one in blocks)

    def test_the_released_form_has_scales_of_its_own(self) -> None:
        with pytest.raises(UsageError, match="its own scales"):
            _create.skeleton("inception_resnet_v2", None, 10, {"variant": "released", "scale": 0.5})

    def test_without_timm_the_message_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "edgekit.models._timm", raising=False)
        monkeypatch.delattr(models, "_timm", raising=False)
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(MachineLacks) as caught:
            _create.skeleton("inception_resnet_v2", None, 10, {"variant": "released"})
        assert caught.value.exit_code == 3
        assert 'pip install "edgekit-trt[timm]"' in (caught.value.hint or "")

    def test_the_published_form_needs_no_timm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        assert inception_resnet_v2.build(3).classifier.out_features == 3

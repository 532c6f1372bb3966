"""One image, optimised: Gram matrices, features and their weights, starts, stops, and what cannot be done."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from style_parts import SHALLOW, save_photo, tinted, vgg_weights

from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.training.style import features, optimise, pictures
from edgekit.training.style.losses import PerceptualLoss, gram, total_variation
from edgekit.training.style.optimise import LossNotFinite
from edgekit.training.style.request import (
    FEATURE_NETWORKS,
    Features,
    Objective,
    OptimiseRequest,
    default_layers,
    layer_names,
    parse_layers,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def request_(tmp_path: Path) -> OptimiseRequest:
    content, style = save_photo(tmp_path / "content.png", 1), tinted(tmp_path / "style.png", (200, 90, 30))
    return OptimiseRequest(content, style, Features("vgg19", 0), Objective(*SHALLOW), 48, "content", 0, 30)


class TestLosses:
    def test_a_gram_matrix_is_the_mean_product_of_channels_divided_by_all_three_sizes(self):
        x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        wanted = sum(float(x[1, 0, i, j] * x[1, 2, i, j]) for i in range(4) for j in range(5)) / (3 * 4 * 5)
        assert math.isclose(float(gram(x)[1, 0, 2]), wanted, rel_tol=1e-5)

    def test_it_does_not_care_where_things_are(self):
        x = torch.rand(1, 3, 6, 6)
        assert torch.allclose(gram(x), gram(x.flip(3)), atol=1e-6)

    def test_total_variation_is_nothing_for_one_colour_and_for_one_pixel(self):
        assert float(total_variation(torch.full((1, 3, 4, 4), 0.3))) == 0
        assert float(total_variation(torch.rand(1, 3, 1, 1))) == 0
        assert float(total_variation(torch.tensor([[[[0.0, 1.0]]]]))) == 1

    def test_the_style_itself_has_no_distance_from_the_style(self, request_):
        extractor = features.build(request_.features, request_.objective.layers)
        style = pictures.read(request_.style).tensor()
        loss = PerceptualLoss(extractor, request_.objective, style)
        terms = loss(style, loss.content_of(style))
        assert float(terms.total) < 1e-6


class TestFeatures:
    def test_layers_have_the_names_and_order_of_the_networks(self):
        assert layer_names("vgg19")[:5] == ("conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1")
        assert sum(name.startswith("conv") for name in layer_names("vgg19")) == 16
        assert "layer3.5" in layer_names("resnet50")
        assert "layer3.6" not in layer_names("resnet50")

    @pytest.mark.parametrize("network", FEATURE_NETWORKS)
    def test_untrained_ones_are_alive_in_every_default_layer(self, network):
        style, content = default_layers(network, "optimise")
        extractor = features.build(Features(network, 0), [name for name, _ in style + content])
        one, two = (extractor(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(s))) for s in (0, 1))
        for name, found in one.items():
            assert float((found - two[name]).square().mean().sqrt()) > 0.05 * float(found.square().mean().sqrt()), name

    def test_the_seed_decides_and_nothing_learns(self):
        x = torch.rand(1, 3, 32, 32)
        first, again, other = (features.build(Features("vgg19", s), ["relu2_1"]) for s in (0, 0, 1))
        assert torch.equal(first(x)["relu2_1"], again(x)["relu2_1"])
        assert not torch.allclose(first(x)["relu2_1"], other(x)["relu2_1"])
        assert not first.train().training
        assert not any(parameter.requires_grad for parameter in first.parameters())

    def test_a_file_of_torchvisions_names_is_the_network_of_torchvision(self, tmp_path):
        from torchvision.models import vgg19

        path = vgg_weights(tmp_path / "vgg.safetensors")
        theirs = vgg19(weights=None).features.eval()
        from safetensors.torch import load_file

        theirs.load_state_dict({name.removeprefix("features."): it for name, it in load_file(path).items()})
        mine = features.build(Features("vgg19", path), ["relu5_1", "pool2"])
        x = torch.rand(1, 3, 40, 40)
        with torch.no_grad():
            normalised = (x - mine.mean) / mine.std
            assert torch.allclose(mine(x)["pool2"], theirs[:10](normalised), atol=1e-4)
            assert torch.allclose(mine(x)["relu5_1"], theirs[:30](normalised), atol=1e-4)

    def test_average_pools_average(self):
        plain, soft = (features.build(Features("vgg19", 0, average), ["relu1_2", "pool1"]) for average in (False, True))
        x = torch.rand(1, 3, 8, 8)
        relu, pooled = soft(x)["relu1_2"], soft(x)["pool1"]
        assert torch.allclose(pooled, torch.nn.functional.avg_pool2d(relu, 2), atol=1e-5)
        assert not torch.allclose(pooled, plain(x)["pool1"])

    def test_a_picture_that_pooling_leaves_nothing_of_is_refused(self):
        extractor = features.build(Features("vgg19", 0), ["relu4_1"])
        assert extractor(torch.rand(1, 3, 8, 8))["relu4_1"].shape[-1] == 1
        with pytest.raises(InputUnusable, match="too small") as caught:
            extractor(torch.rand(1, 3, 7, 20))
        assert "8 pixels or more" in str(caught.value)

    def test_published_weights_are_fetched_where_torchvision_keeps_them(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        asked = []

        def refuse(url: str, *_: object, **__: object) -> None:
            asked.append(url)
            raise OSError("no network")

        monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
        with pytest.raises(MachineLacks, match="cannot be downloaded") as caught:
            features.build(Features("vgg19", "default"), ["relu1_1"])
        assert asked[0].endswith("/vgg19-dcbb9e9d.pth")
        assert str(tmp_path) in str(caught.value)


class TestLayers:
    def test_weights_stand_behind_the_name(self):
        assert parse_layers("--x", ("relu1_1", "relu2_1=0.5"), "vgg19") == (("relu1_1", 1.0), ("relu2_1", 0.5))

    @pytest.mark.parametrize("words", [("relu9_1",), ("relu1_1=-1",), ("relu1_1=x",), ("relu1_1", "relu1_1"), ()])
    def test_mistakes_are_refused(self, words):
        with pytest.raises(UsageError):
            parse_layers("--style-layers", words, "vgg19")


class TestOptimise:
    def test_the_loss_falls_and_the_colour_of_the_style_comes_across(self, request_):
        done = optimise.optimise(request_)
        losses = [step.loss for step in done.history]
        assert losses == sorted(losses, reverse=True)
        assert done.fall > 0.8
        before, after = pictures.read(request_.content).pixels, done.picture.pixels
        redness = [float(it[..., 0].mean() - it[..., 2].mean()) for it in (before, after)]
        assert redness[1] > redness[0] + 30

    def test_the_same_request_gives_the_same_picture_and_another_seed_another(self, request_):
        noisy = replace(request_, start="noise", steps=10)
        one, two = (optimise.optimise(noisy) for _ in range(2))
        assert np.array_equal(one.picture.pixels, two.picture.pixels)
        assert [s.loss for s in one.history] == [s.loss for s in two.history]
        other = optimise.optimise(replace(noisy, seed=1))
        assert not np.array_equal(one.picture.pixels, other.picture.pixels)

    def test_it_can_begin_with_the_style_in_the_size_of_the_content(self, request_):
        image = optimise.started("style", pictures.read(request_.content), pictures.read(request_.style), 0)
        assert image.shape == (1, 3, 40, 48)

    def test_it_stops_where_nothing_is_gained(self, request_):
        done = optimise.optimise(replace(request_, style=request_.content, steps=500))
        assert done.stopped == "settled"
        assert done.history[-1].number < 500
        assert done.fall == 0

    def test_a_smoother_picture_is_asked_for_by_total_variation(self, request_):
        rough = optimise.optimise(request_).picture
        objective = replace(request_.objective, variation_weight=1e6)
        smooth = optimise.optimise(replace(request_, objective=objective)).picture
        assert total_variation(smooth.tensor()) < 0.8 * total_variation(rough.tensor())

    def test_size_and_transparency_are_the_contents(self, request_, tmp_path):
        content = pictures.read(request_.content)
        alpha = np.tile(np.arange(48, dtype=np.uint8), (40, 1))
        pictures.write(pictures.Picture(content.pixels, alpha), tmp_path / "alpha.png")
        done = optimise.optimise(replace(request_, content=tmp_path / "alpha.png", size=24, steps=1))
        assert done.picture.size == (20, 24)
        assert done.picture.alpha.shape == (20, 24)

    def test_listeners_get_every_look_and_the_picture_of_then(self, request_):
        heard = []
        optimise.optimise(replace(request_, steps=20), lambda step, picture: heard.append((step.number, picture())))
        assert [number for number, _ in heard] == [0, 10, 20]
        assert np.array_equal(heard[0][1].pixels, pictures.read(request_.content).pixels)
        assert not np.array_equal(heard[1][1].pixels, heard[2][1].pixels)

    @pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 3)])
    def test_a_content_of_few_pixels_is_refused_where_features_need_more(self, request_, tmp_path, size):
        small = save_photo(tmp_path / "small.png", 0, *size)
        deep = Objective((("relu3_1", 1.0),), (("relu3_1", 1.0),))
        with pytest.raises(InputUnusable, match="too small"):
            optimise.optimise(replace(request_, content=small, objective=deep))

    def test_one_pixel_is_a_picture_for_layers_without_pools(self, request_, tmp_path):
        small = save_photo(tmp_path / "small.png", 0, 1, 1)
        shallow = Objective((("relu1_1", 1.0),), (("relu1_1", 1.0),))
        done = optimise.optimise(replace(request_, content=small, objective=shallow, steps=10))
        assert done.picture.size == (1, 1)

    def test_a_loss_that_is_not_finite_ends_it_with_the_last_good_picture(self, request_, monkeypatch):
        honest, calls = PerceptualLoss.__call__, [0]

        def failing(self, image, content):
            calls[0] += 1
            terms = honest(self, image, content)
            return terms if calls[0] < 20 else replace(terms, style=terms.style * math.nan)

        monkeypatch.setattr(PerceptualLoss, "__call__", failing)
        with pytest.raises(LossNotFinite, match=r"at step (10|20)") as caught:
            optimise.optimise(request_)
        assert caught.value.picture is not None
        assert caught.value.picture.size == (40, 48)

    def test_a_loss_that_begins_so_leaves_no_picture(self, request_):
        objective = replace(request_.objective, style_weight=1e45)
        with pytest.raises(LossNotFinite, match="at step 0") as caught:
            optimise.optimise(replace(request_, objective=objective))
        assert caught.value.picture is None

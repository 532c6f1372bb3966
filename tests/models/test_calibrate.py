"""Random weights: reproducible, and alive after calibration."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from edgekit.checkpoints import digest
from edgekit.graph.from_torch import fold_batch_norms
from edgekit.images import normalise
from edgekit.models import _create, info
from edgekit.models._blocks import Residual, chain
from edgekit.models._calibrate import RESIDUAL_SCALE, SHIFT, calibrate, calibration_images
from edgekit.models._init import initialise
from edgekit.models._options import Value
from edgekit.preprocessing import CONTRACTS, IMAGENET, Preprocessing
from edgekit.runtimes.torch_eager import half_precision
from edgekit.synthetic import natural_image

NETWORKS = ["c_mobilenet_v2", "mobilenet_v1", "mobilenet_v2"]


def inputs(resolution: int, contract: Preprocessing = IMAGENET) -> Tensor:
    images = [normalise(natural_image(resolution, seed), contract) for seed in range(6)]
    return torch.cat([torch.from_numpy(image) for image in images])


def spread(module: nn.Module, images: Tensor) -> float:
    """Root-mean-square of the outputs' standard deviation over the images, relative to the outputs themselves."""
    with torch.no_grad():
        logits = module(images).double()
    return float(logits.std(0, correction=0).square().mean().sqrt() / logits.square().mean().sqrt())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.35])
def test_a_calibrated_network_reacts_to_what_it_sees_at_every_resolution(name: str, alpha: float) -> None:
    module = _create.seeded(name, alpha, 1000, {}, seed=0)
    for resolution in (96, 160, 224):
        images = inputs(resolution)
        assert spread(module, images) > 0.2
        assert len(set(module(images).argmax(1).tolist())) > 1


@pytest.mark.parametrize("rounding", ["divisible8", "published"])
@pytest.mark.parametrize("alpha", [0.0625, 0.1])
def test_even_the_narrowest_networks_live(rounding: str, alpha: float) -> None:
    module = _create.seeded("mobilenet_v2", alpha, 10, {"rounding": rounding}, seed=0)
    assert spread(module, inputs(96)) > 0.05


OTHERS: list[tuple[str, dict[str, Value], int]] = [
    ("densenet_bc", {}, 32),
    ("densenet_bc", {"depth": 40, "bottleneck": False, "reduction": 1.0}, 32),
    ("inception_resnet_v2", {}, 107),
    ("inception_v3", {}, 107),
    ("inception_v3", {"variant": "torchvision"}, 107),
    ("inception_v4", {}, 107),
    ("resnet50_transfer", {}, 64),
    ("se_mobilenet_style", {}, 64),
    ("se_mobilenet_style", {"tail": "published"}, 64),
]


@pytest.mark.parametrize(("name", "options", "side"), OTHERS, ids=str)
def test_random_weights_are_alive_and_half_precision_does_not_drown_them(
    name: str, options: dict[str, Value], side: int, seeded: Callable[..., nn.Module]
) -> None:
    """Without the shift before every ReLU, half precision is 5 to 9 per cent noise in all but the densenets."""
    module = fold_batch_norms(seeded(name, options))
    images = inputs(side, CONTRACTS[info(name).preprocessing])
    assert spread(module, images) > 0.2
    wanted, rounded = module(images), half_precision(module)(images)
    assert float((rounded - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 0.04


def test_a_relu_sees_more_of_what_is_above_0() -> None:
    module = _create.seeded("densenet_bc", None, 10, {"depth": 16}, seed=0)
    layer, seen = module.block2[1].new.reduce, []
    layer.norm.register_forward_hook(lambda norm, args, output: seen.append(output))
    module(calibration_images(0, 32, CONTRACTS["cifar"]))
    assert torch.allclose(seen[0].mean((0, 2, 3)), torch.full((48,), SHIFT), atol=1e-3)
    assert 0.5 < float((seen[0] > 0).float().mean()) < 0.9


def test_what_is_given_keeps_its_statistics_and_the_rest_gets_its_own() -> None:
    module = nn.Sequential(
        OrderedDict(
            given=chain(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), act=nn.ReLU()),
            rest=chain(conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4), act=nn.ReLU()),
        )
    ).requires_grad_(False)
    initialise(module, 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    calibrate(module, 0, side=16, given="given")
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"rest.norm.running_mean", "rest.norm.running_var", "rest.norm.bias"}


def test_the_logits_are_centred_in_the_linear_that_runs_last() -> None:
    """A Linear that only training runs comes later in the list of layers."""
    module = _create.seeded("inception_v3", None, 10, {}, seed=0)
    assert bool(module.classifier.bias.any())
    assert not bool(module.auxiliary.classifier.bias.any())


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_without_calibration_there_is_nothing_to_compare(name: str) -> None:
    module = _create.seeded(name, 1.0, 100, {}, seed=0)
    assert float(module(inputs(96)).std(0).mean()) > 1e-2
    initialise(module, 0)
    assert float(module(inputs(96)).std(0).mean()) < 1e-7


def test_the_same_arguments_give_the_same_weights_on_any_number_of_threads() -> None:
    arguments = ("mobilenet_v2", 0.35, 10, {})
    before = torch.get_num_threads()
    try:
        digests = set()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(threads)
            digests.add(digest(_create.seeded(*arguments, seed=5).state_dict()))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1
    assert digest(_create.seeded(*arguments, seed=6).state_dict()) not in digests


def test_calibration_changes_norms_and_the_last_bias_and_no_weight() -> None:
    module = _create.seeded("mobilenet_v1", 0.25, 10, {}, seed=2)
    plain = _create.seeded("mobilenet_v1", 0.25, 10, {}, seed=2)
    initialise(plain, 2)
    calibrated, initial = module.state_dict(), plain.state_dict()
    changed = {name for name in initial if not torch.equal(initial[name], calibrated[name])}
    norms = {name for name in initial if ".norm." in name and not name.endswith("tracked")}
    assert changed == norms | {"classifier.bias"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_rounding_is_not_blown_up_on_its_way_through_the_network(name: str) -> None:
    """A thousandth of the input's size, at random: a chaotic network makes a tenth and more of it."""
    module = _create.seeded(name, 0.25, 100, {}, seed=0)
    images = inputs(96)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * images.square().mean().sqrt()
    clean, noisy = module(images), module(images + noise / 1000)
    assert float((noisy - clean).square().mean().sqrt() / clean.square().mean().sqrt()) < 0.03


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("resolution", [96, 224])
def test_ordinary_images_reach_both_limits_of_every_relu6(name: str, resolution: int) -> None:
    module = _create.seeded(name, 0.35, 100, {}, seed=0)
    reached: dict[nn.Module, set[float]] = {}
    for layer in module.modules():
        if isinstance(layer, nn.ReLU6):
            layer.register_forward_hook(
                lambda layer, args, y: reached.update({layer: {float(y.min()), float(y.max())}})
            )
    module(inputs(resolution))
    assert set(map(frozenset, reached.values())) == {frozenset({0.0, 6.0})}


def test_calibration_leaves_the_network_ready_for_inference() -> None:
    module = _create.seeded("mobilenet_v2", 0.35, 10, {}, seed=0)
    assert not any(child.training for child in module.modules())
    assert not any(child._forward_pre_hooks for child in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def test_every_batch_norm_gets_the_statistics_of_what_reaches_it() -> None:
    module = _create.seeded("mobilenet_v1", 0.25, 10, {}, seed=4)
    norm = module.blocks[12].pointwise.norm
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda layer, args, output: seen.append(output))
    with torch.no_grad():
        module(calibration_images(4))
    assert torch.allclose(seen[0].mean((0, 2, 3)), norm.bias, atol=1e-3)
    assert torch.allclose(seen[0].std((0, 2, 3), correction=0), norm.weight, atol=1e-3)


def test_a_failed_run_leaves_no_layer_measuring() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(2, 2))
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        calibrate(module, 0)
    assert torch.get_num_threads() == threads
    assert not any(child.training or child._forward_pre_hooks for child in module.modules())


def test_initialisation_fills_every_weight_and_statistic() -> None:
    module = _create.seeded("c_mobilenet_v2", 0.25, 10, {}, seed=0)
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            value.fill_(float("nan") if value.is_floating_point() else 99)
    initialise(module, 1)
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
    assert all(int(value) == 0 for name, value in module.state_dict().items() if name.endswith("tracked"))


def test_initialisation_follows_the_tables_rules() -> None:
    module = nn.Sequential(nn.Conv2d(64, 256, 3, groups=2), nn.BatchNorm2d(256), nn.Linear(256, 500))
    module.requires_grad_(False)
    initialise(module, 0)
    convolution, norm, linear = module
    assert float(convolution.weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert torch.equal(norm.weight, torch.ones(256))
    assert float(linear.weight.std()) == pytest.approx(0.01, rel=0.02)
    assert not convolution.bias.any()
    assert not linear.bias.any()


def test_a_linear_without_bias_is_filled_like_a_convolution() -> None:
    """With N(0, 0.01) a squeeze-and-excitation weights all channels by one half."""
    module = nn.Sequential(nn.Linear(256, 500, bias=False)).requires_grad_(False)
    initialise(module, 0)
    assert float(module[0].weight.std()) == pytest.approx((2 / 500) ** 0.5, rel=0.02)


def test_a_layer_without_a_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="Embedding"):
        initialise(nn.Sequential(nn.Embedding(3, 4)), 0)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU, nn.Hardswish, nn.GELU])
def test_norms_before_an_activation_that_bends_around_zero_are_shifted(activation: type[nn.Module]) -> None:
    body = chain(conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), act=activation())
    plain = chain(conv=nn.Conv2d(8, 8, 1), norm=nn.BatchNorm2d(8))
    module = chain(body=body, plain=plain, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(8, 4))
    calibrate(module, 0)
    assert module.get_submodule("body.norm").get_parameter("bias").tolist() == [SHIFT] * 8
    assert module.get_submodule("plain.norm").get_parameter("bias").tolist() == [0.0] * 8


def test_residual_branches_that_end_in_a_norm_are_calm() -> None:
    """A random ResNet is chaotic otherwise: what half precision rounds off is as large as what tells images apart."""
    ending, beginning = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    module = nn.Sequential(
        Residual(nn.Sequential(nn.Conv2d(3, 3, 1), ending), act=nn.ReLU),
        Residual(nn.Sequential(beginning, nn.Conv2d(3, 3, 1)), act=nn.ReLU),
        nn.BatchNorm2d(3),
    )
    calibrate(module, 0)
    assert ending.weight.tolist() == [RESIDUAL_SCALE] * 3
    assert beginning.weight.tolist() == module[2].weight.tolist() == [1.0] * 3

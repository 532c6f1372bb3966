"""mobilenet_v2 is torchvision's mobilenet_v2: every parameter, and output for output."""

from __future__ import annotations

import pytest
import torch

from edgekit.models import _create, mobilenet_v2
from edgekit.models._calibrate import calibrate

torchvision_models = pytest.importorskip("torchvision.models")


@pytest.mark.parametrize("alpha", [0.1, 0.35, 0.5, 0.75, 1.0, 1.4])
def test_the_outputs_are_bit_for_bit_torchvisions(alpha: float) -> None:
    torch.manual_seed(7)
    theirs = torchvision_models.mobilenet_v2(width_mult=alpha, num_classes=11).requires_grad_(False)
    calibrate(theirs, 0)
    for norm in (child for child in theirs.modules() if isinstance(child, torch.nn.BatchNorm2d)):
        norm.weight.mul_(torch.empty_like(norm.weight).uniform_(1, 3))  # so that activations are cut off at 0 and at 6
    ours = _create.skeleton("mobilenet_v2", alpha, 11, {})
    ours.load_state_dict(mobilenet_v2.from_torchvision(theirs.state_dict()), assign=True)
    largest: list[float] = []
    ours.tail.act.register_forward_hook(lambda layer, args, y: largest.append(float(y.max())))
    images = torch.randn(2, 3, 64, 64)
    wanted, found = theirs(images), ours(images)
    assert not torch.allclose(wanted[0], wanted[1], atol=1e-3)
    assert largest == [6.0]
    assert torch.equal(found, wanted)


def test_every_parameter_has_torchvisions_shape_in_torchvisions_order() -> None:
    with torch.device("meta"):
        theirs = torchvision_models.mobilenet_v2(width_mult=0.75)
    ours = _create.skeleton("mobilenet_v2", 0.75, 1000, {})
    renamed = mobilenet_v2.from_torchvision(theirs.state_dict())
    assert [(name, value.shape) for name, value in renamed.items()] == [
        (name, value.shape) for name, value in ours.state_dict().items()
    ]


def test_names_that_are_not_torchvisions_stay() -> None:
    own = dict.fromkeys(_create.skeleton("mobilenet_v2", 1.0, 10, {}).state_dict(), 0)
    assert mobilenet_v2.from_torchvision(own) == own
    assert mobilenet_v2.from_torchvision({"features.99.weight": 1, "plain": 2}) == {"features.99.weight": 1, "plain": 2}


def test_the_published_weights_are_the_file_that_torchvision_names() -> None:
    pretrained = mobilenet_v2.INFO.pretrained
    assert pretrained is not None
    weights = torchvision_models.get_weight(pretrained.name)
    assert weights.url.rsplit("/", 1)[1] == pretrained.file
    assert len(weights.meta["categories"]) == pretrained.num_classes

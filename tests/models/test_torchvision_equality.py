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
    for norm in (child for child in theirs.modules() if isinstance(child, torch.nn.BatchNorm2d)):
        norm.weight.uniform_(2, 4)  # so that activations are cut off at 0 and at 6
        norm.bias.normal_()
    calibrate(theirs, 0)
    ours = _create.skeleton("mobilenet_v2", alpha, 11, {})
    ours.load_state_dict(mobilenet_v2.from_torchvision(theirs.state_dict()), assign=True)
    images = torch.randn(2, 3, 64, 64)
    wanted = theirs(images)
    assert wanted.std(0).min() > 1e-3
    assert torch.equal(ours(images), wanted)


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

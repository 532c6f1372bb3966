"""timm's networks with every batch-norm right behind its convolution, where the exporter can fold it."""

from __future__ import annotations

from torch import nn

from edgekit import lean
from edgekit.models._blocks import chain

lean.complete()  # timm brings torchvision
import timm  # noqa: E402
from timm.layers.conv_bn_act import ConvNormAct  # noqa: E402

HEAD = ("global_pool", "head_drop", "classif")


def features(name: str) -> dict[str, nn.Module]:
    """What timm's network `name` runs one after the other before its head, by timm's names, with random weights.

    For networks that run their children in their order.
    """
    network = timm.create_model(name, pretrained=False)
    return {name: _foldable(child) for name, child in network.named_children() if name not in HEAD}


def _foldable(module: nn.Module) -> nn.Module:
    """The module itself, with each of timm's convolution blocks in it as a chain of plain layers."""
    if isinstance(module, ConvNormAct):
        norm = nn.BatchNorm2d(module.out_channels, module.bn.eps)
        return chain(conv=module.conv, norm=norm, act=nn.ReLU())
    for name, child in module.named_children():
        module.register_module(name, _foldable(child))
    return module

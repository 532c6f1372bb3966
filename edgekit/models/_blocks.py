"""The pieces that networks are made of. The names of the children become names in the exported graph."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


def chain(**children: nn.Module) -> nn.Sequential:
    """The children one after the other, under their names."""
    return nn.Sequential(OrderedDict(children))


class ConvNorm(nn.Sequential):
    """A convolution without bias, its batch-norm, and an activation unless it is None: children conv, norm, act.

    The padding keeps the size at stride 1 and halves it at stride 2. The norm directly follows its convolution in a
    Sequential: the exporter folds by that rule. Nothing works in place, so that every intermediate tensor can be read.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = nn.ReLU6,
    ) -> None:
        children = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            norm=nn.BatchNorm2d(outputs),
        )
        if act is not None:
            children["act"] = act()
        super().__init__(children)


def depthwise(channels: int, stride: int) -> ConvNorm:
    """A 3x3 convolution of every channel by itself, batch-norm, ReLU6."""
    return ConvNorm(channels, channels, 3, stride=stride, groups=channels)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, 3x3 depthwise, linear 1x1 projection, the shortcut added, `act` of the sum.

    `shortcut` is None for a block without one, and `nn.Identity()` for the input itself.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        stride: int,
        shortcut: nn.Module | None,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = depthwise(hidden, stride)
        self.project = ConvNorm(hidden, outputs, act=None)
        self.shortcut = shortcut
        self.act = act if act is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.project(self.depthwise(self.expand(x)))
        if self.shortcut is not None:
            y = self.shortcut(x) + y
        out: Tensor = self.act(y)
        return out


def head(features: int, num_classes: int, dropout: float = 0.0) -> OrderedDict[str, nn.Module]:
    """Global average pool and Linear, as children to end a chain with: (N, features, H, W) to (N, num_classes)."""
    children = OrderedDict[str, nn.Module](pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1))
    if dropout:
        children["dropout"] = nn.Dropout(dropout)
    children["classifier"] = nn.Linear(features, num_classes)
    return children

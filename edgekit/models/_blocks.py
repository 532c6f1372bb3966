"""The pieces that networks are made of. The names of the children become names in the exported graph."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def chain(**children: nn.Module) -> nn.Sequential:
    """The children one after the other, under their names."""
    return nn.Sequential(OrderedDict(children))


class ConvNorm(nn.Sequential):
    """A convolution without bias, its batch-norm, and an activation unless it is None: children conv, norm, act.

    Where no padding is given, it keeps the size at stride 1 and halves it at stride 2. The norm directly follows its
    convolution in a Sequential: the exporter folds by that rule. Nothing works in place, so that every intermediate
    tensor can be read. A kernel of two numbers is (rows, columns).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        eps: float = 1e-5,
        act: type[nn.Module] | None = nn.ReLU6,
    ) -> None:
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        border = (rows // 2, columns // 2) if padding is None else padding
        children = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(inputs, outputs, (rows, columns), stride, border, groups=groups, bias=False),
            norm=nn.BatchNorm2d(outputs, eps),
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


class Concat(nn.Module):
    """Branches side by side on one input, their outputs joined along the channels in the order of their names."""

    def __init__(self, branches: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, the sum of the branches' channels, H', W')."""
        return torch.cat([branch(x) for branch in self.children()], 1)


class Residual(nn.Module):
    """The output of `body`, times `scale`, added to the shortcut's; `act` of the sum. No shortcut is the input."""

    def __init__(
        self, body: nn.Module, shortcut: nn.Module | None = None, *, scale: float = 1.0, act: type[nn.Module]
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.scale = scale
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the shape of the body's output."""
        y = self.body(x)
        if self.scale != 1.0:
            y = y * self.scale
        out: Tensor = self.act(self.shortcut(x) + y)
        return out


class SqueezeExcite(nn.Module):
    """Every channel times a weight between 0 and 1 that the means of all channels decide.

    Source: Hu et al. 2017, "Squeeze-and-Excitation Networks", arXiv 1709.01507; two Linear without bias.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.act = nn.ReLU()
        self.expand = nn.Linear(hidden, channels, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        weights: Tensor = self.gate(self.expand(self.act(self.reduce(self.squeeze(x).flatten(1)))))
        return x * weights[:, :, None, None]  # not a view: it would tie an exported graph to one batch size


class AnySize(nn.Sequential):
    """A chain from image to image for sides that are multiples of `multiple`, made to take all others.

    They are padded by reflection, the same on both sides, and the output is cropped back. A traced graph holds the
    padding of the size it was traced at, which is none for a multiple; with `dynamic` it works the padding out.
    """

    def __init__(self, children: OrderedDict[str, nn.Module], multiple: int, dynamic: bool = False) -> None:
        super().__init__(children)
        self.multiple, self.dynamic = multiple, dynamic

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W). Raises RuntimeError where reflection would reach beyond the image."""
        height, width = x.shape[-2:] if self.dynamic else _fixed_size(x)
        down, right = -height % self.multiple, -width % self.multiple
        if not self.dynamic and not (down or right):
            return self._chain(x)
        top, left = down // 2, right // 2
        padded = F.pad(x, [left, right - left, top, down - top], mode="reflect")
        return self._chain(padded)[..., top : top + height, left : left + width]

    def _chain(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def _fixed_size(x: Tensor) -> tuple[int, int]:
    """Height and width as numbers, also in a trace, which warns of what is meant here: that it holds for them alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor to a Python integer")
        return int(x.shape[-2]), int(x.shape[-1])


class Frozen(nn.Sequential):
    """A chain that training leaves alone: no gradient goes through it, and its norms keep their statistics."""

    def __init__(self, children: OrderedDict[str, nn.Module]) -> None:
        super().__init__(children)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:  # noqa: ARG002  # eval mode, whatever the network around it is in
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the last layer's output, as a constant to whoever differentiates."""
        with torch.no_grad():
            for layer in self:
                x = layer(x)
        return x


class WithAuxiliary(nn.Sequential):
    """A chain with a second head behind its child `tap`, for training only.

    In train mode the output is the pair (logits, the auxiliary head's logits), in eval mode the logits alone. Source:
    Szegedy et al. 2015, "Going Deeper with Convolutions", arXiv 1409.4842.
    """

    def __init__(self, children: OrderedDict[str, nn.Module], tap: str, auxiliary: nn.Module) -> None:
        super().__init__(children)
        self.tap = tap
        self.auxiliary = auxiliary

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) to logits (N, classes); in train mode to a pair of them."""
        second: Tensor | None = None
        for name, child in self.named_children():
            if child is self.auxiliary:
                continue
            x = child(x)
            if name == self.tap and self.training:
                second = self.auxiliary(x)
        return x if second is None else (x, second)


def head(features: int, num_classes: int, dropout: float = 0.0) -> OrderedDict[str, nn.Module]:
    """Global average pool and Linear, as children to end a chain with: (N, features, H, W) to (N, num_classes)."""
    children = OrderedDict[str, nn.Module](pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1))
    if dropout:
        children["dropout"] = nn.Dropout(dropout)
    children["classifier"] = nn.Linear(features, num_classes)
    return children

"""Networks of libraries with random weights: from a seed, and alive."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.models._calibrate import calibrate

CALIBRATION_SIDE = 128  # of the images of models/_calibrate.py, for networks that take any size
SMALL = 0.1  # layer scales start at 1e-6 to 0.1; what is larger does its work
SCALES = ("gamma", "layer_scale", "gain", "scale")
HEAD_DEVIATION = 0.02  # of transformers' Linear layers, torchvision's and timm's


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While this lasts, torch, numpy and random draw from `seed`; their generators are put back afterwards."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


@torch.no_grad()
def enliven(module: nn.Module, seed: int, shape: tuple[int, ...]) -> None:
    """Make a network with its library's initial weights react to what it sees; in place, in eval mode.

    Libraries start some layers at zero, for the sake of training: the last norm of a residual block, layer scales, the
    head of a transformer. Nothing passes through those, and no comparison would see a fault in them, or behind them.
    Batch-norm statistics are measured on image-like inputs of `shape` (channels, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        _wake(name, parameter, generator)
    calibrate(_Fitted(module, shape), seed)


def _wake(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """A factor that is zero, or small all over, becomes 1; a matrix of zeros is drawn from a normal distribution."""
    leaf = name.rpartition(".")[2]
    constant = parameter.numel() > 0 and bool((parameter == parameter.flatten()[0]).all())
    if not constant or abs(float(parameter.flatten()[0])) > SMALL:
        return
    if leaf == "weight" and parameter.ndim > 1:
        parameter.normal_(0.0, HEAD_DEVIATION, generator=generator)
    elif leaf == "weight" or any(word in leaf for word in SCALES):
        parameter.fill_(1.0)


class _Fitted(nn.Module):
    """The network behind whatever makes the calibration images its input; gives its first output."""

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, images: Tensor) -> Tensor:
        channels, *size = self.shape
        if list(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        if images.shape[1] != channels:
            images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        result = self.network(images)
        while not isinstance(result, Tensor):
            result = next(iter(result.values())) if isinstance(result, dict) else result[0]
        return result

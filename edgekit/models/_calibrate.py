"""Batch-norm statistics for random weights, so that an untrained network reacts to what it sees.

With the usual initial statistics (mean 0, variance 1) the signal of a random MobileNet fades from block to block: its
logits are 1e-9 (v2) to 1e-18 (v1), any two such networks agree within any tolerance, and comparing them proves nothing.

Statistics alone would make it live and chaotic. A ReLU6 around its input's mean throws half of every signal away, the
next norm amplifies what is left, and with it every difference: 1.2 times a layer (Yang et al. 2019, "A Mean Field
Theory of Batch Normalization", arXiv 1902.08129), a thousand times over the 42 of c_mobilenet_v2, whose logits in half
precision are then a quarter noise. Trained networks do no such thing. So the norms before a ReLU6 get a shift that
keeps more of the signal on the straight part of the curve; the logits in half precision are then two per cent noise.
The same holds for a ReLU and its smooth kin, and for instance norms, whose statistics are the image's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.images import normalise
from edgekit.models._blocks import Residual
from edgekit.preprocessing import IMAGENET, Preprocessing
from edgekit.synthetic import natural_image

# Few and large rather than many and small: the padded border is a share of every feature map that depends on the
# resolution, so statistics from 64 pixels misplace the logits at 224 (all photos get one top class); from 128 they
# serve 96 and 224 alike. Five halvings leave 4 x 4: 128 samples a channel in the last blocks.
IMAGES = 8
SIDE = 128
FIRST_SEED = 1_000_000  # the parity ladder takes its inputs from the small seeds

# What a ReLU or ReLU6 gets to see: mean 0.5 and deviation 1. At mean 0, the outputs of the ReLU networks in half
# precision are up to 9 per cent noise (small images), at 0.5 up to 2.4, at 1 up to 0.8; but at 1 the inceptions tell
# images apart half as well, and a ReLU has little left to cut off. Before a ReLU6, every eighth channel has mean 2.5
# and deviation 2, of which one value in 25 lies above 6 and one in ten below 0: each limit does its work in every
# layer, and a graph that has lost one differs. A larger mean drowns the images in what padding makes of it, above all
# at other sizes than 128; a larger deviation brings the chaos back. docs/decisions/0003-tolerances.md has the figures.
SHIFT = 0.5
WIDE_SHIFT, WIDE_SCALE, WIDE_EVERY = 2.5, 2.0, 8

# Activations that bend around 0 throw half of a signal away as a ReLU does. Without the shift, rounding grows 177 times
# over the layers of torchvision's EfficientNet-B0, and 2,300 times on an input of eight times the contrast (in half
# precision the outputs are 2.3 per cent noise); with it 39 times (0.3 per cent).
SMOOTH = (nn.SiLU, nn.Hardswish, nn.GELU)
Activations = tuple[type[nn.Module], ...]

# What a norm at the end of a residual branch scales it by. At 1, every block of a random ResNet-50 adds as much as is
# there; at 160 and 224 pixels its pooled features are then nearly the same for all images, and half precision cannot
# tell them apart (outputs vary by 0.13 of their size, three tolerances are 0.17). At 0.25 they vary by 0.23 to 0.87
# (64 to 224 pixels, four seeds), and three tolerances are 0.01 to 0.11. Goyal et al. 2017, "Accurate, Large Minibatch
# SGD", arXiv 1706.02677, begin training with 0.
RESIDUAL_SCALE = 0.25

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d


@torch.no_grad()
def calibrate(
    module: nn.Module, seed: int, *, side: int = SIDE, contract: Preprocessing = IMAGENET, given: str = ""
) -> None:
    """Set the running statistics of every batch-norm from 8 seeded image-like inputs; leave the module in eval mode.

    One pass: each batch-norm takes the statistics of what reaches it and normalises by them, so the layers behind it
    see what they will see afterwards. Norms before a ReLU, a ReLU6 or one of SMOOTH get scale and shift, too. The bias
    of the Linear that runs last then takes away the mean logits over these images: what is left differs from image to
    image, and so does the top class. No weight of a convolution or Linear changes.

    The images are `side` pixels wide and normalised by `contract`. `given` is the path of a child that has its weights
    and statistics already, and keeps them. The result depends on the weights and these arguments alone: not on a
    resolution, and not on the number of threads, because sums are taken on one.
    """
    module.eval()
    kept = set(module.get_submodule(given).modules()) if given else set()
    layers = [layer for layer in module.modules() if layer not in kept]
    _shift(layers)
    _calm(layers)
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    linears = [layer for layer in layers if isinstance(layer, nn.Linear) and layer.bias is not None]
    if norms or linears:
        with _one_thread(), _measuring(norms), _observing(linears) as outputs:
            module(calibration_images(seed, side, contract))
        _centre(outputs, layers)


def calibration_images(seed: int, side: int = SIDE, contract: Preprocessing = IMAGENET) -> Tensor:
    """Normalised image-like inputs (8, 3, side, side), unlike each other in brightness, contrast and colour."""
    images = [normalise(natural_image(side, FIRST_SEED + seed * IMAGES + i), contract) for i in range(IMAGES)]
    # In this order of the axes in memory convolutions and norms take half the time.
    return torch.from_numpy(np.concatenate(images)).contiguous(memory_format=torch.channels_last)


def _shift(layers: list[nn.Module]) -> None:
    for norm in _norms(_before(nn.ReLU6, layers)):
        norm.weight.fill_(1.0)[::WIDE_EVERY] = WIDE_SCALE
        norm.bias.fill_(SHIFT)[::WIDE_EVERY] = WIDE_SHIFT
    for norm in _norms(_before((nn.ReLU, *SMOOTH), layers)):
        norm.bias.fill_(SHIFT)


def _calm(layers: list[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, Residual):
            *_, last = layer.body.modules()
            # Instance norms do no such harm: what they give depends on the image alone.
            if isinstance(last, nn.BatchNorm2d) and last.affine:
                last.weight.fill_(RESIDUAL_SCALE)


def _norms(layers: Iterator[nn.Module]) -> Iterator[Norm]:
    return (layer for layer in layers if isinstance(layer, Norm) and layer.affine)


def _before(activation: type[nn.Module] | Activations, layers: list[nn.Module]) -> Iterator[nn.Module]:
    """The layers that the activation directly follows in a Sequential."""
    for parent in layers:
        if isinstance(parent, nn.Sequential):
            for layer, following in itertools.pairwise(parent.children()):
                if isinstance(following, activation):
                    yield layer


@contextmanager
def _observing(linears: list[nn.Linear]) -> Iterator[list[tuple[nn.Linear, Tensor]]]:
    """The layers that ran while this lasted, in their order, each with its output."""
    ran: list[tuple[nn.Linear, Tensor]] = []
    handles = [
        linear.register_forward_hook(lambda layer, _args, output: ran.append((layer, output))) for linear in linears
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def _centre(ran: list[tuple[nn.Linear, Tensor]], layers: list[nn.Module]) -> None:
    if ran and ran[-1][1].ndim == 2:
        linear, logits = ran[-1]
        linear.bias.sub_(logits.mean(0))
        if linear in _before(nn.ReLU, layers):
            # Of centred logits it would leave half, and of two classes often none.
            linear.bias.add_(logits.std())


@contextmanager
def _measuring(norms: list[nn.BatchNorm1d | nn.BatchNorm2d]) -> Iterator[None]:
    """While this lasts, every batch-norm takes the statistics of its input as it normalises with them.

    That is train mode with a momentum of 1: one pass over the tensor, where `var_mean` would take a slower one more.
    """
    handles = [norm.register_forward_hook(_without_correction) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, handle, momentum in zip(norms, handles, momenta, strict=True):
            handle.remove()
            norm.eval()
            norm.momentum = momentum
            norm.get_buffer("num_batches_tracked").zero_()  # nothing was trained


def _without_correction(norm: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
    """Train mode keeps the unbiased estimate, n / (n - 1) of the variance that it normalises with."""
    count = args[0].numel() // args[0].shape[1]
    norm.get_buffer("running_var").mul_((count - 1) / count)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

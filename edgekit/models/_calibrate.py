"""Batch-norm statistics for random weights, so that an untrained network reacts to what it sees.

With the usual initial statistics (mean 0, variance 1) the signal of a random MobileNet fades from block to block: its
logits are 1e-9 (v2) to 1e-18 (v1), any two such networks agree within any tolerance, and comparing them proves nothing.

Statistics alone would make it live and chaotic. A ReLU6 around its input's mean throws half of every signal away, the
next norm amplifies what is left, and with it every difference: 1.2 times a layer (Yang et al. 2019, "A Mean Field
Theory of Batch Normalization", arXiv 1902.08129), a thousand times over the 42 of c_mobilenet_v2, whose logits in half
precision are then a quarter noise. Trained networks do no such thing. So the norms before a ReLU6 get a shift that
keeps more of the signal on the straight part of the curve; the logits in half precision are then two per cent noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.images import normalise
from edgekit.preprocessing import IMAGENET
from edgekit.synthetic import natural_image

# Few and large rather than many and small: the padded border is a share of every feature map that depends on the
# resolution, so statistics from 64 pixels misplace the logits at 224 (all photos get one top class); from 128 they
# serve 96 and 224 alike. Five halvings leave 4 x 4: 128 samples a channel in the last blocks.
IMAGES = 8
SIDE = 128
FIRST_SEED = 1_000_000  # the parity ladder takes its inputs from the small seeds

# What a ReLU6 gets to see: mean 0.5 and deviation 1, and in every eighth channel mean 2.5 and deviation 2, of which one
# value in 25 lies above 6 and one in ten below 0: each limit does its work in every layer, and a graph that has lost
# one differs. A larger mean drowns the images in what padding makes of it, above all at other sizes than 128; a larger
# deviation brings the chaos back. docs/decisions/0003-tolerances.md has the figures.
SHIFT = 0.5
WIDE_SHIFT, WIDE_SCALE, WIDE_EVERY = 2.5, 2.0, 8


@torch.no_grad()
def calibrate(module: nn.Module, seed: int) -> None:
    """Set the running statistics of every batch-norm from 8 seeded image-like inputs; leave the module in eval mode.

    One pass: each batch-norm takes the statistics of what reaches it and normalises by them, so the layers behind it
    see what they will see afterwards. Those before a ReLU6 get scale and shift, too. The last Linear's bias then takes
    away the mean logits over these images: what is left differs from image to image, and so does the top class. No
    weight of a convolution or Linear changes. The result depends on the weights and the seed alone: not on a
    resolution, and not on the number of threads, because sums are taken on one.
    """
    module.eval()
    for norm in _norms_before_relu6(module):
        norm.weight.fill_(1.0)[::WIDE_EVERY] = WIDE_SCALE
        norm.bias.fill_(SHIFT)[::WIDE_EVERY] = WIDE_SHIFT
    with _one_thread(), _measuring(module):
        logits = module(calibration_images(seed))
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if linears and linears[-1].bias is not None and linears[-1].bias.shape == logits.shape[1:]:
        linears[-1].bias.sub_(logits.mean(0))


def calibration_images(seed: int) -> Tensor:
    """Normalised image-like inputs (8, 3, 128, 128), unlike each other in brightness, contrast and colour."""
    images = [normalise(natural_image(SIDE, FIRST_SEED + seed * IMAGES + i), IMAGENET) for i in range(IMAGES)]
    # In this order of the axes in memory convolutions and norms take half the time.
    return torch.from_numpy(np.concatenate(images)).contiguous(memory_format=torch.channels_last)


def _norms_before_relu6(module: nn.Module) -> Iterator[nn.BatchNorm2d]:
    for parent in module.modules():
        if isinstance(parent, nn.Sequential):
            for layer, following in itertools.pairwise(parent.children()):
                if isinstance(layer, nn.BatchNorm2d) and layer.affine and isinstance(following, nn.ReLU6):
                    yield layer


@contextmanager
def _measuring(module: nn.Module) -> Iterator[None]:
    """While this lasts, every batch-norm takes the statistics of its input as it normalises with them.

    That is train mode with a momentum of 1: one pass over the tensor, where `var_mean` would take a slower one more.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
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

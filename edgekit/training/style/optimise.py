"""One image, changed until the features see the content's things in the style's manner.

Source: Gatys et al. 2016; L-BFGS with a line search that keeps the strong Wolfe conditions.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgekit.errors import GateFailed
from edgekit.training.style import features, pictures
from edgekit.training.style.losses import PerceptualLoss
from edgekit.training.style.pictures import Picture
from edgekit.training.style.request import OptimiseRequest, Start

INNER = 10  # L-BFGS iterations between two looks at the clock and the stop rule
HISTORY = 20  # pairs of vectors that L-BFGS keeps
PATIENCE = 3  # looks in a row without an improvement worth the name end it
FENCE = 30.0  # what leaving 0..1 costs, in first losses for each unit squared: a file cuts such colours off
NOISE = 0.15  # deviation, around the content's mean colour


@dataclass(frozen=True)
class Step:
    """Where the optimisation is: the loss of the image, each of its terms times its weight."""

    number: int
    loss: float
    style: float
    content: float
    variation: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Optimised:
    """The picture, the steps on the way to it (the first is the start), and why it ended.

    `final` is the loss of the picture as it is written: with its colours cut to what a file can hold.
    """

    picture: Picture
    history: tuple[Step, ...]
    final: Step
    stopped: Literal["steps", "settled"]

    @property
    def fall(self) -> float:
        """The share of the first loss that is gone in the picture as written."""
        return 1 - self.final.loss / self.history[0].loss if self.history[0].loss else 0.0


Listener = Callable[[Step, Callable[[], Picture]], None]


class LossNotFinite(GateFailed):
    """The loss became infinite or not a number. `picture` is the last good one, None where there was none."""

    def __init__(self, step: int, got: str, picture: Picture | None, hint: str) -> None:
        super().__init__(f"the loss is not finite at step {step}", got=got, wanted="a finite loss", hint=hint)
        self.picture = picture


def optimise(request: OptimiseRequest, listen: Listener | None = None) -> Optimised:
    """Run it. `listen` hears of every step, with a way to have the picture as it is then.

    The content is shrunk to `request.size`, and the style with it; the result has the content's transparency. The
    same request gives the same picture on the same machine with as many threads. Raises InputUnusable for pictures
    and weights that cannot be used, MachineLacks for weights that are not here, LossNotFinite with the last good
    picture when it diverges.
    """
    content = pictures.within(pictures.read(request.content), request.size)
    style = pictures.within(pictures.read(request.style), request.size)
    extractor = features.build(request.features, request.objective.layers)
    loss = PerceptualLoss(extractor, request.objective, style.tensor())
    image = started(request.start, content, style, request.seed)
    return _Descent(loss, content, image, request.steps, request.tolerance, listen or _nobody).run()


def started(start: Start, content: Picture, style: Picture, seed: int) -> Tensor:
    """What the optimisation begins with, as colours (1, 3, H, W) of the content's size."""
    if start == "content":
        return content.tensor()
    if start == "style":
        return pictures.resized(Picture(style.pixels), *content.size).tensor()
    plain = content.tensor()
    noise = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed))
    return (plain.mean((2, 3), keepdim=True) + NOISE * noise).clamp(0, 1)


def _nobody(_step: Step, _picture: Callable[[], Picture]) -> None:
    """Nobody listens."""


class _Descent:
    """One run of L-BFGS over the pixels."""

    def __init__(
        self, loss: PerceptualLoss, content: Picture, image: Tensor, steps: int, tolerance: float, listen: Listener
    ) -> None:
        self.loss, self.alpha, self.steps, self.tolerance, self.listen = loss, content.alpha, steps, tolerance, listen
        self.image = image.requires_grad_(True)
        self.wanted = loss.content_of(content.tensor())
        self.begun = time.monotonic()
        self.good: Tensor | None = None
        self.scale = self.fence = 1.0
        self.optimizer = torch.optim.LBFGS([self.image], history_size=HISTORY, line_search_fn="strong_wolfe")

    def run(self) -> Optimised:
        history = [self._checked(self._look(self.image, 0))]
        self._tell(history[0])
        self.scale, self.fence = self._unit(), FENCE * history[0].loss
        while (done := history[-1].number) < self.steps and not self._settled(history):
            self._advance(min(INNER, self.steps - done))
            history.append(self._checked(self._look(self.image, min(done + INNER, self.steps))))
            self._tell(history[-1])
        picture = self._picture()
        final = self._look(picture.tensor(), history[-1].number)
        return Optimised(picture, tuple(history), final, "settled" if self._settled(history) else "steps")

    def _advance(self, count: int) -> None:
        # What L-BFGS has learnt of the curvature is kept in the optimiser's state from one call to the next.
        group = self.optimizer.param_groups[0]
        group.update(max_iter=count, max_eval=count * 5 // 4 + 1, tolerance_grad=0.0, tolerance_change=0.0)
        self.optimizer.step(self._closure)  # type: ignore[no-untyped-call]

    def _closure(self) -> Tensor:
        self.optimizer.zero_grad()
        total = (self.loss(self.image, self.wanted).total + self.fence * _outside(self.image)) * self.scale
        total.backward()  # type: ignore[no-untyped-call]
        return total

    def _unit(self) -> float:
        """What the loss is multiplied by for L-BFGS, so that a pixel's gradient is about 1 at the start.

        torch's L-BFGS forgets every step whose change of gradient times change of image is below 1e-10: with a loss of
        1e-2 over 50,000 pixels that is all of them, and what is left is plain gradient descent.
        """
        (gradient,) = torch.autograd.grad(self.loss(self.image, self.wanted).total, self.image)
        size = float(gradient.square().mean().sqrt())
        return 1 / size if math.isfinite(size) and size > 0 else 1.0

    @torch.no_grad()
    def _look(self, image: Tensor, number: int) -> Step:
        terms = self.loss(image, self.wanted)
        seconds = time.monotonic() - self.begun
        style, content, variation = float(terms.style), float(terms.content), float(terms.variation)
        return Step(number, float(terms.total), style, content, variation, seconds)

    def _checked(self, step: Step) -> Step:
        if not math.isfinite(step.loss):
            picture = None if self.good is None else pictures.from_tensor(self.good, self.alpha)
            hint = "smaller --style-weight and --content-weight; or are these weights of another network?"
            raise LossNotFinite(step.number, f"loss {step.loss}", picture, hint)
        self.good = self.image.detach().clone()
        return step

    def _settled(self, history: list[Step]) -> bool:
        """Whether the last looks improved on one another by less than the tolerance, each time."""
        last = history[-PATIENCE - 1 :]
        gains = [1 - after.loss / before.loss if before.loss else 0.0 for before, after in itertools.pairwise(last)]
        return len(gains) == PATIENCE and all(gain < self.tolerance for gain in gains)

    def _picture(self) -> Picture:
        return pictures.from_tensor(self.image, self.alpha)

    def _tell(self, step: Step) -> None:
        self.listen(step, self._picture)


def _outside(image: Tensor) -> Tensor:
    """The mean square of how far pixels lie outside 0..1."""
    return (image - image.detach().clamp(0, 1)).square().mean()

"""What an experiment is asked for: the axes of its grid, and what all of its cells share. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import models
from edgekit.errors import UsageError
from edgekit.sources import SeedWeights, reference
from edgekit.training import request as training
from edgekit.training.recipe import Recipe
from edgekit.training.request import TrainRequest
from edgekit.variant import Variant, check_whole, format_alpha, unique

if TYPE_CHECKING:
    from edgekit.training.sources import DataSource

# The published experiment, from the course notes that this project follows. It rounds channels down, as they do.
NETWORKS = ("mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2")
ALPHAS = (1.0, 0.75, 0.5, 0.35)
RESOLUTIONS = (224, 192, 160, 128, 96)
PUBLISHED_RECIPE = "mobilenet-published"
PUBLISHED_OPTIONS = (("rounding", "published"),)

# What a cell has and the experiment has several of; all else is the same for every cell.
AXES = {"networks", "alphas", "resolutions", "seeds"}
LARGEST_SEED = 2**63 - 1
MOST_THREADS = 1024
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One training: a network at one width and resolution, from one seed. `alpha` is None where there are no widths."""

    model: str
    alpha: float | None
    resolution: int
    seed: int

    @property
    def variant(self) -> Variant:
        """The network without its seed."""
        return Variant(self.model, self.alpha, self.resolution)

    @property
    def slug(self) -> str:
        """The name of its folder, for example `mobilenet_v2-a0.50-r160-s0`."""
        return f"{self.variant.slug}-s{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """The axes, and what every cell is trained on and how.

    `threads` is what one cell computes with: a share of the sum of floating-point numbers hangs on it, so it belongs
    to the experiment and not to the machine. `workers` (decoding processes of each cell) and `checkpoint_every_s`
    change no figure. Raises UsageError for a grid without cells, or with cells that cannot be.
    """

    networks: tuple[str, ...]
    alphas: tuple[float, ...]
    resolutions: tuple[int, ...]
    seeds: tuple[int, ...]
    data: DataSource
    recipe: Recipe
    options: tuple[tuple[str, str], ...] = ()
    threads: int = 1
    val_share: float = 0.1
    data_seed: int = 0
    workers: int | None = None
    checkpoint_every_s: float = 60.0

    def __post_init__(self) -> None:
        check_whole("threads", self.threads, 1, MOST_THREADS)
        for seed in self.seeds:
            check_whole("seeds", seed, 0, LARGEST_SEED)
        count = len(self.cells)
        if not 1 <= count <= MOST_CELLS:
            raise UsageError("not a grid", where="the experiment", got=f"{count} cells", wanted=f"1 to {MOST_CELLS}")
        for cell in self.cells:
            _check(cell, self.options)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The product of the axes, in the order given, each once; a network without widths has one of them."""
        return tuple(unique(list(self._product())))

    def _product(self) -> Iterator[Cell]:
        for model in self.networks:
            widths: tuple[float | None, ...] = self.alphas if models.info(model).has_alpha else (None,)
            for alpha in widths:
                for resolution in self.resolutions:
                    yield from (Cell(model, alpha, resolution, seed) for seed in self.seeds)

    def train_request(self, cell: Cell, out: Path) -> TrainRequest:
        """The cell as a training. Its first weights come from the seed, the network and the width, and no more."""
        return TrainRequest(
            model=cell.model,
            data=self._data_from_anywhere(),
            recipe=self.recipe,
            out=out.resolve(),
            alpha=cell.alpha,
            resolution=cell.resolution,
            options=self.options,
            weights=SeedWeights(cell.seed),
            seed=cell.seed,
            val_share=self.val_share,
            data_seed=self.data_seed,
            workers=self._workers(),
            threads=self.threads,
            checkpoint_every_s=self.checkpoint_every_s,
            devices=1,
        )

    def _workers(self) -> int | None:
        """Decoding processes of a cell: its share of the machine, where it would otherwise take all of it."""
        return self.threads if self.workers is None and self.data.kind == "folder" else self.workers

    def _data_from_anywhere(self) -> DataSource:
        """The data by a path that another process, in another folder, can follow."""
        return self.data if self.data.path is None else replace(self.data, path=self.data.path.resolve())

    def asked(self) -> dict[str, str]:
        """All that decides the figures, as name and text."""
        shared = training.asked(self.train_request(self.cells[0], Path()))
        own = {"model", "alpha", "res", "seed", "weights", "distil-from"}
        return {
            "networks": ",".join(self.networks),
            "alphas": ",".join(map(format_alpha, self.alphas)),
            "resolutions": ",".join(map(str, self.resolutions)),
            "seeds": ",".join(map(str, self.seeds)),
            "threads": str(self.threads),
            **{key: value for key, value in shared.items() if key not in own},
        }


def _check(cell: Cell, options: tuple[tuple[str, str], ...]) -> None:
    """Raise UsageError for a network that there is not, one without classes, and sizes and options it cannot have."""
    about = models.info(cell.model)
    if about.task != "classification":
        raise UsageError(
            f"{cell.model} has no classes to learn", where="NETWORK", hint="edgekit style trains networks of its kind"
        )
    reference.check(replace(cell.variant, options=options), SeedWeights(cell.seed))

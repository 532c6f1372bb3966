"""The Inception family: tables in the words of its papers, turned into modules.

A chain is a text of steps: "1x1 64, 1x7 96, 3x3/2 128" are convolutions (rows x columns, stride, outputs), each with
batch-norm (epsilon 1e-3) and ReLU; "max 3x3/2" and "avg 3x3" are pools. Steps of stride 1 keep the size and those of
stride 2 take no padding; "V" (for valid, as in the papers) takes it from one of stride 1. "1x3 256 | 3x1 256" are two
convolutions side by side, their outputs joined. A block is a chain, or chains by name, side by side.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from edgekit.models._blocks import Concat, ConvNorm

Block = str | dict[str, str]
Table = tuple[tuple[str, Block | list[Block]], ...]  # name, and the block or the numbered blocks under it
Make = Callable[[int, Block], tuple[nn.Module, int]]
EPS = 1e-3
STEP = re.compile(r"(?:(max|avg) )?(\d)x(\d)(?:/(\d))?(?: (\d+))?( V)?")


@dataclass(frozen=True)
class Step:
    """One step of a chain: a convolution, or a pool, whose `outputs` are 0."""

    name: str
    kernel: tuple[int, int]
    stride: int
    outputs: int
    valid: bool

    def module(self, inputs: int, pad_counts: bool) -> nn.Module:
        """The step on `inputs` channels; `pad_counts` is whether an average takes the zeros of the border in."""
        side, border = self.kernel[0], self.kernel[0] // 2 if self.stride == 1 else 0
        if self.name == "max":
            return nn.MaxPool2d(side, self.stride, border)
        if self.name == "avg":
            return nn.AvgPool2d(side, self.stride, border, count_include_pad=pad_counts)
        padding = 0 if self.valid or self.stride > 1 else None
        return ConvNorm(inputs, self.outputs, self.kernel, stride=self.stride, padding=padding, eps=EPS, act=nn.ReLU)


@dataclass(frozen=True)
class Place:
    """A place in a chain, by name, and the steps that stand side by side in it: one, or the two of a split."""

    name: str
    steps: tuple[Step, ...]


def places(chain: str) -> list[Place]:
    """The places of a chain. The second of a kind is called, for example, 3x3_2. Raises ValueError for another text."""
    seen: Counter[str] = Counter()
    found = []
    for text in chain.split(", "):
        steps = tuple(_step(part) for part in text.split(" | "))
        name = steps[0].name if len(steps) == 1 else "split"
        seen[name] += 1
        found.append(Place(name if seen[name] == 1 else f"{name}_{seen[name]}", steps))
    return found


def _step(text: str) -> Step:
    found = STEP.fullmatch(text)
    if found is None or bool(found[1]) == bool(found[5]):  # either a pool or a convolution, which has outputs
        raise ValueError(f"not a step of an Inception table: {text!r}")
    pool, rows, columns, stride, outputs, valid = found.groups()
    name = pool or f"{rows}x{columns}"
    return Step(name, (int(rows), int(columns)), int(stride or 1), int(outputs or 0), bool(valid))


def in_line(inputs: int, chain: str, pad_counts: bool = True) -> tuple[nn.Module, int]:
    """The chain on `inputs` channels, and the channels that it puts out."""
    children = OrderedDict[str, nn.Module]()
    for place in places(chain):
        modules = {step.name: step.module(inputs, pad_counts) for step in place.steps}
        children[place.name] = Concat(modules) if len(modules) > 1 else modules[place.steps[0].name]
        inputs = sum(step.outputs for step in place.steps) or inputs
    return nn.Sequential(children), inputs


def block(inputs: int, entry: Block, pad_counts: bool = True) -> tuple[nn.Module, int]:
    """A block on `inputs` channels, and the channels that it puts out."""
    if isinstance(entry, str):
        return in_line(inputs, entry, pad_counts)
    branches = {name: in_line(inputs, chain, pad_counts) for name, chain in entry.items()}
    return Concat({name: branch for name, (branch, _) in branches.items()}), sum(
        width for _, width in branches.values()
    )


def trunk(table: Table, make: Make = block, inputs: int = 3) -> tuple[OrderedDict[str, nn.Module], int]:
    """The table's rows one after the other, as children by name, and the channels that the last of them puts out.

    `make` turns a block into a module.
    """
    children = OrderedDict[str, nn.Module]()
    for name, row in table:
        blocks = []
        for entry in row if isinstance(row, list) else [row]:
            module, inputs = make(inputs, entry)
            blocks.append(module)
        children[name] = nn.Sequential(*blocks) if isinstance(row, list) else blocks[0]
    return children, inputs


@dataclass(frozen=True)
class Convolution:
    """Where a convolution of a table stands, for renaming weights: `path` is the module's; numbers begin at 0.

    `block` counts the table's blocks, `branch` a block's chains and `step` the places of the chain called `chain`.
    `side` is "a" or "b" for one of a split; `alone` is true in a chain of one place, `splits` in one with a split.
    """

    path: str
    block: int
    branch: int
    chain: str
    step: int
    side: str
    alone: bool
    splits: bool


def convolutions(table: Table) -> Iterator[Convolution]:
    """Every convolution of the table, in the order of its text."""
    for block, (path, entry) in enumerate(_entries(table)):
        chains = {"": entry} if isinstance(entry, str) else entry
        for branch, (name, chain) in enumerate(chains.items()):
            found = places(chain)
            alone, splits = len(found) == 1, any(len(place.steps) > 1 for place in found)
            for step, side, leaf in _leaves(found):
                full = ".".join(part for part in (path, name, leaf) if part)
                yield Convolution(full, block, branch, name, step, side, alone, splits)


def _entries(table: Table) -> Iterator[tuple[str, Block]]:
    """Every block of the table with its path."""
    for name, row in table:
        if isinstance(row, list):
            yield from ((f"{name}.{i}", entry) for i, entry in enumerate(row))
        else:
            yield name, row


def _leaves(chain: list[Place]) -> Iterator[tuple[int, str, str]]:
    """The step, the side and the path in the chain of each of its convolutions."""
    for step, place in enumerate(chain):
        if len(place.steps) > 1:
            sides = zip("ab", place.steps, strict=True)
            yield from ((step, side, f"{place.name}.{one.name}") for side, one in sides)
        elif place.steps[0].outputs:
            yield step, "", place.name

"""What a module returns, whatever its form, as tensors with names."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from edgekit.errors import InputUnusable

LOGITS, OUTPUT = "logits", "output"
FLAT_PREFIX = "inner."
Path = tuple[str | int, ...]
Form = Literal["classification", "image", "other"]


class Flat(nn.Module):
    """A module that takes its tensors by position and returns one tensor, or a tuple of them.

    The names of `inner` stand behind FLAT_PREFIX here. Raises RuntimeError when a run returns another number of tensors
    than the one that `names` were found in.
    """

    def __init__(self, inner: nn.Module, names: tuple[str, ...], keywords: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.inner, self.names, self.keywords = inner, names, keywords

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The tensors of what `inner` returns, in its order."""
        found = tuple(tensor for _, tensor in leaves(call(self.inner, tensors, self.keywords)))
        if len(found) != len(self.names):
            raise RuntimeError(f"the network returned {len(found)} tensors, and {len(self.names)} before")
        return found[0] if len(found) == 1 else found


def call(module: nn.Module, tensors: Iterable[Tensor], keywords: tuple[str, ...] = ()) -> object:
    """The module's own result, with the tensors given by position, or by keyword where there are keywords."""
    return module(**dict(zip(keywords, tensors, strict=True))) if keywords else module(*tensors)


def leaves(value: object, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in tuples, lists, mappings, named tuples and dataclasses, and the way to it; None is left out.

    Raises InputUnusable for anything else that is found there.
    """
    if isinstance(value, Tensor):
        yield path, _usable(value, path)
        return
    if value is None:
        return
    inside = _children(value)
    if inside is None:
        raise InputUnusable(
            "the network returns something that is no tensor",
            got=f"{_name(path) if path else 'its result'} is a {type(value).__name__}",
            wanted="tensors, and tuples, lists, dictionaries and dataclasses of tensors",
            hint="return the tensors alone, from a factory that wraps the network",
        )
    for key, child in inside:
        yield from leaves(child, (*path, key))


def name_outputs(found: list[tuple[Path, Tensor]], form: Form) -> tuple[str, ...]:
    """A name for every tensor, from the way to it: stable, unique, and fit for a graph.

    A single tensor that has none is "logits" of a classifier, else "output".
    """
    if len(found) == 1 and not any(isinstance(step, str) for step in found[0][0]):
        return (LOGITS if form == "classification" else OUTPUT,)
    names: list[str] = []
    for path, _ in found:
        name = _name(path)
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        names.append(next(free for free in itertools.chain([name], numbered) if free not in names))
    return tuple(names)


def form_of(found: list[tuple[Path, Tensor]], images: bool) -> Form:
    """What a network of one output does, by its shape: (N, C) from images classifies, (N, 3, H, W) makes images."""
    if len(found) == 1 and images and found[0][1].is_floating_point():
        shape = found[0][1].shape
        if len(shape) == 2:
            return "classification"
        if len(shape) == 4 and shape[1] == 3:
            return "image"
    return "other"


def _children(value: object) -> list[tuple[str | int, object]] | None:
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _usable(tensor: Tensor, path: Path) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise InputUnusable(
            "the network returns a tensor that no graph can",
            got=f"{_name(path)} is {str(tensor.layout).removeprefix('torch.')} and {str(tensor.dtype)[6:]}",
            wanted="dense tensors of real numbers",
        )
    return tensor


def _name(path: Path) -> str:
    words = [str(step) for step in path]
    text = "_".join(words if words and isinstance(path[0], str) else [OUTPUT, *words])
    safe = re.sub(r"\W+", "_", text, flags=re.ASCII)
    return safe if safe.isidentifier() else f"{OUTPUT}_{safe}"

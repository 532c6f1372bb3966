"""The reference networks, one file each, found by file name: adding a network is adding its file to this folder.

A network's file has a docstring that names its source, `INFO`, its table, and `build`; what the networks share stands
in the files whose names begin with an underscore. A network's file imports torch only inside its functions, so that
names, options and resolutions are checked without it; the `nn.Module` classes that it needs are in `_blocks.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from edgekit.errors import UsageError, did_you_mean
from edgekit.models._info import ModelInfo


def names() -> list[str]:
    """The reference networks: every module of this folder whose name does not begin with an underscore."""
    return list(_files(tuple(__path__)))


@cache
def _files(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_")))


def load(name: str) -> ModuleType:
    """The file of the network `name`. Raises UsageError, with the nearest names, for one that is not there."""
    known = names()
    if name not in known:
        raise UsageError(
            f"there is no network called {name!r}",
            where="SOURCE",
            wanted="the name of a reference network (edgekit models lists them)",
            hint=did_you_mean(name, known),
        )
    return importlib.import_module(f"{__name__}.{name}")


def info(name: str) -> ModelInfo:
    """What the network `name` says about itself. Raises UsageError for an unknown name."""
    found = load(name).INFO
    assert isinstance(found, ModelInfo)
    return found


def check_width(name: str, alpha: float | None) -> None:
    """Raise UsageError for a width of a network that has none; None, the default width, suits every network."""
    if alpha is not None and not info(name).has_alpha:
        raise UsageError(f"{name} has no width multiplier", where="--alpha", got=str(alpha), hint="leave --alpha out")


def check_classes(name: str, num_classes: int | None) -> None:
    """Raise UsageError for a number of classes of a network that has none; None, the default, suits every network."""
    if num_classes is not None and info(name).num_classes is None:
        raise UsageError(
            f"{name} has no classes: its output is an image",
            where="--num-classes",
            got=str(num_classes),
            hint="leave --num-classes out",
        )


def check_resolution(name: str, resolution: int) -> None:
    """Raise UsageError, naming the nearest sizes that work, unless the network can take a `resolution`-pixel square.

    A network that halves its input five times needs a multiple of 32: anything else is cropped or padded unevenly
    on the way down, and no published figure is for such a size.
    """
    stride, smallest = info(name).stride, info(name).smallest
    if resolution >= smallest and resolution % stride == 0:
        return
    first = -(-smallest // stride) * stride
    below = resolution // stride * stride
    nearest = dict.fromkeys(str(max(first, size)) for size in (below, below + stride))
    words = [f"a multiple of {stride}"] if stride > 1 else []
    words += [f"{first} or more"] if first > stride else []
    raise UsageError(
        f"{name} cannot take this resolution",
        where="--res",
        got=str(resolution),
        wanted=", ".join(words),
        hint=f"the nearest: {' or '.join(nearest)}",
    )

"""The reference networks, one file each, found by file name: adding a network is adding its file to this folder.

A network's file has a docstring that names its source, `INFO`, its table, and `build`; what the networks share stands
in the files whose names begin with an underscore. A network's file imports torch only inside its functions, so that
names, options and resolutions are checked without it; one that defines its own `nn.Module` classes may import torch at
its top, and then asking for its INFO costs that import.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from edgekit.errors import UsageError, did_you_mean
from edgekit.models._info import ModelInfo


def names() -> list[str]:
    """The reference networks: every module of this folder whose name does not begin with an underscore."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))


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


def check_resolution(name: str, resolution: int) -> None:
    """Raise UsageError, naming the nearest sizes that work, unless the network can take a `resolution`-pixel square.

    A network that halves its input five times needs a multiple of 32: anything else is cropped or padded unevenly
    on the way down, and no published figure is for such a size.
    """
    stride = info(name).stride
    if resolution >= stride and resolution % stride == 0:
        return
    below = resolution // stride * stride
    nearest = [str(size) for size in (below, below + stride) if size >= stride] if resolution > 0 else [str(stride)]
    raise UsageError(
        f"{name} cannot take this resolution",
        where="--res",
        got=str(resolution),
        wanted=f"a multiple of {stride}",
        hint=f"the nearest: {' or '.join(nearest)}",
    )

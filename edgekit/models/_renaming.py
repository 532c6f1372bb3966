"""The weights of other libraries' networks under this one's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def renamed(state: Mapping[str, T], ours: Mapping[str, str]) -> dict[str, T]:
    """`state` with the path of every layer that `ours` names replaced; names that it does not name stay as they are."""
    paths = {name: name.rpartition(".") for name in state}
    return {f"{ours[path]}.{leaf}" if path in ours else name: state[name] for name, (path, _, leaf) in paths.items()}


def conv_bn(theirs: str, ours: str) -> dict[str, str]:
    """The two layers of a block that torchvision and timm call conv and bn, and this package conv and norm."""
    return {f"{theirs}.conv": f"{ours}.conv", f"{theirs}.bn": f"{ours}.norm"}

"""Which batch norm follows which layer, seen as the network runs.

In an `nn.Sequential` that is a fact of the structure; networks written by others say it in `forward`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # themselves only: a subclass may do more
Pairs = tuple[tuple[str, str], ...]


class NormWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # this class of torch's has no annotations
    """While a network runs under it, takes note of every layer's output and of who uses it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept: list[Tensor] = []  # so that no other tensor gets the id of one of these
        self._made: dict[int, str] = {}
        self._taken: dict[int, str] = {}
        self._uses: Counter[int] = Counter()
        self._calls: Counter[str] = Counter()
        self._stack = ExitStack()
        self._module = module

    def __enter__(self) -> NormWatch:
        for name, layer in self._module.named_modules():
            if isinstance(layer, WEIGHTED):
                handle = layer.register_forward_hook(
                    lambda _l, _i, output, name=name: self._note(name, output, self._made)
                )
                self._stack.callback(handle.remove)
            elif type(layer) in NORMS and layer.running_mean is not None:
                handle = layer.register_forward_pre_hook(
                    lambda _l, given, name=name: self._note(name, given[0], self._taken)
                )
                self._stack.callback(handle.remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_dispatch__(
        self,
        operator: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        taken = _ids((args, kwargs))
        self._uses.update(taken)
        result = operator(*args, **(kwargs or {}))
        for fresh in _ids(result) - taken:  # it may have the id of a tensor that is gone
            self._uses[fresh] = 0
        return result

    def pairs(self) -> Pairs:
        """(layer, norm) for every norm that takes a layer's output which nothing else does; both are called once."""
        found = [(self._made[key], norm) for key, norm in self._taken.items() if key in self._made]
        used_once = {name for key, name in self._made.items() if self._uses[key] == 1}
        return tuple((a, b) for a, b in found if a in used_once and self._calls[a] == self._calls[b] == 1)

    def _note(self, name: str, value: object, where: dict[int, str]) -> None:
        self._calls[name] += 1
        if isinstance(value, Tensor):
            self._kept.append(value)
            where[id(value)] = name


def _ids(values: object) -> set[int]:
    return {id(value) for value in tree_leaves(values) if isinstance(value, Tensor)}

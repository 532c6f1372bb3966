"""PyTorch imported without what an export does not need, and with it as soon as somebody does.

While it is imported, PyTorch registers kernels for tensors without data: a quarter of the time (0.35 s of 1.4 on two
cores). `torch.export`, torchvision and whoever builds on them need those; a TorchScript export and running a network
do not. PyTorch has no switch for it, so a module of it that is none of our business is left out by name: only in the
releases with which the tests pass while it is left out, and only in the command's own process when it exports
reference networks. `complete` fetches it; where something fails without, it is tried again with (`pipeline`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

KERNELS_WITHOUT_DATA = "torch._meta_registrations"
# torch.cuda looks for it when it is imported, takes 0.04 s for that, and does without where it is not installed.
OPTIONAL = "cuda.bindings"
TESTED = ("2.14.1",)  # releases: one more patch may need while it is imported what is left out

_left_out: list[str] = []


def import_torch() -> None:
    """Import PyTorch without what an export of a reference network does not need; all of it in other releases.

    Does nothing where it is imported already.
    """
    if "torch" in sys.modules:
        return
    if not is_tested(_installed()):
        importlib.import_module("torch")
        return
    with _without(KERNELS_WITHOUT_DATA), _missing(OPTIONAL):
        torch = importlib.import_module("torch")
    # It was only a name: whoever imports it from now on gets the real one.
    if sys.modules.pop(KERNELS_WITHOUT_DATA, None) is not None:
        delattr(torch, KERNELS_WITHOUT_DATA.rpartition(".")[2])
        _left_out.append(KERNELS_WITHOUT_DATA)


def complete() -> bool:
    """Import what `import_torch` left out; whether there was anything left."""
    missing = [name for name in _left_out if name not in sys.modules]
    _left_out.clear()
    for name in missing:
        importlib.import_module(name)
    return bool(missing)


def is_tested(installed: str) -> bool:
    """Whether that release of PyTorch, of whatever build, is known to do without."""
    return installed.partition("+")[0] in TESTED


def _installed() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:  # a build that was put on the path by hand
        return ""


class _Empty(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002
        return None

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Named(MetaPathFinder):
    """Finds one module, and nothing in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Empty()) if fullname == self.name else None


@contextmanager
def _without(name: str) -> Iterator[None]:
    """While this lasts, importing the module `name` gives an empty one."""
    finder = _Named(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """While this lasts, the module `name` cannot be imported, as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        del sys.modules[name]

"""What the tests of networks share. They run on one thread: on a busy machine two make convolutions much slower."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from edgekit.models import _create
from edgekit.models._options import Value


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def seeded() -> Callable[..., nn.Module]:
    """A network by its name and options, with random weights; the same one each time, not to be changed."""

    @functools.cache
    def make(name: str, options: tuple[tuple[str, Value], ...]) -> nn.Module:
        return _create.seeded(name, None, None, dict(options), seed=0)

    return lambda name, options: make(name, tuple(options.items()))

"""What tests in many folders share: small exported networks, made once for a session."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

# What an example takes on a shared machine says nothing about the code.
settings.register_profile("edgekit", deadline=None)
settings.load_profile("edgekit")

# A shell lets what it runs in the background ignore Ctrl-C, and so would every command that a test interrupts do.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from subjects import Subject

ALPHAS = {"mobilenet_v1": 0.5, "mobilenet_v2": 0.35, "c_mobilenet_v2": 0.35}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: on a busy machine a second one makes convolutions several times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def network() -> Callable[[str], Subject]:
    """A reference network by name, exported at 96 pixels; the same one each time, not to be changed."""
    from subjects import subject

    return functools.cache(lambda model: subject(model, ALPHAS[model]))

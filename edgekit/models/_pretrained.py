"""torchvision's published weights: from torch's hub folder, or downloaded into it."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from edgekit.errors import InputUnusable, MachineLacks
from edgekit.models._info import PretrainedWeights

SECONDS_WITHOUT_AN_ANSWER = 20.0


def fetch(pretrained: PretrainedWeights) -> Path:
    """The file of the weights, under `$TORCH_HOME/hub/checkpoints`; it is downloaded when it is not there.

    Raises MachineLacks, naming the address and the place, when it cannot be downloaded, and InputUnusable when the
    file that is there is another one.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / pretrained.file
    if not path.exists():
        _download(pretrained, path)
    _verify(path)
    return path


def _download(pretrained: PretrainedWeights, path: Path) -> None:
    # Not WeightsEnum.get_state_dict, which unpickles the file before edgekit's own checks have seen it.
    url = _address(pretrained)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _timeout(SECONDS_WITHOUT_AN_ANSWER):
            torch.hub.download_url_to_file(url, str(path), _hash_prefix(path), progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise MachineLacks(
            "the pretrained weights are not on this machine and cannot be downloaded",
            where=str(path),
            got=str(error) or type(error).__name__,
            wanted=pretrained.file,
            hint=f"fetch {url} on another machine and put it there (TORCH_HOME moves the folder)",
        ) from error


def _address(pretrained: PretrainedWeights) -> str:
    try:
        from torchvision.models import get_weight
    except ImportError as error:
        raise MachineLacks(
            "torchvision is needed to find its pretrained weights", got=str(error), hint="pip install torchvision"
        ) from error
    return str(get_weight(pretrained.name).url)


def _hash_prefix(path: Path) -> str:
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    assert found is not None, f"{path.name} has no hash in its name"
    return found[1]


def _verify(path: Path) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputUnusable("cannot read the weights", where=str(path), got=str(error.strerror)) from error
    if not found.startswith(_hash_prefix(path)):
        raise InputUnusable(
            "the file is not the one that torchvision publishes under this name",
            where=str(path),
            got=f"SHA-256 {found[:16]}...",
            wanted=f"SHA-256 {_hash_prefix(path)}...",
            hint="remove it and run the command again",
        )


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """torch.hub sets no time limit, and a network that swallows packets would hang the command."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

"""Published weights: torchvision's from torch's hub folder, timm's from the Hugging Face cache, or downloaded there."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from edgekit import checkpoints, lean
from edgekit.errors import InputUnusable, MachineLacks
from edgekit.models import _create
from edgekit.models._info import PretrainedWeights
from edgekit.models._options import Value
from edgekit.models._published import published

SECONDS_WITHOUT_AN_ANSWER = 20.0


def network(
    name: str,
    alpha: float | None,
    num_classes: int | None,
    options: Mapping[str, Value],
    seed: int = 0,
    weights: PretrainedWeights | None = None,
) -> nn.Module:
    """The network `name` in eval mode with its published weights, or these; `seed` fills what they leave open.

    Raises UsageError for a network or form without published weights, and as `fetch` does.
    """
    weights = weights or published(name, alpha, num_classes, options)
    path = fetch(weights)
    state = _create.own_names(name, checkpoints.read_state_dict(path))
    return _create.with_state(name, alpha, num_classes or weights.num_classes, options, state, str(path), seed)


def fetch(pretrained: PretrainedWeights) -> Path:
    """The file of the weights in the library's own place; it is downloaded when it is not there.

    That is `$TORCH_HOME/hub/checkpoints` for torchvision's and the Hugging Face cache (`$HF_HOME/hub`) for timm's.
    Raises MachineLacks, naming the address and the place, when it cannot be downloaded, and InputUnusable when the
    file that is there is another one.
    """
    return _from_torchvision(pretrained) if pretrained.library == "torchvision" else _from_timm(pretrained)


def _from_torchvision(pretrained: PretrainedWeights) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / pretrained.file
    if not path.exists():
        _download(pretrained, path)
    _verify(path, _hash_prefix(path), "torchvision")
    return path


def _from_timm(pretrained: PretrainedWeights) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MachineLacks(
            "timm's weights come from the Hugging Face hub, whose package is not installed",
            where="--weights default",
            got=str(error),
            hint='pip install "edgekit-trt[timm]"',
        ) from error
    repository = f"timm/{pretrained.name}"
    cached = huggingface_hub.try_to_load_from_cache(repository, pretrained.file)
    path = Path(cached) if isinstance(cached, str) else _download_from_hub(repository, pretrained.file)
    # The cache keeps a large file under its SHA-256, with a link of the file's own name to it.
    blob = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        _verify(path, blob, "timm")
    return path


def _download_from_hub(repository: str, file: str) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except (OSError, RuntimeError, ValueError, errors.EntryNotFoundError, http.client.HTTPException) as error:
        url = f"{constants.ENDPOINT}/{repository}"
        raise MachineLacks(
            "the pretrained weights are not on this machine and cannot be downloaded",
            where=constants.HF_HUB_CACHE,
            got=(str(error) or type(error).__name__).splitlines()[0],
            wanted=f"{file} of {url}",
            hint=f"`hf download {repository} {file}` on another machine, and copy its cache here (HF_HOME moves it)",
        ) from error


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
    lean.complete()
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


def _verify(path: Path, sha256: str, publisher: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputUnusable("cannot read the weights", where=str(path), got=str(error.strerror)) from error
    if not found.startswith(sha256):
        raise InputUnusable(
            f"the file is not the one that {publisher} publishes under this name",
            where=str(path),
            got=f"SHA-256 {found[:16]}...",
            wanted=f"SHA-256 {sha256[:16]}...",
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

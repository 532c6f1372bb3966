"""What training leaves on the disk: weights for others, and the state from which a killed run goes on.

Both take the place of the older file only when they are complete, so that whatever is there is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit import schema
from edgekit.errors import GateFailed, InputUnusable
from edgekit.training.module import Sums
from edgekit.training.run_folder import STATE, Epoch, replacing

SCHEMA = 1


@dataclass(frozen=True)
class Mark:
    """How far a run has come: `epoch` epochs are done, and `step` steps of the next.

    `best` is the number of the best epoch so far, `steps_bytes` how much of steps.csv is before this place, `files` the
    sha256 of what the run has written.
    """

    epoch: int = 0
    step: int = 0
    history: tuple[Epoch, ...] = ()
    best: int | None = None
    steps_bytes: int = 0
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class State:
    """A mark, and everything that has changed since the beginning of the run.

    `scaler` is fp16's, empty elsewhere; `averaged_steps` is what the averaged weights count.
    """

    mark: Mark
    sums: Sums
    network: Mapping[str, Tensor]
    optimiser: dict[str, Any]
    averaged: Mapping[str, Tensor] | None = None
    averaged_steps: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, state: State) -> None:
    """Put the state there. Raises MachineLacks for a full disk; the older state is then still whole."""
    body = io.BytesIO()  # torch's own writer turns a full disk into an error without a number
    torch.save(
        {
            "schema": SCHEMA,
            "mark": schema.to_json(state.mark),
            "sums": vars(state.sums),
            "network": dict(state.network),
            "optimiser": state.optimiser,
            "averaged": None if state.averaged is None else dict(state.averaged),
            "averaged_steps": state.averaged_steps,
            "scaler": state.scaler,
        },
        body,
    )
    with replacing(folder / STATE) as file:
        file.write(body.getbuffer())


def load(folder: Path) -> State | None:
    """The state that a run left, on the CPU; None where it left none. Raises InputUnusable for a damaged one."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["schema"] != SCHEMA:
            raise _unusable(path, f"schema {found['schema']}")
        return State(
            schema.read(Mark, found["mark"]),
            Sums(**found["sums"]),
            found["network"],
            found["optimiser"],
            found["averaged"],
            found["averaged_steps"],
            found["scaler"],
        )
    except InputUnusable:
        raise
    except Exception as error:  # damaged bytes make torch.load raise anything
        raise _unusable(path, str(error).split("\n", 1)[0] or type(error).__name__) from error


def _unusable(path: Path, got: str) -> InputUnusable:
    hint = "start again from the beginning: --force"
    return InputUnusable("the run cannot be taken up again", where=str(path), got=got, hint=hint)


def save_weights(path: Path, network: nn.Module, about: Mapping[str, str]) -> str:
    """Write the network's weights as safetensors, with what they are in the header; returns the file's sha256.

    Raises MachineLacks for a full disk and GateFailed for weights that are not finite; the older file stays.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    bad = next((name for name, tensor in state.items() if not bool(tensor.isfinite().all())), None)
    if bad is not None:
        raise GateFailed(
            "the weights are not finite", where=str(path), got=bad, hint="a smaller --lr, --warmup-epochs, or --clip 1"
        )
    # One entry: the library writes several in an order of chance, and equal weights are to be equal files.
    body = safetensors.torch.save(state, {"edgekit": json.dumps(dict(about), sort_keys=True)})
    with replacing(path) as file:
        file.write(body)
    return hashlib.sha256(body).hexdigest()


def save_batch(path: Path, images: Tensor, labels: Tensor) -> None:
    """Write the batch that broke a training, as the network saw it: float32 images (N, 3, H, W), and its labels."""
    body = safetensors.torch.save({"images": images.cpu().contiguous(), "labels": labels.cpu().contiguous()})
    with replacing(path) as file:
        file.write(body)

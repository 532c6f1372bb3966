"""The networks that learn a style: built, saved and read back, with what they are written in the file itself."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from edgekit import checkpoints, schema
from edgekit.errors import InputUnusable, UsageError
from edgekit.models import _create
from edgekit.models._init import initialise
from edgekit.training.style import residual
from edgekit.training.style.pictures import write_bytes
from edgekit.training.style.request import StyleNetwork, Tail

METADATA = "edgekit-style"  # the key in the safetensors header
LARGEST_HEADER = 1 << 24
TAIL_DEVIATION = 0.2  # of an untrained network's colours, about
SMALLEST = 17  # pixels of a side, for either network
WEIGHTS = "last.safetensors"


@dataclass(frozen=True)
class Form:
    """Which network: its name, width and tail ("bounded" is the only one of `residual`)."""

    network: StyleNetwork
    alpha: float = 1.0
    tail: Tail = "plain"

    @property
    def multiple(self) -> int:
        """What sides have to be multiples of for the network not to pad."""
        return residual.MULTIPLE if self.network == "residual" else 16

    @property
    def export_words(self) -> str:
        """The arguments with which `edgekit export` makes a graph of it, its weights aside."""
        if self.network == "residual":
            return f"{residual.SOURCE} --option alpha={self.alpha:g}"
        return f"se_mobilenet_style --alpha {self.alpha:g} --option tail={self.tail}"


def check(form: Form) -> None:
    """Raise UsageError for a form that there is not."""
    if form.network == "residual" and form.tail != "bounded":
        raise UsageError("this network ends in a sigmoid", where="--tail", got=form.tail, wanted="bounded")
    if not 0 < form.alpha <= 4:
        raise UsageError("not a width", where="--alpha", got=f"{form.alpha:g}", wanted="above 0, at most 4")


def initial(form: Form, seed: int) -> nn.Module:
    """The network as training begins with it: weights from the seed, every parameter to be learnt."""
    check(form)
    if form.network == "residual":
        module = residual.factory(form.alpha)
        initialise(module, seed)
    else:
        module = _create.initial("se_mobilenet_style", form.alpha, None, {"tail": form.tail}, seed)
    if form.tail != "published":
        _calm_tail(module, 0.5 if form.tail == "plain" else 0.0)
    return module.train().requires_grad_(True)


@torch.no_grad()
def _calm_tail(module: nn.Module, grey: float) -> None:
    """Let training begin with pictures near grey: the usual weights begin three deviations outside 0..1."""
    conv = module.get_submodule("tail.conv")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    deviation = math.sqrt(conv.weight[0].numel())
    conv.weight.mul_(TAIL_DEVIATION / (conv.weight.std() * deviation))
    conv.bias.fill_(grey)


def trained(form: Form, state: dict[str, Tensor], source: str) -> nn.Module:
    """The network with these weights, in eval mode. Raises InputUnusable for weights of another one."""
    check(form)
    if form.network != "residual":
        return _create.with_state("se_mobilenet_style", form.alpha, None, {"tail": form.tail}, state, source)
    with torch.device("meta"):
        module = residual.factory(form.alpha)
    checkpoints.fit(module, state, source)
    return module.eval().requires_grad_(False)


def save(form: Form, module: nn.Module, path: Path) -> None:
    """Write the weights, with the form in the file's header, so that the file alone can be applied."""
    state = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    # One entry only: safetensors writes several in any order, and equal weights shall be equal files.
    write_bytes(path, safetensors.torch.save(state, {METADATA: json.dumps(schema.to_json(form))}))


def read(path: Path) -> tuple[Form, nn.Module]:
    """The network in a file that `save` wrote, or in the folder of a training run.

    Raises InputUnusable for everything else; weights without a form are not guessed at.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        what = "there is no trained style network" if path.is_dir() else "there is no such network"
        raise InputUnusable(what, where=str(path), wanted=f"a folder with a {WEIGHTS}, or that file")
    state = checkpoints.read_state_dict(file)
    form = _form(file)
    return form, trained(form, state, str(file))


def _form(file: Path) -> Form:
    found = _header(file).get("__metadata__")
    text = found.get(METADATA) if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise InputUnusable(
            "the file does not say which style network its weights are of",
            where=str(file),
            wanted="a file that `edgekit style train` wrote",
            hint="export it (edgekit export se_mobilenet_style --weights FILE), and apply the ONNX file",
        )
    try:
        return schema.read(Form, json.loads(text))
    except (ValueError, schema.SchemaError) as error:
        raise InputUnusable("the network's description is damaged", where=str(file), got=str(error)) from error


def _header(file: Path) -> dict[str, object]:
    """The JSON at the beginning of a safetensors file; empty for another kind of file."""
    with file.open("rb") as stream:
        head = stream.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        raw = stream.read(size) if size <= LARGEST_HEADER else b""
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

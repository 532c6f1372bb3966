"""TorchScript archives (torch.jit.save) and torch.export archives (torch.export.save).

Both hold a program, and loading one is as trusting as running a factory. What can be seen to ask for more than tensor
arithmetic is refused all the same: torch.export.load would unpickle it, or hand it to Python's eval.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from edgekit.errors import InputUnusable, UsageError
from edgekit.manifest import TensorSpec
from edgekit.sources import archives
from edgekit.sources.inputs import BATCH, describe
from edgekit.sources.loaded import Loaded
from edgekit.sources.making import Known, feed_of_specs, finish, image_feed, ready
from edgekit.sources.naming import Source
from edgekit.sources.running import guarded
from edgekit.sources.weights import Weights, identity
from edgekit.variant import Variant

DEFAULT_RESOLUTION = 224
DAMAGED = "the archive cannot be loaded: damaged, or of another PyTorch"
AGAIN = "save it again with the PyTorch that is installed here, or name the Python that makes it: file.py:factory"

# What a graph of torch.export may call, and what the arithmetic of its sizes may be made of: that is text which goes
# through sympy's parser, and the parser evaluates it.
_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_\w+|math\.\w+"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
)
_SYMBOL = re.compile(r"'[a-z]+\d+'")
_ARITHMETIC = re.compile(r"[\w\s+\-*/%(),=]*")
_WORDS = re.compile(r"[^\W\d]\w*")
_FUNCTIONS = {
    *("Symbol", "positive", "integer", "nonnegative", "zero", "True", "False", "Integer", "Rational"),
    *("Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing"),
}


class Program(nn.Module):
    """A TorchScript program as a layer like others: it takes no hooks itself."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> object:
        """Whatever the program returns."""
        return self.program(*inputs)


def load(source: Source, variant: Variant, weights: Weights, inputs: tuple[TensorSpec, ...] = ()) -> Loaded:
    """The network of an archive, with the weights that are in it.

    A TorchScript archive does not say what it takes: one image, unless `inputs` do. A torch.export archive does, and
    is bound to it. Raises InputUnusable for an archive that cannot be loaded, holds more than a network, or does not
    run; UsageError for a resolution or batch that it is not made for.
    """
    assert source.path is not None
    archives.recognise(source.path)
    archives.check_sums(source.path)
    if source.kind == "torchscript":
        return _torchscript(source, source.path, variant, weights, inputs)
    return _exported(source, source.path, variant, weights)


def _torchscript(
    source: Source, path: Path, variant: Variant, weights: Weights, inputs: tuple[TensorSpec, ...]
) -> Loaded:
    with _reading(path):
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]  # deprecated upstream
    side = variant.resolution or DEFAULT_RESOLUTION
    feed = feed_of_specs(inputs) if inputs else image_feed(side)
    known = Known(identity(weights), resolution=None if inputs else side, any_size=not inputs)
    return finish(source, Program(ready(module)), feed, known)


def _exported(source: Source, path: Path, variant: Variant, weights: Weights) -> Loaded:
    _check_program(path)
    with _reading(path):
        program = torch.export.load(path)
        feed = feed_of_specs(tuple(_specs(program)))
        module = _plain(program)
    _check_fit(source, feed.specs, variant)
    shape = feed.specs[0].shape
    image = len(feed.specs) == 1 and len(shape) == 4 and shape[2] == shape[3]
    side = shape[2] if image and isinstance(shape[2], int) else None
    return finish(source, ready(module), feed, Known(identity(weights), resolution=side, any_size=False))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """PyTorch calls both formats deprecated or unstable, logs a page where it fails, and raises anything."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), guarded(DAMAGED, str(path), hint=AGAIN):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _plain(program: ExportedProgram) -> nn.Module:
    """The program as a module like any other: torch's own refuses eval(), and checks its inputs as it runs."""
    made = program.module(check_guards=False)
    return fx.GraphModule(made, made.graph)


def _specs(program: ExportedProgram) -> Iterator[TensorSpec]:
    """The inputs by the placeholders of the graph; a size that may vary is the batch in front, else what it was."""
    kept = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op == "placeholder" and kept[node.name].kind is InputKind.USER_INPUT:
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                raise InputUnusable("an input of the network is no tensor", got=f"{node.name} is {value!r}")
            dims = tuple(_dim(place, size) for place, size in enumerate(value.shape))
            yield TensorSpec(node.name, str(value.dtype).removeprefix("torch."), dims)


def _dim(place: int, size: int | torch.SymInt) -> int | str:
    if isinstance(size, int):
        return size
    if place == 0:
        return BATCH
    hint = size.node.hint
    if not isinstance(hint, int):
        raise InputUnusable("a size of the network's input is open", got=f"dimension {place}", wanted="the batch alone")
    return hint


def _check_fit(source: Source, specs: tuple[TensorSpec, ...], variant: Variant) -> None:
    """Raise UsageError for a size that the program was not exported for."""
    first = specs[0].shape if specs else ()
    if variant.resolution is not None and variant.resolution not in first[2:]:
        raise UsageError(
            "the network was exported for other sizes",
            where="--res",
            got=str(variant.resolution),
            wanted=describe(specs),
            hint="leave --res out",
        )
    if first and first[0] not in (BATCH, variant.batch):
        raise UsageError(
            "the network was exported for one batch size",
            where="--batch",
            got="a dynamic batch" if variant.batch is None else str(variant.batch),
            wanted=f"--batch {first[0]}",
            hint=f"export {source.text} again with dynamic_shapes for any other",
        )


def _check_program(path: Path) -> None:
    """Raise InputUnusable for an archive whose loading would unpickle or evaluate more than tensors and sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_entry(path, archive, entry)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, RecursionError, OSError, EOFError) as error:
        raise InputUnusable(DAMAGED, where=str(path), got=str(error), hint=AGAIN) from error


def _check_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    if name.endswith(".json"):
        _check_values(path, name, json.loads(archive.read(name)))
    elif "/data/sample_inputs/" in name:
        _check_sample(path, archive, name)
    elif "/data/weights/" in name and entry.file_size == 0:  # torch would fill in zeros
        raise InputUnusable(DAMAGED, where=str(path), got=f"{name} is empty", hint=AGAIN)


def _check_values(path: Path, entry: str, values: object) -> None:
    waiting = [("", values)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += list(value.items())
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif not _is_harmless(key, value):
            got = f"{key} {str(value)[:80]!r} in {entry}"
            raise InputUnusable(
                "the archive asks for more than tensor arithmetic", where=str(path), got=got, hint=AGAIN
            )


def _is_harmless(key: str, value: object) -> bool:
    if key == "use_pickle":
        return value is False
    if key == "path_name":
        return "obj" not in str(value)
    if key == "target" and isinstance(value, str) and "." in value:
        return _OPERATORS.fullmatch(value) is not None
    if key == "expr_str":
        text = _SYMBOL.sub("", str(value))
        return _ARITHMETIC.fullmatch(text) is not None and set(_WORDS.findall(text)) <= _FUNCTIONS
    return True


def _check_sample(path: Path, archive: zipfile.ZipFile, entry: str) -> None:
    """The inputs that the program was exported with are a pickle: read here as torch reads weights, or not at all."""
    data = archive.read(entry)
    if data:
        with guarded("the archive's sample inputs are no tensors", str(path), hint=AGAIN):
            torch.load(io.BytesIO(data), weights_only=True)

"""What is exported and with which weights, from the words on the command line to a network that can run.

Everything but `network` and `load` works without torch: names, options and weights are checked, and the cache key is
known, before anything heavy is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.manifest import TensorSpec
from edgekit.sources import from_run, imports, reference
from edgekit.sources.inputs import BATCH, parse_input_spec, parse_input_specs
from edgekit.sources.loaded import Loaded
from edgekit.sources.naming import LIBRARIES, Source, parse_source
from edgekit.sources.weights import (
    CheckpointWeights,
    LibraryWeights,
    OwnWeights,
    SeedWeights,
    TorchvisionWeights,
    Weights,
    file_digest,
    identity,
    parse_weights,
)
from edgekit.variant import Variant, format_alpha

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BATCH",
    "CheckpointWeights",
    "LibraryWeights",
    "Loaded",
    "OwnWeights",
    "SeedWeights",
    "Source",
    "TorchvisionWeights",
    "Weights",
    "check",
    "identity",
    "load",
    "network",
    "parse_input_spec",
    "parse_input_specs",
    "parse_source",
    "parse_weights",
    "source_identity",
]


def check(variant: Variant, weights: Weights, source: Source | None = None) -> None:
    """Raise for what can be seen to be wrong without importing anything heavy; None is the reference network.

    UsageError for an unknown reference network or option, a width or resolution that it cannot have, published weights
    in a form for which there are none, and options of an archive; InputUnusable for a factory's file that does not
    parse; MachineLacks where timm is asked for and not installed.
    """
    source = source or Source("reference", variant.model)
    if source.kind == "reference":
        reference.check(replace(variant, model=source.name), weights)
    elif source.kind in LIBRARIES:
        _check_library(source, variant, weights)
    elif source.kind == "factory":
        _check_factory(source)
    elif source.kind == "run":
        from_run.check(source, variant, weights)
    else:
        _check_fixed(source, variant)


def load(source: Source, variant: Variant, weights: Weights, inputs: tuple[TensorSpec, ...] = ()) -> Loaded:
    """The network of any source that gives a PyTorch module, ready to run, with its inputs and outputs.

    A factory runs the user's own code, and an archive is a program, too. `inputs` say what goes into the networks of
    factories and TorchScript archives, where that is not one image. Raises the errors of `check`, UsageError for names
    and options that the source does not have, InputUnusable for what does not run or is no network, and MachineLacks
    for libraries and published weights that are not here.
    """
    check(variant, weights, source)
    if inputs and source.kind not in ("factory", "torchscript"):
        raise UsageError("the inputs of this network are known", where="--input", got=source.text)
    if source.kind == "reference":
        return reference.load(replace(variant, model=source.name), weights)
    if source.kind == "run":
        return from_run.load(source, variant, weights)
    if source.kind == "torchvision":
        from edgekit.sources import from_torchvision

        return from_torchvision.load(source, variant, weights)
    if source.kind == "timm":
        from edgekit.sources import from_timm

        return from_timm.load(source, variant, weights)
    if source.kind == "factory":
        from edgekit.sources import from_factory

        return from_factory.load(source, variant, weights, inputs)
    if source.kind == "onnx":
        raise InputUnusable("an ONNX file is no PyTorch module", where=source.text)
    from edgekit.sources import from_archive

    return from_archive.load(source, variant, weights, inputs)


def network(variant: Variant, weights: Weights) -> nn.Module:
    """The reference network of `variant` on the CPU, in eval mode, with its weights; no parameter asks for a gradient.

    The classes are `variant.num_classes`, else as many as the weights have, else the network's own default. Raises
    UsageError as `check` does and for a width that leaves a layer without a channel, InputUnusable for weights that
    cannot be used or do not fit, MachineLacks for published weights that are not here and cannot be downloaded.
    """
    return reference.network(variant, weights)


def source_identity(source: Source) -> str:
    """What tells this source from others, for a cache key, found without importing it.

    Covers the content of a file, for timm its version, and for a factory its module's file with every file of the
    user's own that import statements lead to from there; not what is imported by a computed name, compiled extensions,
    data that the code reads, and other packages. Of an ONNX file, not the external data. Raises InputUnusable for a
    file that cannot be read.
    """
    if source.kind == "factory":
        module, _, factory = source.name.rpartition(":")
        file = source.path or imports.find_module(module)
        if file is None:
            raise UsageError(f"there is no module called {module!r}", where="SOURCE", got=source.text)
        return f"factory:{factory}:{imports.digest(file, None if source.path else module)}"
    if source.kind == "run":
        return from_run.source_identity(source)
    if source.path is not None:
        return f"{source.kind}:{file_digest(source.path, 'the network')}"
    return f"{source.kind}:{source.name}" + (f":{_timm_version()}" if source.kind == "timm" else "")


def _check_library(source: Source, variant: Variant, weights: Weights) -> None:
    if importlib.util.find_spec(source.kind) is None:
        hint = 'pip install "edgekit-trt[timm]"' if source.kind == "timm" else f"pip install {source.kind}"
        raise MachineLacks(f"{source.kind} is not installed", where=source.text, hint=hint)
    if isinstance(weights, LibraryWeights) and variant.alpha not in (None, 1.0):
        raise UsageError(
            f"{source.kind} publishes weights for the full width only",
            where="--weights default",
            got=f"alpha {format_alpha(variant.alpha or 0)}",
            hint="--weights FILE for a checkpoint of this width",
        )


def _check_factory(source: Source) -> None:
    if source.path is not None:
        imports.read(source.path)


def _check_fixed(source: Source, variant: Variant) -> None:
    """What is in a file cannot be made otherwise."""
    given = {
        "--alpha": variant.alpha is not None,
        "--num-classes": variant.num_classes is not None,
        "--option": bool(variant.options),
    }
    for option, there in given.items():
        if there:
            raise UsageError(
                "the network in a file is as it is", where=option, got=source.text, hint=f"leave {option} out"
            )


def _timm_version() -> str:
    try:
        return importlib.metadata.version("timm")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

"""From a module, whoever made it, to a `Loaded` network: put right, run once, its inputs and outputs named."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgekit.errors import InputUnusable
from edgekit.manifest import TensorSpec
from edgekit.preprocessing import Preprocessing
from edgekit.sources import options
from edgekit.sources.inputs import BATCH
from edgekit.sources.loaded import Loaded
from edgekit.sources.naming import Source
from edgekit.sources.norms import NormWatch
from edgekit.sources.outputs import FLAT_PREFIX, Flat, call, form_of, leaves, name_outputs
from edgekit.sources.running import guarded

IMAGE_INPUT = "input"
EXAMPLE_SEED = 0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Feed:
    """What goes into a module: specs and a tensor of each; by keyword where `keywords` has names."""

    specs: tuple[TensorSpec, ...]
    tensors: tuple[Tensor, ...]
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What a kind of source knows of its network, besides the module."""

    weights: str
    preprocessing: Preprocessing | None = None
    resolution: int | None = None
    any_size: bool = True
    alpha: float | None = None
    num_classes: int | None = None
    notes: tuple[str, ...] = ()


def finish(source: Source, module: nn.Module, feed: Feed, known: Known, root: Path | None = None) -> Loaded:
    """The network, after it has run on its example; `module` has been made `ready`.

    Raises InputUnusable when it fails there, or returns what no graph can.
    """
    watch = NormWatch(module)
    with watch:
        result = run(source, module, feed, root)
    module = ready(module)  # layers that are made when they first run have been made now
    found = list(leaves(result))
    if not found:
        raise InputUnusable("the network returns no tensor", where=source.text, got=type(result).__name__)
    form = form_of(found, images=len(feed.specs) == 1 and len(feed.specs[0].shape) == 4)
    names = _apart(name_outputs(found, form), feed.specs)
    plain = isinstance(result, Tensor) and not feed.keywords
    inside = "" if plain else FLAT_PREFIX
    return Loaded(
        module=module if plain else Flat(module, names, feed.keywords).eval(),
        inputs=feed.specs,
        outputs=names,
        task=form,
        preprocessing=known.preprocessing,
        weights=known.weights,
        resolution=known.resolution,
        any_size=known.any_size,
        alpha=known.alpha,
        num_classes=known.num_classes if form != "classification" else int(found[0][1].shape[1]),
        examples=feed.tensors,
        norm_pairs=tuple((inside + layer, inside + norm) for layer, norm in watch.pairs()),
        notes=known.notes,
    )


def ready(module: nn.Module) -> nn.Module:
    """The module itself on the CPU, in eval mode, in float32, without gradients; what wraps it for training is off.

    Activations that work in place no longer do. Where there is attention, its fast path is off from here on, in the
    whole process: that is one fused operator, which no exporter knows.

    Raises InputUnusable for a module that is quantised, or has shapes only.
    """
    module = _unwrapped(module)
    _check_usable(module)
    module = module.cpu().eval()
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in _tensors(module)):
        logger.info("weights converted to float32")
        module = module.float()
    for parameter in module.parameters():  # TorchScript has no Module.requires_grad_
        if not is_lazy(parameter):
            parameter.requires_grad_(False)
    _work_aside(module)
    return module


@torch.no_grad()
def run(source: Source, module: nn.Module, feed: Feed, root: Path | None = None) -> object:
    """What the module returns for its example; lazily made layers are made by it.

    Raises InputUnusable, naming the shapes and what the network says, when it fails.
    """
    shapes = ", ".join(
        f"{spec.name} {list(tensor.shape)}" for spec, tensor in zip(feed.specs, feed.tensors, strict=True)
    )
    hint = "another --res; or name the inputs: --input NAME:DTYPE:SHAPE"
    with guarded(f"the network fails on its input ({shapes})", source.text, root, hint):
        return call(module, [tensor.clone() for tensor in feed.tensors], feed.keywords)


def image_feed(resolution: int, channels: int = 3) -> Feed:
    """One image (1, channels, resolution, resolution), float32."""
    return feed_of_specs((TensorSpec(IMAGE_INPUT, "float32", (BATCH, channels, resolution, resolution)),))


def feed_of_specs(specs: tuple[TensorSpec, ...], module: nn.Module | None = None) -> Feed:
    """Tensors for the user's specs: normal floats, integers 0 and 1. By keyword where `module` knows all the names."""
    generator = torch.Generator().manual_seed(EXAMPLE_SEED)
    names = tuple(spec.name for spec in specs)
    tensors = tuple(_example(spec, generator) for spec in specs)
    in_order = module is None or names == _positional(module)[: len(names)]
    by_keyword = not in_order and module is not None and set(names) <= set(options.keywords(_parameters(module)))
    return Feed(specs, tensors, names if by_keyword else ())


def feed_of_examples(source: Source, module: nn.Module, examples: object) -> Feed:
    """The inputs of which a factory gives an example: a tensor, a sequence or a mapping of tensors; axis 0 is batch.

    Raises InputUnusable for anything else, and where the inputs disagree on the batch.
    """
    keywords: tuple[str, ...] = ()
    if isinstance(examples, Mapping):
        keywords = tuple(str(key) for key in examples)
        tensors = list(examples.values())
    else:
        tensors = list(examples) if isinstance(examples, tuple | list) else [examples]
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise InputUnusable(
            "the example inputs are no tensors",
            where=source.text,
            got=", ".join(type(tensor).__name__ for tensor in tensors) or "nothing",
            wanted="(module, tensor), (module, (tensor, ...)) or (module, {name: tensor})",
        )
    put = tuple(_put(tensor) for tensor in tensors)
    names = keywords or _names(module, len(put))
    batches = {tensor.shape[0] for tensor in put if tensor.ndim}
    if len(batches) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(names, put, strict=True))
        hint = "say which inputs have a batch: --input NAME:DTYPE:SHAPE"
        raise InputUnusable("axis 0 of every input is the batch", where=source.text, got=shapes, hint=hint)
    specs = tuple(TensorSpec(name, _dtype(tensor), _dims(tensor)) for name, tensor in zip(names, put, strict=True))
    return Feed(specs, put, keywords)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network without what DataParallel and torch.compile put around it."""
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else module


def _check_usable(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if ".quantized" in type(layer).__module__:
            got = f"{name} is a {type(layer).__name__}"
            hint = "give the network as it was before"
            raise InputUnusable("the network is quantised", got=got, wanted="weights in floating point", hint=hint)
    if any(tensor.is_meta for tensor in _tensors(module) if not is_lazy(tensor)):
        raise InputUnusable("the network has no weights", got="tensors on the meta device", wanted="values")


def _work_aside(module: nn.Module) -> None:
    """No activation overwrites the output of the layer before: that is to be compared. No attention is fused."""
    for layer in module.modules():
        if getattr(layer, "inplace", False) is True and not isinstance(layer, torch.jit.ScriptModule):
            vars(layer)["inplace"] = False
        if isinstance(layer, nn.MultiheadAttention):
            torch.backends.mha.set_fastpath_enabled(False)


def _names(module: nn.Module, count: int) -> tuple[str, ...]:
    """From the signature of `forward`, where it has a name for each."""
    found = _positional(module)[:count]
    if len(found) < count:
        return (IMAGE_INPUT,) if count == 1 else tuple(f"input_{place}" for place in range(count))
    return (IMAGE_INPUT,) if found == ("x",) else found


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    return options.parameters(module.forward) or []


def _positional(module: nn.Module) -> tuple[str, ...]:
    """The names of what `forward` takes by position."""
    found = _parameters(module)
    return tuple(it.name for it in found if it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD))


def _example(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    shape = [1 if dim == BATCH else int(dim) for dim in spec.shape]
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _put(tensor: Tensor) -> Tensor:
    """As the network takes it, which has become float32 on the CPU."""
    plain = tensor.detach().cpu().contiguous()
    return plain.float() if plain.is_floating_point() else plain


def _dims(tensor: Tensor) -> tuple[int | str, ...]:
    return (BATCH, *tensor.shape[1:]) if tensor.ndim else ()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _apart(names: tuple[str, ...], inputs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """The outputs' names, none of which is an input's: a graph has one tensor to a name."""
    taken = {spec.name for spec in inputs}
    return tuple(f"{name}_output" if name in taken else name for name in names)

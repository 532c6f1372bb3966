"""`package.module:factory` and `path/to/file.py:factory`: the user's own code makes the network.

Loading runs that code, with everything that the user may do: name no file that you would not run with Python.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgekit import checkpoints
from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.manifest import TensorSpec
from edgekit.sources import imports, options
from edgekit.sources.library import fill
from edgekit.sources.loaded import Loaded
from edgekit.sources.making import Feed, Known, feed_of_examples, feed_of_specs, finish, image_feed, ready, run
from edgekit.sources.naming import Source
from edgekit.sources.running import guarded, importable
from edgekit.sources.seeding import seeded
from edgekit.sources.weights import CheckpointWeights, OwnWeights, Weights, identity
from edgekit.variant import Variant, format_alpha

DEFAULT_RESOLUTION = 224
WIDTHS = ("alpha", "width_mult", "width_multiplier", "width")
CLASSES = ("num_classes", "n_classes", "classes")
RETURNS = "an nn.Module, or (nn.Module, example inputs)"


@dataclass(frozen=True)
class _Place:
    """Where the factory is: its module's file, the folder to import from, and its name there."""

    source: Source
    file: Path
    module: str | None
    factory: str

    @property
    def root(self) -> Path:
        """The folder of the user's own files."""
        return imports.root_of(self.file, self.module)

    @property
    def folder(self) -> Path:
        """What Python puts in front of sys.path: a program's folder, or with `python -m` the current one."""
        return self.file.resolve().parent if self.module is None else Path.cwd()


def load(source: Source, variant: Variant, weights: Weights, inputs: tuple[TensorSpec, ...] = ()) -> Loaded:
    """The module that the factory returns, with the weights that it has, or those of a checkpoint.

    This runs the user's code. The factory is called with the variant's options, its width as `alpha` or `width_mult`
    and its classes as `num_classes`, where it has such parameters. Its inputs are `inputs`, else those of the example
    that it returns beside the module, else one image. Raises UsageError for a factory or an option that is not there,
    InputUnusable for code that fails or returns something else, and MachineLacks for a package that is missing.
    """
    place = _place(source)
    seed = weights.seed if isinstance(weights, OwnWeights) else 0
    with ExitStack() as stack:
        stack.enter_context(importable(place.folder))
        stack.enter_context(seeded(seed))
        factory = _factory(place)
        made, example = _parts(place, factory if isinstance(factory, nn.Module) else _call(place, factory, variant))
        with guarded("the module cannot be put on the CPU, in eval mode", source.text, place.root):
            module = ready(made)
        feed = _feed(place, module, example, variant, inputs)
        if any(is_lazy(tensor) for tensor in [*module.parameters(), *module.buffers()]):
            run(source, module, feed, place.root)  # the seed decides what it makes
            module = ready(module)
        if isinstance(weights, CheckpointWeights):
            fill(module, checkpoints.read_state_dict(weights.path), str(weights.path))
        return finish(source, module, feed, _known(variant, weights, feed, inputs, example), place.root)


def _place(source: Source) -> _Place:
    module, _, factory = source.name.rpartition(":")
    if source.path is not None:
        return _Place(source, source.path, None, factory)
    file = imports.find_module(module)
    if file is None:
        raise UsageError(f"there is no module called {module!r}", where="SOURCE", got=source.name)
    return _Place(source, file, module, factory)


def _factory(place: _Place) -> object:
    """What the module has under the factory's name, after importing it."""
    imports.read(place.file)  # a syntax error has a message of its own
    with guarded("the module cannot be imported", str(place.file), place.root):
        module = importlib.import_module(place.module) if place.module else _import_file(place.file)
    found: object = module
    for name in place.factory.split("."):
        if not hasattr(found, name):
            raise _no_such_factory(place, module, name)
        found = getattr(found, name)
    if not callable(found):
        hint = "name the function that makes the network"
        got = f"{place.factory} is a {type(found).__name__}"
        raise InputUnusable("this is no factory", where=place.source.text, got=got, wanted=RETURNS, hint=hint)
    return found


def _import_file(file: Path) -> ModuleType:
    """As `import` would, under the file's own name where that is free: its helpers may import it back."""
    name = file.stem if file.stem not in sys.modules or _is_of(sys.modules[file.stem], file) else f"_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_of(module: ModuleType, file: Path) -> bool:
    return Path(getattr(module, "__file__", None) or "").resolve() == file.resolve()


def _no_such_factory(place: _Place, module: ModuleType, name: str) -> UsageError:
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    defined = [key for key in own if getattr(vars(module)[key], "__module__", None) == module.__name__]
    return UsageError(
        f"there is no {name!r} in {place.module or place.file.name}",
        where="SOURCE",
        got=place.source.text,
        hint=did_you_mean(name, defined or own),
    )


def _call(place: _Place, factory: object, variant: Variant) -> object:
    assert callable(factory)
    given = _arguments(place, factory, variant)
    known = options.keywords(options.parameters(factory) or [])
    refusing = options.refusing(place.source.text, given, known)
    with guarded("the factory fails", place.source.text, place.root), refusing:
        return factory(**given)


def _arguments(place: _Place, factory: Callable[..., object], variant: Variant) -> dict[str, object]:
    """The options, the width and the classes as keyword arguments, held against the signature before the call."""
    given: dict[str, object] = {**options.parse(dict(variant.options), {})}
    found = options.parameters(factory)
    names = options.keywords(found or [])
    if variant.alpha is not None:
        given |= _named(place, names, WIDTHS, variant.alpha, "--alpha", format_alpha(variant.alpha))
    if variant.num_classes is not None:
        given |= _named(place, names, CLASSES, variant.num_classes, "--num-classes", str(variant.num_classes))
    if found is not None:
        _check_signature(place, found, given)
    return given


def _named(
    place: _Place, names: list[str], wanted: tuple[str, ...], value: object, where: str, got: str
) -> dict[str, object]:
    """The parameter that takes what a command line option says."""
    name = next((name for name in wanted if name in names), None)
    if name is None:
        hint = f"leave {where} out; its parameters are {', '.join(names)}" if names else f"leave {where} out"
        what = f"{place.source.text} has no parameter for this"
        raise UsageError(what, where=where, got=got, wanted=f"a parameter {' or '.join(wanted)}", hint=hint)
    return {name: value}


def _check_signature(place: _Place, found: list[inspect.Parameter], given: Mapping[str, object]) -> None:
    names = options.keywords(found)
    anything = any(it.kind is it.VAR_KEYWORD for it in found)
    for key in given:
        if key not in names and not anything:
            raise options.unknown(place.source.text, key, names)
    needed = [it.name for it in found if it.default is it.empty and it.kind not in (it.VAR_KEYWORD, it.VAR_POSITIONAL)]
    missing = [name for name in needed if name not in given]
    if missing:
        hint = " ".join(f"--option {name}=VALUE" for name in missing)
        raise UsageError("the factory needs arguments", where=place.source.text, wanted=", ".join(missing), hint=hint)


def _parts(place: _Place, result: object) -> tuple[nn.Module, object]:
    """The module and the example inputs, None where there are none. Raises InputUnusable for anything else."""
    if isinstance(result, nn.Module):
        return result, None
    if isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[0], nn.Module):
        return result[0], result[1]
    got, hint = _told_of(result)
    raise InputUnusable("the factory returns no network", where=place.source.text, got=got, wanted=RETURNS, hint=hint)


def _told_of(result: object) -> tuple[str, str | None]:
    if result is None:
        return "None", "does it end in `return`?"
    if isinstance(result, type):
        return f"the class {result.__name__}", f"return {result.__name__}(...), or name the class as the factory"
    if isinstance(result, Mapping) and any(isinstance(value, Tensor) for value in result.values()):
        return "a state dict", "return the network, and give the weights as --weights FILE"
    name = type(result).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}", None


def _feed(place: _Place, module: nn.Module, example: object, variant: Variant, inputs: tuple[TensorSpec, ...]) -> Feed:
    if inputs:
        return feed_of_specs(inputs, module)
    if example is not None:
        return feed_of_examples(place.source, module, example)
    return image_feed(variant.resolution or DEFAULT_RESOLUTION)


def _known(variant: Variant, weights: Weights, feed: Feed, inputs: tuple[TensorSpec, ...], example: object) -> Known:
    image = example is None and not inputs
    resolution = int(feed.specs[0].shape[-1]) if image else None
    return Known(identity(weights), None, resolution, image, variant.alpha, variant.num_classes)

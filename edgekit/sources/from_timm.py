"""`timm:NAME` and `timm:NAME.TAG`: the networks of timm, with random weights, a checkpoint, or the published ones."""

from __future__ import annotations

import inspect
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit import checkpoints
from edgekit.errors import MachineLacks, UsageError, did_you_mean
from edgekit.preprocessing import Preprocessing
from edgekit.sources import options
from edgekit.sources.library import settle
from edgekit.sources.loaded import Loaded
from edgekit.sources.making import Known, finish, image_feed, ready
from edgekit.sources.naming import Source
from edgekit.sources.running import guarded
from edgekit.sources.seeding import seeded
from edgekit.sources.weights import LibraryWeights, SeedWeights, Weights, identity
from edgekit.variant import Variant, format_alpha

# What timm's networks call their width, where they take one. Most have it in their name, and refuse it.
WIDTHS = ("channel_multiplier", "width_mult", "width")
RESERVED = {
    "pretrained": "use --weights",
    "checkpoint_path": "use --weights",
    "pretrained_cfg": "use --weights",
    "pretrained_cfg_overlay": "use --weights",
    "cache_dir": "leave it out: HF_HOME moves the cache",
    "num_classes": "use --num-classes",
    "img_size": "use --res",
    "exportable": "leave it out: it is set",
    "scriptable": "leave it out",
    **dict.fromkeys(WIDTHS, "use --alpha"),
}
# Options that timm's builder takes and no signature shows.
COMMON = ("drop_rate", "drop_path_rate", "global_pool", "in_chans", "features_only", "out_indices")
FILES = ("model.safetensors", "pytorch_model.bin")
SHOWN = 12


@dataclass(frozen=True)
class _Network:
    """One of timm's entry points; `config` is its pretrained configuration, timm's own class."""

    name: str
    config: Any

    @property
    def arch(self) -> str:
        """The name without the tag of its weights."""
        return self.name.partition(".")[0]

    @property
    def options(self) -> list[str]:
        """What can be set by keyword, as far as signatures say: some networks take more."""
        import timm

        signature = inspect.signature(timm.model_entrypoint(self.arch))
        inner = options.keywords(options.parameters(signature.return_annotation) or [])
        own = options.keywords([*signature.parameters.values()])
        return [name for name in dict.fromkeys([*own, *inner, *COMMON]) if name not in RESERVED]


@dataclass(frozen=True, eq=False)
class _Published:
    """Weights of timm's, with their name for the record."""

    name: str
    state: dict[str, Tensor]


def load(source: Source, variant: Variant, weights: Weights) -> Loaded:
    """timm's network NAME at the variant's width, classes and resolution, else at its own.

    Random weights are timm's initial ones from the seed, made alive (seeding.py). Raises UsageError for a name, a
    width or an option that timm does not have, and for published weights of a network that has none; InputUnusable for
    weights that do not fit and a network that does not run on images; MachineLacks without timm, and for published
    weights that are not here and cannot be fetched.
    """
    found = _find(source.name)
    any_size = not found.config.fixed_input_size
    side = variant.resolution or int(found.config.input_size[-1])
    keywords = _keywords(source, found, variant, side)
    published = _published(found) if isinstance(weights, LibraryWeights) else None
    with seeded(weights.seed if isinstance(weights, SeedWeights) else 0):
        module = ready(_build(source, found, keywords, published))
    channels = int(str(keywords.get("in_chans", found.config.input_size[0])))
    settle(source, module, weights, channels, None if any_size else side)
    _split_norms(module)
    name = published.name if published else identity(weights)
    known = Known(name, _preprocessing(found, channels), side, any_size, variant.alpha, variant.num_classes)
    return finish(source, module, image_feed(side, channels), known)


def _find(name: str) -> _Network:
    try:
        import timm
    except ImportError as error:
        raise MachineLacks("timm is not installed", got=str(error), hint='pip install "edgekit-trt[timm]"') from error
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise UsageError(f"timm has no network called {name!r}", where="SOURCE", got=name, hint=hint)
    arch, _, tag = name.partition(".")
    tags = [other.partition(".")[2] for other in timm.list_models(f"{arch}.*", pretrained=True)]
    if tag and tag not in tags:
        raise UsageError(
            f"timm has no weights {tag!r} of {arch}", where="SOURCE", got=name, hint=did_you_mean(tag, tags)
        )
    return _Network(name, timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg())


def _keywords(source: Source, found: _Network, variant: Variant, side: int) -> dict[str, object]:
    given: dict[str, object] = {**options.parse(dict(variant.options), RESERVED)}
    if variant.num_classes is not None:
        given["num_classes"] = variant.num_classes
    if found.config.fixed_input_size:
        given["img_size"] = side
    if variant.alpha is not None:
        given |= _width(source, found, given, variant.alpha)
    return given


def _width(source: Source, found: _Network, keywords: dict[str, object], alpha: float) -> dict[str, object]:
    """The keyword that sets the width of this network, found by trying: timm's signatures do not show it.

    A width is real when the number of parameters follows it.
    """
    usual = _parameters(found, keywords)
    if usual is None:  # it cannot be made at any width, and says why
        _build(source, found, keywords, None)
    for keyword in WIDTHS:
        count = _parameters(found, {**keywords, keyword: alpha})
        if count is not None and (count != usual or alpha == 1):
            return {keyword: alpha}
    raise UsageError(
        f"{source.text} has no width option",
        where="--alpha",
        got=format_alpha(alpha),
        wanted="a network whose width timm leaves open",
        hint=_named_widths(found),
    )


def _parameters(found: _Network, keywords: dict[str, object]) -> int | None:
    """How many parameters the network has with these keywords; None where it does not take them."""
    import timm

    try:
        with torch.device("meta"):
            module = timm.create_model(found.arch, **keywords)
    except (TypeError, ValueError, RuntimeError, AssertionError):
        return None
    return sum(int(parameter.numel()) for parameter in module.parameters())


def _named_widths(found: _Network) -> str:
    """The networks whose names differ from this one's in the numbers at the end."""
    import timm

    stem = found.arch.rstrip("0123456789_")
    family = [name for name in timm.list_models(f"{stem}*") if name.rstrip("0123456789_") == stem]
    others = f"this family comes as {', '.join(family[:SHOWN])}" if len(family) > 1 else "leave --alpha out"
    return others + (", ..." if len(family) > SHOWN else "")


def _build(source: Source, found: _Network, keywords: dict[str, object], published: _Published | None) -> nn.Module:
    import timm

    overlay = {"pretrained_cfg_overlay": {"state_dict": published.state, "custom_load": False}} if published else {}
    hint = "look at --option and --res"
    refusing = options.refusing(source.text, keywords, found.options)
    with guarded("timm cannot make this network", source.text, hint=hint), refusing:
        # exportable: layers that tracing goes through, in place of those that it does not.
        made: nn.Module = timm.create_model(
            found.name, pretrained=published is not None, exportable=True, **overlay, **keywords
        )
    config = getattr(made, "pretrained_cfg", None)
    if isinstance(config, dict):
        config.pop("state_dict", None)  # a second copy of all weights
    return made


def _split_norms(module: nn.Module) -> None:
    """timm has a batch norm and its activation in one layer; apart, the norm can be folded and compared.

    The norm of layer `bn1` is `bn1.norm` then, with the same tensors.
    """
    from timm.layers import BatchNormAct2d

    for name, layer in list(module.named_modules()):
        if type(layer) is BatchNormAct2d:
            with torch.device("meta"):
                norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum, layer.affine)
            norm.load_state_dict(layer.state_dict(), assign=True)
            parent, _, child = name.rpartition(".")
            parts = OrderedDict(norm=norm, drop=layer.drop, act=layer.act)
            module.get_submodule(parent).register_module(child, nn.Sequential(parts).eval())
    ready(module)


def _published(found: _Network) -> _Published:
    """The weights of the tag, or timm's default ones, read by edgekit from timm's cache or fetched into it."""
    if not found.config.has_weights:
        import timm

        near = [name.partition(".")[0] for name in timm.list_pretrained(f"{found.arch.partition('_')[0]}*")]
        hint = did_you_mean(found.arch, list(dict.fromkeys(near))) or "--weights none, or a file"
        raise UsageError(f"timm publishes no weights for {found.name}", where="--weights default", hint=hint)
    path, name = _fetch(found.config) if found.config.hf_hub_id else _in_hub_folder(str(found.config.url))
    return _Published(name, checkpoints.read_state_dict(path))


def _fetch(config: Any) -> tuple[Path, str]:
    """The file of the weights in Hugging Face's cache, and "REPOSITORY@COMMIT"; the network is asked last."""
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repository, _, revision = str(config.hf_hub_id).partition("@")
    wanted = (config.hf_hub_filename,) if config.hf_hub_filename else FILES
    for file in wanted:
        cached = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached), _commit(repository, cached)
    for file in wanted:
        try:
            path = huggingface_hub.hf_hub_download(repository, file, revision=revision or None)
        except RemoteEntryNotFoundError:
            continue
        except Exception as error:  # its client's own classes, and the operating system's
            raise _not_here(repository, file, revision, error) from error
        return Path(path), _commit(repository, path)
    raise _not_here(repository, wanted[0], revision, FileNotFoundError(f"{repository} has no {' or '.join(wanted)}"))


def _commit(repository: str, path: str) -> str:
    _, _, behind = path.partition(f"{os.sep}snapshots{os.sep}")
    return f"{repository}@{behind.partition(os.sep)[0]}" if behind else repository


def _not_here(repository: str, file: str, revision: str, error: Exception) -> MachineLacks:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    address = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{file}"
    return _lacking(str(folder), str(error).split("\n", 1)[0] or type(error).__name__, file, address)


def _in_hub_folder(url: str) -> tuple[Path, str]:
    """Weights that stand on no hub: looked for where timm would download them to."""
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        raise _lacking(str(path), "no such file", name, url)
    return path, name


def _lacking(where: str, got: str, file: str, address: str) -> MachineLacks:
    return MachineLacks(
        "the pretrained weights are not on this machine and cannot be downloaded",
        where=where,
        got=got,
        wanted=file,
        hint=f"fetch {address} on another machine, and name the file: --weights FILE",
    )


def _preprocessing(found: _Network, channels: int) -> Preprocessing | None:
    """As the weights were trained; None where there is no word of it, and for images that are not RGB."""
    config = found.config
    if channels != 3 or len(config.mean) != 3:
        return None
    return Preprocessing(
        mean=tuple(config.mean),
        std=tuple(config.std),
        resize=f"{config.interpolation}, antialiased, shorter side",
        crop=float(config.crop_pct),
    )

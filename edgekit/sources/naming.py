"""What the user typed to say which network, told apart without importing any of it."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from edgekit import models
from edgekit.errors import InputUnusable, UsageError, did_you_mean
from edgekit.sources import archives, imports

Kind = Literal["reference", "torchvision", "timm", "factory", "torchscript", "exported", "onnx", "run"]
Library = Literal["torchvision", "timm"]
FILES: tuple[Kind, ...] = ("torchscript", "exported", "onnx", "run")
LIBRARIES: tuple[Library, ...] = ("torchvision", "timm")
WANTED = (
    "a reference network (edgekit models lists them), torchvision:NAME, timm:NAME, package.module:factory, "
    "file.py:factory, a file .onnx, .pt (TorchScript) or .pt2 (torch.export), or the folder of a training run"
)
LONGEST_SLUG = 100  # a file name has 255 bytes, and the slug of a variant is longer than that of its source

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_LIBRARY_NAME = re.compile(r"\w[\w.\-]*")
_IN_A_VARIANT = re.compile(r"-(a\d+\.\d+|r\d+)(?=-|$)")
_REGISTERED = re.compile(r"^@register_model\(\)\n(?:@.*\n(?:[ )].*\n)*)*def (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """Which network, by where it comes from.

    `name` is the network's in its library, `MODULE:FACTORY` or `FILE.py:FACTORY` as typed, or the path of a file or of
    a run's folder.
    """

    kind: Kind
    name: str

    @property
    def text(self) -> str:
        """What `parse_source` makes this source of."""
        return f"{self.kind}:{self.name}" if self.kind in LIBRARIES else self.name

    @property
    def is_known(self) -> bool:
        """Whether it is a network of this package's own: all its weighted layers are modules that run once."""
        return self.kind in ("reference", "run")

    @property
    def path(self) -> Path | None:
        """What it comes from: an archive, an ONNX file, a run's folder, or the factory's file when that was named."""
        if self.kind == "factory":
            file = self.name.rpartition(":")[0]
            return archives.path_of(file) if file.endswith(".py") else None
        return archives.path_of(self.name) if self.kind in FILES else None

    @property
    def slug(self) -> str:
        """A name for its folder: "mobilenet_v2", "torchvision-resnet18", "net-make", "net" (of net.onnx or runs/net).

        The folders of files that stand in are left out, so two files of one name have one slug.
        """
        safe = re.sub(r"[^\w.\-]+", "_", self._words()).lstrip(".-") or "network"
        if len(safe.encode()) <= LONGEST_SLUG:
            return safe
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:8]
        return f"{safe.encode()[: LONGEST_SLUG - 9].decode(errors='ignore')}-{digest}"

    def _words(self) -> str:
        if self.kind == "reference":
            return self.name
        if self.kind == "factory":
            module, _, factory = self.name.rpartition(":")
            return f"{Path(module).stem if module.endswith('.py') else module}-{factory}"
        if self.kind in LIBRARIES:
            return f"{self.kind}-{self.name}"
        if self.kind == "run":  # a variant's name says itself how wide and large it is
            return _IN_A_VARIANT.sub("", archives.path_of(self.name).resolve().name)
        stem = Path(self.name).stem
        # An archive often stands beside its ONNX file, and either may be called as a reference network is.
        distinct = self.kind == "onnx" and stem not in models.names()
        return stem if distinct else f"{stem}-{self.kind}"


def parse_source(text: str) -> Source:
    """The source that `text` names: nothing is imported, and no code of the user's runs.

    Raises UsageError, with the nearest names, for a name that stands for nothing, and InputUnusable for a file that is
    missing or is no network. Whether torchvision and timm have a network, and a module its factory, shows at `load`.
    """
    library, colon, name = text.partition(":")
    for known in LIBRARIES:
        if colon and library == known:
            return Source(known, _library_name(text, name))
    if text.lower().endswith(".onnx"):
        archives.check_file(archives.path_of(text))
        return Source("onnx", text)
    if colon:
        return _factory(text)
    if text not in models.names() and _is_run(text):
        return Source("run", text)
    if text not in models.names() and _looks_like_a_file(text):
        return _file(text)
    return _reference(text)


def _library_name(text: str, name: str) -> str:
    if _LIBRARY_NAME.fullmatch(name):
        return name
    hint = "a network on the Hugging Face hub: make it in a factory of your own" if "hub" in name else None
    raise UsageError("not the name of a network", where="SOURCE", got=text, wanted=WANTED, hint=hint)


def _factory(text: str) -> Source:
    """`MODULE:FACTORY`, found by looking for its file and not by importing it."""
    module, _, factory = text.rpartition(":")
    if not _DOTTED.fullmatch(factory):
        raise UsageError("this names no factory", where="SOURCE", got=text, wanted=WANTED)
    if module.endswith(".py") or "/" in module:
        _check_python_file(archives.path_of(module))
    elif not _DOTTED.fullmatch(module):
        raise UsageError("this names no module", where="SOURCE", got=text, wanted=WANTED)
    elif imports.find_module(module) is None:
        raise _no_such_module(text, module, factory)
    return Source("factory", text)


def _check_python_file(path: Path) -> None:
    archives.check_file(path)
    if path.suffix != ".py":
        raise InputUnusable("this is not a Python file", where=str(path), wanted="file.py:factory")


def _no_such_module(text: str, module: str, factory: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(module, LIBRARIES, n=1)
    beside = Path(f"{module.replace('.', '/')}.py")
    hint = f"did you mean {near[0]}:{factory}?" if near else None
    return UsageError(
        f"there is no module called {module!r}",
        where="SOURCE",
        got=text,
        wanted=f"a module with its source file, in the current directory ({beside}) or where Python finds packages",
        hint=hint or "name the file itself: path/to/file.py:factory",
    )


def _looks_like_a_file(text: str) -> bool:
    path = archives.path_of(text)
    return "/" in text or path.suffix.lower() in (".py", *archives.SUFFIXES) or archives.is_file(path)


def _is_run(text: str) -> bool:
    from edgekit.training import run_folder

    return archives.is_file(archives.path_of(text) / run_folder.NAME)


def _file(text: str) -> Source:
    path = archives.path_of(text)
    if path.suffix == ".py":
        _check_python_file(path)
        functions = imports.functions(path)
        hint = f"for example {text}:{functions[0]}" if functions else None
        raise UsageError(
            "which function of the file makes the network?", where=text, wanted="FILE.py:FACTORY", hint=hint
        )
    return Source(archives.recognise(path), text)


def _reference(text: str) -> Source:
    known = models.names()
    if text in known:
        return Source("reference", text)
    raise UsageError(f"there is no network called {text!r}", where="SOURCE", wanted=WANTED, hint=_nearest(text, known))


def _nearest(text: str, known: list[str]) -> str | None:
    """A hint with the nearest names, of reference networks and of torchvision's."""
    import difflib

    words = {name: f"torchvision:{name}" for name in _torchvision_names()} | {name: name for name in known}
    near = [text] if text in words else difflib.get_close_matches(text.lower(), words, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(words[name] for name in near)}?" if near else did_you_mean(text, known)


def _torchvision_names() -> list[str]:
    """The networks that torchvision's source files register: for a hint, and two seconds faster than to import it."""
    spec = PathFinder.find_spec("torchvision", sys.path)
    if spec is None or spec.origin is None:
        return []
    files = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    return [name for file in files for name in _REGISTERED.findall(file.read_text(errors="replace"))]

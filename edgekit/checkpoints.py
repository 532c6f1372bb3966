"""State dicts from files that anybody may have written: read without running code, checked, and fitted to a network.

A file is known by its content, not by its name. Nothing is unpickled but what torch's restricted unpickler allows.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.errors import InputUnusable

WANTED = "a state dict saved by torch.save (.pt, .pth, .bin) or as .safetensors"
SAVE_STATE_DICT = "save the weights alone: torch.save(network.state_dict(), path)"

# What is often found around a state dict, and in front of its names.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")

_LEGACY_TORCH = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number that torch.save wrote before its zip form
)
_FOREIGN = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"GGUF", "a GGUF file"),
    (b"vtrt", "a TensorRT-RTX plan"),
    (b"ftrt", "a TensorRT plan"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer: `git lfs pull` fetches the file itself"),
)
_CHUNK = 1 << 20
_DEEPEST = 4  # a dictionary in a file can hold itself
_SHOWN = 3

logger = logging.getLogger(__name__)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; floating-point ones finite and float32.

    Takes torch.save's zip and legacy forms and safetensors; unwraps {"state_dict": ...} and its like, and the prefixes
    that DataParallel and torch.compile put before every name. Half-precision and double weights are converted, which
    is logged. Raises InputUnusable for every file that is not such a checkpoint, and for one that would run code.
    """
    head = _read_head(path)
    if _is_safetensors(head):
        raw: object = _load_safetensors(path)
    elif head.startswith(b"PK\x03\x04"):
        _check_archive(path)
        raw = _load_torch(path, mmap=path.suffix != ".safetensors")  # torch.load goes by that one suffix
    elif head.startswith(_LEGACY_TORCH):
        raw = _load_torch(path, mmap=False)
    else:
        raise _refused(path, _describe(head), WANTED)
    return _as_float32(_checked(_unwrapped(raw), path), path)


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from what a network holds; every name is a tensor's."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # name, found, wanted
    kinds: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes or self.kinds)

    def __str__(self) -> str:
        shapes = [f"{name} {list(found)} instead of {list(wanted)}" for name, found, wanted in self.shapes]
        groups = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
            ("integer instead of floating-point", self.kinds),
        )
        return "; ".join(f"{len(items)} {label}: {_some(items)}" for label, items in groups if items)


def compare(module: nn.Module, state: Mapping[str, Tensor]) -> Mismatch:
    """What keeps `state` from being the weights of `module`. Batch-norm's batch counters may be missing."""
    wanted = module.state_dict()
    both = [name for name in wanted if name in state]
    shapes = [name for name in both if state[name].shape != wanted[name].shape]
    return Mismatch(
        missing=tuple(name for name in wanted if name not in state and not _is_counter(name)),
        unexpected=tuple(name for name in state if name not in wanted),
        shapes=tuple((name, tuple(state[name].shape), tuple(wanted[name].shape)) for name in shapes),
        kinds=tuple(name for name in both if wanted[name].is_floating_point() and not state[name].is_floating_point()),
    )


def fit(
    module: nn.Module, state: Mapping[str, Tensor], source: str, explain: Callable[[], str | None] = lambda: None
) -> None:
    """Put `state` into `module`, which may be on the meta device; the tensors are taken over, not copied.

    Raises InputUnusable, with every kind of mismatch at once, when they do not belong together: `source` is where the
    weights come from, `explain` is asked only then for what the caller makes of it.
    """
    mismatch = compare(module, state)
    if mismatch:
        raise InputUnusable(
            "the weights do not fit the network",
            where=source,
            got=str(mismatch),
            wanted=f"the {len(module.state_dict())} tensors of the network, under its names",
            hint=explain(),
        )
    counters = {name: torch.zeros((), dtype=torch.int64) for name in module.state_dict() if _is_counter(name)}
    module.load_state_dict({**counters, **state}, assign=True)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _read_head(path: Path) -> bytes:
    """The first bytes of a regular file that holds something."""
    if path.is_dir():
        raise _refused(path, "a folder", WANTED)
    try:
        if path.exists() and not path.is_file():
            raise _refused(path, "not a regular file", WANTED)
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise _refused(path, "no such file", WANTED) from error
    except OSError as error:
        raise _refused(path, str(error.strerror), "a file that can be read") from error
    if not head:
        raise _refused(path, "an empty file", WANTED)
    return head


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _describe(head: bytes) -> str:
    """What a file that is no checkpoint seems to be."""
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            return name
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b":", b"B"):
        return "an ONNX model: name it as the source, not as weights"
    if head[:1] == b"\x80":
        return "a Python pickle that torch.save did not write: refused, unpickling it could run code"
    text = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    return "a text file" if text else "a file of unknown format"


def _load_safetensors(path: Path) -> object:
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise _refused(path, f"a damaged safetensors file: {error}", "a complete file") from error


def _check_archive(path: Path) -> None:
    """Refuse a zip that is damaged, and one that torch.save did not write, before torch sees it.

    Tensors are mapped into memory straight from the archive, where nothing else would notice a changed byte.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_kind(path, archive)
            _check_sums(archive)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _refused(path, f"damaged or cut short: {error}", "a complete file") from error


def _check_kind(path: Path, archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        hint = "torch.save(torch.jit.load(path).state_dict(), other_path)"
        raise _refused(path, "a TorchScript archive: it holds code", WANTED, hint)
    if not any(name.endswith("/data.pkl") for name in names):
        raise _refused(path, "a zip archive that torch.save did not write", WANTED)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise _refused(path, "a compressed zip archive; torch.save stores tensors uncompressed", WANTED)


def _check_sums(archive: zipfile.ZipFile) -> None:
    """Read every entry through: zipfile compares its sum. A sum of 0 says that torch.save was told to write none."""
    for entry in archive.infolist():
        if entry.CRC:
            with archive.open(entry) as file:
                while file.read(_CHUNK):
                    pass


def _load_torch(path: Path, *, mmap: bool) -> object:
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on kinds of tensor that are refused right after
            if mmap:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _runs_code(path, error) from error
    except Exception as error:  # hostile bytes make torch.load raise anything: KeyError, EOFError, RuntimeError, ...
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise _refused(path, f"damaged or cut short: {reason}", "a complete file") from error


def _runs_code(path: Path, error: Exception) -> InputUnusable:
    """The refusal of torch's restricted unpickler, in one line that names what the file asks for."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return _refused(
            path, "a pickle that is damaged or asks for more than tensors: refused", WANTED, SAVE_STATE_DICT
        )
    return _refused(path, f"a pickle that would import and run {found[1]}: refused", WANTED, SAVE_STATE_DICT)


def _unwrapped(raw: object) -> object:
    """The innermost dictionary, with the prefixes taken off that all of its names share."""
    for _ in range(_DEEPEST):
        inner = next((raw[key] for key in _CONTAINERS if key in raw), None) if isinstance(raw, Mapping) else None
        if not isinstance(inner, Mapping):
            break
        raw = inner
    return _without_prefixes(raw) if isinstance(raw, Mapping) else raw


def _without_prefixes(state: Mapping[object, object]) -> Mapping[object, object]:
    for _ in range(_DEEPEST):
        names = [name for name in state if isinstance(name, str)]
        shared = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in names)), None)
        if shared is None or len(names) < len(state) or not names:
            break
        state = {name.removeprefix(shared): state[name] for name in names}
    return state


def _checked(raw: object, path: Path) -> dict[str, Tensor]:
    """`raw` as names and tensors, each of which can be a weight."""
    if not isinstance(raw, Mapping):
        raise _refused(path, f"a {type(raw).__name__} and no names", WANTED, SAVE_STATE_DICT)
    if not raw:
        raise _refused(path, "a dictionary without entries", WANTED)
    state: dict[str, Tensor] = {}
    for name, value in raw.items():
        problem = _problem(name, value)
        if problem:
            raise _refused(path, problem, WANTED)
        state[name] = value.detach()
    return state


def _problem(name: object, value: object) -> str | None:
    """Why this entry is no weight, or None."""
    if not isinstance(name, str):
        return f"an entry whose name is {name!r}, a {type(name).__name__}"
    if not isinstance(value, Tensor):
        return f"{name} is a {type(value).__name__} and no tensor"
    return _unfit_tensor(name, value)


def _unfit_tensor(name: str, value: Tensor) -> str | None:
    """Why this tensor is no weight, or None. Its size is checked before its values are looked at."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return f"{name} is a sparse, quantised or empty tensor"
    if value.is_complex() or (value.is_floating_point() and value.element_size() == 1):
        return f"{name} is of type {_dtype(value)}"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"{name} claims {value.numel()} values and stores fewer"
    if value.is_floating_point() and not _is_finite(value):
        return f"{name} holds NaN or infinity"
    return None


def _is_finite(value: Tensor) -> bool:
    """A finite sum proves it, at a fraction of the time; a sum may overflow all the same."""
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _as_float32(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    others = {_dtype(tensor) for tensor in state.values() if tensor.is_floating_point()} - {"float32"}
    if not others:
        return state
    logger.info("%s: %s weights converted to float32", path, " and ".join(sorted(others)))
    converted = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name, tensor in converted.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise _refused(path, f"{name} holds values beyond float32's range", WANTED)
    return converted


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _some(items: tuple[str, ...] | list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


def _refused(path: Path, got: str, wanted: str, hint: str | None = None) -> InputUnusable:
    return InputUnusable("cannot read the weights", where=str(path), got=got, wanted=wanted, hint=hint)

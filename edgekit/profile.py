"""Export profiles: what one target takes. The only reader of TOML.

A profile is one file in `export_profiles/` (or anywhere, by path) and says all about its target: no profile builds on
another. Whatever is wrong with one is reported at once. docs/profiles.md explains every key.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from edgekit.errors import MachineLacks, UsageError, did_you_mean
from edgekit.schema import JSON, Problem, Rules, SchemaError, check, read, to_json

Flavour = Literal["none", "tensorrt-rtx", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]

DEFAULT = "rtx"
MAX_BYTES = 64 * 1024  # the longest shipped profile has under 1 KB; more than this is some other file
MIN_OPSET = 7  # the oldest that TensorRT's parser reads

# The newest ONNX opset that the parser of a TensorRT version takes; a version in between takes what the one before it
# does. The figures are those of tests/reference/jetson.json; a test holds them to it.
OPSET_BY_TENSORRT: dict[tuple[int, ...], int] = {
    (8, 0): 13,
    (8, 2): 13,
    (8, 4): 17,
    (8, 5): 17,
    (8, 6): 17,
    (10, 0): 20,
    (10, 3): 20,
    (10, 9): 22,
    (10, 13): 24,
    (11,): 25,
}
MAX_OPSET = max(OPSET_BY_TENSORRT.values())

# What TensorRT-RTX compiles for; every one was built ahead of time with 1.7.1, and the library names no others.
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
JETSON_TARGETS = ("sm53", "sm62", "sm72", "sm87", "sm110")
TARGETS_WITHOUT_INT8 = ("sm53", "sm62")  # Nano and TX2

_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_END_OF_DOCUMENT = "(at end of document)"


def version_of(text: str) -> tuple[int, ...]:
    """A version as numbers that compare: "8.5.2" is (8, 5, 2). Raises ValueError for anything else."""
    return tuple(int(part) for part in text.split("."))


def opset_limit(tensorrt: str) -> int:
    """The newest ONNX opset that this TensorRT version (8.0 or newer, as text) parses."""
    version = version_of(tensorrt)
    return OPSET_BY_TENSORRT[max(known for known in OPSET_BY_TENSORRT if known <= version)]


def _is_version(text: str) -> bool:
    return bool(_VERSION.fullmatch(text))


def _is_tensorrt_version(text: str) -> bool:
    return _is_version(text) and version_of(text) >= min(OPSET_BY_TENSORRT)


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


def _is_text(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _is_positive(value: int) -> bool:
    return value > 0


def _is_opset(value: int) -> bool:
    return MIN_OPSET <= value <= MAX_OPSET


def _is_level(value: int) -> bool:
    return 0 <= value <= 5


def _are_targets(values: tuple[str, ...]) -> bool:
    return _are_distinct(values) and all(re.fullmatch(r"sm[1-9][0-9]{1,2}", value) for value in values)


def _are_distinct(values: tuple[str, ...]) -> bool:
    return len(set(values)) == len(values)


def _are_some(values: tuple[str, ...]) -> bool:
    return bool(values) and _are_distinct(values) and all(map(_is_text, values))


@dataclass(frozen=True)
class Board:
    """The Jetson that a profile is for, with a grade for how well its figures are known.

    A grade of "S" was read in an NVIDIA source; "K" is believed, not confirmed, and shown to the user as such.
    """

    modules: tuple[str, ...] = field(metadata={"check": _are_some, "wanted": 'module names, such as ["agx-orin"]'})
    jetpack: str = field(metadata={"check": _is_text, "wanted": 'JetPack releases, such as "6.1-6.2"'})
    l4t: str = field(metadata={"check": _is_text, "wanted": 'the Jetson Linux release, such as "36.4"'})
    memory_gb: int = field(metadata={"check": _is_positive, "wanted": "the GB of the module with the least memory"})
    grade: Literal["S", "K"]  # of JetPack, L4T and TensorRT
    modules_grade: Literal["S", "K"]  # of the compute capability, memory and precisions: the weakest module's

    def __post_init__(self) -> None:
        check(self)


def _fits_flavour(
    flavour: Flavour,
    where: str,
    targets: tuple[str, ...],
    tensorrt: str | None,
    workspace_mib: int | None,
    optimization_level: int | None,
) -> Iterator[Problem]:
    settings = {"workspace_mib": workspace_mib, "optimization_level": optimization_level}
    if flavour == "none":
        given = {"where": where if where != "here" else None, "targets": ", ".join(targets), **settings}
        for key, value in given.items():
            if value not in (None, ""):
                yield Problem(key, str(value), 'nothing: flavour "none" builds no engine')
    if flavour != "tensorrt" and tensorrt is not None:
        yield Problem("tensorrt", tensorrt, f'nothing: it is the version of full TensorRT, the flavour is "{flavour}"')


def _rtx_compiles(flavour: Flavour, targets: tuple[str, ...]) -> Iterator[Problem]:
    if flavour != "tensorrt-rtx":
        return
    if not targets:
        yield Problem("targets", "none", f"the compute capabilities to compile for, of {', '.join(RTX_TARGETS)}")
    for i, target in enumerate(targets):
        if target not in RTX_TARGETS:
            jetson = "TensorRT-RTX does not serve Jetson: take one of the jetson-* profiles"
            hint = jetson if target in JETSON_TARGETS else did_you_mean(target, list(RTX_TARGETS))
            yield Problem(f"targets[{i}]", target, f"what TensorRT-RTX compiles for: {', '.join(RTX_TARGETS)}", hint)


def _opset_parses(opset: int, tensorrt: str | None) -> Iterator[Problem]:
    if tensorrt is not None and opset > opset_limit(tensorrt):
        limit = opset_limit(tensorrt)
        yield Problem("opset", str(opset), f"at most {limit}: TensorRT {tensorrt} parses no newer one")


def _board_is_complete(
    flavour: Flavour, where: str, targets: tuple[str, ...], tensorrt: str | None, board: Board | None
) -> Iterator[Problem]:
    if board is not None and flavour != "tensorrt":
        yield Problem("board", f'a board with flavour "{flavour}"', 'flavour "tensorrt": Jetson runs no other')
    if where != "board":
        return
    if board is None:
        yield Problem("board", "nothing", 'a [board] table: where = "board" builds the engine there')
    if flavour == "tensorrt" and tensorrt is None:
        yield Problem("tensorrt", "nothing", "the TensorRT version on the board: it decides opset and operators")
    if flavour == "tensorrt" and len(targets) != 1:
        yield Problem("targets", f"{len(targets)} targets", 'the one compute capability of the board, such as ["sm87"]')


def _fp16_is_possible(
    flavour: Flavour, fp16: str, tensorrt: str | None, precisions: tuple[Precision, ...]
) -> Iterator[Problem]:
    old = tensorrt is not None and version_of(tensorrt) < (10,)
    if fp16 == "flag" and (flavour != "tensorrt" or not old):
        yield Problem("fp16", "flag", '"typed": the builder flag is for full TensorRT below 10, with its version given')
    if fp16 == "typed" and old and "fp16" in precisions:
        yield Problem("fp16", "typed", f'"flag": TensorRT {tensorrt} has no strongly typed networks')


def _int8_is_possible(targets: tuple[str, ...], precisions: tuple[Precision, ...]) -> Iterator[Problem]:
    slow = [target for target in targets if target in TARGETS_WITHOUT_INT8]
    if "int8" in precisions and slow:
        wanted = f"fp32 or fp16: {', '.join(slow)} (Nano, TX2) has no INT8"
        yield Problem(f"precisions[{precisions.index('int8')}]", "int8", wanted)


def _level_exists(tensorrt: str | None, optimization_level: int | None) -> Iterator[Problem]:
    if optimization_level is not None and tensorrt is not None and version_of(tensorrt) < (8, 6):
        wanted = f"nothing: TensorRT {tensorrt} has no optimisation levels (8.6 and newer do)"
        yield Problem("optimization_level", str(optimization_level), wanted)


def _workspace_fits(workspace_mib: int | None, board: Board | None) -> Iterator[Problem]:
    if workspace_mib is not None and board is not None and workspace_mib > board.memory_gb * 1024:
        yield Problem("workspace_mib", str(workspace_mib), f"less than the board's {board.memory_gb} GB")


@dataclass(frozen=True)
class ExportProfile:
    """What one target takes. docs/profiles.md explains the keys; an instance always meets `rules`.

    What is possible where: tests/reference/jetson.json for Jetson, builds made here for TensorRT-RTX.
    """

    name: str = field(metadata={"check": _is_name, "wanted": "a file name of letters, digits and - _ . only"})
    description: str = field(metadata={"check": _is_text, "wanted": "one line of text"})
    flavour: Flavour
    precisions: tuple[Precision, ...] = field(
        metadata={"check": _are_some, "wanted": "some of fp32, fp16, int8, each once"}
    )
    where: Literal["here", "board"] = "here"
    targets: tuple[str, ...] = field(
        default=(),
        metadata={"check": _are_targets, "wanted": 'compute capabilities, such as ["sm86", "sm89"], each once'},
    )
    opset: int = field(
        default=17, metadata={"check": _is_opset, "wanted": f"a whole number from {MIN_OPSET} to {MAX_OPSET}"}
    )
    fp16: Literal["typed", "flag"] = "typed"
    tensorrt: str | None = field(
        default=None, metadata={"check": _is_tensorrt_version, "wanted": 'a version from 8.0 on, as text: "10.3.0"'}
    )
    workspace_mib: int | None = field(
        default=None, metadata={"check": _is_positive, "wanted": "a number of MiB above 0"}
    )
    optimization_level: int | None = field(
        default=None, metadata={"check": _is_level, "wanted": "a whole number from 0 to 5"}
    )
    board: Board | None = None

    rules: ClassVar[Rules] = (
        _fits_flavour,
        _rtx_compiles,
        _opset_parses,
        _board_is_complete,
        _fp16_is_possible,
        _int8_is_possible,
        _level_exists,
        _workspace_fits,
    )

    def __post_init__(self) -> None:
        check(self)


def names() -> list[str]:
    """The names of all shipped profiles, sorted. Raises MachineLacks where the installation has lost them."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load(name_or_path: str) -> ExportProfile:
    """The shipped profile of this name, or the one in this file (anything with a slash in it, or ending in .toml).

    Raises UsageError with every mistake in the profile, or with what is wrong with the name or the file.
    """
    path = _path(name_or_path)
    return _profile(_table(path, _text(path)), path)


def resolved(profile: ExportProfile) -> dict[str, JSON]:
    """The whole profile, defaults filled in, as JSON data: what a manifest keeps."""
    data = to_json(profile)
    assert isinstance(data, dict)
    return data


def digest(profile: ExportProfile) -> str:
    """The sha256 (hex) of the resolved profile as canonical JSON: part of the key under which artifacts are kept."""
    import hashlib
    import json

    canonical = json.dumps(resolved(profile), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _folder() -> Path:
    """Inside the package where it was installed as a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "export_profiles", package.parent / "export_profiles"):
        if folder.is_dir():
            return folder
    raise MachineLacks(
        "the shipped export profiles are missing",
        where=str(package / "export_profiles"),
        hint="the installation is incomplete: install edgekit-trt again",
    )


def _path(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        return Path(name_or_path)
    known = names()
    if name_or_path in known:
        return _folder() / f"{name_or_path}.toml"
    raise UsageError(
        "there is no such export profile",
        got=repr(name_or_path[:80]),
        wanted="the name of a shipped profile (edgekit profiles lists them), or the path of a .toml file",
        hint=did_you_mean(name_or_path[:80], known),
    )


def _text(path: Path) -> str:
    """The text of a profile file, which may be anything at all until it has been looked at."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device never end
            raise _unusable(path, "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not an ordinary file")
        if status.st_size > MAX_BYTES:
            raise _unusable(path, f"it has {status.st_size} bytes, an export profile at most {MAX_BYTES}")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unusable(path, getattr(error, "strerror", None) or str(error)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unusable(path, f"it is not UTF-8 text (byte {error.start})") from error


def _table(path: Path, text: str) -> dict[str, object]:
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise _unusable(path, "it is not TOML: its brackets are nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number too long for Python
        place = f"(at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))})"
        raise _unusable(path, f"it is not TOML: {str(error).replace(_END_OF_DOCUMENT, place)}") from error
    if not table:
        raise _unusable(path, "it is empty")
    return table


def _profile(table: dict[str, object], path: Path) -> ExportProfile:
    named = [Problem("name", "a name", "none: a profile is named after its file")] if "name" in table else []
    try:
        profile = read(ExportProfile, {**table, "name": path.stem})
    except SchemaError as error:
        raise _mistaken(path, [*named, *error.problems]) from error
    if named:
        raise _mistaken(path, named)
    return profile


def _unusable(path: Path, why: str) -> UsageError:
    return UsageError(
        "the export profile cannot be read",
        where=_printable(path),
        got=why,
        wanted="a TOML file with at least description, flavour and precisions",
        hint="docs/profiles.md explains the keys; `edgekit profiles` lists the shipped profiles, each one an example",
    )


def _mistaken(path: Path, problems: list[Problem]) -> UsageError:
    if len(problems) == 1:
        [only] = problems
        where = f"{_printable(path)}: {only.key}"
        return UsageError(
            "the export profile has a mistake", where=where, got=only.got, wanted=only.wanted, hint=only.hint
        )
    lines = str(SchemaError(problems)).splitlines()
    return UsageError(
        f"the export profile has {len(problems)} mistakes",
        where=_printable(path),
        got="".join(f"\n    {line}" for line in lines),
        hint="docs/profiles.md explains the keys",
    )


def _printable(path: Path) -> str:
    return str(path) if str(path).isprintable() else repr(str(path))

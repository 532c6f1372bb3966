"""Plain data (parsed TOML or JSON) into frozen dataclasses and back, with every mistake reported at once.

A dataclass says all there is to know about its data: the annotations are the types, a field without a default is
required, `field(metadata={"check": fn, "wanted": "text"})` holds a single value to more than its type, and an optional
class variable `rules` holds several fields against each other:

    def _ends_in_order(first: int, last: int) -> Iterator[Problem]:
        if first > last:
            yield Problem("last", str(last), f"at least {first}")

    @dataclass(frozen=True)
    class Span:
        first: int
        last: int
        rules: ClassVar[Rules] = (_ends_in_order,)

A rule names the fields that it needs as its parameters, so it can run, and report, although other fields are wrong.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from edgekit.errors import EdgekitError, did_you_mean

T = TypeVar("T")
JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

MAX_HINTS = 20  # spelling hints are slow to find, and nobody reads more of them
MAX_SHOWN = 60  # characters of a value that are quoted in a message

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BAD = object()  # stands for a value that could not be read; its problems are already listed


@dataclass(frozen=True)
class Problem:
    """One mistake: the dotted path of the value (`targets[2]`, `board.memory_gb`), what is there, what should be."""

    key: str
    got: str
    wanted: str
    hint: str | None = None

    def __str__(self) -> str:
        line = f"{self.key or 'the whole'}: found {self.got}, wanted {self.wanted}"
        return f"{line} ({self.hint})" if self.hint else line


class SchemaError(ValueError):
    """The data do not fit the dataclass; `problems` holds every mistake, in the order of the fields."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        shown = [str(problem) for problem in self.problems[:MAX_HINTS]]
        more = len(self.problems) - len(shown)
        return "\n".join([*shown, f"and {more} more"] if more else shown)


Rules: TypeAlias = tuple[Callable[..., Iterable[Problem]], ...]


def read(kind: type[T], data: object) -> T:
    """`data` (dicts, lists and scalars, as TOML or JSON parse to) as a `kind`.

    Supported annotations: str, int, float, bool, None, X | Y, Literal, tuple[X, ...], tuple[X, Y], dict[str, X] and
    dataclasses. A bool is not an int; an int serves as a float; nan is refused; infinity is also read from the text
    "inf" or "-inf", which is how `to_json` writes it (JSON has no word for it), so `float | str` would be ambiguous.

    Raises SchemaError with every problem found.
    """
    problems: list[Problem] = []
    value = _value(kind, data, "", problems)
    if problems:
        raise SchemaError(problems)
    return cast(T, value)


def to_json(value: object) -> JSON:
    """`value` as strict JSON data: dataclasses become dicts in field order, tuples lists, infinities "inf" / "-inf".

    `read(type(value), to_json(value)) == value`. Raises SchemaError for nan and TypeError for what is not data.
    """
    return _plain(value, "")


def check(value: object) -> None:
    """Raise SchemaError unless the dataclass instance `value` meets its field checks and rules: for `__post_init__`."""
    kind: type = type(value)
    values: dict[str, object] = {slot.name: getattr(value, slot.name) for slot in _slots(kind)}
    problems = [problem for slot in _slots(kind) for problem in _unmet(slot, values[slot.name], slot.name)]
    values |= {problem.key: _BAD for problem in problems}
    problems += _broken_rules(kind, values)
    if problems:
        raise SchemaError(problems)


def _value(kind: object, data: object, at: str, problems: list[Problem]) -> object:
    """`data` read as the annotation `kind`, or _BAD with the reasons added to `problems`."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, data, at, problems)
    origin = get_origin(kind)
    if origin is Literal:
        return _literal(kind, data, at, problems)
    if origin in (Union, types.UnionType):
        return _union(kind, data, at, problems)
    if origin is tuple:
        return _tuple(kind, data, at, problems)
    if origin is dict:
        return _dict(kind, data, at, problems)
    return _scalar(kind, data, at, problems)


def _scalar(kind: object, data: object, at: str, problems: list[Problem]) -> object:
    if kind is float:
        return _float(data, at, problems)
    if kind not in (str, int, bool, types.NoneType):
        raise TypeError(f"{at or 'the whole'}: no rule for reading {kind!r}")
    # type(), not isinstance(): True must not pass as 1.
    return data if type(data) is kind else _bad(Problem(at, _shown(data), _described(kind)), problems)


def _float(data: object, at: str, problems: list[Problem]) -> object:
    if data in ("inf", "-inf") or type(data) in (int, float):
        try:
            number = float(cast(float, data))
        except OverflowError:
            number = math.nan
        if not math.isnan(number):
            return number
    return _bad(Problem(at, _shown(data), _described(float)), problems)


def _literal(kind: object, data: object, at: str, problems: list[Problem]) -> object:
    options = get_args(kind)
    if any(type(data) is type(option) and data == option for option in options):
        return data
    hint = None
    if isinstance(data, str) and len(problems) < MAX_HINTS:
        near = did_you_mean(data[:MAX_SHOWN], [option for option in options if isinstance(option, str)])
        hint = near if near and near.startswith("did you mean") else None  # `wanted` lists them all already
    return _bad(Problem(at, _shown(data), _described(kind), hint), problems)


def _union(kind: object, data: object, at: str, problems: list[Problem]) -> object:
    tried: list[list[Problem]] = []
    for arm in get_args(kind):
        trial: list[Problem] = []
        value = _value(arm, data, at, trial)
        if not trial:
            return value
        if arm is not types.NoneType:
            tried.append(trial)
    if len(tried) == 1:  # X | None: what X has to say is more exact
        problems += tried[0]
        return _BAD
    return _bad(Problem(at, _shown(data), _described(kind)), problems)


def _tuple(kind: object, data: object, at: str, problems: list[Problem]) -> object:
    arguments = get_args(kind)
    open_ended = len(arguments) == 2 and arguments[1] is ...
    if not isinstance(data, list | tuple) or not (open_ended or len(data) == len(arguments)):
        return _bad(Problem(at, _shown(data), _described(kind)), problems)
    kinds = arguments[:1] * len(data) if open_ended else arguments
    items = [_value(kind, item, f"{at}[{i}]", problems) for i, (kind, item) in enumerate(zip(kinds, data, strict=True))]
    return _BAD if any(item is _BAD for item in items) else tuple(items)


def _dict(kind: object, data: object, at: str, problems: list[Problem]) -> object:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        return _bad(Problem(at, _shown(data), _described(kind)), problems)
    of = get_args(kind)[1]
    items = {key: _value(of, item, _join(at, _key(key)), problems) for key, item in data.items()}
    return _BAD if any(item is _BAD for item in items.values()) else items


def _record(kind: type, data: object, at: str, problems: list[Problem]) -> object:
    if not isinstance(data, dict):
        return _bad(Problem(at, _shown(data), _described(kind)), problems)
    found: list[Problem] = []
    values = {slot.name: _slot(slot, _hints(kind)[slot.name], data, at, found) for slot in _slots(kind)}
    found += _unknown_keys(kind, data, at, len(problems) + len(found))
    found += [replace(problem, key=_join(at, problem.key)) for problem in _broken_rules(kind, values)]
    problems += found
    return _BAD if found else _built(kind, values, at, problems)


def _slot(slot: Field[object], kind: object, data: Mapping[str, object], at: str, problems: list[Problem]) -> object:
    """The value of one field of a dataclass: read, or its default, or _BAD."""
    path = _join(at, slot.name)
    wanted = str(slot.metadata.get("wanted") or _described(kind))
    if slot.name not in data:
        return _default(slot) if _has_default(slot) else _bad(Problem(path, "nothing", wanted), problems)
    found: list[Problem] = []
    value = _value(kind, data[slot.name], path, found)
    if value is not _BAD:
        found += _unmet(slot, value, path)
    problems += [replace(problem, wanted=wanted) if problem.key == path else problem for problem in found]
    return _BAD if found else value


def _built(kind: type, values: dict[str, object], at: str, problems: list[Problem]) -> object:
    """The dataclass itself; what its own `__post_init__` refuses becomes a problem like any other."""
    try:
        return kind(**values)
    except SchemaError as error:
        problems += [replace(problem, key=_join(at, problem.key)) for problem in error.problems]
    except EdgekitError as error:
        problems.append(Problem(at, error.got or _shown(values), error.wanted or error.what, error.what))
    except ValueError as error:
        problems.append(Problem(at, _shown(values), _described(kind), str(error)))
    return _BAD


def _unknown_keys(kind: type, data: Mapping[object, object], at: str, already: int) -> list[Problem]:
    known = [slot.name for slot in _slots(kind)]
    unknown = [str(key) for key in data if key not in known]
    wanted = f"a known key{f' of {at}' if at else ''}"
    hints = [did_you_mean(key[:MAX_SHOWN], known) for key in unknown[: max(0, MAX_HINTS - already)]]
    return [
        Problem(_join(at, _key(key)), "an unknown key", wanted, hint)
        for key, hint in itertools.zip_longest(unknown, hints)
    ]


def _unmet(slot: Field[object], value: object, at: str) -> list[Problem]:
    """The problem with one value that has the right type but fails its field's own check, if any."""
    accepts = slot.metadata.get("check")
    if accepts is None or value is None or accepts(value):
        return []
    return [Problem(at, _shown(value), str(slot.metadata["wanted"]))]


def _broken_rules(kind: type, values: Mapping[str, object]) -> list[Problem]:
    """What the rules find among the fields that could be read; a rule that needs another one waits its turn."""
    problems: list[Problem] = []
    rules: Rules = getattr(kind, "rules", ())
    for rule in rules:
        needed = {name: values[name] for name in inspect.signature(rule).parameters}
        if not any(value is _BAD for value in needed.values()):
            problems += rule(**needed)
    return problems


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    return dict(get_type_hints(kind))


@functools.cache
def _slots(kind: type) -> tuple[Field[object], ...]:
    return tuple(slot for slot in fields(kind) if slot.init)


def _has_default(slot: Field[object]) -> bool:
    return slot.default is not MISSING or slot.default_factory is not MISSING


def _default(slot: Field[object]) -> object:
    return slot.default_factory() if slot.default_factory is not MISSING else slot.default


def _bad(problem: Problem, problems: list[Problem]) -> object:
    problems.append(problem)
    return _BAD


def _join(at: str, path: str) -> str:
    return f"{at}.{path}" if at and path else at or path


def _key(key: str) -> str:
    """A key as one part of a path: quoted where its own dots or control characters would mislead."""
    return key if _BARE_KEY.fullmatch(key) else _shortened(_quoted(key))


_NAMES: dict[object, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def _described(kind: object) -> str:
    """The annotation in words."""
    arguments, origin = get_args(kind), get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(_quoted(option) for option in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(arm) for arm in arguments if arm is not types.NoneType)
    if origin is tuple:
        return _described_tuple(arguments)
    if origin is dict:
        return f"a table, each value {_described(arguments[1])}"
    if isinstance(kind, type) and is_dataclass(kind):
        return f"a table with the keys {', '.join(slot.name for slot in _slots(kind))}"
    return _NAMES.get(kind, str(kind))


def _described_tuple(arguments: tuple[object, ...]) -> str:
    if arguments[-1] is ...:
        return f"a list, each {_described(arguments[0])}"
    return f"a list of {len(arguments)}: {', '.join(map(_described, arguments))}"


def _shown(data: object) -> str:
    """A value as the user wrote it, near enough; never long, and safe to print."""
    if isinstance(data, list | tuple):
        items = ["…" if isinstance(item, list | tuple | dict) else _quoted(item) for item in data[:MAX_SHOWN]]
        return _shortened(f"[{', '.join(items)}]")
    return "a table" if isinstance(data, dict) else _shortened(_quoted(data))


def _quoted(data: object) -> str:
    """A scalar as TOML and JSON write it, with control characters escaped."""
    if isinstance(data, str):
        return f'"{repr(data)[1:-1]}"'
    if data is None or isinstance(data, bool):
        return "null" if data is None else str(data).lower()
    if isinstance(data, int) and data.bit_length() > 200:  # Python refuses to print very long ones
        return f"a whole number of {data.bit_length()} bits"
    return str(data)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _plain(value: object, at: str) -> JSON:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _plain_float(value, at)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{at}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, _join(at, key)) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {slot.name: _plain(getattr(value, slot.name), _join(at, slot.name)) for slot in _slots(type(value))}
    raise TypeError(f"{at or 'the whole'}: {type(value).__name__} is not data that JSON can hold")


def _plain_float(value: float, at: str) -> JSON:
    if math.isnan(value):
        raise SchemaError([Problem(at, "nan", "a number", "write null for a figure that does not exist")])
    return value if math.isfinite(value) else str(value)

"""What people type as lists, numbers and choices; every refusal is a UsageError that names the option."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from edgekit.errors import UsageError, did_you_mean

Choice = TypeVar("Choice", bound=str)


def words(values: Sequence[str]) -> tuple[str, ...]:
    """Comma-separated and repeated values as one list, each once."""
    found = [word.strip() for value in values for word in value.split(",")]
    return tuple(dict.fromkeys(word for word in found if word))


def numbers(option: str, values: Sequence[str] | None) -> tuple[float, ...]:
    """Decimal numbers; empty when the option was not given."""
    return tuple(_number(option, word) for word in _given(option, values))


def whole_numbers(option: str, values: Sequence[str] | None) -> tuple[int, ...]:
    """Whole numbers; `1e3` is one, `160.5` is not."""
    return tuple(_whole(option, word) for word in _given(option, values))


def pairs(option: str, values: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """KEY=VALUE pairs, sorted by key so that their order means nothing."""
    found: dict[str, str] = {}
    for value in values or []:
        key, equals, text = value.partition("=")
        if not (key and equals and text):
            raise UsageError("not an option of a network", where=option, got=value, wanted="KEY=VALUE")
        if key in found:
            raise UsageError("the same option twice", where=option, got=key)
        found[key] = text
    return tuple(sorted(found.items()))


def choice(option: str, value: str, allowed: Sequence[Choice]) -> Choice:
    """`value` if it is allowed."""
    for known in allowed:
        if value == known:
            return known
    raise UsageError(
        "unknown value", where=option, got=value, wanted=", ".join(allowed), hint=did_you_mean(value, list(allowed))
    )


def choices(option: str, values: Sequence[str], allowed: Sequence[Choice]) -> tuple[Choice, ...]:
    """The values, all of them allowed, in the order of `allowed`."""
    given = {choice(option, word, allowed) for word in _given(option, values)}
    return tuple(known for known in allowed if known in given)


def jobs(value: int | None) -> int:
    """The number of worker processes: as asked for, or one for each core that this process may use."""
    if value is None:
        return len(os.sched_getaffinity(0))
    if not 1 <= value <= 1024:
        raise UsageError("not a number of processes", where="--jobs", got=str(value), wanted="1 to 1024")
    return value


def _given(option: str, values: Sequence[str] | None) -> tuple[str, ...]:
    if values is None:
        return ()
    found = words(values)
    if not found:
        raise UsageError("the list is empty", where=option)
    return found


def _number(option: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UsageError("not a number", where=option, got=word) from None


def _whole(option: str, word: str) -> int:
    value = _number(option, word)
    if not value.is_integer():
        raise UsageError("not a whole number", where=option, got=word)
    return int(value)

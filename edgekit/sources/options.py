"""`--option KEY=VALUE` as keyword arguments of code that is not ours: torchvision's, timm's, the user's."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from edgekit.errors import UsageError, did_you_mean

Literal = bool | int | float | str | None
_BOOLEANS = {"true": True, "false": False}
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_TWICE = re.compile(r"multiple values for (?:keyword )?argument '(\w+)'")


def parse_literal(text: str) -> Literal:
    """What Python reads as an int, a float, True, False, None or a quoted string; any other text is itself.

    `true` and `false` are read as they are meant: as a text, `false` would count as true.
    """
    if text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if value is None or isinstance(value, bool | int | float | str) else text


def parse(given: Mapping[str, str], reserved: Mapping[str, str]) -> dict[str, Literal]:
    """The keyword arguments. Raises UsageError for a name that is `reserved`, with what is said there to use."""
    for key in given:
        if key in reserved:
            raise UsageError(f"{key} is not set by --option", where="--option", got=key, hint=reserved[key])
    return {key: parse_literal(text) for key, text in given.items()}


def parameters(function: Callable[..., object]) -> list[inspect.Parameter] | None:
    """The parameters of anything that can be called, or None where it does not say."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None


def keywords(found: Sequence[inspect.Parameter]) -> list[str]:
    """The names of those that can be given by keyword."""
    return [it.name for it in found if it.kind in (it.POSITIONAL_OR_KEYWORD, it.KEYWORD_ONLY)]


def unknown(what: str, key: str, known: Sequence[str]) -> UsageError:
    """The refusal of an option that `what` does not have."""
    return UsageError(
        f"{what} has no option called {key!r}",
        where="--option",
        got=key,
        wanted=f"one of: {', '.join(known)}" if known else "no option: it has none",
        hint=did_you_mean(key, list(known)),
    )


@contextmanager
def refusing(what: str, given: Mapping[str, object], known: Sequence[str]) -> Iterator[None]:
    """Turn a TypeError of the call inside that is about an option that was given into a UsageError."""
    try:
        yield
    except TypeError as error:
        refusal = _refusal(what, str(error), given, known)
        if refusal is None:
            raise
        raise refusal from error


def _refusal(what: str, message: str, given: Mapping[str, object], known: Sequence[str]) -> UsageError | None:
    unexpected = _UNEXPECTED.search(message)
    if unexpected and unexpected[1] in given:
        return unknown(what, unexpected[1], known)
    twice = _TWICE.search(message)
    if twice and twice[1] in given:
        return UsageError(f"{what} sets {twice[1]} itself", where="--option", got=f"{twice[1]}={given[twice[1]]}")
    return None

"""A network's own options: the keyword-only parameters of its `build`, read from its signature."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from edgekit.errors import UsageError, did_you_mean
from edgekit.models import load

Value = str | bool | int | float
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Option:
    """One option of a network: its values are `choices` where there are any, else whatever reads as `kind`."""

    name: str
    kind: type[bool] | type[int] | type[float] | type[str]
    choices: tuple[str, ...]
    default: Value

    def parse(self, text: str) -> Value:
        """The value that `text` stands for. Raises UsageError when it stands for none."""
        if self.choices:
            return self._choose(text, list(self.choices))
        if self.kind is bool:
            return BOOLEANS[self._choose(text.lower(), list(BOOLEANS))]
        return self._number(text)

    def values(self) -> list[Value]:
        """All values, the default first, where they are few; none for a number."""
        every: list[Value] = [False, True] if self.kind is bool else list(self.choices)
        return sorted(every, key=lambda value: value != self.default)

    def _choose(self, text: str, choices: list[str]) -> str:
        if text not in choices:
            raise self._refused(text, f"one of: {', '.join(choices)}", did_you_mean(text, choices))
        return text

    def _number(self, text: str) -> int | float:
        wanted = "a whole number" if self.kind is int else "a finite number"
        try:
            value = int(text) if self.kind is int else float(text)
        except ValueError as error:
            raise self._refused(text, wanted) from error
        if not math.isfinite(value):
            raise self._refused(text, wanted)
        return value

    def _refused(self, text: str, wanted: str, hint: str | None = None) -> UsageError:
        where = f"--option {self.name}"
        return UsageError(f"{self.name} cannot be {text!r}", where=where, got=text, wanted=wanted, hint=hint)


def options(name: str) -> list[Option]:
    """The options of the network `name`, in the order of its signature. Raises UsageError for an unknown network."""
    parameters = inspect.signature(load(name).build).parameters.values()
    return [_option(name, parameter) for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def parse_options(name: str, given: Mapping[str, str]) -> dict[str, Value]:
    """`KEY=VALUE` texts as keyword arguments for the network's `build`.

    Raises UsageError, with the nearest names, for an option that the network does not have or a value that the option
    does not take.
    """
    known = {option.name: option for option in options(name)}
    for key in given:
        if key not in known:
            raise UsageError(
                f"{name} has no option called {key!r}",
                where="--option",
                got=key,
                wanted=f"one of: {', '.join(known)}" if known else "no option: this network has none",
                hint=did_you_mean(key, list(known)),
            )
    return {key: known[key].parse(text) for key, text in given.items()}


def forms(name: str) -> list[dict[str, Value]]:
    """Every combination of the options that have a few values only, as keyword arguments; the default one first.

    Options at their default are left out. Raises UsageError for an unknown network.
    """
    axes = [[(option.name, value) for value in option.values()] for option in options(name) if option.values()]
    defaults = {option.name: option.default for option in options(name)}
    return [{key: value for key, value in form if value != defaults[key]} for form in itertools.product(*axes)]


def _option(name: str, parameter: inspect.Parameter) -> Option:
    kind, default = parameter.annotation, parameter.default
    if get_origin(kind) is Literal:
        return Option(parameter.name, str, get_args(kind), default)
    if kind in (bool, int, float):
        return Option(parameter.name, kind, (), default)
    raise TypeError(
        f"{name}.build: option {parameter.name} is annotated {kind!r}; an option is a Literal, bool, int or float, "
        "and the annotation an object (no `from __future__ import annotations` in that file)"
    )

"""What can go wrong, typed: every failure says what, where, what was found, what was wanted, and what to do.

The exit code belongs to the class, so the command line turns any of these into text and a code in one place.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """A failure that is the user's to read: one line of `what`, then the details that are known.

    `got` and `wanted` are shown next to each other; `hint` is the next thing to type or to look at.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: str | None = None,
        wanted: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.got = got
        self.wanted = wanted
        self.hint = hint

    def details(self) -> list[tuple[str, str]]:
        """The known details as (label, text), in the order in which they are read."""
        pairs = [("where", self.where), ("found", self.got), ("wanted", self.wanted), ("do", self.hint)]
        return [(label, text) for label, text in pairs if text]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in self.details())])

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (grid workers, isolated builders); keyword-only arguments need this.
        return (_rebuild, (type(self), self.what, self.where, self.got, self.wanted, self.hint))


def _rebuild(
    kind: type[EdgekitError],
    what: str,
    where: str | None,
    got: str | None,
    wanted: str | None,
    hint: str | None,
) -> EdgekitError:
    return kind(what, where=where, got=got, wanted=wanted, hint=hint)


class GateFailed(EdgekitError):
    """A comparison or a budget failed: parity, precision, regression. Exit code 1."""

    exit_code = 1


class UsageError(EdgekitError):
    """A wrong option or profile. Exit code 2."""

    exit_code = 2


class MachineLacks(EdgekitError):
    """This machine lacks something; the hint says how to get it. Exit code 3."""

    exit_code = 3


class InputUnusable(EdgekitError):
    """The input cannot be used: corrupt, foreign, unsupported. Exit code 4."""

    exit_code = 4


def did_you_mean(word: str, known: list[str]) -> str | None:
    """A hint naming the nearest of `known`, or all of them when none is near; None when there are none."""
    import difflib

    near = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"one of: {', '.join(known)}" if known else None

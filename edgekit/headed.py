"""Files that begin alike: what they share is kept and hashed once. Nothing heavy is imported.

A network's graph at five resolutions is five files of 14 MB that differ in the last two hundred bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property


class Head:
    """The beginning of several files, in parts: a large one need not be copied to stand behind a small one."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @cached_property
    def sha256(self) -> hashlib._Hash:
        """The hash so far, to be copied and gone on with."""
        found = hashlib.sha256()
        for part in self.parts:
            found.update(part)
        return found


@dataclass(frozen=True)
class Headed:
    """A whole graph file's content: `head` and then `rest`. `bytes` of it joins them, which copies all of it.

    `outline` is the same file without its weights, to look at what it declares; `opened` makes the same graph with its
    height and width left open, of which there is one for all sizes.
    """

    head: Head
    rest: bytes
    outline: bytes
    opened: Callable[[], bytes]

    def __len__(self) -> int:
        return len(self.head) + len(self.rest)

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)

    @property
    def parts(self) -> tuple[bytes, ...]:
        """What stands one behind the other in the file."""
        return *self.head.parts, self.rest


Content = bytes | Headed


def parts(content: Content) -> tuple[bytes, ...]:
    """What stands one behind the other in a file."""
    return content.parts if isinstance(content, Headed) else (content,)


def outline(content: Content) -> bytes:
    """A graph file without its weights, where that is at hand, else all of it."""
    return content.outline if isinstance(content, Headed) else content


def sha256(content: Content) -> str:
    """The SHA-256 of a file's content, in hex."""
    if not isinstance(content, Headed):
        return hashlib.sha256(content).hexdigest()
    found = content.head.sha256.copy()
    found.update(content.rest)
    return found.hexdigest()

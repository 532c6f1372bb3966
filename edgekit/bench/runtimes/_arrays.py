"""What goes into runs and comes out of them, the same for every runtime."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from edgekit.errors import InputUnusable
from edgekit.parity.metrics import AnyArray, Feeds


def check_names(feeds: Feeds, wanted: Collection[str]) -> None:
    """Raise InputUnusable unless `feeds` has exactly the `wanted` inputs."""
    if set(wanted) != set(feeds):
        raise InputUnusable(
            "these are not the network's inputs",
            got=", ".join(sorted(feeds)) or "none",
            wanted=", ".join(sorted(wanted)),
        )


def copy_out(array: AnyArray) -> AnyArray:
    """A copy; float16 as float32."""
    return np.array(array, np.float32 if array.dtype == np.float16 else array.dtype)

"""What a command line leaves behind, and what every one of them promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.cli import COMMANDS


@dataclass(frozen=True)
class Ran:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout, held against what every command promises."""
        assert self.out.count("\n") == 1
        data = json.loads(self.out)
        assert isinstance(data, dict)
        assert data["schema"] == 1
        assert data["command"].split()[0] in COMMANDS
        assert data["ok"] is (self.code == 0)
        return data


Edgekit = Callable[..., Ran]

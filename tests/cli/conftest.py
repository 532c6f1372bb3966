"""`edgekit`, as its users type it, in this process."""

from __future__ import annotations

import pytest
from command_line import Edgekit, Ran

from edgekit.cli import run


@pytest.fixture
def edgekit(capsys: pytest.CaptureFixture[str]) -> Edgekit:
    def go(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return go

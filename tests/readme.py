"""The README's commands, for the tests and for .ci/run: what it says is what runs.

    python tests/readme.py install|test

prints the command of that name. A command is the fenced block that follows `<!-- command: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def command(name: str) -> str:
    """The one-line command with that name."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- command: {re.escape(name)} -->\n```bash\n(.+)\n```", text)
    if found is None:
        raise SystemExit(f"README.md has no command called {name}")
    return found.group(1)


def edgekit_lines() -> list[str]:
    """Every line of a bash block that starts with `edgekit `, in order; a trailing comment is cut off."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith("edgekit ")]


if __name__ == "__main__":
    print(command(sys.argv[1]))

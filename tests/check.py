"""The quality gate, one command: formatting, lint, types, tests.

    python tests/check.py [pytest arguments]

Every step runs, so that one run shows all there is to mend; the exit code is 1 when any of them failed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STEPS = (
    ("ruff", "format", "--check", "."),
    ("ruff", "check", "."),
    ("mypy",),
    ("pytest", "-n", "2", "--dist", "loadgroup"),
)


def main(pytest_arguments: list[str]) -> int:
    failed = []
    for step in STEPS:
        extra = pytest_arguments if step[0] == "pytest" else []
        print(f"+ {' '.join([*step, *extra])}", flush=True)
        if subprocess.run([sys.executable, "-m", *step, *extra], cwd=ROOT, check=False).returncode:
            failed.append(step[0] + (f" {step[1]}" if step[0] == "ruff" else ""))
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

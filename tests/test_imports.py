"""Heavy packages load where they are needed and nowhere before: DESIGN.md's first rule.

Which modules may import one at their top is read from their source: those that do so openly, and those that import
such a module at their top. All others are imported here where no heavy package can be.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "onnxscript",
    "onnxconverter_common",
    "tensorrt",
    "tensorrt_rtx",
    "polygraphy",
    "numpy",
    "matplotlib",
    "safetensors",
    "PIL",
    "google",
    "ray",
)

# Whatever else becomes heavy, these may not: the command line, and what decides whether anything has to be done.
ALWAYS_LIGHT = (
    "edgekit",
    "edgekit.contents",
    "edgekit.engines.plan",
    "edgekit.environment",
    "edgekit.errors",
    "edgekit.isolation",
    "edgekit.manifest",
    "edgekit.models",
    "edgekit.parity.report",
    "edgekit.pipeline",
    "edgekit.plan",
    "edgekit.probes",
    "edgekit.profile",
    "edgekit.schema",
    "edgekit.sources",
    "edgekit.variant",
)

BLOCKED = f"""
import json, importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is blocked here")

sys.meta_path.insert(0, Blocker())
failures = {{}}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ImportError as error:
        failures[name] = str(error)
print(json.dumps(failures))
"""

LOADED = f"""
import json, sys
{{}}
print(json.dumps(sorted({{{{name.partition(".")[0] for name in sys.modules}}}} & set({HEAVY!r}))), file=sys.stderr)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *arguments], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for path in sorted((ROOT / "edgekit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def top_level_imports(body: list[ast.stmt]) -> Iterator[str]:
    """The names that importing a module imports; functions, and what only type checkers read, are left out."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If):
            checking = isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
            yield from top_level_imports([*([] if checking else statement.body), *statement.orelse])
        elif isinstance(statement, ast.Try):
            handlers = [inner for handler in statement.handlers for inner in handler.body]
            yield from top_level_imports([*statement.body, *handlers, *statement.orelse, *statement.finalbody])
        elif isinstance(statement, ast.With | ast.ClassDef | ast.For):
            yield from top_level_imports(statement.body)


def importing(name: str) -> set[str]:
    """What importing the module `name` imports in turn, the packages that hold it included."""
    found = set(top_level_imports(ast.parse(modules()[name].read_text()).body))
    found |= {".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)}
    return found


@cache
def heavy_modules() -> frozenset[str]:
    """The modules that may import a heavy package: openly, or through one that does."""
    imports = {name: importing(name) for name in modules()}
    heavy = {name for name, found in imports.items() if any(other.partition(".")[0] in HEAVY for other in found)}
    while True:
        more = {name for name, found in imports.items() if found & heavy} - heavy
        if not more:
            return frozenset(heavy)
        heavy |= more


def light_modules() -> list[str]:
    return sorted(set(modules()) - heavy_modules())


@pytest.mark.parametrize("name", ALWAYS_LIGHT)
def test_what_must_be_light_is(name: str) -> None:
    assert name in modules()
    assert name not in heavy_modules(), "it imports a heavy package at its top, or a module that does"


def test_the_command_line_is_light() -> None:
    assert not [name for name in heavy_modules() if name.split(".")[:2] == ["edgekit", "cli"]]


def test_the_names_and_options_of_networks_are_known_without_torch() -> None:
    networks = {name for name in modules() if name.startswith("edgekit.models.") and ".models._" not in name}
    assert networks
    assert not networks & heavy_modules()


def test_every_light_module_imports_where_nothing_heavy_is_installed() -> None:
    light = light_modules()
    assert len(light) > 20
    assert json.loads(python(BLOCKED, json.dumps(light)).stdout) == {}


def test_the_blocked_environment_is_really_without_them() -> None:
    """Otherwise the test above proves nothing: a heavy module must fail there, and by the block."""
    failures = json.loads(python(BLOCKED, json.dumps(["edgekit.runtimes.torch_eager"])).stdout)
    assert "is blocked here" in failures["edgekit.runtimes.torch_eager"]


COMMANDS = ["--help", "--version", "profiles", "profiles rtx", "profiles --json", "export --help", "doctor --help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_light_command_loads_nothing_heavy(command: str) -> None:
    code = LOADED.format(f"from edgekit.cli import run; assert run({command.split()!r}) == 0")
    assert json.loads(python(code).stderr) == []


@pytest.mark.parametrize("statement", ["import edgekit", "import edgekit.cli", "from edgekit import *"])
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    assert json.loads(python(LOADED.format(statement)).stderr) == []


def test_a_command_imports_no_other_command() -> None:
    """Importing them all, with what typer makes of their options, takes as long as the rest of a light command."""
    code = "import sys; from edgekit.cli import run; run(['profiles']); print(*sys.modules, file=sys.stderr)"
    loaded = {name for name in python(code).stderr.split() if name.startswith("edgekit.cli.")}
    assert "edgekit.cli.info" in loaded
    assert not loaded & {f"edgekit.cli.{other}" for other in ("export", "bench", "train", "experiment", "style")}


def test_a_mistake_is_told_without_loading_anything_heavy() -> None:
    code = LOADED.format("from edgekit.cli import run; assert run(['lint', 'x.onnx', '--profile', 'rtxx']) == 2")
    assert json.loads(python(code).stderr.splitlines()[-1]) == []

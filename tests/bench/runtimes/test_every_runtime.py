"""Every file of the folder is a runtime, found by its name, and light until something is opened."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast, get_args

import pytest
from test_imports import HEAVY, ROOT, top_level_imports

import edgekit.bench.runtimes
from edgekit.bench.finding import Found
from edgekit.bench.record import Clock
from edgekit.bench.running import suited
from edgekit.bench.runtimes import ArtifactKind, Candidate, Runner, Runtime, names, runtime
from edgekit.errors import UsageError

FOLDER = Path(edgekit.bench.runtimes.__file__).parent
HEAVY_HERE = {*HEAVY, "openvino", "mlperf_loadgen"}

LOADED = f"""
import json, sys
from edgekit.bench.runtimes import names, runtime
answers = {{name: [runtime(name).missing(), dict(runtime(name).versions())] for name in names()}}
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & set({sorted(HEAVY_HERE)!r}))
print(json.dumps([heavy, answers]))
"""


def test_the_names_are_those_of_the_files() -> None:
    assert {name.replace("-", "_") for name in names()} == {
        path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")
    }
    assert {"onnxruntime-cpu", "torch", "openvino"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_it_is_what_its_file_is_called(name: str) -> None:
    found = runtime(name)
    assert found.name == name
    assert found.clock in get_args(Clock)
    assert found.kinds
    assert set(found.kinds) <= set(get_args(ArtifactKind))
    assert (found.flavour is not None) == ("engine" in found.kinds)


@pytest.mark.parametrize("name", names())
def test_its_methods_take_what_the_protocol_says(name: str) -> None:
    for method in ("missing", "versions", "open"):
        wanted = inspect.signature(getattr(Runtime, method)).parameters
        found = inspect.signature(getattr(type(runtime(name)), method)).parameters
        assert list(found) == list(wanted), f"{name}.{method}"


@pytest.mark.parametrize("name", names())
def test_it_imports_nothing_heavy_at_its_top(name: str) -> None:
    body = ast.parse((FOLDER / f"{name.replace('-', '_')}.py").read_text()).body
    assert not {module.partition(".")[0] for module in top_level_imports(body)} & HEAVY_HERE


def test_what_is_missing_is_found_out_without_loading_anything_heavy() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    heavy, answers = json.loads(ran.stdout)
    assert heavy == []
    assert set(answers) == set(names())
    for name, (missing, versions) in answers.items():
        assert missing is None or len(missing) > 10, f"{name} must say what it needs, and how to get it"
        assert missing is not None or versions, f"{name} runs here, so it has a version"


def runner_classes() -> list[ast.ClassDef]:
    """Every class of the folder that can be sampled."""
    trees = [ast.parse(path.read_text()) for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__"]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return [node for node in classes if "sample" in {item.name for item in functions(node)}]


def functions(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]


def own_attributes(node: ast.ClassDef) -> set[str]:
    """What the class declares, and what its methods set."""
    declared = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and hasattr(item.target, "id")}
    stored = (item for item in ast.walk(node) if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store))
    return declared | {item.attr for item in stored}


def test_every_runner_has_the_methods_and_attributes() -> None:
    """mypy sees the same where `open` returns one; this holds also where mypy is told to look away."""
    found = runner_classes()
    assert len(found) >= 3
    wanted = functions(ast.parse(inspect.getsource(Runner)).body[0])  # type: ignore[arg-type]
    for node in found:
        arguments = {item.name: [one.arg for one in item.args.args] for item in functions(node)}
        for method in wanted:
            assert arguments.get(method.name) == [one.arg for one in method.args.args], f"{node.name}.{method.name}"
        assert set(Runner.__annotations__) <= own_attributes(node), node.name


def test_a_name_that_nobody_knows_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        runtime("onnxruntime-cpuu")
    assert "onnxruntime-cpu" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["_onnxruntime", "", "..record", "-arrays"])
def test_what_several_runtimes_share_is_no_runtime(name: str) -> None:
    with pytest.raises(UsageError):
        runtime(name)


@pytest.mark.parametrize(
    ("flavour", "wanted"), [("tensorrt", ["tensorrt", "trtexec"]), ("tensorrt-rtx", ["tensorrt-rtx"])]
)
def test_engines_go_to_their_own_kind_of_tensorrt(flavour: str, wanted: list[str]) -> None:
    candidate = Candidate(Path(), "engine", Path("model.engine"), "", flavour=flavour)
    engine = cast(Found, SimpleNamespace(candidate=candidate))
    assert [name for name in names() if suited(runtime(name), [engine])] == wanted

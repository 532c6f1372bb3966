"""The hash of the user's own code: it follows import statements, and imports nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.errors import InputUnusable
from edgekit.sources import Source, imports, parse_source, source_identity


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with helpers, and a package, in the current directory. None of it can be imported."""
    monkeypatch.chdir(tmp_path)
    files = {
        "net.py": "import torch, blocks\ndef make():\n    from deep.inner import thing\nraise RuntimeError",
        "blocks.py": "from deep import inner\n",
        "deep/__init__.py": f"try: import {'x' * 300}\nexcept ImportError: pass",
        "deep/inner.py": "thing = 1\n",
        "unused.py": "",
        "pkg/__init__.py": "from . import early\n",
        "pkg/early.py": "",
        "pkg/sub/__init__.py": "",
        "pkg/sub/mod.py": "from ..near import a\nfrom . import *\nraise RuntimeError",
        "pkg/near.py": "import blocks",
        "pkg/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def changed(project: Path, text: str) -> set[str]:
    """The files whose content the identity of the source `text` depends on."""
    before = source_identity(parse_source(text))
    found = set()
    for path in project.rglob("*.py"):
        whole = path.read_text()
        path.write_text(whole + "# changed\n")
        if source_identity(parse_source(text)) != before:
            found.add(str(path.relative_to(project)))
        path.write_text(whole)
    assert source_identity(parse_source(text)) == before
    return found


def test_a_files_identity_covers_what_it_imports(project: Path) -> None:
    assert changed(project, "net.py:make") == {"net.py", "blocks.py", "deep/__init__.py", "deep/inner.py"}


def test_a_modules_identity_covers_its_packages_and_relative_imports(project: Path) -> None:
    expected = {"pkg/__init__.py", "pkg/early.py", "pkg/sub/__init__.py", "pkg/sub/mod.py", "pkg/near.py"}
    expected |= {"blocks.py", "deep/__init__.py", "deep/inner.py"}
    assert changed(project, "pkg.sub.mod:make") == expected


def test_of_an_installed_package_only_the_package_itself_is_followed(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    expected = {"pkg/__init__.py", "pkg/early.py", "pkg/sub/__init__.py", "pkg/sub/mod.py", "pkg/near.py"}
    assert changed(project, "pkg.sub.mod:make") == expected


def test_factories_of_one_file_have_identities_of_their_own(project: Path) -> None:
    assert source_identity(parse_source("net.py:a")) != source_identity(parse_source("net.py:b"))


def test_a_file_that_cannot_be_parsed_is_refused_and_a_helper_is_not(project: Path) -> None:
    (project / "blocks.py").write_text("this is not Python")
    source_identity(parse_source("net.py:make"))
    (project / "net.py").write_text("x = 1\ndef make(:\n")
    with pytest.raises(InputUnusable, match="syntax error") as caught:
        source_identity(parse_source("net.py:make"))
    assert (caught.value.where or "").endswith("net.py:2")


def test_files_that_import_each_other_end(project: Path) -> None:
    (project / "deep" / "inner.py").write_text("import net, deep.inner, blocks")
    assert changed(project, "net.py:make") == {"net.py", "blocks.py", "deep/__init__.py", "deep/inner.py"}


def test_a_module_is_found_as_python_would_without_importing_its_package(project: Path) -> None:
    assert imports.find_module("pkg.sub.mod") == project / "pkg" / "sub" / "mod.py"
    assert imports.find_module("pkg") == project / "pkg" / "__init__.py"
    assert imports.find_module("pkg.nowhere") is None
    assert imports.find_module("net.py") is None
    assert imports.find_module("deep.inner.thing") is None
    assert "pkg" not in sys.modules


def test_the_functions_of_a_file_are_known(project: Path) -> None:
    (project / "net.py").write_text("class Net: ...\ndef make(): ...\ndef _hidden(): ...\nx = 1\n")
    assert imports.functions(project / "net.py") == ["Net", "make"]


def test_an_archive_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"one")
    first = source_identity(parse_source(str(path)))
    path.write_bytes(b"two")
    assert source_identity(parse_source(str(path))) != first
    path.unlink()
    with pytest.raises(InputUnusable):
        source_identity(Source("onnx", str(path)))

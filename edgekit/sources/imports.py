"""The user's own modules by their files: found, read and hashed without importing any of them."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

from edgekit.errors import InputUnusable
from edgekit.sources.archives import is_file


def find_module(name: str) -> Path | None:
    """The source file of the module `name`, looked for as `python -m` does; None when there is none.

    Unlike importlib.util.find_spec it does not import the packages that hold the module.
    """
    importlib.invalidate_caches()
    path: Sequence[str] = [str(Path.cwd()), *sys.path]
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        spec = _find(".".join(parts[:depth]), path)
        if spec is None:
            return None
        if depth == len(parts):
            origin = spec.origin or ""
            return Path(origin) if spec.has_location and origin.endswith(".py") else None
        path = list(spec.submodule_search_locations or [])
    return None


def root_of(file: Path, module: str | None) -> Path:
    """The folder from which `file` is imported: its own, or the one that holds the outermost package of `module`."""
    parts = 0 if module is None else module.count(".") + (file.name == "__init__.py")
    return file.resolve().parents[parts]


def functions(file: Path) -> list[str]:
    """The functions and classes that a Python file defines for others. Raises InputUnusable where it does not parse."""
    defined = [node.name for node in read(file).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in defined if not name.startswith("_")]


def read(file: Path) -> ast.Module:
    """A Python file, parsed. Raises InputUnusable, naming the line, for one that cannot be."""
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        got = f"{error.msg}: {(error.text or '').strip()}"
        raise InputUnusable("the file has a syntax error", where=f"{file}:{error.lineno}", got=got) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputUnusable("cannot read the Python file", where=str(file), got=str(error)) from error


def digest(file: Path, module: str | None) -> str:
    """SHA-256 over a module's file and, by name and content, every file of the user's own that it imports.

    Followed are the import statements, also those inside functions, to files under the same folder - for an installed
    package, under that package. Not covered: what is imported by a computed name, compiled extensions, data files, and
    other packages. Raises InputUnusable where a file does not parse.
    """
    root = root_of(file, module)
    sha = hashlib.sha256()
    for found in _closure(file.resolve(), root, module):
        sha.update(repr((str(found.relative_to(root)), found.read_bytes())).encode())
    return sha.hexdigest()


def _find(name: str, path: Sequence[str]) -> ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def _closure(start: Path, root: Path, module: str | None) -> list[Path]:
    # A folder of installed packages holds more than the user's own: there, only the package itself is followed.
    everything = module is None or root == Path.cwd().resolve()
    only = None if everything or module is None else module.partition(".")[0]
    waiting = [start, *(_files(module, root) if module else [])]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            tree = read(file) if file == start else _read_if_possible(file)
            names = [name for name in _imported(tree, file.relative_to(root)) if only in (None, name.partition(".")[0])]
            waiting += [path for name in names for path in _files(name, root)]
    return sorted(found)


def _read_if_possible(file: Path) -> ast.Module:
    """A file that does not parse may be one that is never imported: its content is in the digest all the same."""
    try:
        return read(file)
    except InputUnusable:
        return ast.Module([], [])


def _imported(tree: ast.Module, file: Path) -> Iterator[str]:
    """The names of the modules that a file imports, and of what it takes from them: those may be modules, too.

    `file` is its path from the folder that it is imported from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = node.module or ""
            if node.level:
                package = file.parts[: -node.level]
                prefix = ".".join([*package, *([prefix] if prefix else [])])
            yield prefix
            yield from (f"{prefix}.{alias.name}".lstrip(".") for alias in node.names if alias.name != "*")


def _files(module: str, root: Path) -> Iterator[Path]:
    """The files under `root` that importing `module` would run: its packages' and its own."""
    folder = root
    for part in module.split("."):
        folder = folder / part
        for file in (folder / "__init__.py", folder.with_name(f"{part}.py")):
            if is_file(file):
                yield file

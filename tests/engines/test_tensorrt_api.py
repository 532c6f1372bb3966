"""Every TensorRT name that the builder touches exists in every version for which it claims to work.

No TensorRT but RTX can be run here, so the names are held against the lists taken from the others' Python classes.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import tensorrt_rtx

import edgekit.engines

REFERENCE = Path(__file__).parents[1] / "reference" / "tensorrt_api.json"
API: dict[str, dict[str, list[str]]] = json.loads(REFERENCE.read_text())
WORKER = ast.parse((Path(edgekit.engines.__file__).parent / "worker.py").read_text())

# What the builder's variables hold, by their names in worker.py.
CLASSES = {
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "layer": "ILayer",
    "tensor": "ITensor",
    "error": "ParserError",
}
RTX_ONLY = {"ComputeCapability"}
OMITTED = {"name", "value"}  # the lists leave them out of every class, RTX's included, where they can be seen to exist
GUARDED = {("ParserError", "node_operator"), ("ParserError", "node_name")}  # behind a hasattr; from TensorRT 10 on
FULL_VERSIONS = [version for version in API if not version.startswith("rtx")]


def touched() -> set[tuple[str, str]]:
    """(class, attribute) for `trt.Class.attribute` and for `variable.attribute` of the variables above."""
    found = set()
    for node in ast.walk(WORKER):
        match node:
            case ast.Attribute(value=ast.Name(id=variable), attr=name) if variable in CLASSES:
                found.add((CLASSES[variable], name))
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="trt"), attr=owner), attr=name):
                found.add((owner, name))
    return {(owner, name) for owner, name in found if not (owner + name).startswith("__") and not name.startswith("__")}


def module_names() -> set[str]:
    """What is taken from the module itself: `trt.Name`."""
    return {
        node.attr
        for node in ast.walk(WORKER)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt"
    }


def test_the_scan_sees_what_is_there() -> None:
    seen = touched()
    assert {("BuilderFlag", "TF32"), ("MemoryPoolType", "WORKSPACE"), ("OnnxParser", "parse_from_file")} <= seen
    assert {("INetworkDefinition", "get_layer"), ("ILayer", "get_output"), ("IBuilderConfig", "clear_flag")} <= seen
    assert ("ILayer", "type") in seen
    assert {"OnnxParser", "ComputeCapability", "init_libnvinfer_plugins"} <= module_names()


@pytest.mark.parametrize("version", API)
def test_every_attribute_exists(version: str) -> None:
    for owner, name in sorted(touched() - GUARDED):
        if name not in OMITTED and not (owner in RTX_ONLY and version in FULL_VERSIONS):
            assert name in API[version][owner], f"TensorRT {version} has no {owner}.{name}"


@pytest.mark.parametrize("version", API)
def test_every_class_exists(version: str) -> None:
    known = set().union(*API.values())
    for name in sorted(module_names() & known):
        if name in RTX_ONLY and version in FULL_VERSIONS:
            continue
        assert name in API[version], f"TensorRT {version} has no {name}"


def test_what_is_behind_a_guard_needs_it() -> None:
    for owner, name in GUARDED:
        assert name not in API["8.6.1"][owner]
        assert all(name in API[version][owner] for version in API if version != "8.6.1")


def test_the_two_ways_to_fp16_are_told_apart_by_the_names_that_exist() -> None:
    flag = {version for version in API if "FP16" in API[version]["BuilderFlag"]}
    typed = {version for version in API if "STRONGLY_TYPED" in API[version]["NetworkDefinitionCreationFlag"]}
    assert flag == {"8.6.1", "10.3.0", "10.13.0", "10.16.1"}
    assert typed == set(API) - {"8.6.1"}


def test_the_installed_rtx_has_every_name() -> None:
    for name in module_names():
        assert hasattr(tensorrt_rtx, name), name
    for owner, name in touched():
        assert hasattr(getattr(tensorrt_rtx, owner), name), f"{owner}.{name}"

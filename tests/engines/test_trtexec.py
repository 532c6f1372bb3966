"""The command for a board uses only options that the board's own trtexec has."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import profile as profiles
from edgekit.engines.trtexec import PROGRAM, build_command
from edgekit.errors import UsageError
from edgekit.manifest import TensorSpec
from edgekit.profile import ExportProfile, version_of

FLAGS: dict[str, list[str]] = json.loads((Path(__file__).parents[1] / "reference" / "trtexec_flags.json").read_text())
BOARDS = [name for name in profiles.names() if profiles.load(name).where == "board"]
INPUT = TensorSpec("input", "float32", ("batch", 3, 224, 160))


def flags_of(version: str) -> list[str]:
    """The options at the tag of the same release, else at the newest older one, else at the oldest there is."""
    tags = sorted(FLAGS, key=version_of)
    wanted = version_of(version)
    same = [tag for tag in tags if version_of(tag)[:2] == wanted[:2]]
    older = [tag for tag in tags if version_of(tag) <= wanted]
    return FLAGS[(same or older or tags[:1])[-1]]


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_shipped_board_gets_options_that_it_knows(name: str, precision: profiles.Precision) -> None:
    profile = profiles.load(name)
    assert profile.tensorrt is not None
    assert precision != "int8"
    command = build_command(profile, "m.onnx", "m.engine", precision, (1, 4, 8), (INPUT,))
    program, *options = shlex.split(command)
    assert program == PROGRAM
    used = [re.match(r"--(\w+)", option)[1] for option in options]  # type: ignore[index]
    assert set(used) <= set(flags_of(profile.tensorrt))
    assert len(set(used)) == len(used)
    assert {"onnx", "saveEngine", "minShapes", "optShapes", "maxShapes"} <= set(used)


def board(version: str, fp16: str, **changes: object) -> ExportProfile:
    """A profile that differs from a shipped one in what decides the command."""
    base = profiles.load("jetson-orin-jp62")
    return replace(base, tensorrt=version, fp16=fp16, opset=13, workspace_mib=None, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "fp16", "precision", "options"),
    [
        ("8.2.1", "flag", "fp16", "--noTF32 --fp16 --buildOnly"),
        ("8.2.1", "flag", "fp32", "--noTF32 --buildOnly"),
        ("8.5.2", "flag", "fp16", "--noTF32 --fp16 --buildOnly"),
        ("8.6.2", "flag", "fp16", "--noTF32 --fp16 --skipInference"),
        ("10.3.0", "typed", "fp16", "--noTF32 --stronglyTyped --skipInference"),
        ("10.16", "typed", "fp32", "--noTF32 --stronglyTyped --skipInference"),
        ("11.4.1", "typed", "fp16", "--noTF32 --skipInference"),
    ],
)
def test_the_way_to_a_precision_by_version(
    version: str, fp16: str, precision: profiles.Precision, options: str
) -> None:
    assert precision != "int8"
    command = build_command(board(version, fp16), "m.onnx", "m.engine", precision)
    assert command == f"{PROGRAM} --onnx=m.onnx --saveEngine=m.engine {options}"


@pytest.mark.parametrize(
    ("version", "option"), [("8.2.1", "--workspace=512"), ("8.5.2", "--memPoolSize=workspace:512")]
)
def test_the_workspace_by_version(version: str, option: str) -> None:
    profile = replace(board(version, "flag"), workspace_mib=512)
    assert option in shlex.split(build_command(profile, "m.onnx", "m.engine", "fp16"))


def test_a_range_of_batches_names_every_input() -> None:
    mask = TensorSpec("mask", "float32", ("batch", 1))
    command = build_command(board("10.3.0", "typed"), "m.onnx", "m.engine", "fp16", (1, 4, 8), (INPUT, mask))
    assert "--optShapes=input:4x3x224x160,mask:4x1" in shlex.split(command)


def test_names_are_quoted_for_the_shell() -> None:
    command = build_command(board("10.3.0", "typed"), "m; rm -rf x.onnx", "a b.engine", "fp16")
    assert shlex.split(command)[1:3] == ["--onnx=m; rm -rf x.onnx", "--saveEngine=a b.engine"]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="inputs"):
        build_command(board("10.3.0", "typed"), "m.onnx", "m.engine", "fp16", (1, 4, 8))
    with pytest.raises(UsageError, match="version"):
        build_command(profiles.load("rtx"), "m.onnx", "m.engine", "fp16")

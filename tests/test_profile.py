"""Export profiles: the shipped ones agree with the reference, and a mistaken one is refused with all its mistakes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import MachineLacks, UsageError
from edgekit.profile import (
    DEFAULT,
    MAX_BYTES,
    OPSET_BY_TENSORRT,
    TARGETS_WITHOUT_INT8,
    Board,
    ExportProfile,
    digest,
    load,
    names,
    opset_limit,
    resolved,
    version_of,
)
from edgekit.schema import SchemaError, read

ROOT = Path(__file__).parent.parent
JETSON: dict[str, Any] = json.loads((Path(__file__).parent / "reference" / "jetson.json").read_text())
ROWS = {row["jetpack"]: row for row in JETSON["jetpack"]}
JETSON_PROFILES = [name for name in names() if name.startswith("jetson-")]

GOOD = 'description = "x"\nflavour = "tensorrt"\nprecisions = ["fp32"]\n'
RTX = 'description = "x"\nflavour = "tensorrt-rtx"\nprecisions = ["fp32"]\n'
BOARD = (
    '[board]\nmodules = ["orin-nx"]\njetpack = "6.2"\nl4t = "36.4"\nmemory_gb = 8\ngrade = "S"\nmodules_grade = "S"\n'
)


def refused(path: Path | str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(str(path))
    assert caught.value.exit_code == 2
    return caught.value


def mistakes(tmp_path: Path, text: str) -> dict[str, str]:
    """The keys of all mistakes in a profile, each with what was wanted."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    error = refused(path)
    assert str(path) in (error.where or "")
    cause = error.__cause__
    assert isinstance(cause, SchemaError)
    assert all(problem.key in str(error) for problem in cause.problems)
    return {problem.key: problem.wanted for problem in cause.problems}


# --- the shipped profiles


def test_the_profiles_of_every_host_and_every_jetson_are_shipped() -> None:
    assert {"cpu", "rtx", "rtx-turing", "cuda"} <= set(names())
    assert names() == sorted(names())
    assert DEFAULT in names()


@pytest.mark.parametrize("name", names())
def test_a_shipped_profile_is_valid_and_survives_json(name: str) -> None:
    profile = load(name)
    assert profile.name == name
    assert read(ExportProfile, json.loads(json.dumps(resolved(profile)))) == profile


def test_the_default_needs_no_gpu_and_serves_ampere_to_blackwell() -> None:
    profile = load(DEFAULT)
    assert (profile.flavour, profile.where, profile.fp16) == ("tensorrt-rtx", "here", "typed")
    assert profile.targets == ("sm80", "sm86", "sm89", "sm120", "sm121")
    assert profile.precisions == ("fp32", "fp16")


def test_turing_is_fp16_only() -> None:
    assert load("rtx-turing").targets == ("sm75",)
    assert load("rtx-turing").precisions == ("fp16",)


def test_cpu_builds_no_engine_and_cuda_builds_for_the_gpu_it_finds() -> None:
    assert load("cpu").flavour == "none"
    assert (load("cuda").flavour, load("cuda").where, load("cuda").targets) == ("tensorrt", "here", ())


@pytest.mark.parametrize("name", JETSON_PROFILES)
def test_a_jetson_profile_agrees_with_the_reference(name: str) -> None:
    profile = load(name)
    board = profile.board
    assert board is not None
    row, modules = ROWS[board.jetpack], [JETSON["modules"][module] for module in board.modules]
    assert (profile.flavour, profile.where) == ("tensorrt", "board")
    assert (profile.tensorrt, board.l4t, board.grade) == (row["tensorrt"], row["l4t"], row["grade"])
    assert set(board.modules) <= set(row["modules"])
    assert profile.opset <= row["max_opset"]
    assert {f"sm{module['sm']}" for module in modules} == set(profile.targets)
    assert ("int8" in profile.precisions) == all(module["int8"] for module in modules)
    assert ("fp16" in profile.precisions) == all(module["fp16"] for module in modules)
    assert board.memory_gb == min(smallest(module["memory_gb"]) for module in modules)
    assert board.modules_grade == max(
        "SK", key=lambda grade: any(module["grade"] == grade == "K" for module in modules)
    )
    assert name.endswith(f"-jp{board.jetpack.split('-')[-1].replace('.', '')}")


def smallest(figure: int | list[int]) -> int:
    return min(figure) if isinstance(figure, list) else figure


def test_every_board_and_jetpack_of_the_reference_is_served_once() -> None:
    boards = [board for name in JETSON_PROFILES if (board := load(name).board)]
    served = sorted((board.jetpack, module) for board in boards for module in board.modules)
    assert served == sorted((row["jetpack"], module) for row in JETSON["jetpack"] for module in row["modules"])


def test_the_opset_limits_are_those_of_the_reference() -> None:
    assert {".".join(map(str, key)): limit for key, limit in OPSET_BY_TENSORRT.items()} == JETSON["opset_by_tensorrt"]
    assert {row["tensorrt"]: opset_limit(row["tensorrt"]) for row in ROWS.values()} == {
        row["tensorrt"]: row["max_opset"] for row in ROWS.values()
    }


def test_the_targets_without_int8_are_those_of_the_reference() -> None:
    without = {f"sm{module['sm']}" for module in JETSON["modules"].values() if not module["int8"]}
    assert without == set(TARGETS_WITHOUT_INT8)


@given(st.tuples(st.integers(8, 12), st.integers(0, 30), st.integers(0, 9)))
def test_a_newer_tensorrt_never_parses_less(version: tuple[int, int, int]) -> None:
    text = ".".join(map(str, version))
    assert version_of(text) == version
    assert 13 <= opset_limit(text) <= opset_limit(f"{version[0]}.{version[1] + 1}") <= opset_limit("99.0")


# --- the documentation


def documented(section: str) -> dict[str, tuple[str, list[str]]]:
    """The table of a section of docs/profiles.md: name -> (its mark, the other cells)."""
    [text] = re.findall(
        rf"^## {section}\n(.*?)^## ", (ROOT / "docs" / "profiles.md").read_text(), re.DOTALL | re.MULTILINE
    )
    rows: list[tuple[str, str, str]] = re.findall(r"^\| `([a-z0-9_.-]+)`(\*?) \|(.*)\|$", text, re.MULTILINE)
    return {name: (mark, [cell.strip() for cell in cells.split("|")]) for name, mark, cells in rows}


def test_every_key_is_documented_with_its_default() -> None:
    rows = documented("Keys")
    keys = {slot.name: slot.default for slot in fields(ExportProfile) if slot.name != "name"}
    assert set(rows) == {*keys, *(f"board.{slot.name}" for slot in fields(Board))}
    for key, default in keys.items():
        shown = f"`{json.dumps(default)}`" if isinstance(default, str | int | tuple) else ""
        assert rows[key][1][0] == shown, key
        assert rows[key][1][1], key


def test_the_table_of_shipped_profiles_is_up_to_date() -> None:
    rows = documented("Shipped profiles")  # a new profile is one file, whether or not the page lists it yet
    assert "rtx" in rows
    assert rows == {name: table_row(load(name)) for name in names() if name in rows}


def table_row(profile: ExportProfile) -> tuple[str, list[str]]:
    board = profile.board
    cells = [", ".join(board.modules), board.jetpack] if board else [profile.description, ""]
    cells += [profile.tensorrt or "", " ".join(profile.targets), " ".join(profile.precisions), str(profile.opset)]
    return "*" if board and "K" in (board.grade, board.modules_grade) else "", cells


def test_the_example_of_the_documentation_is_a_valid_profile(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "profiles.md").read_text(), re.DOTALL)
    path = tmp_path / "ours.toml"
    path.write_text(example)
    assert load(str(path)).targets == ("sm89",)


# --- a user's own


def test_a_users_file_is_named_after_itself_and_filled_with_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "our-board.v2.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())  # as an editor on Windows leaves it
    profile = load(str(path))
    assert profile == ExportProfile("our-board.v2", "x", "tensorrt", ("fp32",))
    assert (profile.opset, profile.where, profile.fp16) == (17, "here", "typed")


def test_a_path_without_the_ending_needs_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text(GOOD)
    assert load("./mine").name == "mine"
    assert "no such export profile" in str(refused("mine"))


def test_the_digest_follows_every_value_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    profile = load(str(tmp_path / "a.toml"))
    (tmp_path / "a.toml").write_text("# a comment\nopset = 17\n" + GOOD)
    assert digest(load(str(tmp_path / "a.toml"))) == digest(profile)
    canonical = json.dumps(resolved(profile), sort_keys=True, separators=(",", ":"))
    assert digest(profile) == hashlib.sha256(canonical.encode()).hexdigest()
    assert digest(replace(profile, opset=16)) != digest(profile)
    assert len({digest(load(name)) for name in names()}) == len(names())


# --- mistakes


def test_three_mistakes_are_all_told_with_a_suggestion(tmp_path: Path) -> None:
    text = 'description = "x"\nflavour = "tensorrtt"\nprecisions = ["fp16"]\nopset = "17"\nworkspace = 4\n'
    assert set(mistakes(tmp_path, text)) == {"flavour", "opset", "workspace"}
    message = str(refused(tmp_path / "mine.toml"))
    assert "the export profile has 3 mistakes" in message
    assert "did you mean tensorrt" in message
    assert "did you mean workspace_mib" in message
    assert '"17"' in message


def test_mistakes_between_keys_are_told_together_with_those_of_one_key(tmp_path: Path) -> None:
    text = (
        'description = 3\nflavour = "tensorrt"\ntensorrt = "8.2.1"\nopset = 17\nprecisions = ["fp16"]\nfp16 = "typed"\n'
    )
    assert set(mistakes(tmp_path, text)) == {"description", "opset", "fp16"}


@pytest.mark.parametrize(
    ("text", "key", "wanted"),
    [
        ("", "description", "one line"),
        (GOOD + 'where = "board"\ntensorrt = "10.3"\ntargets = ["sm87"]\n', "board", "[board] table"),
        (GOOD + 'where = "board"\ntargets = ["sm87"]\n' + BOARD, "tensorrt", "the TensorRT version on the board"),
        (GOOD + 'where = "board"\ntensorrt = "10.3"\n' + BOARD, "targets", "the one compute capability"),
        (GOOD + 'tensorrt = "10.3"\nopset = 21\n', "opset", "at most 20"),
        (GOOD + 'tensorrt = "8.2.1"\nopset = 14\n', "opset", "at most 13"),
        (GOOD + "opset = 6\n", "opset", "7 to 25"),
        (GOOD + "opset = 26\n", "opset", "7 to 25"),
        (GOOD + "opset = true\n", "opset", "7 to 25"),
        (GOOD + "tensorrt = 10.3\n", "tensorrt", "as text"),
        (GOOD + 'tensorrt = "7.2"\n', "tensorrt", "from 8.0"),
        (GOOD + 'tensorrt = "ten"\n', "tensorrt", "from 8.0"),
        (GOOD + 'fp16 = "flag"\n', "fp16", "typed"),
        (GOOD + 'fp16 = "flag"\ntensorrt = "10.3"\n', "fp16", "typed"),
        (RTX + 'fp16 = "flag"\ntargets = ["sm86"]\n', "fp16", "typed"),
        (RTX, "targets", "sm86"),
        (RTX + "targets = []\n", "targets", "sm86"),
        (RTX + 'targets = ["86"]\n', "targets", "compute capabilities"),
        (RTX + 'targets = ["sm86", "sm86"]\n', "targets", "each once"),
        (RTX + 'targets = ["sm86", "sm87"]\n', "targets[1]", "what TensorRT-RTX compiles for"),
        (RTX + 'targets = ["sm86"]\ntensorrt = "10.3"\n', "tensorrt", "full TensorRT"),
        (RTX + 'targets = ["sm86"]\n' + BOARD, "board", "Jetson runs no other"),
        (GOOD.replace('"fp32"', '"int8"') + 'targets = ["sm53"]\n', "precisions[0]", "no INT8"),
        (GOOD.replace('"fp32"', '"fp32", "int8"') + 'targets = ["sm62"]\n', "precisions[1]", "no INT8"),
        (GOOD.replace('"fp32"', ""), "precisions", "some of"),
        (GOOD.replace('"fp32"', '"fp32", "fp32"'), "precisions", "each once"),
        (GOOD.replace('"fp32"', '"fp64"'), "precisions[0]", "one of"),
        (GOOD + "workspace_mib = 0\n", "workspace_mib", "above 0"),
        (GOOD + "optimization_level = 6\n", "optimization_level", "0 to 5"),
        (GOOD + 'optimization_level = 3\ntensorrt = "8.5"\n', "optimization_level", "nothing"),
        (GOOD + "workspace_mib = 9000\n" + BOARD, "workspace_mib", "8 GB"),
        (GOOD + BOARD.replace("8", "0"), "board.memory_gb", "GB"),
        (GOOD + BOARD.replace("l4t", "l4"), "board.l4", "a known key of board"),
        (GOOD.replace('"tensorrt"', '"none"') + 'targets = ["sm86"]\n', "targets", "builds no engine"),
        (GOOD.replace('"tensorrt"', '"none"') + "workspace_mib = 5\n", "workspace_mib", "builds no engine"),
        (GOOD.replace('"x"', '""'), "description", "one line"),
        (GOOD.replace("x", "a\\u001b[31m"), "description", "one line"),
        (GOOD + "opset = 2020-01-01\n", "opset", "7 to 25"),
    ],
)
def test_a_mistake_is_named_with_what_was_wanted(tmp_path: Path, text: str, key: str, wanted: str) -> None:
    found = mistakes(tmp_path, text or "opset = 17")
    assert key in found
    assert wanted in found[key]


@pytest.mark.parametrize("target", ["sm53", "sm62", "sm72", "sm87", "sm110"])
def test_tensorrt_rtx_for_a_jetson_is_refused_with_the_way_out(tmp_path: Path, target: str) -> None:
    assert set(mistakes(tmp_path, RTX + f'targets = ["{target}"]\n')) == {"targets[0]"}
    assert "jetson-*" in str(refused(tmp_path / "mine.toml"))


def test_a_profile_made_in_python_is_held_to_the_same_rules() -> None:
    with pytest.raises(SchemaError, match="at most 13"):
        replace(load("jetson-nano-jp465"), opset=17)
    with pytest.raises(SchemaError, match=r"from 8\.0"):
        replace(load("jetson-nano-jp465"), tensorrt="x")


def test_a_board_made_in_python_is_checked_too() -> None:
    with pytest.raises(SchemaError, match="memory_gb"):
        Board(("orin-nx",), "6.2", "36.4", 0, "S", "S")


def test_a_name_inside_the_file_is_refused_and_one_that_no_file_may_have(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "other"\n' + GOOD)
    assert "named after its file" in str(refused(path))
    odd = tmp_path / "my profile.toml"
    odd.write_text(GOOD)
    assert "letters, digits" in str(refused(odd))


# --- names and files that are none


@pytest.mark.parametrize(
    ("name", "meant"), [("RTX", "rtx"), ("jetson-orin-jp61", "jetson-orin-jp62"), ("cuad", "cuda")]
)
def test_an_unknown_name_gets_a_suggestion(name: str, meant: str) -> None:
    error = refused(name)
    assert error.hint is not None
    assert error.hint.startswith("did you mean")
    assert meant in error.hint


@pytest.mark.parametrize("name", ["", "x" * 10_000, "a\0b", "\x1b[31m", "..", "~"])
def test_a_name_that_can_be_none_is_refused_in_a_line(name: str) -> None:
    message = str(refused(name))
    assert "no such export profile" in message
    assert len(message) < 1500
    assert message.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"# only a comment\n", "it is empty"),
        (b"\x00\x01\x02" * 50, "it is not TOML"),
        (b"\x89PNG\r\n\x1a\n", "it is not UTF-8 text (byte 0)"),
        (b"description = \n", "line 1, column 15"),
        (b'a = 1\nb = "x', "line 2, column 7"),
        (b"a = 1\na = 2\n", "line 2"),
        (b"a = " + b"[" * 20_000, "nested too deeply"),
        (b"a = " + b"9" * 20_000, "it is not TOML"),
        (b"#" * (MAX_BYTES + 1), f"at most {MAX_BYTES}"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    error = refused(path)
    assert error.where == str(path)
    assert why in (error.got or "")


def test_a_missing_file_a_folder_a_pipe_and_an_unreadable_path_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    assert "No such file" in str(refused(tmp_path / "none.toml"))
    assert "it is a folder" in str(refused(f"{tmp_path}/"))
    assert "not an ordinary file" in str(refused(tmp_path / "pipe.toml"))
    assert "not an ordinary file" in str(refused("/dev/zero"))
    assert "null" in str(refused("a\0b.toml"))
    assert "too long" in str(refused("/" + "x" * 5000))


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_a_profile_or_a_usage_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    refused(path)


def test_a_damaged_installation_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgekit.profile.__file__", str(tmp_path / "edgekit" / "profile.py"))
    with pytest.raises(MachineLacks, match="profiles are missing"):
        names()
    installed = tmp_path / "edgekit" / "export_profiles"  # as in a wheel
    installed.mkdir(parents=True)
    (installed / "only.toml").write_text(GOOD)
    assert names() == ["only"]
    assert load("only").description == "x"

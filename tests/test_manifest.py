"""The manifest: what it says survives, what was changed is seen, and a folder is complete or has none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit import manifest, profile
from edgekit.errors import InputUnusable, MachineLacks, UsageError
from edgekit.manifest import (
    LARGEST_MANIFEST,
    NAME,
    SCHEMA,
    Artifact,
    Engine,
    Manifest,
    ProfileRecord,
    Receipt,
    Staging,
    TensorSpec,
    VariantRecord,
    WeightsRecord,
    decode,
    disk_errors,
    encode,
    locked,
    read,
    read_verified,
    verify,
)
from edgekit.parity.report import BatchCheck, Liveness, ParityReport, Rung, Saturation
from edgekit.preprocessing import IMAGENET
from edgekit.schema import JSON

FILES = {"model.onnx": b"a graph", "golden.npz": b"inputs", "model.rtx.engine": b"a plan"}
RUNG = Rung("onnx", "pytorch-fp64", True, 1e-7, 2e-7, "conv", 3, 1e-6, 1e-7, 1.0, 120.0, 1.0)
RTX = profile.load("rtx")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def artifact(kind: str, path: str, data: bytes | None = None) -> Artifact:
    content = FILES[path] if data is None else data
    spec = TensorSpec("input", "float32", ("batch", 3, 160, 160))
    return Artifact(kind, path, digest(content), len(content), "a test", 7, (spec,), (spec,))


def engine(path: str = "model.rtx.engine", status: str = "built") -> Engine:
    assert status in ("built", "not-here", "failed")
    receipt = Receipt("fp16", {"fp16": 30, "fp32": 1}, True)
    data = FILES[path]
    return Engine(
        "rtx", "tensorrt-rtx", ("sm86",), "failed" if status == "failed" else "built", path, 6, digest(data), receipt
    )


SAMPLE = Manifest(
    key="k" * 64,
    created="2026-01-02T03:04:05+00:00",
    edgekit="0.1.0",
    variant=VariantRecord("mobilenet_v2", 0.5, 160, 1, 1000, {"round": "divisible8"}),
    source="reference",
    weights=WeightsRecord("seed", "seed:0", "f" * 64, None, 0),
    params=1_968_680,
    macs=49_000_000,
    opset=17,
    exporter="torchscript",
    preprocessing=IMAGENET,
    artifacts=(artifact("onnx-fp32", "model.onnx"), artifact("golden", "golden.npz")),
    parity=ParityReport(
        True,
        "full",
        (RUNG, replace(RUNG, name="fp16", snr_db=None)),
        ("natural-0", "saturating"),
        Liveness(0.5, 1e-5, True),
        (BatchCheck("fp16", None, None, None, "one row only"),),
        Saturation(35, 35),
        ("a note",),
    ),
    engines=(engine(),),
    profiles=(ProfileRecord("rtx", profile.digest(RTX), RTX),),
    tools={"torch": "2.9.0"},
    machine={"cpu": "a test's"},
    notes=("the simplification was rolled back",),
    seconds=3.25,
)


def filled(folder: Path, files: dict[str, bytes] = FILES, of: Manifest = SAMPLE) -> Path:
    """A complete artifact folder."""
    staging = Staging(folder)
    for name, data in files.items():
        staging.write(name, data)
    staging.commit(of)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def sealed(data: dict[str, JSON]) -> bytes:
    """JSON with a digest that fits it: what someone with bad intent would write."""
    body = {key: value for key, value in data.items() if key != "digest"}
    return json.dumps(body | {"digest": digest(manifest.canonical(dict(body)))}).encode()


def refused(text: bytes) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        decode(text, "here/manifest.json")
    assert caught.value.exit_code == 4
    assert caught.value.where == "here/manifest.json"
    return caught.value


# --- JSON and back

FIGURES = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20)
RUNGS = st.builds(
    Rung,
    TEXTS,
    TEXTS,
    st.booleans(),
    *[FIGURES, FIGURES, st.none() | TEXTS, st.integers(0, 99)],
    *[FIGURES] * 5,
    st.none() | TEXTS,
)
SPECS = st.builds(TensorSpec, TEXTS, TEXTS, st.lists(st.integers(0, 4096) | TEXTS, max_size=4).map(tuple))
ARTIFACTS = st.builds(
    Artifact, TEXTS, TEXTS, TEXTS, st.integers(0, 2**62), TEXTS, st.none() | st.integers(0), st.tuples(SPECS)
)
RECEIPTS = st.builds(
    Receipt,
    st.sampled_from(["fp16", "fp32"]),
    st.dictionaries(TEXTS, st.integers(0, 99), max_size=3),
    st.booleans(),
)
ENGINES = st.builds(
    Engine,
    TEXTS,
    TEXTS,
    st.tuples(TEXTS),
    st.sampled_from(["built", "not-here", "failed"]),
    receipt=st.none() | RECEIPTS,
    seconds=FIGURES,
)
REPORTS = st.builds(
    ParityReport,
    st.booleans(),
    TEXTS,
    st.lists(RUNGS, max_size=2).map(tuple),
    st.tuples(TEXTS),
    st.builds(Liveness, st.floats(0, 9), st.floats(0), st.booleans()),
)
MANIFESTS = st.builds(
    lambda rest, **changes: replace(SAMPLE, **changes, **rest),
    st.fixed_dictionaries({"seconds": st.floats(0, 1e9), "params": st.integers(0, 2**70)}),
    artifacts=st.lists(ARTIFACTS, max_size=2).map(tuple),
    engines=st.lists(ENGINES, max_size=2).map(tuple),
    parity=REPORTS,
    notes=st.lists(TEXTS, max_size=2).map(tuple),
    tools=st.dictionaries(TEXTS, TEXTS, max_size=3),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(MANIFESTS)
def test_a_manifest_survives_its_file(it: Manifest) -> None:
    text = encode(it)
    assert decode(text, "x") == it
    assert encode(decode(text, "x")) == text


def test_the_file_is_json_that_starts_with_its_schema_and_ends_with_its_digest() -> None:
    data = json.loads(encode(SAMPLE))
    assert next(iter(data)) == "schema"
    assert list(data)[-1] == "digest"
    assert data["schema"] == SCHEMA == 1
    assert len(data["digest"]) == 64
    assert data["variant"]["alpha"] == 0.5


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(choice: st.DataObject) -> None:
    """JSON has a few ways to spell the same: a space, 1e-07 for 1E-07. Everything else is seen."""
    text = bytearray(encode(SAMPLE))
    place = choice.draw(st.integers(0, len(text) - 1))
    text[place] = choice.draw(st.integers(0, 255).filter(lambda byte: byte != text[place]))
    with contextlib.suppress(InputUnusable):
        assert decode(bytes(text), "x") == SAMPLE


@settings(max_examples=100)
@given(st.data())
def test_a_manifest_that_was_spliced_is_refused_or_says_the_same(choice: st.DataObject) -> None:
    """1e-7 for 1e-07, or a space less, is the same manifest."""
    text = encode(SAMPLE)
    start, end = sorted((choice.draw(st.integers(0, len(text) - 3)), choice.draw(st.integers(0, len(text) - 3))))
    with contextlib.suppress(InputUnusable):
        assert decode(text[:start] + text[end + 1 :], "x") == SAMPLE


@settings(max_examples=50)
@given(st.integers(0, len(encode(SAMPLE)) - 3))
def test_a_manifest_that_was_cut_off_is_refused(end: int) -> None:
    refused(encode(SAMPLE)[:end])


def test_one_spelling_less_says_the_same() -> None:
    text = encode(SAMPLE)
    assert b"e-07" in text
    assert decode(text.replace(b"e-07", b"e-7", 1), "x") == SAMPLE


def leaves(data: JSON, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all values that are not tables or lists."""
    items: list[tuple[str | int, JSON]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))
    else:
        yield path
    for key, value in items:
        yield from leaves(value, (*path, key))


def changed(data: JSON, path: tuple[str | int, ...]) -> JSON:
    """A copy with another value of the same type at the path."""
    if path:
        key, rest = path[0], path[1:]
        if isinstance(data, dict):
            return {k: changed(v, rest) if k == key else v for k, v in data.items()}
        assert isinstance(data, list)
        return [changed(v, rest) if i == key else v for i, v in enumerate(data)]
    if isinstance(data, bool) or data is None:
        return not data
    return data + "x" if isinstance(data, str) else data + 1 if isinstance(data, int | float) else data


@pytest.mark.parametrize("path", list(leaves(json.loads(encode(SAMPLE)))), ids=lambda path: ".".join(map(str, path)))
def test_no_value_can_be_edited_by_hand(path: tuple[str | int, ...]) -> None:
    edited = changed(json.loads(encode(SAMPLE)), path)
    refused(json.dumps(edited, indent=1).encode())


def test_a_key_that_was_added_or_taken_away_is_seen() -> None:
    data = json.loads(encode(SAMPLE))
    assert "changed after it was written" in refused(json.dumps(data | {"extra": 1}).encode()).what
    del data["notes"]
    assert "changed after it was written" in refused(json.dumps(data).encode()).what


# --- what is no manifest


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe\x00garbage",
        b"[1, 2]",
        b"null",
        b'"text"',
        b"17",
        b"{}",
        b'{"schema": 1}',
        b'{"digest": "0"}',
        b'{"name": "package", "version": "1.0.0"}',
        b'{"schema": 1, "digest": "0", "seconds": NaN}',
        b'{"schema": 1, "digest": "0", "seconds": 1e999}',
        b'{"schema": 1, "digest": "0", "seconds": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"schema": 1, "digest": {"a": []}}',
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    refused(text)


def test_brackets_nested_to_pythons_limit_are_refused() -> None:
    """There are depths that Python reads and then cannot write."""
    for depth in range(800, 1020):
        refused(b'{"schema":1,"digest":"0","a":' + b"[" * depth + b"]" * depth + b"}")


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_else_is_refused_too(text: bytes) -> None:
    refused(text)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, "x" * 10_000])
def test_another_schema_version_is_refused_by_its_number(version: JSON) -> None:
    error = refused(sealed(json.loads(encode(SAMPLE)) | {"schema": version}))
    assert "schema" in error.what
    assert str(version)[:40] in (error.got or "")
    assert len(error.got or "") < 100
    assert error.wanted == "1"


def test_a_forged_manifest_must_still_fit_the_schema() -> None:
    data = json.loads(encode(SAMPLE))
    assert decode(sealed(data), "x") == SAMPLE
    error = refused(sealed(data | {"params": "many", "extra": 1}))
    assert "params" in (error.got or "")
    assert "extra" in (error.got or "")


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(2**40)  # sparse: reading it would exhaust the memory
    with pytest.raises(InputUnusable, match="too large"):
        read(tmp_path)
    assert LARGEST_MANIFEST < 2**25


def test_a_device_or_a_pipe_is_refused_without_being_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(InputUnusable, match="not a file"):
            read(path)


@pytest.mark.parametrize("path", ["nowhere", "a\0b", "a" * 5000, "file/manifest.json"])
def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputUnusable) as caught:
        read(tmp_path / path)
    assert caught.value.where == str(tmp_path / path)
    assert caught.value.got
    assert "export" in (caught.value.hint or "")


# --- the files it speaks for


def test_a_complete_folder_is_verified_by_either_name(tmp_path: Path) -> None:
    folder = filled(tmp_path / "v")
    assert read_verified(folder) == (SAMPLE, folder)
    assert read_verified(folder / NAME) == (SAMPLE, folder)
    assert verify(SAMPLE, folder) == []


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_behind_the_manifests_back_is_named(tmp_path: Path, name: str) -> None:
    folder = filled(tmp_path / "v")
    (folder / name).write_bytes(FILES[name][:-1] + b"!")
    assert verify(SAMPLE, folder) == [f"{name}: changed since the manifest was written"]
    (folder / name).unlink()
    assert verify(SAMPLE, folder) == [f"{name}: missing"]
    with pytest.raises(InputUnusable) as caught:
        read_verified(folder)
    assert caught.value.exit_code == 4
    assert name in (caught.value.got or "")
    assert caught.value.where == str(folder)


def test_swapped_files_are_both_named(tmp_path: Path) -> None:
    folder = filled(tmp_path / "v")
    (folder / "model.onnx").write_bytes(FILES["golden.npz"])
    (folder / "golden.npz").write_bytes(FILES["model.onnx"])
    assert [problem.split(":")[0] for problem in verify(SAMPLE, folder)] == ["model.onnx", "golden.npz"]


def test_a_folder_or_a_pipe_in_a_files_place_is_missing(tmp_path: Path) -> None:
    folder = filled(tmp_path / "v")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    (folder / "golden.npz").unlink()
    os.mkfifo(folder / "golden.npz")  # hashing it would wait for ever
    assert verify(SAMPLE, folder) == ["model.onnx: missing", "golden.npz: missing"]


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", ".."])
def test_a_manifest_does_not_reach_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    it = replace(SAMPLE, artifacts=(artifact("onnx-fp32", name, b"s"),), engines=())
    assert verify(it, tmp_path / "v") == [f"{name}: points outside the folder"]


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", ""])
def test_a_name_that_no_file_can_have_is_a_problem_and_no_crash(tmp_path: Path, name: str) -> None:
    it = replace(SAMPLE, artifacts=(artifact("onnx-fp32", name, b"s"),), engines=())
    assert len(verify(it, tmp_path)) == 1


def test_engines_without_a_file_are_not_looked_for(tmp_path: Path) -> None:
    absent = Engine("jetson", "tensorrt", ("sm87",), "not-here", reason="built on the board")
    assert replace(SAMPLE, engines=(absent,)).files() == [(a.path, a.sha256) for a in SAMPLE.artifacts]


def test_artifacts_are_found_by_kind() -> None:
    assert SAMPLE.artifact("golden") == SAMPLE.artifacts[1]
    assert SAMPLE.artifact("onnx-fp16") is None


@pytest.mark.parametrize(("parity", "status"), [(True, "built"), (True, "failed"), (False, "built"), (False, "failed")])
def test_a_variant_passed_when_its_ladder_and_its_engines_did(parity: bool, status: str) -> None:
    it = replace(SAMPLE, parity=replace(SAMPLE.parity, passed=parity), engines=(engine(status=status),))
    assert it.passed == (parity and status == "built")


# --- writing a folder


def test_nothing_appears_before_the_commit(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "v")
    for name, data in FILES.items():
        staging.write(name, data)
        assert staging.digest(name) == digest(data)
    assert not (tmp_path / "v").exists()
    staging.commit(SAMPLE)
    assert names(tmp_path / "v") == {*FILES, NAME}
    assert names(tmp_path) == {"v"}
    assert read_verified(tmp_path / "v")[0] == SAMPLE


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "v")
    staging.write("model.onnx", b"x")
    staging.discard()
    staging.discard()
    assert names(tmp_path) == set()


def test_a_file_can_be_written_again_before_the_commit(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "v")
    staging.write("model.onnx", b"a longer first attempt")
    for name, data in FILES.items():
        staging.write(name, data)
    staging.commit(SAMPLE)
    assert (tmp_path / "v" / "model.onnx").read_bytes() == FILES["model.onnx"]


def test_leftovers_of_the_same_process_number_do_not_get_in(tmp_path: Path) -> None:
    left = Staging(tmp_path / "v")
    left.write("stray.onnx", b"x")
    assert names(filled(tmp_path / "v")) == {*FILES, NAME}


def test_files_of_an_older_manifest_go_and_the_users_own_stay(tmp_path: Path) -> None:
    folder = filled(tmp_path / "v")
    (folder / "notes.txt").write_text("mine")
    (folder / "plots").mkdir()
    newer = replace(SAMPLE, engines=(), seconds=9.0)
    filled(folder, {name: FILES[name] for name in ("model.onnx", "golden.npz")}, newer)
    assert names(folder) == {"model.onnx", "golden.npz", NAME, "notes.txt", "plots"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert read_verified(folder)[0] == newer


def test_an_edited_manifest_cannot_name_what_is_to_be_deleted(tmp_path: Path) -> None:
    folder = filled(tmp_path / "v")
    (folder / "notes.txt").write_text("mine")
    (folder / NAME).write_bytes(encode(SAMPLE).replace(b"model.rtx.engine", b"notes.txt"))
    filled(folder)
    assert "notes.txt" in names(folder)


def test_an_older_manifest_cannot_delete_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "v" / "sub").mkdir(parents=True)
    (tmp_path / "v" / "sub" / "x").write_text("mine")
    outside = (
        artifact("a", "../precious", b""),
        artifact("b", "sub/x", b""),
        artifact("c", str(tmp_path / "precious"), b""),
    )
    (tmp_path / "v" / NAME).write_bytes(encode(replace(SAMPLE, artifacts=outside, engines=())))
    filled(tmp_path / "v")
    assert (tmp_path / "precious").exists()
    assert (tmp_path / "v" / "sub" / "x").exists()


def test_an_interrupted_commit_leaves_a_folder_without_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step of the move: the old manifest is gone before the first file changes, the new one comes last."""
    folder = filled(tmp_path / "v")
    moved = Path.replace
    for steps in range(len(FILES) + 1):
        filled(folder)
        left = steps

        def until_then(self: Path, target: Path) -> Path:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return moved(self, target)

        monkeypatch.setattr(Path, "replace", until_then)
        with pytest.raises(KeyboardInterrupt):
            filled(folder, {name: data + b"2" for name, data in FILES.items()})
        monkeypatch.undo()
        assert not (folder / NAME).exists()
        with pytest.raises(InputUnusable):
            read(folder)


def test_the_files_are_on_the_disk_before_they_are_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, moved = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def noted_move(self: Path, target: Path) -> Path:
        steps.append(f"move {self.name}")
        return moved(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_move)
    filled(tmp_path / "v")
    assert sorted(steps[: len(FILES) + 1]) == sorted(f"sync {name}" for name in (*FILES, NAME))
    assert steps[len(FILES) + 1 :] == [*(f"move {name}" for name in sorted(FILES)), f"move {NAME}", "sync v"]


# --- adding to a folder


def rebuilt(folder: Path, data: bytes = b"a newer plan") -> tuple[Staging, Manifest]:
    """An engine built again, and the manifest that knows it; not in the folder yet."""
    staging = Staging(folder)
    staging.link(folder / "model.onnx")
    sha256 = staging.write("model.rtx.engine", data)
    return staging, replace(SAMPLE, engines=(replace(SAMPLE.engines[0], sha256=sha256, bytes=len(data)),))


def test_new_files_are_added_and_what_is_there_stays(tmp_path: Path) -> None:
    folder = filled(tmp_path / "v")
    (folder / "notes.txt").write_text("mine")
    staging, newer = rebuilt(folder)
    assert read_verified(folder)[0] == SAMPLE  # nothing has changed yet
    staging.add_to(newer)
    staging.discard()
    assert read_verified(folder)[0] == newer
    assert names(folder) == {*FILES, NAME, "notes.txt"}
    assert names(tmp_path) == {"v"}


def test_a_file_is_lent_to_the_work_and_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "v")
    monkeypatch.chdir(tmp_path)  # the user gives the folder as they see it
    staging, newer = rebuilt(Path("v"))
    assert (staging.folder / "model.onnx").read_bytes() == FILES["model.onnx"]
    staging.add_to(newer)
    assert not (tmp_path / "v" / "model.onnx").is_symlink()
    staging.discard()
    assert (tmp_path / "v" / "model.onnx").read_bytes() == FILES["model.onnx"]


def test_a_disk_that_fills_up_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path / "v")
    staging, newer = rebuilt(folder)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineLacks):
        staging.add_to(newer)
    assert read_verified(folder)[0] == SAMPLE


# --- what a disk can refuse


def test_a_file_in_the_folders_place_is_a_wrong_option(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for make in (lambda: Staging(tmp_path / "out" / "v"), lambda: locked(tmp_path / "out").__enter__()):
        with pytest.raises(UsageError) as caught:
            make()
        assert caught.value.exit_code == 2
        assert str(tmp_path / "out") in (caught.value.where or "")
    with pytest.raises(UsageError):
        filled(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_a_wrong_option() -> None:
    """Nobody, not even root, makes folders in sysfs."""
    for make in (lambda: Staging(Path("/sys/edgekit/v")), lambda: locked(Path("/sys/edgekit")).__enter__()):
        with pytest.raises(UsageError) as caught:
            make()
        assert caught.value.exit_code == 2
        assert (caught.value.where or "").startswith("/sys/edgekit")
        assert caught.value.got


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_a_wrong_option(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot write there"):
        Staging(tmp_path / "v")


def test_a_folder_in_a_files_place_is_a_wrong_option(tmp_path: Path) -> None:
    (tmp_path / "v" / "model.onnx").mkdir(parents=True)
    with pytest.raises(UsageError):
        filled(tmp_path / "v")
    assert not (tmp_path / "v" / NAME).exists()


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_full_disk_is_what_the_machine_lacks(tmp_path: Path, size: int) -> None:
    staging = Staging(tmp_path / "v")
    (staging.folder / "model.onnx").symlink_to("/dev/full")  # the kernel's own "no space left on device"
    with pytest.raises(MachineLacks) as caught:
        staging.write("model.onnx", b"x" * size)
    assert caught.value.exit_code == 3
    assert "full" in caught.value.what
    assert str(staging.folder / "model.onnx") == caught.value.where
    staging.discard()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_notices_late_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    staging = Staging(tmp_path / "v")

    def full(_: int) -> None:
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    staging.write("model.onnx", b"x")
    with pytest.raises(MachineLacks):
        staging.commit(SAMPLE)
    assert not (tmp_path / "v").exists()


def test_a_disk_too_full_for_the_lock_is_what_the_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MachineLacks), locked(tmp_path):
        pass
    monkeypatch.undo()
    with locked(tmp_path):  # and it was let go
        pass


def test_a_file_system_without_locks_is_a_wrong_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UsageError), locked(tmp_path):
        pass


def test_other_errors_pass_through_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), disk_errors(tmp_path):
        raise ValueError("mine")
    with pytest.raises(InputUnusable), disk_errors(tmp_path):
        raise InputUnusable("x")


# --- two at once

HOLDER = """
import sys, time
from pathlib import Path
from edgekit.manifest import Staging, locked

out = Path(sys.argv[1])
with locked(out):
    Staging(out / "v").write("model.onnx", b"half")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another edgekit in the middle of writing to `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_of_two_is_refused_at_once_and_told_of_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    start = time.monotonic()
    with pytest.raises(UsageError) as caught, locked(tmp_path):
        pass
    assert time.monotonic() - start < 0.5
    assert caught.value.exit_code == 2
    assert caught.value.where == str(tmp_path)
    assert caught.value.got == f"process {holder.pid}"
    assert f".v.partial-{holder.pid}" in names(tmp_path)  # and the first one's work is untouched


def test_what_a_killed_run_held_and_left_is_free_and_cleared(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    (tmp_path / "mine").mkdir()
    filled(tmp_path / "done")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert names(tmp_path) == {"mine", "done", ".edgekit.lock"}
        assert read_verified(tmp_path / "done")[0] == SAMPLE


def test_a_run_that_ends_lets_go(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.communicate("")
    assert holder.returncode == 0
    with locked(tmp_path):
        pass


def test_two_in_one_process_are_two(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        with pytest.raises(UsageError) as caught, locked(tmp_path / "out"):
            pass
        assert caught.value.got == f"process {os.getpid()}"
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "out"):
        pass


def test_the_lock_is_let_go_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path):
        pass


# --- keys

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100)
@given(st.dictionaries(TEXTS, JSONS, max_size=4))
def test_a_key_depends_on_the_values_and_not_on_their_order(parts: dict[str, JSON]) -> None:
    backwards = dict(reversed(parts.items()))
    assert manifest.cache_key(parts) == manifest.cache_key(backwards)
    assert manifest.cache_key(parts) != manifest.cache_key(parts | {"one more key": 1})


@settings(max_examples=100)
@given(JSONS, JSONS)
def test_different_values_have_different_keys(one: JSON, other: JSON) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (manifest.cache_key({"a": one}) == manifest.cache_key({"a": other})) == same


def test_a_files_hash_is_its_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert manifest.sha256_file(tmp_path / "x") == digest(data)

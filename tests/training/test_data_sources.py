"""What --data can name, and what is said of anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import InputUnusable, UsageError
from edgekit.training.sources import FASHION_MNIST, DataSource, parse_data


def test_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_data("digits") == DataSource("digits", None, "digits")
    assert parse_data("fashion-mnist") == DataSource("fashion-mnist", FASHION_MNIST, "fashion-mnist")
    for kind in ("fashion-mnist", "cifar10"):
        assert parse_data(f"{kind}:{tmp_path}") == DataSource(kind, tmp_path, f"{kind}:{tmp_path}")
    assert parse_data(str(tmp_path)) == DataSource("folder", tmp_path, str(tmp_path))
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_data("digits").kind == "digits"
    assert parse_data("./digits").kind == "folder"


@pytest.mark.parametrize("text", ["digits:/tmp", "cifar10"])
def test_a_name_that_is_used_wrongly_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_data(text)


@pytest.mark.parametrize("text", ["", "fashion-mnist:", "cifar10:nowhere", "nowhere/at/all", "a\0b", "x" * 5000])
def test_what_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(InputUnusable) as caught:
        parse_data(text)
    assert "cifar10:DIR" in (caught.value.wanted or "")


def test_near_misses_are_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    for text, near in (("digit", "digits"), ("fashion_mnist", "fashion-mnist"), (f"{tmp_path}/animal", "animals")):
        with pytest.raises(InputUnusable) as caught:
            parse_data(text)
        assert near in (caught.value.hint or "")


def test_a_hidden_folder_is_nobodys_data(tmp_path: Path) -> None:
    (tmp_path / ".digits").mkdir()
    with pytest.raises(InputUnusable) as caught:
        parse_data(f"{tmp_path}/digits")
    assert ".digits" not in (caught.value.hint or "")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(InputUnusable) as caught:
        parse_data(str(tmp_path / "x.zip"))
    assert caught.value.got == "a file"

"""`edgekit eval` as people type it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import classifiers
import numpy as np
import pytest
from command_line import Edgekit

from edgekit import accuracy


@pytest.fixture
def edgekit(edgekit: Edgekit) -> Edgekit:
    return partial(edgekit, "eval")


def test_a_grid_is_evaluated_and_its_accuracy_stored(edgekit: Edgekit, tmp_path: Path) -> None:
    for name in ("a-r8", "b-r8"):
        classifiers.export(tmp_path / name, engine=name == "b-r8")
    ran = edgekit(tmp_path, "--data", "digits", "--json")
    assert ran.code == 0
    first, second = ran.json["variants"]
    assert [score["kind"] for score in first["scores"]] == ["onnx-fp32", "onnx-fp16"]
    assert first["not_measured"] == []
    assert second["not_measured"][0]["profile"] == "rtx"
    assert first["data"]["images"] == 179
    assert first["error"] is None
    assert {name["name"] for name in first["scores"][0]["classes"]} == set("0123456789")
    stored = accuracy.read(tmp_path / "a-r8")
    assert stored is not None
    assert stored.scores[0].top1 == first["scores"][0]["top1"]


def test_text_has_the_interval_and_with_verbose_the_classes(edgekit: Edgekit, tmp_path: Path) -> None:
    classifiers.export(tmp_path / "a-r8", engine=True)
    ran = edgekit(tmp_path, "--data", "digits", "--split", "train", "--verbose")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].endswith("a-r8: 1618 images of digits, train")
    assert "95 % interval" in lines[1]
    assert lines[2].startswith("onnx-fp32")
    assert " to " in lines[2]
    assert any("not measured here, needs an NVIDIA GPU" in line for line in lines)
    assert lines[-1].startswith("9 ")
    assert "accuracy.json" in ran.err


def test_an_accuracy_that_is_too_low_is_exit_code_1(edgekit: Edgekit, tmp_path: Path) -> None:
    classifiers.export(tmp_path / "a-r8")
    assert edgekit(tmp_path, "--data", "digits", "--min-accuracy", "80%").code == 0
    ran = edgekit(tmp_path, "--data", "digits", "--min-accuracy", "99%", "--json")
    assert ran.code == 1
    (variant,) = ran.json["variants"]
    assert variant["error"]["what"] == "the accuracy is too low"
    assert variant["scores"]
    assert "at least 99 %" in ran.err


def test_outputs_that_are_not_finite_are_exit_code_1(edgekit: Edgekit, tmp_path: Path) -> None:
    classifiers.export(tmp_path / "a-r8", fp16=classifiers.classifier(dtype=np.float16, scale=float("nan")))
    ran = edgekit(tmp_path, "--data", "digits")
    assert ran.code == 1
    assert "onnx-fp16 gives outputs that are not finite" in ran.err


def test_a_variant_that_fails_does_not_stop_the_others(edgekit: Edgekit, tmp_path: Path) -> None:
    (classifiers.export(tmp_path / "a-r8") / "model.onnx").write_bytes(b"changed")
    classifiers.export(tmp_path / "b-r8")
    ran = edgekit(tmp_path, "--data", "digits", "--json")
    assert ran.code == 4
    first, second = ran.json["variants"]
    assert first["error"]["exit_code"] == 4
    assert first["dir"].endswith("a-r8")
    assert second["error"] is None
    assert second["scores"]


def test_a_file_needs_a_contract(edgekit: Edgekit, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(side=None))
    ran = edgekit(tmp_path / "x.onnx", "--data", "digits")
    assert ran.code == 2
    assert "--contract" in ran.err
    ran = edgekit(tmp_path / "x.onnx", "--data", "digits", "--contract", "pixels", "--res", "8")
    assert ran.code == 0
    assert "onnx-fp32" in ran.out
    assert not (tmp_path / "accuracy.json").exists()


def test_both_counts_are_named_where_outputs_are_not_classes(edgekit: Edgekit, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(classifiers.classifier(classes=1000))
    ran = edgekit(tmp_path / "x.onnx", "--data", "digits", "--contract", "imagenet", "--json")
    assert ran.code == 2
    assert ran.json["variants"][0]["error"]["found"] == "1000 outputs, 10 classes"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--data", "digit"], 4),
        (["--data", "digits", "--split", "half"], 2),
        (["--data", "digits", "--val-share", "2"], 2),
        (["--data", "digits", "--contract", "imagnet"], 2),
        (["--data", "digits", "--min-accuracy", "0.9"], 2),
        (["--data", "digits", "--res", "8"], 2),
        (["--data", "digits"], 4),
        ([], 2),
    ],
)
def test_mistakes_are_told_by_their_exit_code(
    edgekit: Edgekit, tmp_path: Path, arguments: list[str], code: int
) -> None:
    assert edgekit(tmp_path, *arguments).code == code


def test_a_missing_package_is_exit_code_3(edgekit: Edgekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifiers.export(tmp_path / "a-r8")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    ran = edgekit(tmp_path, "--data", "digits")
    assert ran.code == 3
    assert "pip install" in ran.err

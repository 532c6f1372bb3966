"""`edgekit style` as people type it, with untrained features and pictures of a few pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.cli.style import app
from edgekit.synthetic import natural_image

pytestmark = pytest.mark.usefixtures("one_thread")

SHALLOW = ("--weights", "none", "--style-layers", "relu1_1,relu2_1", "--content-layers", "relu2_1=0.5")
TINY = ("--alpha", "0.1", "--crop", "24", "--batch", "1", "--style-size", "32", "--steps", "2", "--rate", "0.01")
Style = Callable[..., tuple[int, str, str]]


@pytest.fixture
def style(capsys: pytest.CaptureFixture[str]) -> Style:
    def go(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app([str(it) for it in arguments], prog_name="edgekit style", standalone_mode=False)
        captured = capsys.readouterr()
        return code or 0, captured.out, captured.err

    return go


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        pixels = (natural_image(40, i).transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def loaded(out: str) -> dict[str, Any]:
    assert out.count("\n") == 1
    data = json.loads(out)
    assert isinstance(data, dict)
    return data


def test_optimize_writes_the_picture_its_previews_and_one_object(style, photos, tmp_path):
    words = ("optimize", photos / "0.png", photos / "1.png", "--out", tmp_path / "o.png", "--steps", 10, *SHALLOW)
    code, out, err = style(*words, "--previews", tmp_path / "p", "--json")
    data = loaded(out)
    assert (code, data["command"], data["ok"], data["size"]) == (0, "style optimize", True, [40, 40])
    assert data["final_loss"] < data["first_loss"]
    assert not data["trained_features"]
    assert "untrained" in err
    assert [it.name for it in sorted((tmp_path / "p").iterdir())] == ["step-000000.png", "step-000010.png"]
    with Image.open(tmp_path / "o.png") as image:
        assert image.size == (40, 40)
    assert style(*words)[0] == 2, "it is there already"
    assert style(*words, "--force", "--quiet")[0] == 0


def test_train_then_apply(style, photos, tmp_path):
    run = tmp_path / "run"
    words = ("train", photos / "1.png", "--data", photos, "--out", run, *TINY, *SHALLOW)
    code, out, err = style(*words)
    assert code == 0
    assert f"edgekit export se_mobilenet_style --alpha 0.1 --option tail=plain --weights {run}" in out
    assert "2/2 loss" in err
    assert loaded(style(*words, "--json")[1])["taken"] == 0
    (photos / "bad.png").write_bytes(b"no image")
    code, out, err = style("apply", run, photos, "--out", tmp_path / "o", "--tile", 16, "--json")
    data = loaded(out)
    assert (code, data["ok"]) == (4, False)
    assert [Path(it["out"]).name for it in data["pictures"]] == ["0.png", "1.png"]
    assert "bad.png" in data["errors"][0]["where"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--style-layers", "relu9_1"), 2, "no layer of this name"),
        (("--features", "vgg"), 2, "unknown value"),
        (("--weights", "gone.pth"), 4, "no such weights file"),
        (("--start", "middle"), 2, "unknown value"),
        (("--style-weight", "-1"), 2, "not a weight"),
        (("--steps", "0"), 2, "out of range"),
        (("--out", "x.gif"), 2, "PNG or JPEG"),
    ],
)
def test_mistakes_are_named(style, photos, words, code, told):
    given = ("optimize", photos / "0.png", photos / "1.png", "--weights", "none")
    found, _, err = style(*given, *words)
    assert (found, told in err) == (code, True), err


def test_missing_files_are_named(style, photos, tmp_path):
    code, _, err = style("optimize", tmp_path / "gone.png", photos / "0.png", *SHALLOW, "--out", tmp_path / "x.png")
    assert (code, "gone.png" in err) == (4, True)
    code, _, err = style("train", photos / "0.png", "--data", tmp_path / "gone", "--out", tmp_path / "r", *SHALLOW)
    assert (code, "no such image" in err) == (4, True)
    assert style("apply", tmp_path / "gone", photos)[0] == 4

"""Tiles give what the whole gives, through PyTorch and through ONNX Runtime; faults planted in them are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from style_parts import photo, save_photo

from edgekit import cli
from edgekit.errors import InputUnusable, UsageError
from edgekit.training.style import apply, nets, pictures, tiles
from edgekit.training.style.apply import Painter
from edgekit.training.style.nets import Form
from edgekit.training.style.painting_onnx import OnnxEngine
from edgekit.training.style.painting_torch import TorchEngine
from edgekit.training.style.pictures import Picture

pytestmark = pytest.mark.usefixtures("one_thread")

SE, PLAIN = Form("se_mobilenet_style", 0.1), Form("residual", 0.1, "bounded")
WIDE = Picture(photo(5, 40, 330))  # wider than twice the margin: most tiles do not see the whole


def engine(form: Form) -> TorchEngine:
    return TorchEngine(nets.initial(form, 0))


def difference(one: Picture, two: Picture) -> int:
    assert one.size == two.size
    return int(np.abs(one.pixels.astype(int) - two.pixels).max())


@given(height=st.integers(1, 70), width=st.integers(1, 70), side=st.integers(1, 40), margin=st.integers(0, 30))
def test_cores_cover_the_picture_once_and_margins_stay_inside(height, width, side, margin):
    seen = np.zeros((height, width), int)
    inside = np.arange(height * width).reshape(height, width)
    for tile in tiles.tiles(height, width, side, margin):
        seen[tile.core] += 1
        assert np.array_equal(inside[tile.around][tile.inner], inside[tile.core])
    assert (seen == 1).all()


@given(height=st.integers(1, 50), width=st.integers(1, 50), multiple=st.sampled_from([4, 16]))
def test_padding_is_reflection_to_multiples(height, width, multiple):
    pixels = np.arange(height * width * 3).reshape(height, width, 3).astype(np.uint8)
    whole, top, left = tiles.padded(pixels, multiple, 17)
    assert all(extent % multiple == 0 and extent >= 17 for extent in whole.shape[:2])
    assert np.array_equal(whole[top : top + height, left : left + width], pixels)


@pytest.mark.parametrize("form", [SE, PLAIN])
def test_a_point_has_no_effect_beyond_the_reach(form):
    one = engine(form)
    x = tiles.to_input(photo(3, 32, 400 - 400 % one.multiple))
    statistics = [tiles._of(seen) for seen in one.watched(x, None)[1]]
    changed = x.copy()
    middle = x.shape[-1] // 2
    changed[..., middle] = 1 - changed[..., middle]
    moved = np.abs(one.watched(changed, statistics)[0] - one.watched(x, statistics)[0]).max((0, 1, 2))
    columns = np.flatnonzero(moved > 0)
    assert columns[0] > middle - one.margin
    assert columns[-1] < middle + one.margin
    assert columns[-1] - columns[0] > one.margin, "the margin is far larger than need be"


@pytest.mark.parametrize("form", [SE, PLAIN])
def test_tiles_give_what_the_whole_gives(form):
    one = engine(form)
    assert WIDE.size[1] > 2 * one.margin
    assert difference(Painter(one)(WIDE), Painter(one, 64)(WIDE)) <= 1


def test_statistics_of_the_tiles_own_would_leave_seams(monkeypatch):
    one = engine(SE)
    honest = one.watched
    monkeypatch.setattr(one, "watched", lambda x, given: honest(x, None))
    assert difference(Painter(engine(SE))(WIDE), Painter(one, 64)(WIDE)) > 4


def test_a_margin_that_is_too_small_would_be_seen():
    one = engine(PLAIN)
    one.margin = one.multiple
    assert difference(Painter(engine(PLAIN))(WIDE), Painter(one, 32)(WIDE)) > 1


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5, 3), (17, 16), (33, 50)])
@pytest.mark.parametrize("tile", [None, 16])
def test_any_size_comes_back_with_its_transparency(size, tile):
    alpha = np.full(size, 7, np.uint8)
    found = Painter(engine(PLAIN), tile)(Picture(photo(1, *size), alpha))
    assert found.size == size
    assert np.array_equal(found.alpha, alpha)


def test_an_odd_size_is_what_the_network_itself_makes_of_it():
    module = nets.initial(SE, 0).eval()
    picture = Picture(photo(2, 50, 61))
    with torch.no_grad():
        wanted = pictures.from_tensor(module(picture.tensor()))
    assert difference(Painter(TorchEngine(module))(picture), wanted) == 0


# --- exported


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's weights, exported as people do it: for one size, and for any size."""
    folder = tmp_path_factory.mktemp("exported")
    nets.save(SE, nets.initial(SE, 0), folder / "run" / "last.safetensors")
    words = ["export", "se_mobilenet_style", "--alpha", "0.1", "--weights", str(folder / "run/last.safetensors")]
    quick = ["--res", "64", "--no-engine", "--precision", "fp32", "--parity", "quick", "--quiet", "--out", str(folder)]
    assert cli.run([*words, *quick]) == 0
    assert cli.run([*words, *quick, "--option", "dynamic_size=true"]) == 0
    return folder


FIXED, OPEN = "se_mobilenet_style-a0.10-r64", "se_mobilenet_style-a0.10-r64-dynamic_size-true"


@pytest.mark.parametrize("name", [FIXED, OPEN])
@pytest.mark.parametrize("tile", [None, 96])
def test_the_exported_graph_paints_the_same_picture(exported, name, tile):
    module = nets.read(exported / "run")[1]
    with apply.open_painter(exported / name, tile) as painter:
        assert difference(painter(WIDE), Painter(TorchEngine(module))(WIDE)) <= 1
        assert painter.engine.runtime == "onnxruntime-cpu"


def test_the_residual_network_is_exported_and_applied_as_the_command_says(tmp_path):
    form = Form("residual", 0.25, "bounded")
    nets.save(form, nets.initial(form, 0), tmp_path / "run" / "last.safetensors")
    words = ["export", *form.export_words.split(), "--weights", str(tmp_path / "run/last.safetensors"), "--res", "64"]
    quick = ["--no-engine", "--precision", "fp32", "--parity", "quick", "--quiet", "--out", str(tmp_path / "art")]
    assert cli.run([*words, *quick]) == 0
    (folder,) = (it for it in (tmp_path / "art").iterdir() if it.is_dir())
    with apply.open_painter(folder) as graph, apply.open_painter(tmp_path / "run") as module:
        assert difference(graph(WIDE), module(WIDE)) <= 1


def test_a_classifier_does_not_paint(tmp_path):
    words = ["export", "mobilenet_v2", "--alpha", "0.35", "--res", "32", "--no-engine", "--precision", "fp32"]
    assert cli.run([*words, "--parity", "quick", "--quiet", "--out", str(tmp_path)]) == 0
    with pytest.raises(InputUnusable, match="does not paint"), apply.open_painter(tmp_path / "mobilenet_v2-a0.35-r32"):
        pass


def test_graph_and_module_have_the_same_reach(exported):
    with OnnxEngine(exported / FIXED / "model.onnx") as graph:
        module = engine(SE)
        assert (graph.multiple, graph.margin) == (module.multiple, module.margin)


def test_a_graph_that_holds_its_size_says_so(exported, tmp_path):
    words = ["export", "se_mobilenet_style", "--alpha", "0.1", "--weights", str(exported / "run/last.safetensors")]
    quick = [
        "--res",
        "50",
        "--no-engine",
        "--precision",
        "fp32",
        "--parity",
        "quick",
        "--quiet",
        "--out",
        str(tmp_path),
    ]
    assert cli.run([*words, *quick]) == 0
    with apply.open_painter(tmp_path / "se_mobilenet_style-a0.10-r50") as painter:
        with pytest.raises(InputUnusable, match="50 x 50 pixels only") as caught:
            painter(WIDE)
        assert "dynamic_size" in str(caught.value)


def test_graphs_that_do_not_paint_are_refused(exported, tmp_path):
    model = onnx.load(exported / FIXED / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(InputUnusable), apply.open_painter(tmp_path / "x.onnx"):
        pass
    (tmp_path / "y.onnx").write_bytes(b"no graph")
    with pytest.raises(InputUnusable), apply.open_painter(tmp_path / "y.onnx"):
        pass
    with pytest.raises(InputUnusable, match="no such network"), apply.open_painter(tmp_path / "z"):
        pass


class TestJobs:
    def test_beside_the_picture_or_in_a_folder(self, tmp_path):
        a, b = save_photo(tmp_path / "a.jpg", 0), save_photo(tmp_path / "b.bmp", 1)
        assert [job.out.name for job in apply.plan([a, b], None, None, False)] == ["a-styled.jpg", "b-styled.png"]
        assert [job.out for job in apply.plan([a], tmp_path / "o", "png", False)] == [tmp_path / "o" / "a.png"]

    def test_two_pictures_for_one_file_are_refused(self, tmp_path):
        a, b = save_photo(tmp_path / "1" / "a.png", 0), save_photo(tmp_path / "2" / "a.png", 1)
        with pytest.raises(UsageError, match="two pictures"):
            apply.plan([a, b], tmp_path / "o", None, False)

    def test_what_is_there_is_overwritten_on_demand_only(self, tmp_path):
        a = save_photo(tmp_path / "a.png", 0)
        save_photo(tmp_path / "a-styled.png", 0)
        with pytest.raises(UsageError, match="there already"):
            apply.plan([a], None, None, False)
        assert apply.plan([a], None, None, True)

    def test_layers_are_a_network_of_their_own_reach(self):
        assert tiles.reach([tiles.Layer(9), tiles.Layer(3, 2), tiles.Layer(3), tiles.Layer(1, 1, 2)]) == (2, 10)

"""What TensorRT's parser would take without a word is refused before it sees it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from small_graphs import chain, mobile, saved

from edgekit.engines.receipt import KEPT_FP32_KEY
from edgekit.engines.screen import MIN_OPSET, screen
from edgekit.errors import InputUnusable


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "an empty file"),
        (b"hello " * 50, "something else, or a part of one"),
        (mobile().SerializeToString()[:-500], "something else, or a part of one"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "a graph without nodes"),
    ],
    ids=["empty", "text", "truncated", "no graph"],
)
def test_files_that_are_no_network(tmp_path: Path, data: bytes, got: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InputUnusable) as caught:
        screen(path, 25)
    assert caught.value.got == got


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.onnx"):
        with pytest.raises(InputUnusable, match="cannot be read"):
            screen(path, 25)


@pytest.mark.parametrize(("opset", "limit"), [(7, 25), (8, 25), (99, 25), (18, 17)])
def test_opsets_outside_the_range(tmp_path: Path, opset: int, limit: int) -> None:
    path = saved(chain("Relu", 2, opset), tmp_path / "m.onnx")
    with pytest.raises(InputUnusable, match="opset") as caught:
        screen(path, limit)
    assert (caught.value.got, caught.value.wanted) == (f"opset {opset}", f"opset {MIN_OPSET} to {limit}")


def test_a_model_of_foreign_operators_only(tmp_path: Path) -> None:
    model = chain("Relu", 2)
    model.opset_import[0].domain = "elsewhere"
    with pytest.raises(InputUnusable) as caught:
        screen(saved(model, tmp_path / "m.onnx"), 25)
    assert caught.value.got == "no opset for ONNX's own operators"


def test_a_foreign_operator_that_bears_the_name_of_onnxs_own(tmp_path: Path) -> None:
    model = chain("Relu", 2)
    model.graph.node[1].domain = "my.domain"
    model.opset_import.append(onnx.helper.make_opsetid("my.domain", 1))
    with pytest.raises(InputUnusable) as caught:
        screen(saved(model, tmp_path / "m.onnx"), 25)
    assert caught.value.got == "operator Relu 'node1' of domain 'my.domain'"
    model.functions.add(name="Relu", domain="my.domain")  # the model says itself what it means
    assert screen(saved(model, tmp_path / "m.onnx"), 25).layers


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin", "inside/../../secret.bin", "link", ""])
def test_weights_outside_the_models_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to("../secret.bin")
    with pytest.raises(InputUnusable) as caught:
        screen(saved(with_external_weights(location), folder / "m.onnx"), 25)
    assert caught.value.wanted == "a file in the model's own folder"


def test_weights_beside_the_model(tmp_path: Path) -> None:
    path = saved(with_external_weights("weights.bin"), tmp_path / "m.onnx")
    with pytest.raises(InputUnusable, match="not an ONNX model") as caught:
        screen(path, 25)
    assert "no file 'weights.bin'" in (caught.value.got or "")
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    assert screen(path, 25).layers


def with_external_weights(location: str) -> onnx.ModelProto:
    model = mobile()
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_layers_with_the_types_that_the_graph_declares(tmp_path: Path, precision: str) -> None:
    found = screen(saved(mobile(precision), tmp_path / "m.onnx"), 25)
    computing = {layer.name: layer.dtype for layer in found.layers if layer.computes}
    assert computing == dict.fromkeys(["stem", "depthwise", "pointwise", "head"], precision)
    assert found.nodes[-1][1] == "output"
    assert found.kept_fp32 == frozenset()


def test_what_the_graph_declares_as_kept(tmp_path: Path) -> None:
    model = mobile("fp16", fp32_layer="stem")
    model.metadata_props.add(key=KEPT_FP32_KEY, value="stem\nhead")
    found = screen(saved(model, tmp_path / "m.onnx"), 25)
    assert found.kept_fp32 == {"stem", "head"}
    assert {layer.name for layer in found.layers if layer.computes and layer.dtype == "fp32"} == {"stem"}

"""What TensorRT's parser would take without a word is refused before it sees it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from small_graphs import chain, mobile, saved

from edgekit.engines.receipt import KEPT_FP32_KEY
from edgekit.engines.screen import MAX_CHAIN, MIN_OPSET, screen
from edgekit.errors import InputUnusable


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"hello " * 50, "not a file that edgekit knows"),
        (mobile().SerializeToString()[:-500], "truncated"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
        (onnx.helper.make_model(onnx.GraphProto(name="g")).SerializeToString(), "has no nodes"),
    ],
    ids=["empty", "text", "truncated", "no graph", "empty graph"],
)
def test_files_that_are_no_network(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InputUnusable, match=what):
        screen(path, 25)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputUnusable, match="no such file"):
        screen(tmp_path / "nowhere.onnx", 25)
    with pytest.raises(InputUnusable, match="no manifest"):
        screen(tmp_path, 25)


def test_a_graph_that_is_none_does_not_get_as_far_as_tensorrt(tmp_path: Path) -> None:
    model = chain("Relu", 3)
    model.graph.node[0].input[0] = "t2"
    with pytest.raises(InputUnusable, match="cycle"):
        screen(saved(model, tmp_path / "m.onnx"), 25)


def test_what_only_tensorrt_might_know_is_left_to_it(tmp_path: Path) -> None:
    """Plugins are operators that ONNX does not have."""
    assert screen(saved(chain("EfficientNMS_TRT", 2), tmp_path / "m.onnx"), 25).nodes[0][0] == "EfficientNMS_TRT"


@pytest.mark.parametrize("op", ["Relu", "Abs"])
def test_so_many_unary_nodes_in_a_row_that_tensorrt_is_killed(tmp_path: Path, op: str) -> None:
    with pytest.raises(InputUnusable, match="unary nodes in a row") as caught:
        screen(saved(chain(op, MAX_CHAIN + 1), tmp_path / "m.onnx"), 25)
    assert f"node{MAX_CHAIN}" in str(caught.value.where)
    assert screen(saved(chain(op, MAX_CHAIN), tmp_path / "m.onnx"), 25).layers


def test_long_graphs_whose_nodes_are_not_fused_in_one_are_taken(tmp_path: Path) -> None:
    model = chain("Relu", MAX_CHAIN + 100)
    for node in model.graph.node[::2]:
        node.op_type = "Add"
        node.input.append("t0")
    assert screen(saved(model, tmp_path / "m.onnx"), 25).layers


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
    with pytest.raises(InputUnusable, match="weights of") as caught:
        screen(path, 25)
    assert "weights.bin, which is missing" in (caught.value.got or "")
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

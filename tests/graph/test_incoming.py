"""A model from anywhere is checked before it is used: its format, and that its weights lie in its own folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgekit.errors import InputUnusable
from edgekit.graph import incoming
from edgekit.graph.incoming import check, read_model, take

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def external(location: str, offset: str | None = None, length: str | None = None) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def model(tensor: TensorProto | None = None) -> ModelProto:
    weights = tensor if tensor is not None else numpy_helper.from_array(VALUES, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, made: ModelProto) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def refusal(path: Path, weights: bool = False) -> InputUnusable:
    with pytest.raises(InputUnusable) as caught:
        read_model(path, weights=weights)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value.where)
    return caught.value


def test_a_model_is_read(tmp_path: Path) -> None:
    made = model()
    assert read_model(saved(tmp_path, made), weights=True) == made


def test_weights_beside_the_model_are_loaded_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(8) + VALUES.tobytes())
    path = saved(tmp_path, model(external("w.bin", "8", "24")))
    assert not read_model(path, weights=False).graph.initializer[0].HasField("raw_data")
    [loaded] = read_model(path, weights=True).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(loaded), VALUES)


def test_weights_in_a_folder_below_the_model_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(VALUES.tobytes())
    [loaded] = read_model(saved(tmp_path, model(external("data/w.bin"))), weights=True).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(loaded), VALUES)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "", ".", "..", "/etc/passwd", "nothing.bin"])
def test_weights_from_outside_or_nowhere_are_refused(tmp_path: Path, location: str, weights: bool) -> None:
    (tmp_path / "secret").write_bytes(VALUES.tobytes())
    path = saved(tmp_path / "model", model(external(location)))
    assert "weights of w" in refusal(path, weights).what


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(VALUES.tobytes())
    path = saved(tmp_path / "model", model(external("w.bin")))
    (path.parent / "w.bin").symlink_to(tmp_path / "secret")
    assert "own folder" in str(refusal(path).wanted)


RANGES = [("0", "25"), ("20", "8"), ("-4", "24"), ("1e3", "1"), ("9" * 30, "1"), ("0", "many")]


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_a_range_outside_the_file_is_refused(tmp_path: Path, offset: str, length: str) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    path = saved(tmp_path, model(external("w.bin", offset, length)))
    assert "weights of w" in refusal(path).what


def hidden(where: str) -> ModelProto:
    """A model with a bad external tensor somewhere else than among its initializers."""
    bad = external("../secret")
    made = model()
    constant = helper.make_node("Constant", [], ["c"], value=bad)
    if where == "a constant":
        made.graph.node.append(constant)
    elif where == "an attribute of the wrong type":
        constant.attribute[0].type = onnx.AttributeProto.INT
        made.graph.node.append(constant)
    elif where == "a subgraph":
        body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("c", 1, None)])
        made.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=body, else_branch=body))
    elif where == "a sparse tensor":
        made.graph.sparse_initializer.add().values.CopyFrom(bad)
    elif where == "a local function":
        function = made.functions.add(name="f", domain="local")
        function.node.append(constant)
    elif where == "a graph for training":
        made.training_info.add().algorithm.initializer.append(bad)
    return made


PLACES = [
    "a constant",
    "an attribute of the wrong type",
    "a subgraph",
    "a sparse tensor",
    "a local function",
    "a graph for training",
]


@pytest.mark.parametrize("where", PLACES)
def test_no_tensor_is_overlooked(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret").write_bytes(VALUES.tobytes())
    assert "weights of w" in refusal(saved(tmp_path / "model", hidden(where))).what


def test_a_broken_model_is_corrupt(tmp_path: Path) -> None:
    data = bytearray(model().SerializeToString())
    begin = data.index(b"MatMul")
    data[begin - 4 : begin + 6] = b"\xff" * 10
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert "corrupt" in refusal(path).what


def test_another_kind_of_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"vtrt" + bytes(60))
    assert refusal(path).got == "a TensorRT plan"


def test_a_file_beyond_the_limit_of_the_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MAX_PROTOBUF_BYTES", 10)
    assert "too large" in refusal(saved(tmp_path, model())).what


# --- taking a model to run it


def test_a_model_is_taken_with_its_weights_and_without_what_is_for_training(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    made = model(external("w.bin"))
    made.training_info.add()
    taken = take(saved(tmp_path, made))
    [loaded] = taken.model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(loaded), VALUES)
    assert loaded.data_location == TensorProto.DEFAULT
    assert not taken.model.training_info
    assert taken.traits.training


def test_weights_inside_nodes_and_functions_are_loaded_too(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    made = model()
    for nodes in (made.graph.node, made.functions.add(name="f", domain="local").node):
        nodes.append(helper.make_node("Constant", [], ["c"], value=external("w.bin")))
    loaded = read_model(saved(tmp_path, made), weights=True)
    for node in (loaded.graph.node[-1], loaded.functions[0].node[0]):
        np.testing.assert_array_equal(numpy_helper.to_array(node.attribute[0].t), VALUES)


def test_a_model_that_is_no_graph_is_not_taken(tmp_path: Path) -> None:
    made = model()
    made.graph.node[0].input[1] = "elsewhere"
    with pytest.raises(InputUnusable, match="nothing makes") as caught:
        take(saved(tmp_path, made))
    assert str(tmp_path) in str(caught.value.where)


def tensor_of(kind: int, dims: list[int], **data: object) -> TensorProto:
    return TensorProto(name="w", data_type=kind, dims=dims, **data)


GOOD = [
    numpy_helper.from_array(VALUES, "w"),
    tensor_of(TensorProto.FLOAT, [2], float_data=[1, 2]),
    tensor_of(TensorProto.FLOAT16, [3], int32_data=[1, 2, 3]),
    tensor_of(TensorProto.COMPLEX64, [2], float_data=[1, 2, 3, 4]),
    tensor_of(TensorProto.INT4, [3], raw_data=b"12"),
    tensor_of(TensorProto.INT4, [3], int32_data=[1, 2]),
    tensor_of(TensorProto.STRING, [2], string_data=[b"a", b"b"]),
    tensor_of(TensorProto.FLOAT, [0, 7]),
    tensor_of(TensorProto.BOOL, [], int32_data=[1]),
]
BAD = [
    tensor_of(TensorProto.FLOAT, [2, 3], raw_data=bytes(20)),
    tensor_of(TensorProto.FLOAT, [2, 3], float_data=[1] * 5),
    tensor_of(TensorProto.FLOAT, [2, 3]),
    tensor_of(TensorProto.FLOAT, [1 << 40, 1 << 40], raw_data=bytes(4)),
    tensor_of(TensorProto.FLOAT, [-1], raw_data=bytes(4)),
    tensor_of(TensorProto.INT4, [3], raw_data=b"123"),
    tensor_of(TensorProto.STRING, [2], string_data=[b"a"]),
    tensor_of(TensorProto.UNDEFINED, [1]),
    tensor_of(999, [1], raw_data=b"1"),
]


@pytest.mark.parametrize("tensor", GOOD, ids=range(len(GOOD)))
def test_values_that_fit_their_type_and_shape(tensor: TensorProto) -> None:
    assert check(model(tensor), "m.onnx").nodes == 1


@pytest.mark.parametrize("tensor", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("where", ["an initializer", "a constant"])
def test_values_that_do_not(tensor: TensorProto, where: str) -> None:
    made = model(tensor)
    if where == "a constant":
        made = model()
        made.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    with pytest.raises(InputUnusable, match="do not fit") as caught:
        check(made, "m.onnx")
    assert caught.value.wanted


@pytest.mark.parametrize("where", ["an initializer", "a constant"])
def test_sparse_weights_are_refused(where: str) -> None:
    made = model()
    indices = numpy_helper.from_array(np.array([0], np.int64))
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "s"), indices, [1 << 40])
    if where == "an initializer":
        made.graph.sparse_initializer.append(sparse)
    else:
        made.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    with pytest.raises(InputUnusable, match="sparse") as caught:
        check(made, "m.onnx")
    assert caught.value.got == "s"


def test_graphs_nested_without_end_are_named(tmp_path: Path) -> None:
    """protobuf itself ends at a depth of a hundred messages; native code does not see what lies deeper."""
    graph = b""
    for _ in range(40):
        graph = wrapped(1, wrapped(5, wrapped(6, graph)))  # a node's attribute's graph
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08" + wrapped(7, graph))
    assert "nested too deeply" in refusal(path).what


def wrapped(number: int, data: bytes) -> bytes:
    """A protobuf field of that number which holds the data."""
    size = len(data)
    length = bytearray()
    while size >= 128:
        length.append(size % 128 + 128)
        size //= 128
    return bytes([number << 3 | 2, *length, size]) + data


def test_weights_that_would_not_fit_in_one_file_are_not_loaded(tmp_path: Path) -> None:
    """A thousand tensors may share the bytes of one file."""
    (tmp_path / "w.bin").write_bytes(bytes(1 << 20))
    made = model()
    for i in range(3000):
        tensor = external("w.bin")
        tensor.name, tensor.dims[:] = f"w{i}", [1 << 18]
        made.graph.initializer.append(tensor)
    path = saved(tmp_path, made)
    assert read_model(path, weights=False)
    assert "too large" in refusal(path, weights=True).what


@pytest.mark.parametrize(("length", "works"), [("24", True), ("20", False), ("28", False), (None, True)])
def test_the_length_must_be_that_of_the_shape(tmp_path: Path, length: str | None, works: bool) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))
    path = saved(tmp_path, model(external("w.bin", length=length)))
    if works:
        assert read_model(path, weights=True)
    else:
        assert refusal(path).wanted == "24 for shape [2, 3]"

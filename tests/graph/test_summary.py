"""The figures that are shown of a model are those of the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgekit.graph.summary import summarise
from edgekit.manifest import TensorSpec


def model(*tensors: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> ModelProto:
    graph = helper.make_graph(
        nodes if nodes is not None else [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1])],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="me", producer_version="2")


def test_who_made_it_and_for_which_opset() -> None:
    found = summarise(model())
    assert (found.ir_version, found.producer, found.opsets) == (8, "me 2", {"ai.onnx": 17, "com.microsoft": 1})
    assert (found.params, found.initializers, found.initializer_bytes) == (0, 0, {})


def test_inputs_and_outputs_with_names_for_dynamic_sizes() -> None:
    found = summarise(model())
    assert found.inputs == (TensorSpec("x", "float32", ("n", 3, "?")),)
    assert found.outputs == (TensorSpec("y", "float16", (1,)),)


def test_an_initializer_that_is_also_an_input_is_not_one_to_feed() -> None:
    made = model(numpy_helper.from_array(np.zeros(2, np.float32), "w"))
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    assert [spec.name for spec in summarise(made).inputs] == ["x"]


def test_operators_are_counted_the_most_frequent_first() -> None:
    nodes = [helper.make_node(op, ["x"], ["y"]) for op in ("Relu", "Conv", "Relu", "Abs")]
    nodes.append(helper.make_node("Gelu", ["x"], ["z"], domain="com.microsoft"))
    found = summarise(model(nodes=nodes))
    assert list(found.nodes.items()) == [("Relu", 2), ("Abs", 1), ("Conv", 1), ("com.microsoft::Gelu", 1)]


def test_shapes_and_indices_are_no_parameters() -> None:
    weights = numpy_helper.from_array(np.zeros((4, 3), np.float32), "w")
    half = numpy_helper.from_array(np.zeros(5, np.float16), "h")
    shape = numpy_helper.from_array(np.array([1, -1], np.int64), "s")
    found = summarise(model(shape, weights, half))
    assert found.params == 17
    assert found.initializer_bytes == {"float32": 48, "int64": 16, "float16": 10}
    assert list(found.initializer_bytes) == ["float32", "int64", "float16"]


@given(
    shape=st.lists(st.integers(0, 6), max_size=3),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"]),
)
def test_bytes_are_those_of_the_values(shape: list[int], dtype: str) -> None:
    array = np.zeros(shape, dtype)
    assert summarise(model(numpy_helper.from_array(array, "w"))).initializer_bytes == {dtype: array.nbytes}


def test_values_in_other_files_count_as_well() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10, 10], data_location=TensorProto.EXTERNAL)
    found = summarise(model(tensor))
    assert (found.params, found.initializer_bytes, found.external_data) == (100, {"float32": 400}, True)


@pytest.mark.parametrize(("kind", "name", "size"), [(TensorProto.INT4, "int4", 4), (TensorProto.UINT4, "uint4", 4)])
def test_two_small_numbers_share_a_byte(kind: int, name: str, size: int) -> None:
    tensor = TensorProto(name="w", data_type=kind, dims=[7])
    assert summarise(model(tensor)).initializer_bytes == {name: size}


def test_odd_models_are_summarised_all_the_same() -> None:
    assert summarise(ModelProto()).nodes == {}
    text = helper.make_tensor("t", TensorProto.STRING, [2], [b"ab", b"cde"])
    odd = [TensorProto(name="u"), TensorProto(name="k", data_type=99, dims=[3]), text]
    odd.append(TensorProto(name="n", data_type=TensorProto.FLOAT, dims=[-1, 3]))
    made = model(*odd)
    made.graph.input.append(ValueInfoProto(name="shapeless"))
    found = summarise(made)
    assert found.initializer_bytes == {"string": 5, "float32": 0, "undefined": 0, "unknown type 99": 0}
    assert found.inputs[-1] == TensorSpec("shapeless", "undefined", ())

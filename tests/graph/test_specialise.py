"""One export for every size: a rewritten graph is the real one, byte for byte, and a network that is none is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from subjects import Subject
from torch import nn

from edgekit.graph.from_torch import IMAGE, export_onnx, fold_batch_norms, name_anchors
from edgekit.graph.specialise import Sizes, same_graph, set_batch, specialise
from edgekit.headed import sha256
from edgekit.runtimes.onnxruntime_cpu import CpuSession

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
NETWORKS = ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"]


def sizes(model: onnx.ModelProto) -> list[list[int | str]]:
    """The dimensions of the first input and of the first output."""
    found = []
    for value in (model.graph.input[0], model.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        found.append([dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in dims])
    return found


def bare() -> onnx.ModelProto:
    """The least that can be specialised, with a shape recorded for an intermediate tensor."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["out"]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])]
    recorded = [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [1, 3, 1, 1])]
    graph = helper.make_graph(nodes, "bare", inputs, outputs, value_info=recorded)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("resolution", [32, 160])
def test_a_rewritten_graph_is_a_real_export_at_the_other_size(network: Network, model: str, resolution: int) -> None:
    subject = network(model)
    real = onnx.load_model_from_string(export_onnx(subject.folded, torch.zeros(1, 3, resolution, resolution), 17))
    name_anchors(real, subject.folded, subject.anchors)
    del real.graph.value_info[:]
    assert specialise(subject.graph(), resolution, 1) == real.SerializeToString(deterministic=True)
    assert same_graph(subject.graph(), real, 224, None)


@pytest.mark.parametrize("model", NETWORKS)
def test_a_rewritten_graph_gives_the_results_of_the_network_at_that_size(network: Network, model: str) -> None:
    subject = network(model)
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    found = CpuSession(specialise(subject.graph(), 128, 2))({IMAGE: images.numpy()})["logits"]
    with torch.inference_mode():
        wanted = subject.module(images).numpy()
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


@given(st.integers(1, 8192), st.none() | st.integers(1, 4096))
def test_the_outline_is_the_file_without_its_weights(resolution: int, batch: int | None) -> None:
    model = bare()
    model.graph.initializer.add(name="unused", dims=[1], data_type=TensorProto.FLOAT, raw_data=b"abcd")
    written = Sizes(model).at(resolution, batch)
    whole = onnx.load_model_from_string(bytes(written))
    assert len(whole.graph.initializer) == 1
    del whole.graph.initializer[:]
    assert onnx.load_model_from_string(written.outline) == whole


@pytest.mark.parametrize("batch", [1, 4, None])
def test_the_opened_graph_is_the_same_for_every_size(batch: int | None) -> None:
    made = Sizes(bare())
    small, large = (made.at(side, batch) for side in (8, 16))
    opened = small.opened()
    assert opened == large.opened()
    rows = "batch" if batch is None else batch
    assert sizes(onnx.load_model_from_string(opened)) == [[rows, 3, "height", "width"], [rows, 3]]
    assert bytes(made.at(8, batch)) == bytes(small)  # opening it changes nothing that is made afterwards


def test_a_network_that_depends_on_the_resolution_is_told_from_one_that_does_not() -> None:
    def exported(side: int, *, pooled: bool) -> onnx.ModelProto:
        torch.manual_seed(0)
        pool = nn.AdaptiveAvgPool2d(1) if pooled else nn.AvgPool2d(side)  # the same numbers, the size written down
        module = nn.Sequential(nn.Conv2d(3, 4, 1), pool, nn.Flatten(), nn.Linear(4, 2)).eval()
        return onnx.load_model_from_string(export_onnx(fold_batch_norms(module), torch.zeros(1, 3, side, side), 17))

    assert same_graph(exported(8, pooled=True), exported(16, pooled=True), 8, 1)
    assert not same_graph(exported(8, pooled=False), exported(16, pooled=False), 8, 1)


@given(st.integers(1, 8192), st.none() | st.integers(1, 4096), st.integers(1, 8192), st.none() | st.integers(1, 4096))
def test_the_sizes_asked_for_are_the_sizes_written(
    resolution: int, batch: int | None, before: int, batch_before: int | None
) -> None:
    """Whatever the graph was specialised for before."""
    model = bare()
    specialise(model, before, batch_before)
    rows = "batch" if batch is None else batch
    written = specialise(model, resolution, batch)
    assert sizes(onnx.load_model_from_string(written)) == [[rows, 3, resolution, resolution], [rows, 3]]
    assert written == specialise(bare(), resolution, batch)


def test_shapes_recorded_for_the_old_size_are_dropped() -> None:
    found = onnx.load_model_from_string(specialise(bare(), 16, 2))
    assert not found.graph.value_info
    onnx.checker.check_model(found, full_check=True)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_dynamic_batch_takes_any_number_of_rows(network: Network, rows: int) -> None:
    subject = network("mobilenet_v1")
    session = CpuSession(specialise(subject.graph(), 32, None))
    images = np.random.default_rng(0).standard_normal((rows, 3, 32, 32), dtype=np.float32)
    found = session({IMAGE: images})["logits"]
    one_by_one = np.concatenate([session({IMAGE: image[None]})["logits"] for image in images])
    assert found.shape == (rows, 1000)
    assert np.allclose(found, one_by_one, atol=1e-5)


def test_a_fixed_batch_takes_that_many_rows(network: Network) -> None:
    session = CpuSession(specialise(network("mobilenet_v1").graph(), 32, 4))
    assert session({IMAGE: np.zeros((4, 3, 32, 32), np.float32)})["logits"].shape == (4, 1000)


@given(st.lists(st.tuples(st.integers(1, 8192), st.none() | st.integers(1, 4096)), min_size=1, max_size=5))
def test_a_graph_at_many_sizes_is_what_protobuf_writes(wanted: list[tuple[int, int | None]]) -> None:
    """With everything that a model can hold before and behind its graph, and a graph behind its outputs."""
    model = bare()
    model.producer_name, model.doc_string = "tests", "before the graph"
    helper.set_model_props(model, {"behind": "the graph"})
    model.graph.metadata_props.add(key="behind", value="the outputs")
    model.graph.initializer.add(name="unused", dims=[1], data_type=TensorProto.FLOAT, raw_data=b"abcd")
    many = Sizes(model)
    for resolution, batch in wanted:
        content = many.at(resolution, batch)
        written = bytes(content)
        assert sizes(onnx.load_model_from_string(written))[0][2:] == [resolution, resolution]
        assert written == onnx.load_model_from_string(written).SerializeToString(deterministic=True)
        assert written.endswith(model.SerializeToString(deterministic=True)[-20:])
        assert sha256(content) == hashlib.sha256(written).hexdigest()


def test_the_model_keeps_what_it_declares() -> None:
    model = bare()
    before = sizes(model)
    Sizes(model).at(64, 4)
    assert sizes(model) == before


def test_graphs_are_the_same_whatever_size_they_declare(network: Network) -> None:
    small, large = network("mobilenet_v2").graph(), network("mobilenet_v2").graph()
    set_batch(large, 8)
    assert Sizes(small).same_as(Sizes(large))
    assert not Sizes(small).same_as(Sizes(network("mobilenet_v1").graph()))

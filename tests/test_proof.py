"""The ladder with PyTorch and ONNX Runtime as its rungs: what a report holds, and what each mode looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from planted import RELU, SMALL_EPSILON, SWAPPED
from subjects import Subject, rung

from edgekit.errors import InputUnusable
from edgekit.graph.fp16 import to_fp16
from edgekit.graph.from_torch import export_onnx
from edgekit.graph.specialise import specialise
from edgekit.parity.inputs import ladder_inputs
from edgekit.parity.ladder import Input
from edgekit.parity.report import ParityReport, Saturation
from edgekit.preprocessing import IMAGENET
from edgekit.proof import Graphs, Reference, prove

pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]
NETWORKS = ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"]
TRUTH = "pytorch-fp64"


def quick(subject: Subject, fp16: bool = False) -> Reference:
    return Reference(subject.module, subject.folded, subject.anchors, quick=True, fp16=fp16)


def for_one_row(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its first dimension written into a Reshape, as many exporters do."""
    flatten = next(node for node in graph.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("shape")
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 1280], np.int64), "shape"))
    return graph


# The full climb


@pytest.mark.parametrize("model", NETWORKS)
def test_a_full_climb_compares_every_layer_on_every_rung(network: Network, model: str) -> None:
    subject = network(model)
    report = subject.climb(onnx=subject.exported, simplified=subject.exported, fp16=subject.fp16)
    assert report.passed
    assert report.mode == "full"
    assert [(found.name, found.against) for found in report.rungs] == [
        ("pytorch-fp32", TRUTH),
        ("onnx", TRUTH),
        ("onnx", "pytorch-fp32"),
        ("simplified", TRUTH),
        ("simplified", "onnx"),
        ("fp16", TRUTH),
        ("fp16", "simplified"),
    ]
    layers = len(subject.anchors)  # the last of them is the output
    assert [found.tensors for found in report.rungs] == [layers, layers, 1, layers, 1, layers, 1]
    assert report.inputs == tuple(given.name for given in subject.inputs)
    assert report.notes == ()


@pytest.mark.parametrize("model", NETWORKS)
def test_the_inputs_saturate_every_clipped_activation(network: Network, model: str) -> None:
    subject = network(model)
    report = subject.climb(onnx=subject.exported)
    clips = sum(isinstance(layer, torch.nn.ReLU6) for layer in subject.module.modules())
    assert report.saturation == Saturation(clips, clips)


def test_activations_that_are_never_clipped_are_counted_and_said(network: Network) -> None:
    subject = network("mobilenet_v2")
    faint = [replace(given, values=given.values * np.float32(0.01)) for given in subject.inputs]
    reference = Reference(subject.module, subject.folded, subject.anchors, quick=False, fp16=False)
    report, _ = prove(reference, Graphs(onnx=subject.exported), faint, 1)
    assert report.saturation is not None
    never = report.saturation.clips - report.saturation.exercised
    assert never > 0
    assert report.notes == (f"{never} clipped activations were never driven to their limit",)


def test_the_outputs_are_the_truths_in_float64_for_all_inputs_in_order(network: Network) -> None:
    subject = network("mobilenet_v1")
    _, outputs = prove(subject.reference, Graphs(onnx=subject.exported), subject.inputs, 1)
    assert outputs.dtype == np.float64
    assert outputs.shape == (len(subject.inputs), 1000)
    for row, given in zip(outputs, subject.inputs, strict=True):
        with torch.inference_mode():
            wanted = subject.module(torch.from_numpy(given.values)).numpy()[0]
        assert np.abs(row - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_the_float64_truth_is_not_the_float32_run(network: Network) -> None:
    subject = network("mobilenet_v1")
    base = rung(subject.climb(onnx=subject.exported), "pytorch-fp32")
    assert base.error is not None
    assert 1e-8 < base.error < 1e-3


def test_a_graph_without_the_layers_names_fails_by_the_first_that_is_missing(network: Network) -> None:
    subject = network("mobilenet_v2")
    graph = onnx.load_model_from_string(export_onnx(subject.folded, torch.from_numpy(subject.inputs[0].values), 17))
    report = subject.climb(onnx=graph.SerializeToString())
    assert report.first_failure() == "onnx"
    assert rung(report, "onnx").tensor == "stem.conv"
    assert "missing" in (rung(report, "onnx").reason or "")


def test_a_reference_finds_folding_and_anchors_by_itself(network: Network) -> None:
    subject = network("mobilenet_v1")
    found = Reference.of(subject.module, subject.inputs[0].values, quick=False, fp16=True)
    assert found.anchors == [anchor for anchor in subject.anchors if not anchor.is_output]
    assert set(found.floors) == {"fp32", "fp16"}
    assert prove(found, Graphs(simplified=subject.exported, fp16=subject.fp16), subject.inputs, 1)[0].passed


@pytest.mark.parametrize("fp16", [True, False])
def test_the_rungs_are_the_graphs_there_are_in_their_order(network: Network, fp16: bool) -> None:
    graphs = Graphs(simplified=b"s", fp16=b"h" if fp16 else None)
    assert graphs.rungs() == [("simplified", b"s", "fp32"), ("fp16", b"h", "fp16")][: 2 if fp16 else 1]
    assert Graphs().rungs() == []


# The quick climb


def test_a_quick_climb_compares_outputs_with_pytorch_in_float32(network: Network) -> None:
    subject = network("mobilenet_v2")
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    report, outputs = prove(quick(subject), Graphs(simplified=subject.exported), inputs, 1)
    assert report.passed
    assert (report.mode, report.saturation, report.batch) == ("quick", None, ())
    assert [(found.name, found.against, found.tensors, found.tensor) for found in report.rungs] == [
        ("simplified", "pytorch-fp32", 1, "logits")
    ]
    assert outputs.shape == (3, 1000)


@pytest.mark.parametrize("layer", ["stem.conv", "blocks.8.project.conv", "tail.conv"])
def test_a_quick_climb_sees_what_reaches_the_outputs(network: Network, layer: str) -> None:
    subject = network("mobilenet_v2")
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    faulty = SWAPPED.graph(subject, layer).SerializeToString()
    report, _ = prove(quick(subject), Graphs(simplified=faulty), inputs, 1)
    assert report.first_failure() == "simplified"
    assert rung(report, "simplified").tensor == "logits"


def test_a_quick_climb_is_blinder_than_a_full_one(network: Network) -> None:
    """The reason for the full one: this epsilon drowns on its way to the outputs."""
    subject = network("mobilenet_v2")
    faulty = SMALL_EPSILON.graph(subject, "blocks.8.expand.conv").SerializeToString()
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    assert prove(quick(subject), Graphs(simplified=faulty), inputs, 1)[0].passed
    assert not subject.climb(simplified=faulty).passed


def test_a_quick_climb_can_look_at_the_fp16_graph(network: Network) -> None:
    subject = network("mobilenet_v2")
    inputs = ladder_inputs(IMAGENET, 96, 1, quick=True)
    good = Graphs(simplified=subject.exported, fp16=subject.fp16)
    assert prove(quick(subject, fp16=True), good, inputs, 1)[0].passed
    faulty = to_fp16(RELU.graph(subject, "stem.conv")).SerializeToString()
    loud = [Input("loud", inputs[0].values * np.float32(8)), *inputs[1:]]
    report, _ = prove(quick(subject, fp16=True), replace(good, fp16=faulty), loud, 1)
    assert report.first_failure() == "fp16"


# Batches


def climb_in_rows(subject: Subject, graph: onnx.ModelProto, rows: int, batch: int | None) -> ParityReport:
    """The full ladder for inputs of that many rows."""
    inputs = ladder_inputs(IMAGENET, 96, rows)
    reference = Reference(subject.module, subject.folded, subject.anchors, quick=False, fp16=False)
    return prove(reference, Graphs(onnx=specialise(graph, 96, batch)), inputs, batch)[0]


@pytest.mark.parametrize(("rows", "batch"), [(4, 4), (1, None), (3, None)])
def test_a_batch_passes_with_its_rows_checked(network: Network, rows: int, batch: int | None) -> None:
    subject = network("mobilenet_v1")
    report = climb_in_rows(subject, subject.graph(), rows, batch)
    assert report.passed
    assert [(check.name, check.passed) for check in report.batch] == [("onnx", True)]


@pytest.mark.parametrize(("rows", "batch"), [(1, None), (4, 4)])
def test_rows_that_mix_fail_at_every_batch(network: Network, rows: int, batch: int | None) -> None:
    subject = network("mobilenet_v1")
    graph = subject.graph()
    graph.graph.node[-1].output[0] = "own"
    graph.graph.node.append(helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0], keepdims=1))
    graph.graph.node.append(helper.make_node("Add", ["own", "mean"], ["sum"]))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    graph.graph.node.append(helper.make_node("Mul", ["sum", "half"], ["logits"]))
    report = climb_in_rows(subject, graph, rows, batch)
    assert not report.passed
    assert [check.passed for check in report.batch] == [False]
    assert report.first_failure() == ("batch:onnx" if rows == 1 else "onnx")


def test_both_deployed_graphs_are_checked_for_mixing(network: Network) -> None:
    subject = network("mobilenet_v2")
    report = subject.climb(onnx=subject.exported, simplified=subject.exported, fp16=subject.fp16)
    assert [check.name for check in report.batch] == ["simplified", "fp16"]
    assert all(check.passed and check.error is not None and check.tolerance for check in report.batch)


def test_a_graph_for_one_row_only_is_said_to_be_that_and_passes(network: Network) -> None:
    subject = network("mobilenet_v2")
    report = subject.climb(onnx=for_one_row(subject.graph()).SerializeToString())
    assert report.passed
    (check,) = report.batch
    assert (check.passed, check.error) == (None, None)
    assert "one row only" in (check.reason or "")


def test_a_graph_for_one_row_cannot_be_exported_for_more(network: Network) -> None:
    subject = network("mobilenet_v2")
    with pytest.raises(InputUnusable, match="ONNX Runtime cannot"):
        climb_in_rows(subject, for_one_row(subject.graph()), 2, 2)

"""Each fault that a deployment can pick up on its way, planted on purpose: the ladder fails there, by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import pytest
from onnx import helper
from planted import (
    EPSILON,
    MEAN,
    NAN,
    PADDING,
    RELU,
    RESIDUAL,
    REVERSED,
    SCALED,
    SEED,
    SMALL_EPSILON,
    SWAPPED,
    Fault,
    size_in_tolerances,
    times_tolerance,
)
from subjects import Subject, half, rung, subject_of

from edgekit.graph.from_torch import name_anchors
from edgekit.graph.simplify import Simplifier
from edgekit.models import _create
from edgekit.models._init import initialise
from edgekit.variant import Variant

# One worker, so that the networks are made once.
pytestmark = [pytest.mark.xdist_group("ladder"), pytest.mark.usefixtures("one_thread")]

Network = Callable[[str], Subject]

V2 = ["stem.conv", "blocks.0.project.conv", "blocks.8.depthwise.conv", "blocks.16.project.conv", "tail.conv"]
C_V2 = ["blocks.0.shortcut.conv", "blocks.10.shortcut.conv", "blocks.16.project.conv"]
V1 = ["stem.conv", "blocks.6.depthwise.conv", "blocks.12.pointwise.conv"]
THREE_BY_THREE = ["stem.conv", "blocks.8.depthwise.conv", "blocks.16.depthwise.conv"]

# Every fault, in the first layers, the middle ones, and the last.
PLANTED: list[tuple[str, Fault, list[str]]] = [
    *(("mobilenet_v2", fault, V2) for fault in (EPSILON, SCALED, SWAPPED, SEED, NAN)),
    ("mobilenet_v2", SMALL_EPSILON, THREE_BY_THREE),
    ("mobilenet_v2", RELU, ["stem.conv", "blocks.8.expand.conv", "blocks.8.depthwise.conv", "tail.conv"]),
    ("mobilenet_v2", PADDING, THREE_BY_THREE),
    ("mobilenet_v2", RESIDUAL, ["blocks.2.project.conv", "blocks.8.project.conv", "blocks.15.project.conv"]),
    ("mobilenet_v2", REVERSED, ["stem.conv"]),
    ("mobilenet_v2", MEAN, ["stem.conv"]),
    *(("c_mobilenet_v2", fault, C_V2) for fault in (EPSILON, SCALED, SWAPPED, SEED, NAN)),
    ("c_mobilenet_v2", SMALL_EPSILON, THREE_BY_THREE),
    ("c_mobilenet_v2", RELU, ["blocks.0.shortcut.conv", "blocks.8.depthwise.conv", "blocks.16.shortcut.conv"]),
    ("c_mobilenet_v2", PADDING, ["blocks.16.depthwise.conv"]),
    ("c_mobilenet_v2", RESIDUAL, ["blocks.2.project.conv", "blocks.8.project.conv", "blocks.15.project.conv"]),
    *(("mobilenet_v1", fault, V1) for fault in (EPSILON, SCALED, SWAPPED, SEED, NAN)),
    ("mobilenet_v1", SMALL_EPSILON, ["blocks.0.depthwise.conv", "blocks.12.depthwise.conv"]),
    ("mobilenet_v1", RELU, V1),
    ("mobilenet_v1", PADDING, ["blocks.0.depthwise.conv", "blocks.12.depthwise.conv"]),
    ("mobilenet_v1", REVERSED, ["stem.conv"]),
]

# Half precision rounds every value by 1 part in 2048 and passes that on from layer to layer. What is larger shows...
SEEN_IN_FP16: list[tuple[str, Fault, list[str]]] = [
    ("mobilenet_v2", EPSILON, ["blocks.8.depthwise.conv"]),
    ("mobilenet_v2", RELU, ["stem.conv", "blocks.8.depthwise.conv", "tail.conv"]),
    ("mobilenet_v2", PADDING, ["stem.conv", "blocks.16.depthwise.conv"]),
    ("mobilenet_v2", SWAPPED, ["stem.conv", "blocks.16.project.conv", "tail.conv"]),
    ("mobilenet_v2", RESIDUAL, ["blocks.2.project.conv", "blocks.15.project.conv"]),
    ("mobilenet_v2", REVERSED, ["stem.conv"]),
    ("mobilenet_v2", SEED, ["stem.conv", "tail.conv"]),
    ("mobilenet_v2", MEAN, ["stem.conv"]),
    ("mobilenet_v2", NAN, ["stem.conv", "tail.conv"]),
]
# ... and what is smaller does not: the weight of a layer is the same half with either epsilon, or nearly so; a channel
# that is 1 % larger differs by less than ten layers of rounding. Both are caught in float32, before the conversion.
DROWNED_IN_FP16: list[tuple[str, Fault, list[str]]] = [
    ("mobilenet_v2", EPSILON, ["blocks.8.project.conv", "blocks.16.project.conv"]),
    ("mobilenet_v2", SMALL_EPSILON, THREE_BY_THREE),
    ("mobilenet_v2", SCALED, ["blocks.8.project.conv", "blocks.16.project.conv", "tail.conv"]),
]


def each(planted: list[tuple[str, Fault, list[str]]]) -> pytest.MarkDecorator:
    """A test for every network, fault and layer."""
    cases = [(model, fault, layer) for model, fault, layers in planted for layer in layers]
    return pytest.mark.parametrize(("model", "fault", "layer"), cases, ids=lambda value: getattr(value, "name", value))


def once_each(planted: list[tuple[str, Fault, list[str]]]) -> pytest.MarkDecorator:
    """A test for every network and fault, in the layer in the middle."""
    return each([(model, fault, layers[len(layers) // 2 :][:1]) for model, fault, layers in planted])


@each(PLANTED)
def test_a_fault_in_the_exported_graph_is_caught_and_named(
    network: Network, model: str, fault: Fault, layer: str
) -> None:
    subject = network(model)
    report = subject.climb(onnx=fault.graph(subject, layer).SerializeToString())
    found = rung(report, "onnx")
    assert not report.passed
    assert report.first_failure() == "onnx"
    assert found.tensor == fault.shows_at(subject, layer)
    assert found.tensor in (found.reason or "")
    assert times_tolerance(found) > 2  # a fault at the very edge would be luck


@pytest.mark.parametrize("layer", ["stem.conv", "blocks.8.project.conv", "tail.conv"])
def test_a_fault_of_the_exporter_itself_is_named(network: Network, layer: str) -> None:
    """Layers get their names by their weights: one that the exporter changed, by one bit, is nowhere in the graph."""
    subject = network("mobilenet_v2")
    raw = SMALL_EPSILON.graph(subject, layer)
    for node in raw.graph.node:
        node.name = ""
    renamed = {layer: "anonymous"}
    for node in raw.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    name_anchors(raw, subject.folded, subject.anchors)
    report = subject.climb(onnx=raw.SerializeToString())
    assert report.first_failure() == "onnx"
    assert rung(report, "onnx").tensor == layer
    assert "missing" in (rung(report, "onnx").reason or "")


@once_each(PLANTED)
def test_a_fault_of_the_simplification_is_caught_there(network: Network, model: str, fault: Fault, layer: str) -> None:
    subject = network(model)
    faulty = fault.graph(subject, layer).SerializeToString()
    report = subject.climb(onnx=subject.exported, simplified=faulty)
    assert report.first_failure() == "simplified"
    assert rung(report, "onnx").passed
    assert rung(report, "simplified").tensor == fault.shows_at(subject, layer)


@pytest.mark.parametrize(
    ("layer", "shows_at"),
    [("blocks.0.project.conv", "blocks.1.expand.conv"), ("blocks.16.project.conv", "tail.conv")],
)
def test_a_dropped_convolutional_shortcut_is_caught_behind_its_sum(network: Network, layer: str, shows_at: str) -> None:
    subject = network("c_mobilenet_v2")
    report = subject.climb(onnx=RESIDUAL.graph(subject, layer).SerializeToString())
    assert rung(report, "onnx").tensor == shows_at


@each(SEEN_IN_FP16)
def test_a_fault_of_the_fp16_graph_above_its_noise_is_caught_there(
    network: Network, model: str, fault: Fault, layer: str
) -> None:
    subject = network(model)
    faulty = fault.graph(subject, layer)
    tensor = fault.shows_at(subject, layer)
    assert size_in_tolerances(subject, faulty, tensor, "fp16") > 2
    report = subject.climb(simplified=subject.exported, fp16=half(faulty))
    assert report.first_failure() == "fp16"
    assert rung(report, "simplified").passed
    assert rung(report, "fp16").tensor == tensor


@each(DROWNED_IN_FP16)
def test_a_fault_below_the_fp16_noise_is_left_to_float32(
    network: Network, model: str, fault: Fault, layer: str
) -> None:
    """What the ladder cannot see, measured: the fault alone is smaller than what half precision does to the tensor."""
    subject = network(model)
    faulty = fault.graph(subject, layer)
    assert size_in_tolerances(subject, faulty, fault.shows_at(subject, layer), "fp16") < 1
    report = subject.climb(simplified=faulty.SerializeToString(), fp16=half(faulty))
    assert report.first_failure() == "simplified"
    assert rung(report, "fp16").passed


@pytest.mark.parametrize("layer", ["blocks.8.project.conv", "blocks.16.project.conv"])
def test_an_epsilon_lost_in_the_rounding_of_the_weights_is_out_of_sight(network: Network, layer: str) -> None:
    """Where a layer's variance is 5 and more, 2e-5 for 1e-5 changes weights by a part in a million: ten roundings."""
    subject = network("mobilenet_v2")
    norm = subject.module.get_submodule(layer.replace(".conv", ".norm"))
    assert float(norm.get_buffer("running_var").median()) > 4
    faulty = SMALL_EPSILON.graph(subject, layer)
    assert size_in_tolerances(subject, faulty, layer, "fp32") < 1
    assert faulty.SerializeToString() != subject.exported
    assert subject.climb(onnx=faulty.SerializeToString()).passed


@pytest.fixture(scope="module")
def simplifier() -> Iterator[Simplifier]:
    with Simplifier() as shared:
        yield shared


@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2", "c_mobilenet_v2"])
def test_a_correct_export_passes_every_rung_and_gate(network: Network, simplifier: Simplifier, model: str) -> None:
    subject = network(model)
    simplifier.submit(subject.exported)
    simplified = simplifier.result().model_bytes
    fp16 = half(onnx.load_model_from_string(simplified))
    report = subject.climb(onnx=subject.exported, simplified=simplified, fp16=fp16)
    assert report.passed, report
    assert report.first_failure() is None
    assert all(check.passed for check in report.batch)


@pytest.mark.parametrize("model", ["mobilenet_v1", "mobilenet_v2"])
def test_a_dead_network_is_refused_although_every_rung_agrees(model: str) -> None:
    """Plain random weights: the logits are the same for every image, and any two graphs agree."""
    variant = Variant(model, 0.35, 96)
    module = _create.seeded(model, 0.35, 100, {}, 0)
    initialise(module, 0)  # takes the calibrated statistics away
    subject = subject_of(variant, module)
    report = subject.climb(onnx=subject.exported)
    assert not report.passed
    assert not report.liveness.passed
    assert report.liveness.spread < report.liveness.wanted


def test_rows_that_influence_each_other_fail_the_batch_gate(network: Network) -> None:
    """With one row in the batch this graph is the network, to the last bit of every rung."""
    subject = network("mobilenet_v2")
    report = subject.climb(onnx=mixing(subject.graph()).SerializeToString())
    assert all(rung.passed for rung in report.rungs)
    assert report.first_failure() == "batch:onnx"
    assert [check.passed for check in report.batch] == [False]


def mixing(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The deviation from the batch's mean is added to every row's logits: nothing where there is one row."""
    graph.graph.node[-1].output[0] = "own"
    graph.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["own", "mean"], ["deviation"]),
            helper.make_node("Add", ["own", "deviation"], ["logits"]),
        ]
    )
    return graph


def test_a_norm_in_training_mode_is_caught(network: Network) -> None:
    """It normalises by the statistics of the batch at hand: wrong for one image, and different with company."""
    subject = network("mobilenet_v2")
    report = subject.climb(onnx=training(subject.graph(), "tail.conv").SerializeToString())
    assert report.first_failure() == "onnx"
    assert rung(report, "onnx").tensor == "tail.conv"
    assert [check.passed for check in report.batch] == [False]


def training(graph: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    """The layer's output, normalised over the batch and the pixels."""
    nodes = list(graph.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.name == layer)
    nodes[place].output[0] = "raw"
    added = [
        helper.make_node("ReduceMean", ["raw"], ["mean"], axes=[0, 2, 3], keepdims=1),
        helper.make_node("Sub", ["raw", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["variance"], axes=[0, 2, 3], keepdims=1),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], [layer]),
    ]
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes[: place + 1], *added, *nodes[place + 1 :]])
    return graph
